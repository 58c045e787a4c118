"""Bringing in what an MLflow server has, once, for a person who waits for it.

What was listed is in the database before anything of it comes in: an import that is interrupted
goes on where it was, and one that is repeated brings in what has changed. Nothing is written to
MLflow. Where a worker mirrors to the same server, it helps.
"""

from asyncio import TaskGroup, create_task, sleep, wait
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import asyncpg

from lifecycle.database import Database, WriteSession
from lifecycle.errors import Unavailable
from lifecycle.tracking import repository
from lifecycle.tracking.client import DEFAULT_EXPERIMENT, Client, Denied, MlflowError, Unreachable
from lifecycle.tracking.reconcile import LEASE_SECONDS, fail, hand_back, settle
from lifecycle.tracking.rules import Settled, SyncState, TrackedKind
from lifecycle.tracking.sides import Sync, Task, digest, origin_of

_HANDS = 8
_EXPERIMENTS = 100
# For what another process has taken.
_PAUSE_SECONDS = 0.5
# So many objects of a kind that are not in sync are named.
_NAMED = 50
# PostgreSQL ends connections of which it hears nothing for five seconds.
_BEAT_SECONDS = 1.0
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError)

# In this order, because each belongs to one of those before it.
KINDS = (TrackedKind.EXPERIMENT, TrackedKind.RUN, TrackedKind.MODEL, TrackedKind.MODEL_VERSION)


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the objects of one kind: how many there are in MLflow, how many were looked
    at, and what is the matter with the first of those that are not the same on both sides, or not
    in."""

    kind: TrackedKind
    listed: int
    done: int
    conflicts: Sequence[str]
    failures: Sequence[str]


# Told how many of how many objects of a kind are done.
Progress: TypeAlias = Callable[[TrackedKind, int, int], None]


async def run(
    database_url: str, uri: str, administrator: str, progress: Progress
) -> list[Imported]:
    """`bring_in` as a process of its own does it. Raises what that raises."""
    database, client = Database(database_url), Client(uri)
    try:
        return await bring_in(database, client, administrator, progress)
    finally:
        await client.close()
        await database.close()


async def bring_in(
    database: Database, client: Client, administrator: str, progress: Progress
) -> list[Imported]:
    """Import everything that is not deleted. Stages are taken over on behalf of `administrator`.

    Raises MlflowError when MLflow does not answer; what is in by then stays, and the rest comes
    with the next call; and Unavailable when the database does not, or has lost the import.
    """
    await client.server_version()
    server_id = await database.write(lambda s: repository.know_server(s, client.uri))
    async with database.read() as session:
        mirrored = await repository.is_mirrored(session, server_id)
    sync = Sync(database, client, server_id, origin_of(server_id), writes=False, mirrored=mirrored)
    done = dict.fromkeys(KINDS, 0)
    async with in_the_name_of(administrator, database, server_id):
        listed = {kind: await _list(sync, kind, administrator) for kind in KINDS}
        # Something may turn out to belong to what was not listed.
        while any([await _left(sync, kind) for kind in KINDS]):
            for kind in KINDS:
                done[kind] += await _drain(sync, kind, progress)
    return [await _imported(sync, kind, listed[kind], done[kind]) for kind in KINDS]


@asynccontextmanager
async def in_the_name_of(
    administrator: str, database: Database, server_id: UUID
) -> AsyncGenerator[None]:
    """What is asked for in the block is taken over on behalf of an administrator, and nothing after
    it, however it ends."""

    async def forget(session: WriteSession) -> None:
        await repository.forget_imports(session, server_id)

    connection = await database.connect("import")
    try:
        await repository.begin_import(connection, server_id, administrator)
        # What a killed one has left.
        await database.write(forget)
        beating = create_task(_beat(connection), name="import")
        try:
            yield
            if beating.done():
                raise Unavailable("The connection that held the import was lost; repeat to go on.")
        finally:
            beating.cancel()
            await wait((beating,))
            with suppress(*_LOST):
                await repository.leave_import(connection)
            # What waits is looked at again, when something else may be there, and in no name.
            await database.write(forget)
    finally:
        connection.terminate()


async def _beat(connection: asyncpg.Connection) -> None:
    """Show that the import lives, until the connection is lost."""
    with suppress(*_LOST):
        while True:
            await connection.execute("SELECT", timeout=_BEAT_SECONDS)
            await sleep(_BEAT_SECONDS)


async def _list(sync: Sync, kind: TrackedKind, administrator: str) -> int:
    """Have everything of a kind looked at that is new or has changed. Returns how much there is."""
    number = 0
    async with aclosing(_LISTS[kind](sync)) as pages:
        async for seen in pages:
            number += len(seen)

            async def want(session: WriteSession, seen: dict[str, str] = seen) -> None:
                await repository.want_theirs(
                    session, sync.server_id, kind, seen, new=True, importing_for=administrator
                )

            await sync.database.write(want)
    return number


async def _experiments(sync: Sync) -> AsyncGenerator[dict[str, str]]:
    async for page in sync.client.experiments():
        yield {
            each.id: digest(each)
            for each in page
            if not each.deleted and each.id != DEFAULT_EXPERIMENT
        }


async def _runs(sync: Sync) -> AsyncGenerator[dict[str, str]]:
    ids = [DEFAULT_EXPERIMENT, *[id async for page in _experiments(sync) for id in page]]
    for n in range(0, len(ids), _EXPERIMENTS):
        async for page in sync.client.runs(ids[n : n + _EXPERIMENTS]):
            yield {run.id: digest(run) for run in page}


async def _models(sync: Sync) -> AsyncGenerator[dict[str, str]]:
    async for page in sync.client.models():
        yield {model.name: digest(model) for model in page}


async def _versions(sync: Sync) -> AsyncGenerator[dict[str, str]]:
    async for page in sync.client.versions():
        yield {f"{each.model_name}/{each.number}": digest(each) for each in page}


_LISTS = {
    TrackedKind.EXPERIMENT: _experiments,
    TrackedKind.RUN: _runs,
    TrackedKind.MODEL: _models,
    TrackedKind.MODEL_VERSION: _versions,
}


async def _left(sync: Sync, kind: TrackedKind) -> int:
    async with sync.database.read() as session:
        return await repository.due(session, sync.server_id, kind)


async def _drain(sync: Sync, kind: TrackedKind, progress: Progress) -> int:
    """Reconcile whatever of a kind is due, until nothing is. Returns how much that was."""
    done = 0
    total = await _left(sync, kind)
    if total:
        progress(kind, 0, total)

    async def work() -> None:
        nonlocal done
        while task := await sync.database.write(
            lambda session: repository.take(session, sync.server_id, LEASE_SECONDS, kind)
        ):
            if await _settle(sync, task):
                done += 1
                progress(kind, min(done, total), total)

    while await _left(sync, kind):
        try:
            async with TaskGroup() as hands:
                for _ in range(_HANDS):
                    hands.create_task(work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        if await _left(sync, kind):
            # Somebody else has taken it, who may have been killed.
            await sleep(_PAUSE_SECONDS)
    return done


async def _settle(sync: Sync, task: Task) -> bool:
    """Reconcile an object; False if it waits for another one."""
    try:
        return await settle(sync, task) is not Settled.LATER
    except Unavailable:
        # Another worker has got it, or the database is gone, which the next one finds.
        return False
    except (Unreachable, Denied) as error:
        # Whose fault it is shows in whether MLflow answers at all.
        try:
            await sync.client.server_version()
        except MlflowError:
            await hand_back(sync, task, error)
            raise error from None
        await fail(sync, task, error)
    return True


async def _imported(sync: Sync, kind: TrackedKind, listed: int, done: int) -> Imported:
    async with sync.database.read() as session:
        wrong = await repository.troubles(session, sync.server_id, kind, _NAMED)
    return Imported(
        kind,
        listed,
        done,
        conflicts=[text for state, text in wrong if state is SyncState.CONFLICT],
        failures=[text for state, text in wrong if state is not SyncState.CONFLICT],
    )
