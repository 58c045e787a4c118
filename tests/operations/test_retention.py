"""What is too old is removed in small batches; what is left is whole, and says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from click.testing import CliRunner

from lifecycle import retention
from lifecycle.__main__ import main
from lifecycle.journal.verification import verify
from lifecycle.retention import Policy, Removed
from tests.client import Graph, Json
from tests.conftest import Live, in_thread, serving
from tests.factories import a_deployment, a_run, a_version
from tests.following import (
    RUN,
    connect,
    items,
    key_of,
    present,
    said,
    take,
    until,
    waiting,
    write_line,
)

pytestmark = pytest.mark.slow

LOG = """query ($id: ID!) { node(id: $id) { ... on Run {
  logs { totalCount nodes { line message } }
  metrics { key value step }
  metricHistory(keys: ["loss"]) { key steps }
} } }"""


@pytest_asyncio.fixture
async def live(own_database_url: str) -> AsyncIterator[Live]:
    """A service that nobody else uses."""
    async with serving(own_database_url) as service:
        yield service


@pytest_asyncio.fixture
async def graph(live: Live) -> AsyncIterator[Graph]:
    async with Graph(live.url) as client:
        yield client


@pytest_asyncio.fixture
async def direct(live: Live) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(live.database.url)
    yield connection
    await connection.close()


async def later(live: Live, days: int, **policy: int) -> Removed:
    """Apply a policy as if so many days had passed."""
    now = datetime.now(UTC) + timedelta(days=days)
    return await retention.apply(live.database.url, Policy(**policy), now)


async def a_finished_run(graph: Graph, experiment: str) -> str:
    run = await a_run(graph, experiment)
    series = [{"key": "loss", "values": [3.0, 2.0, 1.0], "steps": [1, 2, 3]}]
    await graph.done("logMetrics", {"runId": run, "series": series}, "run { id }")
    for line in ("one", "two"):
        await write_line(graph, run, line)
    await graph.done("updateRun", {"id": run, "status": "COMPLETED"}, "run { id }")
    return run


async def shown(graph: Graph, run: str) -> Json:
    found: Json = (await graph.query(LOG, {"id": run}))["node"]
    return found


async def test_the_journal_is_trimmed_and_its_chain_is_whole_from_the_anchor_on(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    # given: more than fits into one batch, a subscriber that has seen it, and one that has not
    run = await a_run(graph, unique)
    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        old = (await present(stream))[-1]["cursor"]
        await direct.execute(
            "INSERT INTO event (type, subject_kind, subject_id, actor, request_id) SELECT "
            "'run.updated', 'run', gen_random_uuid(), 'ada', 'r' FROM generate_series(1, 2500)"
        )
        await write_line(graph, run, "last")
        recent = (await take(stream, 1))[0]["cursor"]
    before = await verify(live.database.url)

    # when
    removed = await later(live, 31, journal=30)

    # then: the last one is left, and what comes after it is chained to it
    assert removed.events == before.entries - 1
    after = await verify(live.database.url, [before.bounds.chain])
    assert (after.faults, after.entries) == ([], 1)
    assert removed.anchor == str(after.bounds.anchor)
    assert after.bounds.trimmed_through == before.bounds.position - 1
    assert [row[0] for row in await direct.fetch("SELECT position FROM event")] == [
        before.bounds.position
    ]
    # and: who stands before it is told so, who stands at the end goes on
    async with aclosing(items("socket", live.url, RUN, id=run, after=old)) as stream:  # type: ignore[type-var]
        expired = await anext(stream)
    assert expired["__typename"] == "CursorExpired"
    async with aclosing(items("socket", live.url, RUN, id=run, after=recent)) as stream:  # type: ignore[type-var]
        assert (await take(stream, 1))[0]["__typename"] == "CaughtUp"
        await write_line(graph, run, "new")
        assert said(await take(stream, 1)) == ["new"]
    assert (await verify(live.database.url, [before.bounds.chain])).faults == []


async def test_what_is_not_too_old_stays(live: Live, graph: Graph, unique: str) -> None:
    run = await a_finished_run(graph, unique)
    before = await shown(graph, run)

    removed = await later(live, 29, journal=30, logs=30, points=30, keys=30)

    assert (removed.events, removed.lines, removed.points, removed.keys) == (0, 0, 0, 0)
    assert await shown(graph, run) == before


async def test_old_runs_lose_their_lines_and_points_but_for_the_last_ones(
    live: Live, graph: Graph, unique: str
) -> None:
    # given: one that is done, others that are not, and one that a version rests on
    done = await a_finished_run(graph, unique)
    others = [await a_run(graph, unique, status=each) for each in ("PENDING", "RUNNING")]
    for other in others:
        await write_line(graph, other, "still here")
    evidence = await a_finished_run(graph, unique)
    await a_version(graph, unique, runId=evidence)
    kept = await shown(graph, evidence)

    # when
    removed = await later(live, 31, logs=30, points=30)

    # then
    assert (removed.lines, removed.points) == (2, 2)
    assert await shown(graph, done) == {
        "logs": {"totalCount": 2, "nodes": []},
        "metrics": [{"key": "loss", "value": 1.0, "step": 3}],
        "metricHistory": [{"key": "loss", "steps": [3]}],
    }
    for other in others:
        lines = (await shown(graph, other))["logs"]["nodes"]
        assert lines == [{"line": 1, "message": "still here"}]
    assert await shown(graph, evidence) == kept
    # and a second time there is nothing to do
    removed = await later(live, 31, logs=30, points=30)
    assert (removed.lines, removed.points) == (0, 0)


@pytest.mark.parametrize("policy", [{"logs": 30}, {"points": 30}])
async def test_a_run_of_which_a_version_is_registered_meanwhile_keeps_all_it_has(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str, policy: dict[str, int]
) -> None:
    # given: an old run, and a model that is held
    await a_version(graph, unique)
    run = await a_finished_run(graph, unique)
    kept = await shown(graph, run)
    holder = await connect(live.database.url)
    async with holder.transaction():
        await holder.execute("SELECT FROM model WHERE name = $1 FOR UPDATE", unique)

        # when: a registration holds the run and waits for the model, retention waits for the run
        registering = asyncio.create_task(a_version(graph, unique, runId=run))
        await waiting(direct, 1)
        removing = asyncio.create_task(later(live, 31, **policy))
        await waiting(direct, 2)
    await holder.close()

    # then
    assert (await registering)["version"] == "2"
    removed = await removing
    assert (removed.lines, removed.points) == (0, 0)
    assert await shown(graph, run) == kept


async def test_many_lines_of_many_runs_are_removed_in_batches(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    await a_run(graph, unique)
    await direct.execute(
        """
        INSERT INTO run (id, created_by, created_at, updated_at, revision, experiment_id, status,
                         params, tags, ended_at, lease_seconds, last_reported_at, log_lines)
        SELECT gen_random_uuid(), 'ada', now(), now(), 1, experiment_id, 'COMPLETED',
               '{}', '{}', now(), 60, now(), 250
        FROM run, generate_series(1, 120)
        """
    )
    await direct.execute(
        """
        INSERT INTO log_line (owner_id, line, "timestamp", level, message)
        SELECT id, line, now(), 'INFO', 'x' FROM run, generate_series(1, 250) AS line
        WHERE status = 'COMPLETED'
        """
    )

    assert (await later(live, 31, logs=30)).lines == 30_000
    assert await direct.fetchval("SELECT count(*) FROM log_line") == 0


async def test_deployments_that_have_ended_lose_their_lines(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    version = await a_version(graph, unique)
    failed, terminated, there = [await a_deployment(graph, version) for _ in range(3)]
    line = [{"message": "a line"}]
    for id in (failed, terminated, there):
        await graph.done("updateDeployment", {"id": id, "logLines": line}, "deployment { id }")
    for id, status in ((failed, "FAILED"), (terminated, "TERMINATED")):
        await graph.done("updateDeployment", {"id": id, "status": status}, "deployment { id }")

    assert (await later(live, 31, logs=30)).lines == 2
    left = await direct.fetch("SELECT owner_id FROM log_line")
    assert [row[0] for row in left] == [key_of(there)]


async def test_a_key_that_is_forgotten_may_be_used_again(
    live: Live, graph: Graph, unique: str
) -> None:
    input = {"name": unique, "idempotencyKey": unique}
    for _ in range(2):
        await graph.done("createExperiment", input, "experiment { id }")

    assert (await later(live, 31, keys=30)).keys == 1
    assert (await graph.mutate("createExperiment", input))["code"] == "ALREADY_EXISTS"


async def test_a_mirror_that_has_not_read_what_is_removed_is_told_of_everything(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    # given: a server that was told of nothing since the beginning, and one that has read it all
    run = await a_run(graph, unique)
    await a_version(graph, unique, runId=run)
    await until(lambda: live.feed.head >= 4)
    position = await direct.fetchval("SELECT position FROM journal_head")
    for name, at in (("behind", 0), ("ahead", position)):
        await direct.execute(
            "INSERT INTO mlflow_server (id, uri, position) VALUES (gen_random_uuid(), $1, $2)",
            name,
            at,
        )

    # when
    await later(live, 31, journal=30)

    # then
    rows = await direct.fetch(
        """
        SELECT uri, server.position, count(item.due_at) AS due FROM mlflow_server AS server
        LEFT JOIN mlflow_item AS item ON item.server_id = server.id
        GROUP BY uri, server.position ORDER BY uri
        """
    )
    assert [tuple(row) for row in rows] == [("ahead", position, 0), ("behind", position, 4)]


async def test_it_removes_beside_writers_and_a_sequencer(
    live: Live, graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    stop = asyncio.Event()

    async def write(name: str) -> int:
        number = 0
        while not stop.is_set():
            await write_line(graph, run, f"{name} {number}")
            number += 1
        return number

    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        await present(stream)
        writing = [asyncio.create_task(write(name)) for name in "abcd"]
        seen: list[Any] = []
        removed = 0
        for _ in range(20):
            removed += (await later(live, 31, journal=30)).events
            seen += await take(stream, 5)
        stop.set()
        written = sum(await asyncio.gather(*writing))
        while len(seen) < written:
            seen += await take(stream, 1)

    assert removed > 20
    assert len(set(said(seen))) == written
    assert (await verify(live.database.url)).faults == []


def test_the_command_says_what_it_has_removed(empty_database_url: str) -> None:
    done = run(
        "--journal",
        "1",
        "--logs",
        "1",
        "--points",
        "1",
        "--keys",
        "1",
        "--database-url",
        empty_database_url,
    )

    assert done.exit_code == 0, done.output
    assert done.output == (
        "Removed: 0 entries of the journal, 0 lines, 0 points, 0 keys.\n"
        f"The journal begins after: 0:{'0' * 64}\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Say what is to be removed, as --logs 90."),
        (("--logs", "0"), "Invalid value for '--logs': 0 is not in the range x>=1."),
        (("--journal", "soon"), "Invalid value for '--journal'"),
    ],
)
def test_the_command_removes_nothing_by_mistake(options: tuple[str, ...], said: str) -> None:
    done = run(*options)

    assert done.exit_code == 2
    assert said in done.output


def run(*options: str) -> Any:
    results: list[Any] = []
    in_thread(lambda: results.append(CliRunner().invoke(main, ["retention", *options])))
    return results[0]
