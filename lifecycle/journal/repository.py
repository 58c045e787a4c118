"""All SQL about events, but for the sequencer's, which needs a connection of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, or_, select

from lifecycle.database import ReadSession
from lifecycle.journal.tables import EventRow, JournalHeadRow


@dataclass(frozen=True, slots=True)
class Event:
    """An event as its readers get it. `before` and `after` hold what changed, and what a reader
    needs to know about the subject."""

    id: int
    position: int
    type: str
    subject_kind: str
    subject_id: UUID
    at: datetime
    actor: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events: of one kind of subject, perhaps of one subject, whose `after` has these
    values."""

    subject_kind: str
    types: frozenset[str]
    subject_id: UUID | None = None
    after: tuple[tuple[str, str], ...] = ()

    def matches(self, event: Event) -> bool:
        """The same decision as `_matching` makes in SQL."""
        return (
            event.type in self.types
            and self.subject_id in (None, event.subject_id)
            and all(event.after.get(key) == value for key, value in self.after)
        )


@dataclass(frozen=True, slots=True)
class Head:
    """Which journal this is, how far it has been numbered, and through where trimmed."""

    journal_id: UUID
    position: int
    trimmed_through: int


async def head(session: ReadSession) -> Head:
    """Where the journal stands."""
    row = (await session.scalars(select(JournalHeadRow))).one()
    return Head(row.journal_id, row.position, row.trimmed_through)


async def between(
    session: ReadSession,
    wanted: EventFilter | frozenset[str],
    after: int,
    through: int,
    limit: int,
) -> Sequence[Event]:
    """Numbered events with after < position <= through, in order: those that match, or all of
    these types."""
    statement: Select[Any] = (
        select(
            EventRow.id,
            EventRow.position,
            EventRow.type,
            EventRow.subject_kind,
            EventRow.subject_id,
            EventRow.at,
            EventRow.actor,
            EventRow.before,
            EventRow.after,
        )
        .where(EventRow.position > after, EventRow.position <= through)
        .order_by(EventRow.position)
        .limit(limit)
    )
    if isinstance(wanted, EventFilter):
        statement = _matching(statement, wanted)
    else:
        statement = statement.where(EventRow.type.in_(sorted(wanted)))
    return [
        Event(
            id=row.id,
            position=row.position,
            type=row.type,
            subject_kind=row.subject_kind,
            subject_id=row.subject_id,
            at=row.at,
            actor=row.actor,
            before=row.before or {},
            after=row.after or {},
        )
        for row in await session.execute(statement)
    ]


async def ids_beyond(session: ReadSession, wanted: EventFilter, position: int) -> frozenset[int]:
    """The ids of the events that have become visible but have a later position, or none yet."""
    statement = _matching(select(EventRow.id), wanted)
    beyond = or_(EventRow.position > position, EventRow.position.is_(None))
    return frozenset(await session.scalars(statement.where(beyond)))


def _matching(statement: Select[Any], wanted: EventFilter) -> Select[Any]:
    statement = statement.where(EventRow.type.in_(sorted(wanted.types)))
    if wanted.subject_id is not None:
        statement = statement.where(EventRow.subject_id == wanted.subject_id)
    else:
        statement = statement.where(EventRow.subject_kind == wanted.subject_kind)
    if wanted.after:
        statement = statement.where(EventRow.after.contains(dict(wanted.after)))
    return statement
