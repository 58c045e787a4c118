"""Where a change comes from: what the journal says about its author, and what that one may do."""

from dataclasses import dataclass
from uuid import UUID

from lifecycle.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for a change, in which request, and under which idempotency key.

    `actor`, whether that is an administrator, and `request_id` come from the connection, never
    from a mutation's input. What the service does by itself because of an object, such as a drift
    event, names it in `cause_id`. `visible_models` are those whose rows exist for the principal;
    None says that all do.
    """

    actor: str
    request_id: str
    idempotency_key: str | None = None
    administrator: bool = False
    cause_id: UUID | None = None
    visible_models: frozenset[UUID] | None = None


def check_administrator(origin: Origin, what: str) -> None:
    """Raise Forbidden unless an administrator asks for it; `what` completes "may not"."""
    if not origin.administrator:
        raise Forbidden(
            f"{origin.actor} may not {what}: only administrators may, whom "
            "LIFECYCLE_ADMINISTRATORS names."
        )
