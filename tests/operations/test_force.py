"""Killed, cut off, filled up: what was acknowledged is there, everything else is refused and can be
repeated, and each event comes once."""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import ExitStack, aclosing, suppress
from itertools import count
from urllib.parse import urlsplit

import psutil
import pytest

from lifecycle.journal.verification import verify
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Live, Process, forked, serving
from tests.factories import a_run
from tests.following import (
    GONE,
    RUN,
    connect,
    follow,
    insist,
    items,
    key_of,
    place,
    present,
    said,
    until,
)
from tests.operations.balancer import Balancer

pytestmark = pytest.mark.slow

FIRST = "{ experiments(first: 1) { nodes { name } } }"
WRITES = 1_000
WRITERS = 8

# Of each kind of write, what has to be there with it.
HALVES = {
    "an experiment without its event": """
        SELECT id FROM experiment AS e WHERE (SELECT count(*) FROM event
            WHERE subject_id = e.id AND type = 'experiment.created') <> 1""",
    "a run without its event": """
        SELECT id FROM run AS r WHERE (SELECT count(*) FROM event
            WHERE subject_id = r.id AND type = 'run.created') <> 1""",
    "a run whose lines are not as many as it says": """
        SELECT id FROM run AS r
        WHERE log_lines <> (SELECT count(*) FROM log_line WHERE owner_id = r.id)""",
    "lines without their event": """
        SELECT id FROM run AS r WHERE log_lines <> (SELECT count(*) FROM event
            WHERE subject_id = r.id AND type = 'run.output_logged')""",
    "points without the latest": """
        SELECT run_id FROM metric_point AS p WHERE NOT EXISTS (SELECT FROM latest_metric
            WHERE run_id = p.run_id AND key = p.key AND step >= p.step)""",
    "a version without metrics, stage or event": """
        SELECT id FROM model_version AS v WHERE
            (SELECT count(*) FROM version_metric WHERE model_version_id = v.id) <> 1
            OR (SELECT count(*) FROM stage_assignment WHERE model_version_id = v.id) <> 1
            OR (SELECT count(*) FROM event WHERE subject_id = v.id) <> 1""",
    "a key without its object": """
        SELECT row_id FROM idempotency_key WHERE row_id NOT IN (
            SELECT id FROM experiment UNION ALL SELECT id FROM run
            UNION ALL SELECT id FROM model_version)""",
}


# The names and messages of what was written.
WRITTEN = """
SELECT name FROM experiment UNION ALL SELECT name FROM run WHERE name IS NOT NULL
UNION ALL SELECT message FROM log_line UNION ALL SELECT key FROM metric_point
UNION ALL SELECT description FROM model_version
"""


def a_write(number: int, unique: str, run: str) -> tuple[str, Json]:
    """One of five kinds."""
    name = f"{unique}-{number}"
    match number % 5:
        case 0:
            return "createExperiment", {"name": name}
        case 1:
            return "logRun", {"experimentName": unique, "name": name}
        case 2:
            return "logRunOutput", {"runId": run, "lines": [{"message": name}]}
        case 3:
            series = [{"key": name, "steps": [1], "values": [0.5]}]
            return "logMetrics", {"runId": run, "series": series}
        case _:
            metrics = [{"key": "accuracy", "value": 0.5}]
            model = f"{unique}-{number % 4}"
            return "registerModelVersion", {
                "modelName": model,
                "metrics": metrics,
                "description": name,
            }


class Writers:
    """Clients that repeat each write under its key until it is acknowledged."""

    def __init__(self, unique: str, run: str) -> None:
        self.acknowledged: set[int] = set()
        self.unanswered = 0
        self._unique, self._run = unique, run
        self._numbers = iter(range(WRITES))

    async def write(self, url: str) -> None:
        async with Graph(url) as graph:
            for number in self._numbers:
                name, input = a_write(number, self._unique, self._run)
                input["idempotencyKey"] = f"{self._unique} {number}"
                while number not in self.acknowledged:
                    try:
                        result = await graph.mutate(name, input)
                    except GONE:
                        self.unanswered += 1
                        await asyncio.sleep(0.05)
                        continue
                    assert result["__typename"].endswith("Success"), result
                    self.acknowledged.add(number)


def kill(service: Process) -> None:
    """Kill it with everything that it has started, all of which has its port."""
    parent = psutil.Process(service.popen.pid)
    children = parent.children(recursive=True)
    for each in (*children, parent):
        with suppress(psutil.Error):
            each.send_signal(signal.SIGKILL)
    service.popen.wait(PATIENCE)
    _, left = psutil.wait_procs(children, PATIENCE)
    assert not left


