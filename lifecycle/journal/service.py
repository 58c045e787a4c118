"""Writing to the journal, always in the transaction of the change itself."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, insert

from lifecycle.access.origin import Origin
from lifecycle.database import WriteSession
from lifecycle.journal.tables import EventRow
from lifecycle.tables import Revised

# Without the ORM, and made once: a row of the journal is written, and never looked at again.
_INSERT = insert(cast(Table, EventRow.__table__)).inline()


async def append(
    session: WriteSession,
    origin: Origin,
    type: str,
    subject_id: UUID,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
    at: datetime | None = None,
) -> None:
    """Record that something happened; it becomes visible with the change itself.

    `type` is the subject's kind and what happened to it: "deployment.status_changed". What has a
    cause says so in `after`.
    """
    if origin.cause_id is not None:
        after = {**(after or {}), "cause_id": origin.cause_id}
    event = {
        "type": type,
        "subject_kind": type.partition(".")[0],
        "subject_id": subject_id,
        "actor": origin.actor,
        "request_id": origin.request_id,
        "idempotency_key": origin.idempotency_key,
        "reason": reason,
        "before": before,
        "after": after,
    }
    await session.execute(_INSERT, {**event, "at": at} if at else event)


async def change(
    session: WriteSession,
    origin: Origin,
    row: Revised,
    changes: Mapping[str, Any],
    *,
    type: str | None = None,
    was: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    reason: str | None = None,
    at: datetime | None = None,
) -> bool:
    """Set these fields of a row that the caller holds locked, count the revision, and record it.

    Says whether anything changed: values that stand there already are no change and leave no
    trace. `about` is what readers of the event need to know besides, and `was` what there was of it
    before; `at` is the time of the change where another record of it has one too.
    """
    changed = {field: value for field, value in changes.items() if getattr(row, field) != value}
    if not changed:
        return False
    before = {field: getattr(row, field) for field in changed}
    for field, value in changed.items():
        setattr(row, field, value)
    row.revision += 1
    await session.flush()
    await append(
        session,
        origin,
        type or f"{row.__tablename__}.updated",
        row.id,
        before={**before, **(was or {})},
        after={**changed, **(about or {})},
        reason=reason,
        at=at,
    )
    return True
