"""How failures look to clients: expected ones as members of a mutation's result union, the others
as top-level errors with a code. Nothing that PostgreSQL or Python says gets out."""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

import strawberry
import structlog
from graphql import GraphQLError
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import SchemaExtension
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.execution import StreamExecutionResult
from strawberry.types.field import StrawberryField
from strawberry.utils.str_converters import to_camel_case

from lifecycle import errors
from schema.context import Context, Info
from schema.limits import aborted

_log = structlog.get_logger(__name__)


@strawberry.enum(description="Says what kind of failure it is; for programs.")
class ErrorCode(StrEnum):
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    INVALID_INPUT = "INVALID_INPUT"
    INVALID_TRANSITION = "INVALID_TRANSITION"
    CONFLICT = "CONFLICT"
    STALE_REVISION = "STALE_REVISION"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    GATE_FAILED = "GATE_FAILED"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    IN_USE = "IN_USE"
    UNAVAILABLE = "UNAVAILABLE"


@strawberry.interface(description="An expected failure. Nothing was changed.")
class Error:
    code: ErrorCode = strawberry.field(description="Stable, for programs.")
    message: str = strawberry.field(description="For people: what is wrong and what to do.")
    path: list[str] = strawberry.field(description="Where in the input, from the outside in.")


@strawberry.type(description="There is no such object.")
class NotFound(Error): ...


@strawberry.type(description="The name is taken.")
class AlreadyExists(Error): ...


@strawberry.type(description="A value in the input is not acceptable.")
class InvalidInput(Error): ...


@strawberry.type(description="The state machine refuses this change.")
class InvalidTransition(Error):
    from_: str = strawberry.field(name="from", description="The present state.")
    to: str = strawberry.field(description="The state that was asked for.")
    allowed: list[str] = strawberry.field(description="What may come next.")


@strawberry.type(description="The present state of the object, or of another, does not allow it.")
class Conflict(Error): ...


@strawberry.type(description="Somebody changed the object first: read it again, then decide.")
class StaleRevision(Error):
    current_revision: int = strawberry.field(description="The object's revision now.")


@strawberry.type(description="The idempotency key was used before with another input.")
class IdempotencyConflict(Error): ...


@strawberry.type(description="Something still depends on the object.")
class InUse(Error): ...


@strawberry.type(
    description="The database, or what stores artifacts, cannot answer now. Repeat with the same "
    "idempotency key."
)
class Unavailable(Error): ...


# Where the expected failures of an operation are noted, if anybody wants to know.
failures: ContextVar[list[str] | None] = ContextVar("failures", default=None)


class ErrorHandler:
    """Turns one domain error into one GraphQL type; `details` gives its further fields."""

    def __init__(
        self,
        exception_type: type[errors.LifecycleError],
        error_type: type[Error],
        details: Callable[[Any], dict[str, Any]] = lambda _: {},
    ) -> None:
        self.exception_type = exception_type
        self.error_type = error_type
        self._details = details

    def handle(
        self, exception: errors.LifecycleError, *, field: StrawberryField, info: Info
    ) -> Error:
        if (noted := failures.get()) is not None:
            noted.append(exception.code)
        return self.error_type(
            code=ErrorCode(exception.code),
            message=str(exception),
            path=shown_path(exception.path),
            **self._details(exception),
        )


def _transition(error: Any) -> dict[str, Any]:
    return {"from_": error.current, "to": error.wanted, "allowed": error.allowed}


def _revision(error: Any) -> dict[str, Any]:
    return {"current_revision": error.current_revision}


HANDLERS: list[Any] = [
    ErrorHandler(errors.NotFound, NotFound),
    ErrorHandler(errors.AlreadyExists, AlreadyExists),
    ErrorHandler(errors.InvalidInput, InvalidInput),
    ErrorHandler(errors.InvalidTransition, InvalidTransition, _transition),
    ErrorHandler(errors.Conflict, Conflict),
    ErrorHandler(errors.StaleRevision, StaleRevision, _revision),
    ErrorHandler(errors.IdempotencyConflict, IdempotencyConflict),
    ErrorHandler(errors.InUse, InUse),
    ErrorHandler(errors.Unavailable, Unavailable),
]


