"""Queries read from a replica, which may be behind, and may be away."""

import asyncio
import socketserver
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from sqlalchemy import text

from lifecycle import migrate
from lifecycle.database import Database
from tests.client import PATIENCE, Graph, socket
from tests.conftest import Live, in_thread, serving
from tests.factories import a_deployment, a_version
from tests.following import connect
from tests.operations.replicas import Replica, replicated

pytestmark = pytest.mark.slow

NAMES = "{ experiments { nodes { name description } } }"
FOLLOWING = """
subscription { deploymentStatus { __typename ... on DeploymentStatusEvent {
  deployment { id health modelVersion { modelName version } } } } }
"""


@dataclass
class Pair:
    """A service on a server and its replica."""

    live: Live
    replica: Replica
    primary: Path


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    # Not where pytest keeps its own: PostgreSQL is somebody else, and has to reach it.
    with tempfile.TemporaryDirectory() as directory, replicated(Path(directory)) as (url, replica):
        in_thread(lambda: migrate.upgrade(url))
        async with serving(url, read_url=replica.url) as live:
            yield Pair(live, replica, Path(directory) / "postgres")


@contextmanager
def hanging(replica: Replica) -> Iterator[None]:
    """It takes connections, keeps those that are there, and does nothing."""
    server = psutil.Process(int((replica.directory / "postmaster.pid").read_text().split()[0]))
    processes = [server, *server.children()]
    for each in processes:
        each.suspend()
    try:
        yield
    finally:
        for each in processes:
            each.resume()


async def names(graph: Graph) -> list[str]:
    found = await graph.query(NAMES)
    return [node["name"] for node in found["experiments"]["nodes"]]


async def until_known(graph: Graph, name: str) -> None:
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if name in await names(graph):
                return
            await asyncio.sleep(0.05)


async def test_queries_are_as_old_as_the_replica_and_what_was_written_is_shown_as_it_is_now(
    pair: Pair, unique: str
) -> None:
    async with Graph(pair.live.url) as graph, socket(pair.live.url) as opened:
        # given: the replica knows one experiment, and hears of nothing more
        await graph.done("createExperiment", {"name": unique}, "experiment { id }")
        await until_known(graph, unique)
        await pair.replica.execute("SELECT pg_wal_replay_pause()")
        async with aclosing(opened.subscribe(FOLLOWING)) as items:  # type: ignore[type-var]
            assert (await anext(items))["__typename"] == "CaughtUp"

            # when
            made = await graph.mutate(
                "createExperiment",
                {"name": f"{unique}-2", "description": "new"},
                "experiment { name description runs { totalCount } }",
            )
            again = await graph.mutate("createExperiment", {"name": unique})
            version = await a_version(graph, unique)
            deployment = await a_deployment(graph, version)
            event = await anext(items)
            behind = await names(graph)

            # then
            assert made["experiment"] == {
                "name": f"{unique}-2",
                "description": "new",
                "runs": {"totalCount": 0},
            }
            assert again["code"] == "ALREADY_EXISTS"
            assert event["deployment"]["id"] == deployment
            assert event["deployment"]["modelVersion"]["modelName"] == unique
            assert behind == [unique]

            # and when it goes on
            await pair.replica.execute("SELECT pg_wal_replay_resume()")
            await until_known(graph, f"{unique}-2")


async def test_while_the_replica_is_away_the_primary_answers_and_nobody_notices(
    pair: Pair, unique: str
) -> None:
    async with Graph(pair.live.url) as graph:
        await graph.done("createExperiment", {"name": unique}, "experiment { id }")
        await until_known(graph, unique)
        done = asyncio.Event()

        async def ask() -> int:
            number = 0
            while not done.is_set():
                assert await names(graph) == [unique]
                number += 1
            return number

        asking = [asyncio.create_task(ask()) for _ in range(8)]

        # when
        await asyncio.sleep(0.2)
        await asyncio.to_thread(pair.replica.stop)
        await asyncio.sleep(1)
        done.set()

        # then
        assert min(await asyncio.gather(*asking)) > 0
        await graph.done("createExperiment", {"name": f"{unique}-2"}, "experiment { id }")
        assert f"{unique}-2" in await names(graph), "it is the primary that answers"

        # and when it comes back, it is asked again
        await asyncio.to_thread(pair.replica.start)
        await pair.replica.execute("SELECT pg_wal_replay_pause()")
        async with asyncio.timeout(PATIENCE):
            for n in range(3, 1_000):
                await graph.done("createExperiment", {"name": f"{unique}-{n}"}, "experiment { id }")
                if f"{unique}-{n}" not in await names(graph):
                    break
                await asyncio.sleep(0.5)


