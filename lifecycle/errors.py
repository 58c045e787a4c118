"""Expected failures; everything else is a bug.

    LifecycleError
    ├─ NotFound             no such object
    ├─ AlreadyExists        the name is taken
    ├─ InvalidInput         a value is not acceptable; `path` says which
    ├─ InvalidTransition    the state machine refuses; says what it would allow
    ├─ Conflict             the object's present state does not allow it
    ├─ StaleRevision        somebody changed the object first; says its revision now
    ├─ IdempotencyConflict  the key was used before, with another input
    ├─ InUse                something still depends on the object
    ├─ GateFailed           the policy of a stage is not met     (lifecycle.promotion.gates)
    ├─ ApprovalRequired     nothing but an approval is missing   (lifecycle.promotion.gates)
    ├─ Unauthenticated      nobody knows who asks
    ├─ Forbidden            this actor may not do it
    ├─ LimitExceeded        too much, too often or for too long; says what is allowed
    └─ Unavailable          what is needed, such as the database, cannot answer now; trying again
                            may help

Services raise them, the schema turns each into a member of the mutation's result union; Forbidden,
LimitExceeded and Unauthenticated are top-level errors.
`path` leads into the input, in the names that Python uses.
"""

from collections.abc import Iterable

Path = tuple[str | int, ...]


class LifecycleError(Exception):
    """An expected failure whose message may be shown to the client."""

    code = "CONFLICT"

    def __init__(self, message: str, path: Path = ()) -> None:
        self.path = path
        super().__init__(message)


class NotFound(LifecycleError):
    """There is no such object, or none that the caller may see."""

    code = "NOT_FOUND"

    def __init__(self, kind: str, key: object, path: Path = ("id",)) -> None:
        super().__init__(f"There is no {kind} {key}.", path)


class AlreadyExists(LifecycleError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class InvalidInput(LifecycleError):
    """A value is not acceptable; `path` leads to it."""

    code = "INVALID_INPUT"


class InvalidTransition(LifecycleError):
    """The state machine refuses; `allowed` says what may come next, and `instead` what else could
    be done."""

    code = "INVALID_TRANSITION"

    def __init__(
        self,
        current: str,
        wanted: str,
        allowed: Iterable[str],
        path: Path = ("status",),
        instead: str | None = None,
    ) -> None:
        self.current, self.wanted, self.allowed = current, wanted, sorted(allowed)
        then = instead or f"allowed next: {', '.join(self.allowed) or 'nothing: it is final'}."
        super().__init__(f"{current} cannot become {wanted}; {then}", path)


class Conflict(LifecycleError):
    """The present state of the object, or of another one, does not allow it."""

    code = "CONFLICT"


class StaleRevision(LifecycleError):
    """The caller decided on a state that has passed."""

    code = "STALE_REVISION"

    def __init__(self, expected: int, current: int, path: Path = ("expected_revision",)) -> None:
        self.current_revision = current
        what = str(path[-1]).removeprefix("expected_").capitalize()
        super().__init__(f"{what} {expected} was expected, but it is {current} now.", path)


class IdempotencyConflict(LifecycleError):
    """The key was used before for something else."""

    code = "IDEMPOTENCY_CONFLICT"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The idempotency key {key!r} was used before with another input; use a new one.",
            ("idempotency_key",),
        )


class InUse(LifecycleError):
    """Something still depends on the object."""

    code = "IN_USE"


class Unauthenticated(LifecycleError):
    """Whoever asks has not proved who they are."""

    code = "UNAUTHENTICATED"


class Forbidden(LifecycleError):
    """The actor may not do this; somebody else may."""

    code = "FORBIDDEN"


class Unavailable(LifecycleError):
    """The database, or what stores artifacts, cannot answer now. Nothing was changed, unless the
    connection broke during the commit itself: repeat with the same idempotency key to be sure."""

    code = "UNAVAILABLE"


class LimitExceeded(LifecycleError):
    """More than is allowed: `name` says of what, `limit` how much is allowed, `value` how much it
    was; `retry_after` in how many seconds it may be tried again, where that helps."""

    code = "LIMIT_EXCEEDED"

    def __init__(
        self, message: str, name: str, limit: float, value: float, retry_after: int | None = None
    ) -> None:
        self.name, self.limit, self.value = name, limit, value
        self.retry_after = retry_after
        super().__init__(message)


def check_revision(current: int, expected: int | None, path: Path = ("expected_revision",)) -> None:
    """Raise StaleRevision unless the caller expects this revision, or none in particular."""
    if expected is not None and expected != current:
        raise StaleRevision(expected, current, path)
