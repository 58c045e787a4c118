"""What operators see of the service: metrics for Prometheus, traces for OpenTelemetry.

Nothing here is imported where neither is switched on.
"""
