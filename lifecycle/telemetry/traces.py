"""Traces, sent to an OpenTelemetry collector by OTLP over HTTP. What is sampled, under which name
the service goes, and how it is sent, say the usual OTEL_ variables."""

import os
from importlib.metadata import PackageNotFoundError, version
from threading import Thread

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

_PACKAGE = "opentelemetry-exporter-otlp-proto-http"
_PROTOCOL = "http/protobuf"
_FAREWELL_SECONDS = 5.0


def check() -> None:
    """Raise ValueError, saying what to do, unless traces can be sent as the environment says."""
    try:
        version(_PACKAGE)
    except PackageNotFoundError as error:
        raise ValueError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but to send traces needs ml-lifecycle[telemetry]."
        ) from error
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            raise ValueError(f"{name} must be {_PROTOCOL}, not {os.environ[name]!r}.")


def provider() -> TracerProvider:
    """Gives tracers whose spans are sent in the background; `end` when no more come. Raises
    ValueError as `check`."""
    check()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    named = {SERVICE_VERSION: version("ml-lifecycle")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named[SERVICE_NAME] = "ml-lifecycle"
    made = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def end(provider: TracerProvider) -> None:
    """Send what is left, for as long as that takes moments: a collector that is away must not keep
    the service from ending. Blocks."""
    farewell = Thread(target=provider.shutdown, name="traces-farewell", daemon=True)
    farewell.start()
    farewell.join(_FAREWELL_SECONDS)
