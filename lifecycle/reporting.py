"""Structured logs: one event a line, with the request id and the operation that it belongs to."""

import json
import logging
import sys
from datetime import UTC, datetime

import orjson
import structlog
from structlog.typing import EventDict, Processor

from lifecycle.names import printable

# One list, because loggers keep the one with which they were first used.
_processors: list[Processor] = []
_LONGEST_NAME = 100


def configure(log_format: str | None) -> None:
    """Log to standard error, as JSON or for a terminal; None chooses by where it goes."""
    console = log_format == "console" or (log_format is None and sys.stderr.isatty())
    _processors[:] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_name,
        _cut_operation,
        # Plain, because the pretty ones show local variables, and with them what is secret.
        *(
            (
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                _printable,
                structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
            )
            if console
            else (structlog.processors.format_exc_info, _to_json)
        ),
    ]
    structlog.configure(
        processors=_processors,
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Others()]
    root.setLevel(logging.INFO)
    # They say at INFO, or in a second voice, what the service says itself.
    for name in ("uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("strawberry.execution").setLevel(logging.CRITICAL + 1)
    logging.getLogger("uvicorn.error").addFilter(_of_no_address)


def _of_no_address(record: logging.LogRecord) -> bool:
    """Not the lines for websockets that show all of their address, where a secret may be; what is
    said of each request is enough."""
    return '"WebSocket %s"' not in str(record.msg)


class _Lines:
    """Writes the lines of one module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def info(self, line: str) -> None:
        # One call, so that lines of several threads do not mix.
        sys.stderr.write(line + "\n")

    warning = error = critical = info


class _Others(logging.Handler):
    """Passes on what libraries say to `logging`, so that it comes out in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        # Levels between those that have a name are told as the one below.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        try:
            log = structlog.get_logger(record.name)
            log.log(level, record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _add_name(logger: _Lines, _: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _cut_operation(_: _Lines, __: str, event: EventDict) -> EventDict:
    # Clients choose it, as long as a document may be.
    if event.get("operation"):
        event["operation"] = event["operation"][:_LONGEST_NAME]
    return event


def _printable(_: _Lines, __: str, event: EventDict) -> EventDict:
    return {
        name: printable(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _to_json(_: _Lines, __: str, event: EventDict) -> str:
    now = datetime.now(UTC)
    event["timestamp"] = now
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z).decode()
    except TypeError:  # what is no UTF-8, or no number of 64 bits, is logged all the same
        event["timestamp"] = now.isoformat().replace("+00:00", "Z")
        return json.dumps(event, default=str)
