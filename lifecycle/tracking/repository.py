"""All SQL about MLflow servers and what is, or is to be, on both sides."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    Select,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from lifecycle.database import ReadSession, WriteSession
from lifecycle.errors import Conflict
from lifecycle.journal.tables import EventRow, JournalHeadRow
from lifecycle.pages import Listing, Ordering, Page, PageRequest, among, by_id, listing
from lifecycle.registry.rules import Stage
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs.tables import RunRow
from lifecycle.statements import Prepared
from lifecycle.tracking import rules
from lifecycle.tracking.rules import Agreed, SyncState, TrackedKind
from lifecycle.tracking.sides import ACTOR, NotYet, Task
from lifecycle.tracking.tables import MlflowItemRow, MlflowServerRow

_IMPORT = "hashtext('lifecycle mlflow import')"
# Of an item: whether the import that has asked for it lives, by the lock that it holds.
_LIVES: ColumnElement[bool] = literal_column(
    f"""EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = {_IMPORT}::oid
    AND objid = hashtext(mlflow_item.server_id || '/' || mlflow_item.importing_for)::oid)""",
    Boolean,
)


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items of the server at an address, of which there are none without one; what is empty
    does not restrict."""

    uri: str | None
    states: tuple[SyncState, ...] = ()
    kinds: tuple[TrackedKind, ...] = ()


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What the queue wants to know of an event."""

    position: int
    type: str
    subject_kind: str
    subject_id: UUID
    request_id: str


# Another reason to look at an item that is known: at once, unless it has failed and waits. What is
# parked gets one more chance.
_WANTED_AGAIN = {
    "wanted": MlflowItemRow.wanted + 1,
    "due_at": text(
        "CASE WHEN mlflow_item.attempts > 0 THEN coalesce(mlflow_item.due_at, clock_timestamp()) "
        "ELSE clock_timestamp() END"
    ),
    "state": text("CASE mlflow_item.state WHEN 'CONFLICT' THEN 'CONFLICT' ELSE 'PENDING' END"),
}


async def servers_by_uris(session: ReadSession, uris: Sequence[str]) -> dict[str, MlflowServerRow]:
    """The servers at these addresses; those never spoken to are absent."""
    wanted = MlflowServerRow.uri == any_(bindparam("uris", type_=ARRAY(Text)))
    rows = await session.fetch(select(MlflowServerRow).where(wanted), {"uris": list(uris)})
    return {row.uri: row for row in rows}


async def know_server(session: WriteSession, uri: str) -> UUID:
    """The id of the server at this address, made known if it is new."""
    statement = insert(MlflowServerRow).values(id=uuid7(), uri=uri)
    await session.execute(statement.on_conflict_do_nothing())
    return (
        await session.scalars(select(MlflowServerRow.id).where(MlflowServerRow.uri == uri))
    ).one()


async def lock_server(
    session: WriteSession, id: UUID, *, wait: bool = False
) -> MlflowServerRow | None:
    """The server, held until the transaction ends; None if somebody else holds it, unless the
    caller wants to wait."""
    return await session.scalar(
        select(MlflowServerRow)
        .where(MlflowServerRow.id == id)
        .with_for_update(skip_locked=not wait)
        .execution_options(populate_existing=True)
    )


async def is_mirrored(session: ReadSession, id: UUID) -> bool:
    """Whether the server is told of what happens here."""
    position = select(MlflowServerRow.position).where(MlflowServerRow.id == id)
    return await session.fetch_one(position) is not None


@dataclass(frozen=True, slots=True)
class Calls:
    """What calls for a worker: events that the server has not been told of, a look at what has
    changed there, objects that are due."""

    behind: bool
    look: bool
    due: bool


_CALLS = Prepared(
    text("""
SELECT coalesce(server.position < head.position, false),
       coalesce(server.look_lease <= statement_timestamp(), true)
       AND coalesce(
           server.looked_at + make_interval(secs => :every) <= statement_timestamp(), true
       ),
       EXISTS (
           SELECT FROM mlflow_item AS item
           WHERE item.server_id = server.id AND item.due_at <= statement_timestamp()
             AND coalesce(item.lease_until <= statement_timestamp(), true)
       )
