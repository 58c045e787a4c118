"""The queue of what is to be looked at: who gets what, and that nothing is forgotten."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import TypeVar
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from lifecycle.database import Database, WriteSession
from lifecycle.errors import Conflict
from lifecycle.tracking import repository
from lifecycle.tracking.rules import SyncState, TrackedKind
from lifecycle.tracking.sides import NotYet, Task
from lifecycle.tracking.tables import MlflowItemRow
from tests.client import PATIENCE

T = TypeVar("T")
RUN, EXPERIMENT = TrackedKind.RUN, TrackedKind.EXPERIMENT
LONG = 60.0


class Queue:
    """The queue of one server of the test's own."""

    def __init__(self, database: Database, uri: str, server_id: UUID) -> None:
        self.database, self.uri, self.server_id = database, uri, server_id

    async def do(self, function: Callable[..., Awaitable[T]], *args: object, **kwargs: object) -> T:
        """Call a function of the repository in a transaction."""
        return await self.database.write(lambda session: function(session, *args, **kwargs))

    async def want(self, *ids: UUID, kind: TrackedKind = RUN) -> None:
        await self.do(repository.want_ours, self.server_id, [(kind, id) for id in ids])

    async def take(self, lease: float = LONG) -> Task:
        task = await self.try_to_take(lease)
        assert task is not None
        return task

    async def try_to_take(self, lease: float = LONG) -> Task | None:
        return await self.do(repository.take, self.server_id, lease)

    async def put_back(self, task: Task, due_in: float | None, **values: object) -> None:
        await self.do(repository.put_back, task, due_in, **values)

    async def item(self, task: Task) -> MlflowItemRow:
        async with self.database.read() as session:
            return (await repository.items_by_ids(session, [task.id]))[task.id]


@pytest_asyncio.fixture
async def queue(database_url: str, unique: str) -> AsyncIterator[Queue]:
    """A queue that nothing works on but the test."""
    database = Database(database_url)

    uri = f"http://{unique}"

    async def know(session: WriteSession) -> UUID:
        return await repository.know_server(session, uri)

    yield Queue(database, uri, await database.write(know))
    await database.close()


async def test_what_is_wanted_is_taken_once_and_the_longest_waiting_first(queue: Queue) -> None:
    first, second = uuid7(), uuid7()
    await queue.want(first)
    await queue.want(second)
    assert (await queue.take()).object_id == first
    assert (await queue.take()).object_id == second
    assert await queue.try_to_take() is None


async def test_of_many_takers_each_gets_another_item(queue: Queue) -> None:
    ids = [uuid7() for _ in range(20)]
    await queue.want(*ids)
    taken = await asyncio.gather(*(queue.try_to_take() for _ in range(30)))
    got = [task.object_id for task in taken if task is not None]
    # Some of those who came while all were being taken go away with none.
    while (task := await queue.try_to_take()) is not None:
        got.append(task.object_id)
    assert sorted(got, key=str) == sorted(ids, key=str)


async def test_what_is_wanted_again_while_somebody_has_it_is_due_when_it_is_back(
    queue: Queue,
) -> None:
    id = uuid7()
    await queue.want(id)
    task = await queue.take()
    await queue.want(id)
    assert await queue.try_to_take() is None
    await queue.put_back(task, None, state=SyncState.IN_SYNC)
    again = await queue.take()
    assert again.object_id == id
    await queue.put_back(again, None, state=SyncState.IN_SYNC)
    assert await queue.try_to_take() is None
    assert (await queue.item(task)).state is SyncState.IN_SYNC


async def test_a_lease_that_has_run_out_lets_the_next_one_in_and_the_former_change_nothing(
    queue: Queue,
) -> None:
    await queue.want(uuid7())
    slow = await queue.take(lease=0.0)
    quick = await queue.take()
    assert quick.id == slow.id
    assert not await queue.do(repository.extend, slow, LONG)
    await queue.put_back(slow, None, state=SyncState.FAILED)
    with pytest.raises(Conflict, match="Another worker"):
        await queue.do(repository.link, slow, mlflow_id="made by the slow one")
    await queue.put_back(quick, None, state=SyncState.IN_SYNC)
    item = await queue.item(quick)
    assert (item.state, item.mlflow_id) == (SyncState.IN_SYNC, None)


async def test_a_lease_can_be_renewed(queue: Queue) -> None:
    await queue.want(uuid7())
    task = await queue.take(lease=0.0)
    assert await queue.do(repository.extend, task, LONG)
    assert await queue.try_to_take() is None