async def test_a_replica_that_takes_connections_and_says_nothing_is_one_that_is_away(
    own_database_url: str,
) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as silent:
        url = f"postgresql+asyncpg://nobody@127.0.0.1:{silent.server_address[1]}/nothing"
        async with serving(own_database_url, read_url=url) as live, Graph(live.url) as graph:
            assert await names(graph) == []


async def test_from_a_replica_that_hangs_on_open_connections_nobody_waits_for_an_answer(
    pair: Pair, unique: str
) -> None:
    async with (
        serving(pair.live.database.url, read_url=pair.replica.url, max_seconds=20) as live,
        Graph(live.url) as graph,
    ):
        # given: more connections are open than one
        await graph.done("createExperiment", {"name": unique}, "experiment { id }")
        await until_known(graph, unique)
        await asyncio.gather(*(names(graph) for _ in range(8)))

        # when
        with hanging(pair.replica):
            found = await asyncio.gather(*(names(graph) for _ in range(20)))

        # then
        assert found == [[unique]] * 20


async def test_a_slow_query_is_left_to_the_replica(pair: Pair) -> None:
    slow = text("SELECT pg_sleep(5), pg_is_in_recovery()")
    async with pair.live.database.lagging().read() as session:
        [(_, recovering)] = await session.fetch(slow)  # type: ignore[call-overload]

    assert recovering is True


async def test_what_has_read_from_the_primary_reads_nothing_older_then(pair: Pair) -> None:
    replica = pair.live.database._replica
    assert replica is not None
    one = pair.live.database.shared(lambda: "ada").lagging()

    async def is_behind(database: Database) -> bool:
        async with database.read() as session:
            asked = text("SELECT pg_is_in_recovery()")
            [(behind,)] = await session.fetch(asked)  # type: ignore[call-overload]
        return bool(behind)

    # given: the replica is away, and comes back in the middle of an operation
    first = await is_behind(one)
    replica.rest()
    meanwhile = await is_behind(one)
    replica._rests_until = 0

    # when
    then, next_one = await is_behind(one), pair.live.database.shared(lambda: "ada").lagging()

    # then
    assert (first, meanwhile, then, await is_behind(next_one)) == (True, False, False, True)


async def test_a_query_that_the_replica_breaks_off_is_answered_by_the_primary(pair: Pair) -> None:
    # given: a statement on the replica, over a table that is locked where it is changed
    direct = await connect(pair.live.database.url)
    async with pair.live.database.lagging().read() as session:
        await session.fetch(text("SELECT pg_is_in_recovery()"))  # type: ignore[call-overload]
    slow = text("SELECT pg_sleep(2), pg_is_in_recovery() FROM journal_head")

    async def ask() -> bool:
        async with pair.live.database.lagging().read() as session:
            [(_, recovering)] = await session.fetch(slow)  # type: ignore[call-overload]
        found: bool = recovering
        return found

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.5)

    # when
    async with direct.transaction():
        await direct.execute("SELECT pg_current_xact_id()")
        await direct.execute("LOCK TABLE journal_head IN ACCESS EXCLUSIVE MODE")
    await direct.close()

    # then
    assert await asking is False


async def test_without_the_primary_queries_are_answered_and_nothing_is_written(
    pair: Pair, unique: str
) -> None:
    async with Graph(pair.live.url) as graph:
        await graph.done("createExperiment", {"name": unique}, "experiment { id }")
        await until_known(graph, unique)

        # when
        server = psutil.Process(int((pair.primary / "postmaster.pid").read_text().split()[0]))
        server.kill()
        server.wait(60)

        # then
        assert await names(graph) == [unique]
        failed = await graph.mutate("createExperiment", {"name": f"{unique}-2"})
        assert failed["code"] == "UNAVAILABLE"
        assert (await graph.http.get("/readyz")).status_code == 503