FROM mlflow_server AS server CROSS JOIN journal_head AS head
WHERE server.id = :id
""").bindparams(bindparam("id", type_=Uuid), bindparam("every", type_=Double))
)


async def calls(session: ReadSession, id: UUID, every: float) -> Calls:
    """What there is to do for a server, which is to be looked at `every` so many seconds."""
    (found,) = await session.fetch(_CALLS, {"id": id, "every": every})
    return Calls(*found)


async def record_answer(
    session: WriteSession, id: UUID, version: str | None, error: str | None
) -> None:
    """Keep whether the server answers: its version, or what is wrong."""
    values: dict[str, Any] = {"error": error, "asked_at": func.clock_timestamp()}
    if error is None:
        values |= {"version": version, "answered_at": func.clock_timestamp()}
    await session.execute(update(MlflowServerRow).where(MlflowServerRow.id == id).values(values))


async def take_look(
    session: WriteSession, id: UUID, every: float, lease: float
) -> MlflowServerRow | None:
    """The server, if a look at what has changed there is due and nobody is at it: it is the
    caller's then for `lease` seconds."""
    now = func.clock_timestamp()
    return await session.scalar(
        update(MlflowServerRow)
        .where(
            MlflowServerRow.id == id,
            func.coalesce(MlflowServerRow.look_lease, now) <= now,
            func.coalesce(MlflowServerRow.looked_at + _seconds(every), now) <= now,
        )
        .values(look_lease=now + _seconds(lease))
        .returning(MlflowServerRow)
        .execution_options(populate_existing=True)
    )


async def keep_look(session: WriteSession, id: UUID, lease: float) -> bool:
    """Keep what `take_look` has given for `lease` seconds more."""
    until = func.clock_timestamp() + _seconds(lease)
    await session.execute(
        update(MlflowServerRow).where(MlflowServerRow.id == id).values(look_lease=until)
    )
    return True


async def looked(
    session: WriteSession, id: UUID, at: datetime | None, *, compared: bool, pause: float
) -> None:
    """A look has ended, and for so many seconds there is to be none. `at` is when it began, None
    when it failed; `compared` if it was at everything."""
    values: dict[str, Any] = {"look_lease": func.clock_timestamp() + _seconds(pause)}
    if at is not None:
        values["looked_at"] = at
        if compared:
            values["compared_at"] = at
    await session.execute(update(MlflowServerRow).where(MlflowServerRow.id == id).values(values))


async def events_after(session: ReadSession, position: int, limit: int) -> Sequence[NewEvent]:
    """What has happened since, in order."""
    statement = (
        select(
            EventRow.position,
            EventRow.type,
            EventRow.subject_kind,
            EventRow.subject_id,
            EventRow.request_id,
        )
        .where(EventRow.position > position)
        .order_by(EventRow.position)
        .limit(limit)
    )
    return [NewEvent(*row) for row in await session.fetch(statement)]  # type: ignore[arg-type]


_TABLES = {
    TrackedKind.EXPERIMENT: "SELECT id FROM experiment",
    TrackedKind.RUN: "SELECT id FROM run",
    TrackedKind.MODEL: "SELECT id FROM model",
    TrackedKind.MODEL_VERSION: "SELECT id FROM model_version WHERE deleted_at IS NULL",
}


async def want_all(session: WriteSession, server_id: UUID) -> None:
    """Everything that is here is to be there."""
    for kind, ids in _TABLES.items():
        await session.execute(
            text(
                "INSERT INTO mlflow_item (id, server_id, kind, object_id, due_at) "
                "SELECT gen_random_uuid(), :server_id, :kind, id, clock_timestamp() "
                f"FROM ({ids} ORDER BY id) AS known ON CONFLICT DO NOTHING"
            ).bindparams(bindparam("server_id", type_=Uuid)),
            {"server_id": server_id, "kind": kind.value},
        )
    # Those that were imported before.
    await session.execute(
        update(MlflowItemRow)
        .where(MlflowItemRow.server_id == server_id, MlflowItemRow.due_at.is_(None))
        .values(due_at=func.clock_timestamp())
    )


async def due(session: ReadSession, server_id: UUID, kind: TrackedKind) -> int:
    """How many objects of a kind that an import has asked for are due, taken or not."""
    statement = select(func.count()).where(
        MlflowItemRow.server_id == server_id,
        MlflowItemRow.kind == kind,
        MlflowItemRow.importing_for.is_not(None),
        MlflowItemRow.due_at <= func.statement_timestamp(),
    )
    (number,) = await session.fetch(statement)
    return number


async def begin_import(connection: asyncpg.Connection, server_id: UUID, administrator: str) -> None:
    """Have objects taken over on behalf of an administrator, until this connection ends or
    `leave_import`: so a killed import leaves its name to nobody. There may be several."""
    await connection.execute(
        f"SELECT pg_advisory_lock_shared({_IMPORT}, hashtext($1))", f"{server_id}/{administrator}"
    )


async def leave_import(connection: asyncpg.Connection) -> None:
    """The import of this connection is over."""
    await connection.execute("SELECT pg_advisory_unlock_all()")