async def test_who_waits_for_another_object_is_called_when_that_is_linked(queue: Queue) -> None:
    run, experiment = uuid7(), uuid7()
    await queue.want(run)
    child = await queue.take()
    first = NotYet(EXPERIMENT, object_id=experiment)
    await queue.do(repository.wait, queue.server_id, child, first, LONG)
    item = await queue.item(child)
    assert (item.state, item.error) == (
        SyncState.PENDING,
        "Waits for the experiment that it belongs to.",
    )
    # That there is such an experiment was not known to the queue.
    parent = await queue.take()
    assert (parent.kind, parent.object_id) == (EXPERIMENT, experiment)
    assert await queue.try_to_take() is None
    await queue.do(repository.link, parent, mlflow_id="1")
    assert (await queue.take()).id == child.id


async def test_who_begins_to_wait_when_the_other_has_just_been_linked_does_not_wait(
    queue: Queue,
) -> None:
    experiment = uuid7()
    await queue.want(experiment, kind=EXPERIMENT)
    parent = await queue.take()
    await queue.want(uuid7())
    child = await queue.take()
    await queue.do(repository.link, parent, mlflow_id="1")
    first = NotYet(EXPERIMENT, object_id=experiment)
    await queue.do(repository.wait, queue.server_id, child, first, LONG)
    assert (await queue.take()).id == child.id


async def test_what_has_failed_waits_whoever_wants_it_and_what_is_parked_gets_another_chance(
    queue: Queue,
) -> None:
    id = uuid7()
    await queue.want(id)
    task = await queue.take()
    await queue.put_back(task, LONG, state=SyncState.PENDING, attempts=3, error="500")
    await queue.want(id)
    assert await queue.try_to_take() is None

    # Parked.
    await queue.do(repository.put_back, task, None)  # no effect: it is nobody's
    async with queue.database.read() as session:
        assert (await repository.items_by_ids(session, [task.id]))[task.id].attempts == 3
    other = uuid7()
    await queue.want(other)
    parked = await queue.take()
    await queue.put_back(parked, None, state=SyncState.FAILED, attempts=10, error="refused")
    assert await queue.try_to_take() is None
    await queue.want(other)
    chance = await queue.take()
    assert (chance.id, chance.attempts) == (parked.id, 10)


async def test_a_change_there_of_what_is_known_and_what_is_new_there(queue: Queue) -> None:
    await queue.want(uuid7())
    known = await queue.take()
    await queue.do(repository.link, known, mlflow_id="known")
    await queue.put_back(known, None, state=SyncState.IN_SYNC, seen="digest")
    same, other = {"known": "digest"}, {"known": "another", "new": "digest"}
    assert await queue.do(repository.want_theirs, queue.server_id, RUN, same, new=True) == 0
    assert await queue.do(repository.want_theirs, queue.server_id, RUN, other, new=False) == 1
    assert (await queue.take()).mlflow_id == "known"
    assert await queue.try_to_take() is None
    assert await queue.do(repository.want_theirs, queue.server_id, RUN, other, new=True) == 1
    assert (await queue.take()).mlflow_id == "new"


async def test_both_sides_may_call_for_the_same_object_before_it_is_linked(queue: Queue) -> None:
    """We have made a run there and are about to say so when a look finds it as a new one."""
    ours = uuid7()
    await queue.want(ours)
    mine = await queue.take()
    await queue.do(repository.want_theirs, queue.server_id, RUN, {"made": "digest"}, new=True)
    found = await queue.take()
    await queue.do(repository.link, mine, mlflow_id="made")
    with pytest.raises(Conflict, match="Another worker"):
        await queue.do(repository.link, found, object_id=ours)
    await queue.put_back(mine, None, state=SyncState.IN_SYNC)
    async with queue.database.read() as session:
        wanted = repository.ItemFilter(queue.uri)
        assert await repository.count(session, wanted) == 1
    item = await queue.item(mine)
    assert (item.object_id, item.mlflow_id) == (ours, "made")


async def test_one_of_ours_cannot_be_two_of_theirs(queue: Queue) -> None:
    ours = uuid7()
    await queue.want(ours)
    mine = await queue.take()
    await queue.do(repository.link, mine, mlflow_id="one")
    await queue.do(repository.want_theirs, queue.server_id, RUN, {"copy": "digest"}, new=True)
    copy = await queue.take()
    with pytest.raises(Conflict, match="mirrored already, as one"):
        await queue.do(repository.link, copy, object_id=ours)


async def test_what_has_failed_waits_for_its_pause_though_it_was_wanted_meanwhile(
    queue: Queue,
) -> None:
    id = uuid7()
    await queue.want(id)
    task = await queue.take()
    await queue.want(id)
    await queue.put_back(task, LONG, state=SyncState.PENDING, attempts=3, error="500")
    assert await queue.try_to_take() is None