async def test_killed_again_and_again_during_a_thousand_writes_it_loses_none_and_halves_none(
    own_database_url: str, unique: str
) -> None:
    options = ("--workers", "2", "--database-url", own_database_url)
    with ExitStack() as stack:
        service = stack.enter_context(forked(*options))
        port = str(urlsplit(service.url).port)
        async with Graph(service.url) as graph:
            run = await a_run(graph, unique)
        writers = Writers(unique, run)

        # when
        async with asyncio.TaskGroup() as writing:
            for _ in range(WRITERS):
                writing.create_task(writers.write(service.url))
            for mark in (150, 400, 650, 900):
                await until(lambda: len(writers.acknowledged) >= mark)  # noqa: B023
                kill(service)
                service = stack.enter_context(forked(*options, port=port))
        await asyncio.to_thread(service.stop)

    # then
    direct = await connect(own_database_url)
    written = [row[0] for row in await direct.fetch(WRITTEN)]
    halves = {what: await direct.fetch(query) for what, query in HALVES.items()}
    versions = await direct.fetch("SELECT model_name, version FROM model_version")
    await direct.close()
    assert writers.unanswered > 0, "some were under way when it was killed"
    assert sorted(written) == sorted([unique, *(f"{unique}-{n}" for n in range(WRITES))])
    assert {what: rows for what, rows in halves.items() if rows} == {}
    for n in range(4):
        numbers = sorted(int(row[1]) for row in versions if row[0] == f"{unique}-{n}")
        assert numbers == list(range(1, len(numbers) + 1))
    verdict = await verify(own_database_url)
    assert (verdict.faults, verdict.not_chained) == ([], 0)


async def test_connections_are_cut_at_random_and_each_event_comes_once(
    own_database_url: str, unique: str
) -> None:
    chance = random.Random(20_261_121)
    with ExitStack() as stack:
        services = [
            stack.enter_context(forked("--database-url", own_database_url)) for _ in range(2)
        ]
        async with Balancer(services).running() as balancer:
            async with Graph(services[0].url) as graph:
                run = await a_run(graph, unique)
            async with aclosing(items("socket", services[0].url, RUN, id=run)) as stream:  # type: ignore[type-var]
                cursor = (await present(stream))[-1]["cursor"]
            seen: list[list[Json]] = [[] for _ in range(12)]
            written: list[str] = []

            def enough(got: list[Json]) -> Callable[[], bool]:
                return lambda: written[-1:] == ["end"] and len(got) >= len(written)

            transports = ["socket", "socket", "socket", "sse"] * 3
            following = [
                asyncio.create_task(follow(how, balancer.url, run, cursor, got, enough(got)))
                for how, got in zip(transports, seen, strict=True)
            ]

            async def cut() -> int:
                for number in count():
                    if written[-1:] == ["end"]:
                        return number
                    balancer.cut(chance)
                    await asyncio.sleep(0.02)
                raise AssertionError

            cutting = asyncio.create_task(cut())
            async with Graph(balancer.url) as graph:
                # A connection each, so that the balancer decides each time.
                graph.http.headers["connection"] = "close"
                for n in range(150):
                    await insist(graph, run, str(n))
                    written.append(str(n))
            async with Graph(services[0].url) as graph:
                await insist(graph, run, "end")
            written.append("end")
            cuts = await cutting
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*following)

    direct = await connect(own_database_url)
    positions = [
        row[0]
        for row in await direct.fetch(
            "SELECT position FROM event WHERE subject_id = $1 AND type = 'run.output_logged' "
            "ORDER BY position",
            key_of(run),
        )
    ]
    await direct.close()
    assert cuts > 50
    for got in seen:
        assert said(got) == written
        assert [place(item["cursor"]) for item in got] == positions


async def test_when_all_connections_are_taken_the_others_wait_or_are_told_and_then_it_goes_on(
    own_database_url: str, unique: str
) -> None:
    make = "mutation ($n: String!) { createExperiment(input: {name: $n}) { __typename } }"
    async with serving(own_database_url) as live, Graph(live.url) as graph:
        await graph.done("createExperiment", {"name": unique}, "experiment { id }")
        direct = await connect(own_database_url)

        # when: everybody who reads or writes experiments waits for somebody who takes too long
        async with direct.transaction():
            await direct.execute("LOCK TABLE experiment IN ACCESS EXCLUSIVE MODE")
            reads = [asyncio.create_task(graph.answer(FIRST)) for _ in range(60)]
            writes = [
                asyncio.create_task(graph.answer(make, {"n": f"{unique}-{n}"})) for n in range(40)
            ]
            await until(lambda: taken(live) == (8, 8))
            async with Graph(live.url) as another:
                assert (await another.http.get("/healthz")).status_code == 200
            refused = await asyncio.gather(*writes)
        await direct.close()
        answers = await asyncio.gather(*reads)

        # then: there is an answer, or a refusal that says so, and nothing was done
        for result in refused:
            codes = [error["extensions"]["code"] for error in result.get("errors", ())]
            failed = (result.get("data") or {}).get("createExperiment")
            assert codes == ["UNAVAILABLE"] or failed == {"__typename": "Unavailable"}, result
        for answer in answers:
            codes = [error["extensions"]["code"] for error in answer.get("errors", ())]
            assert codes == ["UNAVAILABLE"] or answer["data"] == {
                "experiments": {"nodes": [{"name": unique}]}
            }
        await until(lambda: taken(live) == (0, 0))
        found = await graph.query("{ experiments { totalCount } }")
        assert found["experiments"]["totalCount"] == 1
        again = await asyncio.gather(
            *(graph.mutate("createExperiment", {"name": f"{unique}-{n}"}) for n in range(40))
        )
        assert {each["__typename"] for each in again} == {"CreateExperimentSuccess"}


def taken(live: Live) -> tuple[int, int]:
    """How many connections of each pool somebody has."""
    return live.database.reading, live.database.writing