async def forget_imports(session: WriteSession, server_id: UUID) -> None:
    """Nothing is wanted any more by imports that are over, however they ended."""
    await session.execute(
        update(MlflowItemRow)
        .where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.importing_for.is_not(None),
            ~_LIVES,
        )
        .values(importing_for=None)
    )


async def troubles(
    session: ReadSession, server_id: UUID, kind: TrackedKind, limit: int
) -> Sequence[tuple[SyncState, str]]:
    """What is the matter with the first objects of a kind that are there, but not in sync, in
    order of their ids there; those first that are not in at all."""
    rows = await session.fetch(
        select(MlflowItemRow)
        .where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.mlflow_id.is_not(None),
            or_(MlflowItemRow.error.is_not(None), MlflowItemRow.state == SyncState.CONFLICT),
        )
        .order_by(MlflowItemRow.state == SyncState.CONFLICT, MlflowItemRow.mlflow_id)
        .limit(limit)
    )
    return [
        (row.state, f"{row.mlflow_id}: {row.error or rules.said(row.conflicts)}") for row in rows
    ]


async def want_ours(
    session: WriteSession, server_id: UUID, objects: Iterable[tuple[TrackedKind, UUID]]
) -> None:
    """These objects have changed here."""
    wanted = sorted(set(objects))
    if wanted:
        statement = insert(MlflowItemRow).values(
            [
                {
                    "id": uuid7(),
                    "server_id": server_id,
                    "kind": kind,
                    "object_id": id,
                    "due_at": func.clock_timestamp(),
                }
                for kind, id in wanted
            ]
        )
        await session.execute(
            statement.on_conflict_do_update(
                index_elements=["server_id", "kind", "object_id"], set_=_WANTED_AGAIN
            )
        )


async def want_theirs(
    session: WriteSession,
    server_id: UUID,
    kind: TrackedKind,
    seen: Mapping[str, str],
    *,
    new: bool,
    importing_for: str | None = None,
) -> int:
    """These objects are there, by their ids, with digests of what they are now: those that have
    changed are to be looked at, and, if `new` ones are wanted, those that are not known. Who
    imports has everything that is not in sync looked at again, and without a pause. Returns how
    many those are."""
    if not seen:
        return 0
    known = await _known(session, server_id, kind, list(seen))
    wanted = [
        id
        for id, (digest, state) in sorted(known.items())
        if digest != seen[id] or (importing_for is not None and state is not SyncState.IN_SYNC)
    ]
    again: dict[str, Any] = dict(_WANTED_AGAIN)
    if importing_for is not None:
        again |= {
            "importing_for": importing_for,
            "attempts": 0,
            "due_at": func.clock_timestamp(),
        }
    for id in wanted:
        await session.execute(
            update(MlflowItemRow)
            .where(
                MlflowItemRow.server_id == server_id,
                MlflowItemRow.kind == kind,
                MlflowItemRow.mlflow_id == id,
            )
            .values(again | {"seen": seen[id]})
        )
    unknown = sorted(seen.keys() - known.keys()) if new else []
    if unknown:
        statement = insert(MlflowItemRow).values(
            [
                {
                    "id": uuid7(),
                    "server_id": server_id,
                    "kind": kind,
                    "mlflow_id": id,
                    "seen": seen[id],
                    "due_at": func.clock_timestamp(),
                    "importing_for": importing_for,
                }
                for id in unknown
            ]
        )
        await session.execute(statement.on_conflict_do_nothing())
    return len(wanted) + len(unknown)


async def _known(
    session: ReadSession, server_id: UUID, kind: TrackedKind, ids: Sequence[str]
) -> dict[str, tuple[str | None, SyncState]]:
    """What somebody was last called to look at, and how it stands, of those that are known."""
    rows = await session.fetch(
        select(MlflowItemRow.mlflow_id, MlflowItemRow.seen, MlflowItemRow.state).where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.mlflow_id == any_(bindparam("ids", type_=ARRAY(Text))),
        ),
        {"ids": ids},
    )
    return {id: (digest, state) for id, digest, state in rows if id is not None}