@pytest_asyncio.fixture
async def importing(queue: Queue) -> AsyncIterator[asyncpg.Connection]:
    """What an import by admin holds as long as it lives."""
    connection = await queue.database.connect("import")
    await repository.begin_import(connection, queue.server_id, "admin")
    yield connection
    connection.terminate()


async def an_import_wants(queue: Queue, *ids: str, kind: TrackedKind = RUN) -> None:
    seen = dict.fromkeys(ids, "digest")
    await queue.do(
        repository.want_theirs, queue.server_id, kind, seen, new=True, importing_for="admin"
    )


async def imported(queue: Queue, kind: TrackedKind = RUN) -> Task | None:
    return await queue.do(repository.take, queue.server_id, LONG, kind)


@pytest.mark.usefixtures("importing")
async def test_an_import_is_given_what_it_has_asked_for_and_nothing_else(queue: Queue) -> None:
    await queue.want(uuid7())
    await queue.do(repository.want_theirs, queue.server_id, RUN, {"looked": "x"}, new=True)
    assert await imported(queue) is None
    await an_import_wants(queue, "asked")
    task = await imported(queue)
    assert task is not None
    assert (task.mlflow_id, task.importing_for) == ("asked", "admin")
    # What that has to wait for comes first, and is the import's, too.
    experiment = NotYet(EXPERIMENT, mlflow_id="1")
    await queue.do(repository.wait, queue.server_id, task, experiment, LONG)
    first = await imported(queue, EXPERIMENT)
    assert first is not None
    assert (first.mlflow_id, first.importing_for) == ("1", "admin")


@pytest.mark.usefixtures("importing")
async def test_what_an_import_asks_for_while_somebody_has_it_is_done_for_the_import_then(
    queue: Queue,
) -> None:
    await queue.do(repository.want_theirs, queue.server_id, RUN, {"r": "x"}, new=True)
    task = await queue.take()
    await an_import_wants(queue, "r")
    await queue.put_back(task, None, synced=True, state=SyncState.IN_SYNC)
    again = await queue.take()
    assert again.importing_for == "admin"
    await queue.put_back(again, None, synced=True, state=SyncState.IN_SYNC)
    assert (await queue.item(task)).importing_for is None


@pytest.mark.usefixtures("importing")
async def test_what_an_import_could_not_do_nobody_does_in_its_name_later(queue: Queue) -> None:
    await an_import_wants(queue, "r")
    task = await imported(queue)
    assert task is not None
    await queue.put_back(task, None, state=SyncState.FAILED, error="refused")
    assert (await queue.item(task)).importing_for is None


async def test_in_the_name_of_an_import_that_is_gone_nobody_does_anything(
    queue: Queue, importing: asyncpg.Connection
) -> None:
    # Given an import of which others live: of another server, and in another name
    others = await queue.database.connect("import")
    await repository.begin_import(others, uuid7(), "admin")
    await repository.begin_import(others, queue.server_id, "eve")
    for id in ("before", "after", "left"):
        await an_import_wants(queue, id)
    assert (await queue.take()).importing_for == "admin"

    # When it is killed
    pid = importing.get_server_pid()
    importing.terminate()
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if not await others.fetchval("SELECT count(*) FROM pg_locks WHERE pid = $1", pid):
                break
            await asyncio.sleep(0.01)

    # Then what it has asked for is done in nobody's name,
    after = await queue.take()
    assert (after.mlflow_id, after.importing_for) == ("after", None)
    assert await imported(queue) is not None
    assert await imported(queue) is None
    others.terminate()


async def test_what_a_gone_import_has_left_the_next_one_does_not_find(queue: Queue) -> None:
    await an_import_wants(queue, "left")
    await queue.do(repository.forget_imports, queue.server_id)
    assert await imported(queue) is None


@pytest.mark.usefixtures("importing")
async def test_what_a_living_import_has_asked_for_is_not_forgotten(queue: Queue) -> None:
    await an_import_wants(queue, "asked")
    await queue.do(repository.forget_imports, queue.server_id)
    task = await imported(queue)
    assert task is not None
    assert task.importing_for == "admin"


async def test_who_waits_for_what_turns_out_to_be_another_item_is_called_too(queue: Queue) -> None:
    await queue.do(repository.want_theirs, queue.server_id, RUN, {"run": "x"}, new=True)
    run = await queue.take()
    there = NotYet(EXPERIMENT, mlflow_id="1")
    await queue.do(repository.wait, queue.server_id, run, there, LONG)
    # The experiment that it waits for is made from here at the same time.
    experiment = uuid7()
    await queue.want(experiment, kind=EXPERIMENT)
    await queue.take()
    ours = await queue.take()
    assert ours.object_id == experiment
    await queue.do(repository.link, ours, mlflow_id="1")
    assert (await queue.take()).id == run.id
