"""Queries compiled once and executed in breadth; see the section in ARCHITECTURE.md.

What executes here knows the schema; the schema does not know what executes it.
"""