async def wait(
    session: WriteSession, server_id: UUID, task: Task, error: NotYet, longest: float
) -> None:
    """Put a task back until the object that has to come first is on both sides, for which a look
    at that one is due now; at most for `longest` seconds."""
    key = "object_id" if error.object_id is not None else "mlflow_id"
    values = {
        "id": uuid7(),
        "server_id": server_id,
        "kind": error.kind,
        key: getattr(error, key),
        "due_at": func.clock_timestamp(),
        "importing_for": task.importing_for,
    }
    first = await session.scalar(
        insert(MlflowItemRow)
        .values(values)
        .on_conflict_do_update(
            index_elements=["server_id", "kind", key],
            set_={"importing_for": func.coalesce(MlflowItemRow.importing_for, task.importing_for)},
        )
        .returning(MlflowItemRow)
        .execution_options(populate_existing=True)
    )
    assert first is not None
    there = first.object_id is not None and first.mlflow_id is not None
    await put_back(
        session,
        task,
        0.0 if there else longest,
        state=SyncState.PENDING,
        error=str(error),
        waits_for=None if there else first.id,
    )


async def take(
    session: WriteSession, server_id: UUID, lease: float, imported: TrackedKind | None = None
) -> Task | None:
    """An item that is due, the longest-waiting first, for `lease` seconds; None if there is none.

    Nobody else gets it until then, or until it is put back. With `imported` only one of that kind
    which an import has asked for. In the name of an import that is over nobody gets it.
    """
    # Unlike the clock it stands still during the statement, so that an index can be searched.
    now = func.statement_timestamp()
    restriction = []
    if imported is not None:
        restriction = [MlflowItemRow.kind == imported, MlflowItemRow.importing_for.is_not(None)]
    due = (
        select(MlflowItemRow.id)
        .where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.due_at <= now,
            func.coalesce(MlflowItemRow.lease_until, now) <= now,
            *restriction,
        )
        .order_by(MlflowItemRow.due_at, MlflowItemRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = await session.scalar(
        update(MlflowItemRow)
        .where(MlflowItemRow.id == due)
        .values(
            lease_id=uuid7(),
            lease_until=now + _seconds(lease),
            importing_for=case(
                (MlflowItemRow.importing_for.is_(None), None),
                (_LIVES, MlflowItemRow.importing_for),
            ),
        )
        .returning(MlflowItemRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        return None
    assert row.lease_id is not None
    return Task(
        id=row.id,
        kind=row.kind,
        object_id=row.object_id,
        mlflow_id=row.mlflow_id,
        base={name: Agreed(*pair) for name, pair in row.base.items()},
        points_seen=row.points_seen,
        position=row.position,
        wanted=row.wanted,
        attempts=row.attempts,
        lease_id=row.lease_id,
        importing_for=row.importing_for,
    )


async def extend(session: WriteSession, task: Task, lease: float) -> bool:
    """Keep an item for `lease` seconds more; says whether it is still the caller's."""
    result = await session.execute(
        update(MlflowItemRow)
        .where(MlflowItemRow.id == task.id, MlflowItemRow.lease_id == task.lease_id)
        .values(lease_until=func.clock_timestamp() + _seconds(lease))
        .returning(MlflowItemRow.id)
    )
    return result.first() is not None


async def put_back(
    session: WriteSession,
    task: Task,
    due_in: float | None,
    *,
    synced: bool = False,
    **values: Any,
) -> None:
    """Give an item back, with what is to be kept of it: due in so many seconds, or, when None, as
    soon as something new has called for it, which after a failure waits, too. What is not the
    caller's any more stays as it is."""
    now = func.clock_timestamp()
    if synced:
        values["synced_at"] = now
    due_at = None if due_in is None else now + _seconds(due_in)
    again = MlflowItemRow.wanted != task.wanted
    kept = {"waits_for": None, **values}
    if values.get("state") is SyncState.IN_SYNC:
        kept["state"] = case((again, SyncState.PENDING), else_=SyncState.IN_SYNC)
    if synced or due_in is None:
        # What an import has asked for is done, or will not be done before it asks again.
        kept["importing_for"] = case((again, MlflowItemRow.importing_for), else_=None)
    await session.execute(
        update(MlflowItemRow)
        .where(MlflowItemRow.id == task.id, MlflowItemRow.lease_id == task.lease_id)
        .values(
            **kept,
            lease_id=None,
            lease_until=None,
            due_at=due_at
            if due_in and values.get("attempts")
            else case((again, now), else_=due_at),
        )
    )


async def remove(session: WriteSession, task: Task) -> None:
    """Forget an item that is nowhere any more."""
    await session.execute(
        delete(MlflowItemRow).where(
            MlflowItemRow.id == task.id, MlflowItemRow.lease_id == task.lease_id
        )
    )


async def link(
    session: WriteSession,
    task: Task,
    *,
    object_id: UUID | None = None,
    mlflow_id: str | None = None,
) -> None:
    """Record what an item is on the other side. Raises Conflict when that belongs to another
    item, or the item to another worker."""
    values: dict[str, Any] = {"object_id": object_id} if object_id else {"mlflow_id": mlflow_id}
    theirs = [getattr(MlflowItemRow, name) == value for name, value in values.items()]
    server = select(MlflowItemRow.server_id).where(MlflowItemRow.id == task.id).scalar_subquery()
    taken = await session.scalar(
        select(MlflowItemRow)
        .where(
            MlflowItemRow.server_id == server,
            MlflowItemRow.kind == task.kind,
            *theirs,
            MlflowItemRow.id != task.id,
        )
        .with_for_update()
    )
    if taken is not None:
        if taken.object_id is not None and taken.mlflow_id is not None:
            raise Conflict(f"It is mirrored already, as {taken.mlflow_id}.")
        # Both sides had called for it; this item is the one that stays.
        await session.delete(taken)
        await session.flush()
    if object_id:
        # What was known there before need not be where the object came from.
        values["created_at"] = taken.created_at if taken else func.clock_timestamp()
    done = await session.execute(
        update(MlflowItemRow)
        .where(MlflowItemRow.id == task.id, MlflowItemRow.lease_id == task.lease_id)
        .values(values)
        .returning(MlflowItemRow.id)
    )
    if done.first() is None:
        raise Conflict("Another worker has taken it over.")
    await session.execute(
        update(MlflowItemRow)
        .where(among(MlflowItemRow.waits_for, [task.id, *([taken.id] if taken else [])]))
        .values(waits_for=None, due_at=func.clock_timestamp())
    )


async def rivals(session: ReadSession, version_ids: Sequence[UUID]) -> set[UUID]:
    """The versions in STAGING or PRODUCTION of the models that these versions belong to."""
    models = select(ModelVersionRow.model_id).where(
        ModelVersionRow.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    )
    rows = await session.fetch(
        select(ModelVersionRow.id).where(
            ModelVersionRow.model_id.in_(models),
            among(ModelVersionRow.stage, (Stage.STAGING, Stage.PRODUCTION)),
        ),
        {"ids": list(version_ids)},
    )
    return set(rows)


async def linked(
    session: ReadSession, server_id: UUID, kind: TrackedKind, mlflow_ids: Sequence[str]
) -> set[str]:
    """Those of these objects of MLflow's that are on both sides, or are to be."""
    rows = await session.fetch(
        select(MlflowItemRow.mlflow_id).where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.mlflow_id == any_(bindparam("ids", type_=ARRAY(Text))),
        ),
        {"ids": list(mlflow_ids)},
    )
    return {id for id in rows if id is not None}


async def object_of(
    session: ReadSession, server_id: UUID, kind: TrackedKind, mlflow_id: str
) -> UUID | None:
    """Our object for one of MLflow's; None when it is not here yet."""
    return await session.fetch_one(
        select(MlflowItemRow.object_id).where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.mlflow_id == mlflow_id,
        )
    )


async def mlflow_id_of(
    session: ReadSession, server_id: UUID, kind: TrackedKind, object_id: UUID
) -> str | None:
    """MLflow's id for one of our objects; None when it is not there yet."""
    return await session.fetch_one(
        select(MlflowItemRow.mlflow_id).where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.object_id == object_id,
        )
    )


