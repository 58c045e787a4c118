"""Where a change comes from: what the journal says about its author."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for a change, in which request, and under which idempotency key.

    `actor` and `request_id` come from the connection, never from a mutation's input. What the
    service does by itself because of an event names that event in `cause_id`.
    """

    actor: str
    request_id: str
    idempotency_key: str | None = None
    cause_id: UUID | None = None
