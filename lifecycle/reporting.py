"""Structured logs: one event a line, with the request id and the operation that it belongs to."""

import logging
import sys

import structlog

_COMMON: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
# One list, because loggers keep the one with which they were first used.
_PROCESSORS = [*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]


def configure(log_format: str | None) -> None:
    """Log to standard error, as JSON or for a terminal; None chooses by where it goes."""
    console = log_format == "console" or (log_format is None and sys.stderr.isatty())
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    final: list[structlog.typing.Processor] = (
        # Plain, because the pretty ones show local variables, and with them what is secret.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_COMMON,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # They say at INFO, or in a second voice, what the service says itself.
    for name in ("uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("strawberry.execution").setLevel(logging.CRITICAL + 1)