async def made_there(
    session: ReadSession, server_id: UUID, kind: TrackedKind, row: RunRow | ModelVersionRow
) -> bool:
    """Whether a run or a version began on this server, so that what is written there is its
    writer's. What was made here, or came in from another server, is a mirror there."""
    if row.created_by != ACTOR:
        return False
    # By the servers, so that an index can be searched.
    first = (
        select(MlflowItemRow.server_id)
        .join(MlflowServerRow, MlflowServerRow.id == MlflowItemRow.server_id)
        .where(MlflowItemRow.kind == kind, MlflowItemRow.object_id == row.id)
        .order_by(MlflowItemRow.created_at)
        .limit(1)
    )
    return await session.fetch_one(first) == server_id


async def items_of_objects(
    session: ReadSession, objects: Sequence[tuple[TrackedKind, UUID]], uri: str
) -> dict[tuple[TrackedKind, UUID], MlflowItemRow]:
    """How each object stands with the server at this address; those never looked at are absent."""
    rows = await session.fetch(
        select(MlflowItemRow)
        .join(MlflowServerRow, MlflowServerRow.id == MlflowItemRow.server_id)
        .where(
            MlflowServerRow.uri == uri,
            among(MlflowItemRow.kind, sorted({kind for kind, _ in objects})),
            MlflowItemRow.object_id == any_(bindparam("ids", type_=ARRAY(Uuid))),
        ),
        {"ids": [id for _, id in objects]},
    )
    return {(row.kind, row.object_id): row for row in rows if row.object_id is not None}