def shown_path(path: errors.Path) -> list[str]:
    """A path in the names that clients use."""
    return [to_camel_case(part) if isinstance(part, str) else str(part) for part in path]


# What Strawberry raises when it cannot tell which operation is meant, or must not run it.
_UNCLEAR = (CannotGetOperationTypeError, InvalidOperationTypeError, MissingQueryError)
_SUGGESTION = " Did you mean "
_UNREADABLE = (ValueError, TypeError, OverflowError)


class TopLevelErrors(SchemaExtension):
    """Gives each top-level error a code, logs bugs once, and shows nothing of them but an id."""

    def on_parse(self) -> Iterator[None]:
        yield
        self._mark("GRAPHQL_PARSE_FAILED")

    def on_validate(self) -> Iterator[None]:
        yield
        self._mark("GRAPHQL_VALIDATION_FAILED")

    def on_operation(self) -> Iterator[None]:
        self._streaming = False
        self._logged: set[int] = set()
        try:
            yield
        except _UNCLEAR:
            raise
        except Exception as error:  # outside of all resolvers; Strawberry would show its message
            raise self._shown(GraphQLError(str(error), original_error=error)) from error
        result = self.execution_context.result
        if not self._streaming and getattr(result, "errors", None):
            result.errors = [self._shown(error) for error in result.errors]  # type: ignore[union-attr]

    def on_stream_result(self, result: StreamExecutionResult) -> Iterator[None]:
        self._streaming = True
        found = getattr(result, "errors", None)
        if found:
            result.errors = [self._shown(error) for error in found]  # type: ignore[union-attr]
        yield

    def _mark(self, code: str) -> None:
        for error in self.execution_context.pre_execution_errors or ():
            aborted(error)
            _hide(error, self.execution_context.context)
            if isinstance(error.original_error, _UNREADABLE):
                # A literal made a scalar's parser fail in Python's words, such as an Int of 5,000
                # digits.
                error.message = "A value in the document cannot be read."
                error.original_error = None
            error.extensions = {"code": code, **(error.extensions or {})}

    def _shown(self, error: GraphQLError) -> GraphQLError:
        operation = self.execution_context.operation_name
        return shown(error, self.execution_context.context, operation, self._logged)


def _hide(error: GraphQLError, context: Context) -> None:
    """Who may not ask for the schema is not told of it by the way."""
    if not context.admission.introspection:
        error.message = _without_suggestions(error.message)


def _without_suggestions(message: str) -> str:
    """The message without what it suggests. Clients' own texts stand in it, too: this takes as long
    as the message, whatever they are."""
    said, *suggested = message.split(_SUGGESTION)
    return said + "".join(each.partition("?")[2] for each in suggested)


def told(error: errors.LifecycleError, nodes: Any = None, path: Any = None) -> GraphQLError:
    """An expected failure as a top-level error."""
    extensions: dict[str, Any] = {"code": error.code}
    if error.path:
        extensions["argument"] = shown_path(error.path)
    if isinstance(error, errors.LimitExceeded):
        extensions |= {"name": error.name, "limit": error.limit, "value": error.value}
        if error.retry_after is not None:
            extensions["retryAfter"] = error.retry_after
    return GraphQLError(str(error), nodes, path=path, extensions=extensions)


def shown(
    error: GraphQLError, context: Context, operation: str | None, logged: set[int]
) -> GraphQLError:
    """What a client is shown of an error. A bug is logged, unless it is among the `logged`."""
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, errors.LifecycleError):
        return told(cause, error.nodes, error.path)
    if isinstance(cause, _UNCLEAR):
        return GraphQLError(error.message, extensions={"code": "BAD_REQUEST"})
    if cause is None or isinstance(cause, GraphQLError):
        error.extensions = {"code": "INVALID_INPUT", **(error.extensions or {})}
        _hide(error, context)
        return error
    request_id = context.origin.request_id
    # A loader that fails does so for everybody who waits for it.
    if id(cause) not in logged:
        logged.add(id(cause))
        _log.error("graphql.unexpected_error", exc_info=cause, path=error.path, operation=operation)
    return GraphQLError(
        f"Unexpected error. Its trace is in the server's log, under request id {request_id}.",
        error.nodes,
        path=error.path,
        extensions={"code": "INTERNAL", "requestId": request_id},
    )
