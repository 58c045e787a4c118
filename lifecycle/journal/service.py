"""Writing to the journal, always in the transaction of the change itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import DateTime, Table, bindparam, func, insert, select, update

from lifecycle.access.origin import Origin
from lifecycle.database import WriteSession
from lifecycle.journal.tables import EventRow
from lifecycle.statements import Prepared
from lifecycle.tables import Base, Revised

_SAID = (
    *("type", "subject_kind", "subject_id", "actor", "request_id", "idempotency_key"),
    *("reason", "before", "after"),
)
_RECORD = (
    insert(cast(Table, EventRow.__table__))
    .values(
        {
            **{name: bindparam(f"event_{name}") for name in _SAID},
            "at": func.coalesce(
                bindparam("event_at", type_=DateTime(timezone=True)), func.clock_timestamp()
            ),
        }
    )
    .inline()
)
_APPEND = Prepared(_RECORD)


@lru_cache(1_000)
def _changing(table_name: str, fields: frozenset[str]) -> Prepared[tuple[int, datetime]]:
    """Changes these fields of a row, and records it; gives its revision and the time."""
    table = Base.metadata.tables[table_name]
    new = {field: bindparam(f"new_{field}", type_=table.c[field].type) for field in fields}
    changed = (
        update(table)
        .where(table.c.id == bindparam("row_id"))
        .values(new | {"revision": table.c.revision + 1})
        .returning(table.c.revision, table.c.updated_at)
        .cte("changed")
    )
    return Prepared(
        select(changed.c.revision, changed.c.updated_at).add_cte(_RECORD.cte("recorded"))
    )


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
    await session.fetch(
        _APPEND, _event(origin, type, subject_id, before=before, after=after, reason=reason, at=at)
    )


async def append_all(
    session: WriteSession,
    origin: Origin,
    type: str,
    changes: Sequence[tuple[UUID, Mapping[str, Any], Mapping[str, Any]]],
    reason: str,
) -> None:
    """`append` for however many subjects, each with what was before and after."""
    events = [
        _event(origin, type, id, before=before, after=after, reason=reason, at=None)
        for id, before, after in changes
    ]
    if events:
        await session.execute(_RECORD, events)


def _event(
    origin: Origin,
    type: str,
    subject_id: UUID,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    reason: str | None,
    at: datetime | None,
) -> dict[str, Any]:
    if origin.cause_id is not None:
        after = {**(after or {}), "cause_id": origin.cause_id}
    return {
        "event_type": type,
        "event_subject_kind": type.partition(".")[0],
        "event_subject_id": subject_id,
        "event_at": at,
        "event_actor": origin.actor,
        "event_request_id": origin.request_id,
        "event_idempotency_key": origin.idempotency_key,
        "event_reason": reason,
        "event_before": before,
        "event_after": after,
    }


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
    changed = {
        field: value for field, value in changes.items() if not same(getattr(row, field), value)
    }
    if not changed:
        return False
    before = {field: getattr(row, field) for field in changed}
    event = _event(
        origin,
        type or f"{row.__tablename__}.updated",
        row.id,
        before={**before, **(was or {})},
        after={**changed, **(about or {})},
        reason=reason,
        at=at,
    )
    statement = _changing(row.__tablename__, frozenset(changed))
    new = {f"new_{field}": value for field, value in changed.items()}
    ((revision, updated_at),) = await session.fetch(statement, {"row_id": row.id, **new, **event})
    session.know(row, {**changed, "revision": revision, "updated_at": updated_at})
    return True


def same(one: Any, other: Any) -> bool:
    """Whether two values are one, also as JSON: there true is not 1, as it is to Python. 1 and 1.0
    are one number."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return bool(_as_kept(one) == _as_kept(other))


def _as_kept(value: Any) -> Any:
    """PostgreSQL keeps a float in JSON as the decimal that is written, and gives it back as an
    integer if it is one: beyond 2^53 that is another number than the float is to Python."""
    return Decimal(repr(value)) if isinstance(value, float) else value