async def items_by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, MlflowItemRow]:
    """The items among `ids`; those that do not exist are absent."""
    wanted = MlflowItemRow.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    rows = await session.fetch(select(MlflowItemRow).where(wanted), {"ids": list(ids)})
    return {row.id: row for row in rows}


@listing
def _listing(wanted: ItemFilter) -> Listing[MlflowItemRow]:
    ordering = Ordering([by_id(MlflowItemRow.id, descending=True)], "mlflow", wanted)
    return Listing(_matching(wanted), ordering)


async def page(
    session: ReadSession, wanted: ItemFilter, request: PageRequest
) -> Page[MlflowItemRow]:
    """A page of a server's items that match, the newest first."""
    return await _listing(wanted).page(session, request)


async def count(session: ReadSession, wanted: ItemFilter) -> int:
    """How many items match."""
    return await _listing(wanted).count(session)


async def counts_by_state(
    session: ReadSession, server_ids: Sequence[UUID]
) -> dict[UUID, dict[SyncState, int]]:
    """How many items of each server are in each state."""
    rows = await session.fetch(
        select(MlflowItemRow.server_id, MlflowItemRow.state, func.count())
        .where(among(MlflowItemRow.server_id, server_ids))
        .group_by(MlflowItemRow.server_id, MlflowItemRow.state)
    )
    found: dict[UUID, dict[SyncState, int]] = {}
    for server_id, state, number in rows:
        found.setdefault(server_id, {})[state] = number
    return found


async def behind(session: ReadSession, server_ids: Sequence[UUID]) -> dict[UUID, int | None]:
    """How many events each server has not been told of yet; None where nothing is told."""
    told = JournalHeadRow.position - MlflowServerRow.position
    rows = await session.fetch(
        select(MlflowServerRow.id, told)
        .join(JournalHeadRow, true())
        .where(among(MlflowServerRow.id, server_ids))
    )
    return {id: number for id, number in rows}  # noqa: C416


async def lock_items(session: WriteSession, ids: Sequence[UUID]) -> dict[UUID, MlflowItemRow]:
    """The items among `ids`, held until the transaction ends; those that do not exist are
    absent."""
    rows = await session.scalars(
        select(MlflowItemRow)
        .where(among(MlflowItemRow.id, ids))
        .order_by(MlflowItemRow.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {row.id: row for row in rows}


async def retry_failed(session: WriteSession, server_id: UUID) -> int:
    """Have all that is parked looked at again, now. Returns how much that is."""
    failed = MlflowItemRow.state == SyncState.FAILED
    ids = select(MlflowItemRow.id).where(MlflowItemRow.server_id == server_id, failed)
    rows = await session.execute(
        update(MlflowItemRow)
        .where(among(MlflowItemRow.id, await session.fetch(ids)), failed)
        .values(
            state=SyncState.PENDING,
            attempts=0,
            error=None,
            wanted=MlflowItemRow.wanted + 1,
            due_at=func.clock_timestamp(),
        )
        .returning(MlflowItemRow.id)
    )
    return len(rows.all())


def _seconds(number: float) -> Any:
    return func.make_interval(0, 0, 0, 0, 0, 0, number)


def _matching(wanted: ItemFilter) -> Select[Any]:
    server = select(MlflowServerRow.id).where(MlflowServerRow.uri == wanted.uri)
    statement = select(MlflowItemRow).where(MlflowItemRow.server_id == server.scalar_subquery())
    if wanted.states:
        statement = statement.where(among(MlflowItemRow.state, wanted.states))
    if wanted.kinds:
        statement = statement.where(among(MlflowItemRow.kind, wanted.kinds))
    return statement


async def progress_of(
    session: ReadSession, server_id: UUID, kind: TrackedKind, mlflow_id: str
) -> Mapping[str, Any]:
    """What is remembered of one of MLflow's objects; nothing when it has not been looked at."""
    found = await session.fetch_one(
        select(MlflowItemRow.points_seen).where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.mlflow_id == mlflow_id,
        )
    )
    return found or {}


async def has_come_in(
    session: ReadSession, server_id: UUID, kind: TrackedKind, mlflow_id: str
) -> bool:
    """Whether all of one of MLflow's objects has been here at some time."""
    found = await session.fetch_one(
        select(MlflowItemRow.synced_at).where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.mlflow_id == mlflow_id,
        )
    )
    return found is not None


