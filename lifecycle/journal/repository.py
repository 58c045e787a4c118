"""All SQL about events, but for the sequencer's, which needs a connection of its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, bindparam, or_, select, text

from lifecycle.access.visibility import MODELS_OF
from lifecycle.database import ReadSession
from lifecycle.journal.tables import EventRow, JournalHeadRow
from lifecycle.pages import Listing, Ordering, Page, PageRequest, among, by_count, listing
from lifecycle.statements import Prepared


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
class AuditFilter:
    """Which numbered events; what is None or empty does not restrict. From `since` on, until just
    before `until`."""

    actors: tuple[str, ...] = ()
    subject: tuple[str, UUID] | None = None
    subject_kinds: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Which journal this is, how far it has been numbered, through where trimmed, and the last
    position that has a hash."""

    journal_id: UUID
    position: int
    trimmed_through: int
    chain_position: int
    chain_hash: bytes


_HEAD = Prepared(select(JournalHeadRow))


async def head(session: ReadSession) -> Head:
    """Where the journal stands."""
    (row,) = await session.fetch(_HEAD)
    return Head(
        row.journal_id, row.position, row.trimmed_through, row.chain_position, row.chain_hash
    )


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
        statement = statement.where(among(EventRow.type, sorted(wanted)))
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
        for row in await session.fetch(statement)
    ]


async def ids_beyond(session: ReadSession, wanted: EventFilter, position: int) -> frozenset[int]:
    """The ids of the events that have become visible but have a later position, or none yet."""
    statement = _matching(select(EventRow.id), wanted)
    beyond = or_(EventRow.position > position, EventRow.position.is_(None))
    return frozenset(await session.fetch(statement.where(beyond)))


_MODELS_OF = Prepared(
    text(
        " UNION ALL ".join(which.format(ids=f":{kind}") for kind, which in MODELS_OF.items())
    ).bindparams(*(bindparam(kind, type_=ARRAY(Uuid)) for kind in MODELS_OF))
)


async def models_of(session: ReadSession, events: Iterable[Event]) -> dict[UUID, frozenset[UUID]]:
    """The models that the subjects of these events are visible by; who sees any of a subject's
    models sees it. Subjects that are visible by none are left out."""
    subjects: defaultdict[str, set[UUID]] = defaultdict(set)
    for event in events:
        subjects[event.subject_kind].add(event.subject_id)
    found: defaultdict[UUID, set[UUID]] = defaultdict(set)
    asked = {kind: list(subjects[kind]) for kind in MODELS_OF}
    for subject, model in await session.fetch(_MODELS_OF, asked):
        found[subject].add(model)
    return {subject: frozenset(models) for subject, models in found.items()}


async def audit_page(
    session: ReadSession, wanted: AuditFilter, request: PageRequest
) -> Page[EventRow]:
    """A page of the numbered events that match, the last one first."""
    return await _audit(wanted).page(session, request)


async def audit_count(session: ReadSession, wanted: AuditFilter) -> int:
    """How many numbered events match."""
    return await _audit(wanted).count(session)


@listing
def _audit(wanted: AuditFilter) -> Listing[EventRow]:
    ordering = Ordering([by_count(EventRow.position, descending=True)], "audit", wanted)
    return Listing(_audited(wanted), ordering)


def _audited(wanted: AuditFilter) -> Select[Any]:
    statement = select(EventRow).where(EventRow.position.is_not(None))
    if wanted.actors:
        statement = statement.where(among(EventRow.actor, wanted.actors))
    if wanted.subject_kinds:
        statement = statement.where(among(EventRow.subject_kind, wanted.subject_kinds))
    if wanted.subject is not None:
        kind, id = wanted.subject
        statement = statement.where(EventRow.subject_kind == kind, EventRow.subject_id == id)
    if wanted.actions:
        statement = statement.where(among(EventRow.type, wanted.actions))
    if wanted.since is not None:
        statement = statement.where(EventRow.at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(EventRow.at < wanted.until)
    return statement


def _matching(statement: Select[Any], wanted: EventFilter) -> Select[Any]:
    statement = statement.where(among(EventRow.type, sorted(wanted.types)))
    if wanted.subject_id is not None:
        statement = statement.where(EventRow.subject_id == wanted.subject_id)
    else:
        statement = statement.where(EventRow.subject_kind == wanted.subject_kind)
    if wanted.after:
        statement = statement.where(EventRow.after.contains(dict(wanted.after)))
    return statement
