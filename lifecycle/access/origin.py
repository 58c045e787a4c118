"""Where a change comes from: what the journal says about its author, and what that one may do."""

from dataclasses import dataclass
from uuid import UUID

from lifecycle.access.rules import EVERYTHING, NOTHING, Action, Rights, missing
from lifecycle.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for a change, in which request, and under which idempotency key.

    `actor`, `rights` and `request_id` come from the connection, never from a mutation's input; who
    is not given any rights has none. What the service does by itself because of an object, such as
    a drift event, names it in `cause_id`. `visible_models` are those whose rows exist for the
    principal; None says that all do.
    """

    actor: str
    request_id: str
    idempotency_key: str | None = None
    rights: Rights = NOTHING
    cause_id: UUID | None = None
    visible_models: frozenset[UUID] | None = None

    @property
    def administrator(self) -> bool:
        """Whether they may do everything."""
        return self.rights.may(Action.ADMINISTER)

    @classmethod
    def system(
        cls,
        actor: str,
        request_id: str,
        idempotency_key: str | None = None,
        cause_id: UUID | None = None,
    ) -> "Origin":
        """What the service does by itself, which nobody refuses. `actor` begins with system:."""
        return cls(actor, request_id, idempotency_key, EVERYTHING, cause_id)


def check(
    origin: Origin,
    action: Action,
    model_id: UUID | None = None,
    *,
    stage: str | None = None,
    environment: str | None = None,
    what: str | None = None,
) -> None:
    """Raise Forbidden unless they may do it to this model, or to what belongs to none.

    Called by use cases, once it is known that there is such an object. `what` completes "may not"
    where the action says too little.
    """
    if origin.rights.may(action, model_id, stage=stage, environment=environment):
        return
    needed = missing(action, stage=stage, environment=environment)
    raise Forbidden(f"{origin.actor} may not {what or action}: {needed}")