async def agree(
    session: WriteSession, server_id: UUID, kind: TrackedKind, object_id: UUID, field: str
) -> None:
    """A field of an object has been made "true" there for what it is here, while another object was
    looked at."""
    both = func.jsonb_build_array("true", "true")
    await session.execute(
        update(MlflowItemRow)
        .where(
            MlflowItemRow.server_id == server_id,
            MlflowItemRow.kind == kind,
            MlflowItemRow.object_id == object_id,
        )
        .values(base=func.jsonb_set(MlflowItemRow.base, [field], both))
    )


async def earlier_version(
    session: ReadSession, server_id: UUID, version: ModelVersionRow
) -> UUID | None:
    """The first of those versions of the model that were registered before this one and are not
    in MLflow yet, deleted ones included; none that was given up."""
    return await session.fetch_one(
        select(ModelVersionRow.id)
        .outerjoin(
            MlflowItemRow,
            and_(
                MlflowItemRow.server_id == server_id,
                MlflowItemRow.kind == TrackedKind.MODEL_VERSION,
                MlflowItemRow.object_id == ModelVersionRow.id,
            ),
        )
        .where(
            ModelVersionRow.model_id == version.model_id,
            tuple_(ModelVersionRow.created_at, ModelVersionRow.id)
            < tuple_(
                bindparam("created_at", version.created_at, DateTime(timezone=True)),
                bindparam("id", version.id, Uuid),
            ),
            MlflowItemRow.mlflow_id.is_(None),
            func.coalesce(MlflowItemRow.state, SyncState.PENDING) != SyncState.FAILED,
        )
        .order_by(ModelVersionRow.created_at, ModelVersionRow.id)
        .limit(1)
    )


async def rename_model(session: WriteSession, server_id: UUID, former: str, name: str) -> None:
    """A model has another name in MLflow: its versions are looked at under that one. Who has found
    it takes the place of the model's item."""
    of_server = MlflowItemRow.server_id == server_id
    is_version = MlflowItemRow.kind == TrackedKind.MODEL_VERSION
    await session.execute(
        update(MlflowItemRow)
        .where(
            of_server, MlflowItemRow.kind == TrackedKind.MODEL, MlflowItemRow.mlflow_id == former
        )
        .values(mlflow_id=None)
    )
    # They were found, but nothing has come of them.
    await session.execute(
        delete(MlflowItemRow).where(
            of_server,
            is_version,
            func.starts_with(MlflowItemRow.mlflow_id, f"{name}/"),
            MlflowItemRow.object_id.is_(None),
        )
    )
    await session.execute(
        update(MlflowItemRow)
        .where(of_server, is_version, func.starts_with(MlflowItemRow.mlflow_id, f"{former}/"))
        .values(
            mlflow_id=func.concat(name, func.substr(MlflowItemRow.mlflow_id, len(former) + 1)),
            wanted=MlflowItemRow.wanted + 1,
            due_at=func.clock_timestamp(),
        )
    )


class NewPoint(NamedTuple):
    """A point that is not here yet; `timestamp` is MLflow's, or just after it where there are
    several at that time."""

    key: str
    step: int
    timestamp: datetime
    value: float


@dataclass(frozen=True, slots=True)
class News:
    """What the journal says was written to a run: the lowest and highest step of each metric, the
    first line of its log, and whether there were artifacts."""

    steps: Mapping[str, tuple[int, int]]
    first_line: int | None
    artifacts: bool


# A batch from before the journal said which steps may have reached any.
_REACHED = Prepared(
    text("""
SELECT reached.key, min(reached.low), max(reached.high)
FROM event CROSS JOIN LATERAL (
    SELECT key, CAST(value->>0 AS bigint) AS low, CAST(value->>1 AS bigint) AS high
    FROM jsonb_each(event.after->'steps')
    UNION ALL
    SELECT metric->>0, -9223372036854775808, 9223372036854775807
    FROM jsonb_array_elements(event.after->'metrics') AS metric
    WHERE event.after->'steps' IS NULL
) AS reached
WHERE event.subject_id = :run_id AND event.type = 'run.metrics_logged'
  AND event.position > :after AND event.position <= :through AND event.request_id <> :echo
GROUP BY reached.key
""").bindparams(bindparam("run_id", type_=Uuid))
)

_WRITTEN = Prepared(
    text("""
SELECT min(CAST(after->>'first_line' AS bigint)),
       count(*) FILTER (WHERE type = 'run.artifacts_logged')
FROM event
WHERE subject_id = :run_id AND type IN ('run.output_logged', 'run.artifacts_logged')
  AND position > :after AND position <= :through AND request_id <> :echo
""").bindparams(bindparam("run_id", type_=Uuid))
)

