"""Reads by the driver: what rows are, and connections that are fewer than readers."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import Uuid, bindparam, func, select, text

from lifecycle.database import (
    READERS,
    SPARE,
    Database,
    Later,
    ReadSession,
    connections,
    together,
)
from lifecycle.database.connections import MOST_AT_ONCE
from lifecycle.database.reading import Read
from lifecycle.errors import Unavailable
from lifecycle.experiments.repository import by_names
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.pages import Lookup
from lifecycle.runs.tables import RunRow
from lifecycle.statements import Prepared, looked_at
from schema import ids
from tests import statements
from tests.client import PATIENCE, Graph
from tests.conftest import Live
from tests.factories import a_version
from tests.following import until

CREATE = "experiment { id }"
_SLEEP = Prepared(text("SELECT pg_sleep(0.05)"))


@asynccontextmanager
async def another(live: Live) -> AsyncIterator[Database]:
    """The same database, on connections that nobody else uses."""
    database = Database(live.database.url)
    try:
        yield database
    finally:
        await database.close()


async def an_experiment(graph: Graph, name: str) -> UUID:
    input = {"name": name, "tags": [{"key": "team", "value": "risk"}]}
    created = await graph.done("createExperiment", input, CREATE)
    return ids.decode("Experiment", created["id"])


async def test_an_entity_is_a_row_with_its_attributes_that_cannot_be_changed(
    graph: Graph, live: Live, unique: str
) -> None:
    id = await an_experiment(graph, unique)

    async with live.database.read() as session:
        row = (await by_names(session, [unique]))[unique]

    assert (row.id, row.name, row.status) == (id, unique, ExperimentStatus.ACTIVE)
    assert row.status is ExperimentStatus.ACTIVE
    assert row.tags == {"team": "risk"}
    assert row.__tablename__ == "experiment"
    with pytest.raises(AttributeError):
        row.name = "another"


async def test_one_thing_is_itself_and_several_are_tuples_with_names(
    graph: Graph, live: Live, unique: str
) -> None:
    id = await an_experiment(graph, unique)
    named = ExperimentRow.name == bindparam("name")

    async with live.database.read() as session:
        alone = await session.fetch(
            Prepared(select(ExperimentRow.id).where(named)), {"name": unique}
        )
        both: Any = await session.fetch(
            select(ExperimentRow, func.length(ExperimentRow.name).label("size")).where(named),
            {"name": unique},
        )
        nobody = await session.fetch_one(select(ExperimentRow).where(named), {"name": "nobody"})

    assert alone == [id]
    assert [(row.ExperimentRow.id, row.size) for row in both] == [(id, len(unique))]
    assert nobody is None


async def test_only_the_key_and_what_will_be_looked_at_is_read(
    graph: Graph, live: Live, unique: str
) -> None:
    await an_experiment(graph, unique)
    former = looked_at.set(frozenset({"owner", "what no experiment has"}))
    try:
        async with live.database.read() as session:
            row: Any = (await by_names(session, [unique]))[unique]
    finally:
        looked_at.reset(former)

    assert row._fields == ("id", "name", "owner")


async def test_values_of_a_statement_are_not_those_of_the_one_like_it(live: Live) -> None:
    async with live.database.read() as session:
        found = [await session.fetch_one(select(func.length(name))) for name in ("a", "abc", "ab")]

    assert found == [1, 3, 2]


async def test_look_ups_under_other_conditions_find_others(
    graph: Graph, live: Live, unique: str
) -> None:
    await an_experiment(graph, unique)
    by_name = ExperimentRow.name
    active = Lookup(ExperimentRow, by_name, ExperimentRow.status == ExperimentStatus.ACTIVE)
    archived = Lookup(ExperimentRow, by_name, ExperimentRow.status == ExperimentStatus.ARCHIVED)

    async with live.database.read() as session:
        found = [await each.fetch(session, [unique]) for each in (active, archived, active)]

    assert [list(each) for each in found] == [[unique], [], [unique]]


def test_a_statement_has_as_many_parameters_however_many_values_there_are() -> None:
    with pytest.raises(TypeError, match="= ANY with an array"):
        _ = Prepared(select(ExperimentRow.id).where(ExperimentRow.name.in_(["a", "b"]))).sql


async def test_more_readers_than_connections_wait_for_each_other(live: Live) -> None:
    async def sleep(database: Database) -> None:
        async with database.read() as session:
            await session.fetch(_SLEEP)

    async with another(live) as database:
        await asyncio.gather(*(sleep(database) for _ in range(3 * READERS)))

        assert database.reading == 0


async def test_who_is_given_up_before_what_was_prepared_is_executed_spoils_nothing(
    live: Live,
) -> None:
    """Until PostgreSQL is told that nothing follows, the time counts as that of the statement."""
    async with another(live) as database:
        # given
        with suppress(asyncio.CancelledError):
            async with database.read() as session:
                driver = session._connection  # type: ignore[attr-defined]
                await driver.execute("SET statement_timeout = '50ms'")
                await driver.prepare("SELECT 'nobody executes it'")
                raise asyncio.CancelledError
        await until(lambda: database.reading == 0)

        # when
        await asyncio.sleep(0.1)
        async with database.read() as session:
            assert session._connection is driver  # type: ignore[attr-defined]
            found = await session.fetch(Prepared(text("SELECT 1")))

    # then
    assert found == [(1,)]


async def test_who_is_given_up_while_a_connection_is_made_leaves_none_behind(live: Live) -> None:
    async with another(live) as database:
        given_up = database.read().__aenter__()
        given_up.send(None)
        given_up.close()

        assert database.reading == 0
        # It would be found by the collector, which says so.
        await asyncio.sleep(0.2)
        gc.collect()


async def test_who_is_cancelled_while_waiting_takes_no_connection_along(live: Live) -> None:
    async def sleep() -> None:
        async with live.database.read() as session:
            await session.fetch(_SLEEP)

    tasks = [asyncio.create_task(sleep()) for _ in range(4 * READERS)]
    await asyncio.sleep(0.02)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    await until(lambda: live.database.reading == 0)
    await asyncio.gather(*(sleep() for _ in range(READERS)))


async def test_who_waits_too_long_for_a_connection_is_told(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "POOL_SECONDS", 0.01)
    sessions = [live.database.read() for _ in range(READERS + 1)]
    for session in sessions[:-1]:
        await session.__aenter__()

    with pytest.raises(Unavailable):
        await sessions[-1].__aenter__()

    for session in sessions[:-1]:
        await session.__aexit__(None, None, None)
    await until(lambda: live.database.reading == 0)


async def test_what_is_asked_at_the_same_time_is_one_statement_with_the_same_rows(
    graph: Graph, live: Live, unique: str
) -> None:
    # Given values of every kind that records have to carry: ids, times, enums, JSON, nulls
    id = await an_experiment(graph, unique)
    run = {"experimentName": unique, "params": [{"key": "a", "value": "1"}]}
    await graph.done("logRun", run, "run { id }")
    everything = select(ExperimentRow).where(ExperimentRow.name == unique)

    async def experiments(session: ReadSession) -> list[Any]:
        return await session.fetch(everything)

    async def runs_of_it(session: ReadSession) -> list[Any]:
        # Two in a row: the second is asked together with what others ask then.
        (found,) = await session.fetch(everything)
        return await session.fetch(select(RunRow).where(RunRow.experiment_id == found.id))

    async def nothing(session: ReadSession) -> list[Any]:
        return await session.fetch(select(RunRow.id).where(RunRow.id == uuid4()))

    async def one(session: ReadSession, id: UUID) -> list[Any]:
        return list((await Lookup(ExperimentRow, ExperimentRow.id).fetch(session, [id])).values())

    of_one = [partial(one, id=id), partial(one, id=uuid4())]
    reads: list[Read] = [experiments, runs_of_it, nothing, *of_one]
    async with live.database.read() as session:
        alone = [await read(session) for read in reads]

        # When
        with statements.read(live.database) as asked:
            found = await together(session, reads)

    # Then
    assert found == alone
    assert [len(rows) for rows in found] == [1, 1, 0, 1, 0]
    # The feed looks at the journal at any time.
    assert len([sql for sql, _ in asked if "journal_head" not in sql]) == 2


async def test_of_very_many_at_the_same_time_each_statement_has_some(
    graph: Graph, live: Live, unique: str
) -> None:
    # given: to plan one of hundreds takes PostgreSQL seconds
    await graph.done("createExperiment", {"name": unique}, CREATE)
    input = {"experimentName": unique, "metrics": [{"key": "a", "value": 1}]}
    run = await graph.done("logRun", input, "run { id }")
    often = " ".join(f'n{n}: metrics(keys: ["a", "{n}"]) {{ value }}' for n in range(240))

    # when
    with statements.read(live.database) as asked:
        found = await graph.query(f'{{ run(id: "{run["id"]}") {{ {often} }} }}')

    # then
    assert found["run"] == {f"n{n}": [{"value": 1.0}] for n in range(240)}
    assert max(sql.count(" AS part_") for sql, _ in asked) <= 50


async def test_what_is_later_is_the_row_that_is_found_first(
    graph: Graph, live: Live, unique: str
) -> None:
    await an_experiment(graph, unique)
    await graph.done("logRun", {"experimentName": unique}, "run { id }")
    later = Later("id")

    async def experiment(session: ReadSession) -> list[Any]:
        return await session.fetch(select(ExperimentRow).where(ExperimentRow.name == unique))

    async def nothing(session: ReadSession) -> list[Any]:
        return await session.fetch(select(ExperimentRow).where(ExperimentRow.name == "nothing"))

    async def runs_of_it(session: ReadSession) -> list[Any]:
        of_it = select(RunRow).where(RunRow.experiment_id == bindparam("id", type_=Uuid))
        return await session.fetch(Prepared(of_it), {"id": later})

    async with live.database.read() as session:
        with statements.read(live.database) as asked:
            found = await together(session, [experiment, runs_of_it])
            none = await together(session, [nothing, runs_of_it])

        (row,) = await experiment(session)
        runs = await session.fetch(select(RunRow).where(RunRow.experiment_id == row.id))
    assert found == [[row], runs]
    assert len(runs) == 1
    assert none == [[], []]
    assert not later.missed
    assert len([sql for sql, _ in asked if "journal_head" not in sql]) == 2


async def test_what_cannot_be_asked_with_the_first_is_known_to_have_missed_it(live: Live) -> None:
    later = Later("id")

    async def text_alone(session: ReadSession) -> list[Any]:
        return await session.fetch(Prepared(text("SELECT 1 AS id")))

    async def more(session: ReadSession) -> list[Any]:
        of_it = select(RunRow).where(RunRow.experiment_id == bindparam("id", type_=Uuid))
        return await session.fetch(Prepared(of_it), {"id": later})

    async with live.database.read() as session:
        assert await together(session, [text_alone, more]) == [[(1,)], []]

    assert later.missed


async def test_a_read_that_fails_fails_all_that_were_asked_with_it(live: Live) -> None:
    async def looks_at_something(session: ReadSession) -> None:
        former = looked_at.set(frozenset({"name"}))
        try:
            await session.fetch(Prepared(text("SELECT 1")))
        finally:
            looked_at.reset(former)

    async def fails(session: ReadSession) -> None:
        await session.fetch(Prepared(text("SELECT 1 / 0")))

    async def works(session: ReadSession) -> None:
        await session.fetch(Prepared(text("SELECT 1")))

    async with live.database.read() as session:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await together(session, [works, looks_at_something, fails])
        assert await session.fetch(Prepared(text("SELECT 1"))) == [(1,)]


async def test_each_read_has_its_own_notion_of_what_will_be_looked_at(
    graph: Graph, live: Live, unique: str
) -> None:
    await an_experiment(graph, unique)

    async def named(session: ReadSession) -> Any:
        looked_at.set(frozenset({"name"}))
        return (await by_names(session, [unique]))[unique]

    async def whole(session: ReadSession) -> Any:
        return (await by_names(session, [unique]))[unique]

    async with live.database.read() as session:
        part, row = await together(session, [named, whole])

    assert set(part._fields) == {"id", "name"}
    assert row.status is ExperimentStatus.ACTIVE
    assert looked_at.get() is None


async def test_a_server_that_says_nothing_any_more_is_waited_for_only_so_long(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(connections, "_LOOK_SECONDS", 0.01)
    silence = Prepared(text(f"SELECT pg_sleep({PATIENCE})"))
    async with another(live) as database:
        # When
        with pytest.raises(Unavailable, match="is not available"):
            async with database.read() as session:
                await session.fetch(silence)

        # Then another connection is made, and what is quick is answered however long it is kept
        async with database.read() as session:
            for _ in range(5):
                assert len(await session.fetch(_SLEEP)) == 1


async def test_an_operation_of_more_lists_than_connections_is_answered(graph: Graph) -> None:
    lists = " ".join(f"a{n}: experiments(first: 1) {{ totalCount }}" for n in range(2 * READERS))

    answer = await graph.answer(f"{{ {lists} }}")

    assert "errors" not in answer
    assert len(answer["data"]) == 2 * READERS


async def test_who_waits_for_another_read_of_its_own_and_gives_up_takes_nothing_along(
    live: Live,
) -> None:
    async with another(live) as database:
        shared = database.shared(lambda: "ada")
        async with AsyncExitStack() as taken:
            for _ in range(MOST_AT_ONCE):
                await taken.enter_async_context(shared.read())

            # Given that one is closed by who drives it, and others are cancelled as their turn
            # comes
            closed = shared.read().__aenter__()
            closed.send(None)
            closed.close()
            cancelled = [asyncio.create_task(shared.read().__aenter__()) for _ in range(3)]
            await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)

        # Then as many can read as before
        assert database.reading == 0
        async with AsyncExitStack() as taken, asyncio.timeout(PATIENCE):
            for _ in range(MOST_AT_ONCE):
                await taken.enter_async_context(shared.read())


async def test_principals_take_turns_at_the_connections_and_some_are_for_those_who_have_none(
    live: Live,
) -> None:
    async with another(live) as database, AsyncExitStack() as taken:
        got: list[str] = []

        async def take(principal: str) -> None:
            await taken.enter_async_context(database.shared(lambda: principal).read())
            got.append(principal)

        # given: one who has as many as one may have
        held = [database.shared(lambda: "ada").read() for _ in range(READERS)]
        for each in held:
            await each.__aenter__()

        # when: it wants more, and others come who have none
        coming = []
        for principal in ("ada", "ada", "eve", "eve", "bob", "joe"):
            coming.append(asyncio.create_task(take(principal)))
            await asyncio.sleep(0)
        await until(lambda: len(got) == SPARE)

        # then: those have theirs at once, and the next is whose turn it is
        assert (sorted(got), database.waiting_to_read) == (["bob", "eve"], 4)
        for each in held[: SPARE + 3]:
            await each.__aexit__(None, None, None)
            await asyncio.sleep(0.01)
        assert got[SPARE:] == ["joe", "ada", "eve"]
        for each in held[SPARE + 3 :]:
            await each.__aexit__(None, None, None)
        await asyncio.gather(*coming)


async def test_a_part_of_the_service_waits_in_a_line_of_its_own(live: Live) -> None:
    async def read(some: Database) -> None:
        async with some.read():
            pass

    async with another(live) as database:
        own = database.in_line("system:own")
        async with AsyncExitStack() as held:
            # given: the rest of it has as many as it may have, and waits for more
            for _ in range(READERS):
                await held.enter_async_context(database.read())
            coming = [asyncio.create_task(read(database)) for _ in range(3)]
            await until(lambda: database.waiting_to_read == 3)

            # when
            async with own.read():
                coming += [asyncio.create_task(read(own)) for _ in range(READERS)]

                # then: it reads, and all else that it wants stands in line, where waiting ends
                await until(lambda: database.waiting_to_read == 3 + READERS)
        await asyncio.gather(*coming)


async def test_what_the_database_has_broken_off_it_is_not_asked_again(
    graph: Graph, live: Live, sql: asyncpg.Connection
) -> None:
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND application_name = 'lifecycle-read'"
    )
    async with sql.transaction():
        # Given a statement that waits
        await sql.execute("LOCK TABLE experiment IN ACCESS EXCLUSIVE MODE")
        asked = asyncio.create_task(graph.answer("{ experiments(first: 1) { nodes { id } } }"))
        async with asyncio.timeout(PATIENCE):
            while (pid := await sql.fetchval(waiting)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        # When it is broken off
        await sql.execute("SELECT pg_cancel_backend($1)", pid)

        # Then that is the answer, although nobody would answer another one
        async with asyncio.timeout(PATIENCE):
            (error,) = (await asked)["errors"]
    assert error["message"] == "The database was too busy; try again."
    assert error["extensions"] == {"code": "UNAVAILABLE"}
    assert error["path"] == ["experiments"]


async def test_many_mistakes_in_one_operation_are_told_and_leave_nothing_in_the_log(
    graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    lists = " ".join(f'a{n}: node(id: "{n}?") {{ id }}' for n in range(2 * READERS))

    answer = await graph.answer(f'{{ nodes(ids: ["1?", "2?"]) {{ id }} {lists} }}')
    gc.collect()

    codes = {error["extensions"]["code"] for error in answer["errors"]}
    assert codes == {"INVALID_INPUT"}
    assert "never retrieved" not in caplog.text


async def test_a_mistake_beside_lists_that_wait_takes_no_connection_along(
    graph: Graph, live: Live, unique: str
) -> None:
    await a_version(graph, unique)
    # Once it is known that there is no such version, most of the lists still wait.
    mistake = (
        f'mistake: compareModelVersions(modelName: "{unique}", versions: ["0"]) {{ __typename }}'
    )
    lists = " ".join(f"a{n}: experiments(first: 1) {{ totalCount }}" for n in range(4 * READERS))

    error = await graph.error(f"{{ {mistake} {lists} }}")

    assert error["extensions"]["code"] == "NOT_FOUND"
    async with asyncio.timeout(PATIENCE):
        while live.database.reading:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