# Of each metric no more than is wanted in all, so that a page costs what it has.
_POINTS = Prepared(
    text("""
SELECT point.key, point.step, point.timestamp, point.value
FROM unnest(:keys, :lows, :highs) WITH ORDINALITY AS wanted (key, low, high, place)
CROSS JOIN LATERAL (
    SELECT * FROM metric_point
    WHERE run_id = :run_id AND key = wanted.key
      AND step BETWEEN wanted.low AND wanted.high
      AND (wanted.place > 1 OR :last_time IS NULL OR (step, "timestamp") > (:last_step, :last_time))
    ORDER BY step, "timestamp" LIMIT :limit
) AS point
ORDER BY wanted.place, point.step, point.timestamp LIMIT :limit
""").bindparams(
        bindparam("run_id", type_=Uuid),
        bindparam("keys", type_=ARRAY(Text)),
        bindparam("lows", type_=ARRAY(BigInteger)),
        bindparam("highs", type_=ARRAY(BigInteger)),
        bindparam("last_step", type_=BigInteger),
        bindparam("last_time", type_=DateTime(timezone=True)),
    )
)

# MLflow tells points of one step and millisecond apart by their values, and the greatest is the
# latest; here they are told apart by their times. What was corrected here is there as it was, too,
# and must not come back: where there is a point, there is no new one.
_NOT_HERE = Prepared(
    text("""
SELECT key, step, "timestamp" + (place - 1) * interval '1 microsecond', value
FROM (
    SELECT key, step, "timestamp", value,
           row_number() OVER (PARTITION BY key, step, "timestamp" ORDER BY value) AS place
    FROM (
        SELECT DISTINCT key, step, "timestamp", value
        FROM unnest(:keys, :steps, :timestamps, :values) AS point (key, step, "timestamp", value)
    ) AS given
) AS numbered
WHERE place <= 1000 AND NOT EXISTS (
    SELECT 1 FROM metric_point AS known
    WHERE known.run_id = :run_id AND known.key = numbered.key AND known.step = numbered.step
      AND known.timestamp >= numbered.timestamp
      AND known.timestamp < numbered.timestamp + interval '1 millisecond'
)
ORDER BY key, step, "timestamp", place
""").bindparams(
        bindparam("run_id", type_=Uuid),
        bindparam("keys", type_=ARRAY(Text)),
        bindparam("steps", type_=ARRAY(BigInteger)),
        bindparam("timestamps", type_=ARRAY(DateTime(timezone=True))),
        bindparam("values", type_=ARRAY(Double)),
    )
)


async def has_news(session: ReadSession, id: UUID, after: int, through: int, echo: str) -> bool:
    """Whether the journal has anything about an object between two positions, but for what was
    written by requests of this id."""
    found = await session.fetch(
        select(EventRow.id)
        .where(
            EventRow.subject_id == id,
            EventRow.position > after,
            EventRow.position <= through,
            EventRow.request_id.is_distinct_from(echo),
        )
        .limit(1)
    )
    return bool(found)


async def news_of_run(
    session: ReadSession, run_id: UUID, after: int, through: int, echo: str
) -> News:
    """What was written to a run between two positions of the journal, but for what was written by
    requests of this id."""
    wanted = {"run_id": run_id, "after": after, "through": through, "echo": echo}
    reached = await session.fetch(_REACHED, wanted)
    steps = {key: (low, high) for key, low, high in reached}
    ((first_line, artifacts),) = await session.fetch(_WRITTEN, wanted)
    return News(steps, first_line, artifacts > 0)


async def points_of_run(
    session: ReadSession,
    run_id: UUID,
    steps: Sequence[tuple[str, int, int]],
    last: NewPoint | None,
    limit: int,
) -> list[NewPoint]:
    """The points of these metrics within these steps, in order of the metrics given, then of step
    and time; after `last`, which is one of the first metric."""
    keys, lows, highs = zip(*steps, strict=True)
    rows = await session.fetch(
        _POINTS,
        {
            "run_id": run_id,
            "keys": list(keys),
            "lows": list(lows),
            "highs": list(highs),
            "last_step": last and last.step,
            "last_time": last and last.timestamp,
            "limit": limit,
        },
    )
    return [NewPoint(*row) for row in rows]


async def points_not_here(
    session: ReadSession, run_id: UUID, points: Sequence[NewPoint]
) -> list[NewPoint]:
    """Those of MLflow's points that are not here yet, whose times are in whole milliseconds."""
    keys, steps, timestamps, values = zip(*points, strict=True)
    rows = await session.fetch(
        _NOT_HERE,
        {
            "run_id": run_id,
            "keys": list(keys),
            "steps": list(steps),
            "timestamps": list(timestamps),
            "values": list(values),
        },
    )
    return [NewPoint(*row) for row in rows]
