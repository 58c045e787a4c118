"""MLflow fails in every way that it can: nobody here notices, and in the end all is there, once."""

import asyncio
import signal
from collections.abc import Callable
from itertools import count

import pytest
from sqlalchemy import make_url

from lifecycle.tracking import client, rules
from tests.client import PATIENCE, Graph
from tests.conftest import forked, forks, process
from tests.factories import a_run, a_version
from tests.graphql.test_metrics import logged
from tests.tracking.conftest import Mlflow, an_mlflow
from tests.tracking.faults import Faults
from tests.tracking.working import LINK, Working, asked, eventually, working

pytestmark = pytest.mark.slow

STEPS = list(range(20))
IMPATIENT = 0.5
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


async def some_runs(graph: Graph, experiment: str, number: int) -> dict[str, str]:
    """So many finished runs with points; their ids by their names."""
    made: dict[str, str] = {}
    for n in range(number):
        name = f"run {n:03}"
        made[name] = await a_run(graph, experiment, name=name)
        await logged(graph, made[name], {"key": "loss", "steps": STEPS, "values": STEPS})
        done = {"id": made[name], "status": "COMPLETED"}
        await graph.done("updateRun", done, "run { id }")
    return made


async def assert_each_is_there_once(work: Working, experiment: str, names: list[str]) -> None:
    runs = await work.runs(experiment)
    assert sorted(run.info.run_name for run in runs) == sorted(names)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.lifecycle_stage for run in runs} == {"active"}
    for run in runs:
        history = await asyncio.to_thread(work.plain.get_metric_history, run.info.run_id, "loss")
        assert [(point.step, point.value) for point in history] == [(n, n) for n in STEPS]
    assert set(await work.states()) == {"IN_SYNC"}


async def in_sync(work: Working, number: int) -> None:
    """Until at least so many runs are."""

    async def enough() -> bool:
        found = await work.sql.fetchval(
            "SELECT count(*) FROM mlflow_item WHERE kind = 'RUN' AND state = 'IN_SYNC'"
        )
        return bool(found >= number)

    await eventually(enough)


async def silent(work: Working) -> str:
    """Until the service says that MLflow does not answer, and why."""

    async def error() -> str:
        server = await work.server()
        assert server["answering"] == (server["error"] is None and server["version"] is not None)
        return server["error"] or ""

    return await eventually(error)


async def test_mlflow_killed_in_the_middle_has_every_run_once_in_the_end(
    own_database_url: str, unique: str
) -> None:
    with an_mlflow() as mlflow:
        async with working(own_database_url, mlflow.url) as work:
            # given
            made = await some_runs(work.graph, unique, 50)
            await in_sync(work, 3)

            # when
            mlflow.kill()
            assert "cannot be reached" in await silent(work)
            late = await some_runs(work.graph, f"{unique}-late", 2)
            await asyncio.to_thread(mlflow.start)
            await work.quiet()

            # then
            await assert_each_is_there_once(work, unique, [*made])
            await assert_each_is_there_once(work, f"{unique}-late", [*late])


@pytest.mark.parametrize(
    "lost",
    ["experiments/create", "runs/create", "registered-models/create", "model-versions/create"],
)
async def test_what_was_made_without_an_answer_is_not_made_twice(
    own_database_url: str, any_mlflow: Mlflow, unique: str, lost: str
) -> None:
    async with (
        Faults(any_mlflow.url) as faults,
        working(own_database_url, any_mlflow.url, faults.url) as work,
    ):
        # given
        faults.dropping(f"POST .*/{lost}$", times=2)

        # when
        made = await some_runs(work.graph, unique, 1)
        await a_version(work.graph, unique, artifactPath="s3://models/birds")
        await work.quiet()

        # then
        assert faults.count(f"POST .*/{lost}$") >= 1
        await assert_each_is_there_once(work, unique, [*made])
        versions = work.plain.search_model_versions(f"name = '{unique}'")
        assert [version.version for version in versions] in ([1], ["1"])
        assert await work.sql.fetchval("SELECT count(*) FROM mlflow_item") == 4


FAULTS: dict[str, tuple[Callable[[Faults], None], str]] = {
    "slow": (lambda faults: faults.slow(PATIENCE), "no answer within"),
    "internal error": (lambda faults: faults.answering(500, "{}"), "answered 500"),
    "proxy": (lambda faults: faults.answering(502, HTML), "answered 502"),
    "garbage": (lambda faults: faults.answering(200, "\x00garbage"), "not MLflow's"),
    "another service": (
        lambda faults: faults.answering(200, '{"status": "ok"}', "application/json"),
        "not MLflow's",
    ),
    "denied": (lambda faults: faults.answering(401, "Who are you?"), "access denied"),
    "hangs up": (lambda faults: faults.hanging_up(), "cannot be reached"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_mlflow_fails_everything_here_goes_on_and_afterwards_all_is_there(
    own_database_url: str,
    faults: Faults,
    mlflow: Mlflow,
    unique: str,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", IMPATIENT)
    fail, said = FAULTS[fault]
    async with working(own_database_url, mlflow.url, faults.url) as work:
        # given: it has begun well
        made = await some_runs(work.graph, unique, 2)
        await work.quiet()

        # when
        fail(faults)
        made |= await some_runs(work.graph, f"{unique}-more", 2)

        # then
        assert said in await silent(work)
        ready = await work.graph.http.get("/readyz")
        checks = {"database": True, "migrations": True, "mlflow": False}
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "checks": checks})
        seen = "query ($id: ID!) { run(id: $id) { status " + LINK + " } }"
        for id in made.values():
            await work.graph.done("updateRun", {"id": id, "statusMessage": "Fine."}, "run { id }")
            run = (await work.graph.query(seen, {"id": id}))["run"]
            assert run["status"] == "COMPLETED"
        assert await work.sql.fetchval("SELECT max(attempts) FROM mlflow_item") == 0

        # when
        faults.passing()
        await work.quiet()

        # then
        assert (await work.server())["error"] is None
        names = ["run 000", "run 001"]
        await assert_each_is_there_once(work, unique, names)
        await assert_each_is_there_once(work, f"{unique}-more", names)


async def test_the_service_starts_without_mlflow(
    own_database_url: str, faults: Faults, mlflow: Mlflow, unique: str
) -> None:
    await faults.refuse()
    async with working(own_database_url, mlflow.url, faults.url) as work:
        made = await some_runs(work.graph, unique, 1)
        assert "cannot be reached" in await silent(work)
        await faults.accept()
        await work.quiet()
        await assert_each_is_there_once(work, unique, [*made])


async def test_an_object_that_mlflow_cannot_do_is_parked_and_the_others_get_through(
    own_database_url: str,
    faults: Faults,
    mlflow: Mlflow,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "_LONGEST_PAUSE", 0.05)
    async with working(own_database_url, mlflow.url, faults.url) as work:
        # given
        made = await some_runs(work.graph, unique, 3)
        await work.quiet()
        seen = "query ($id: ID!) { run(id: $id) { mlflow { id itemId state error } } }"

        async def link(name: str) -> dict[str, str]:
            found = await work.graph.query(seen, {"id": made[name]})
            return dict(found["run"]["mlflow"])

        poison = await link("run 001")

        # when
        faults.answering(500, "boom", "text/plain", matching=f"run_id={poison['id']}")
        for id in made.values():
            await work.graph.done("updateRun", {"id": id, "name": f"new {id}"}, "run { id }")

        # then
        async def parked() -> bool:
            return (await link("run 001"))["state"] == "FAILED"

        await eventually(parked)
        await work.quiet()
        assert "answered 500 boom" in (await link("run 001"))["error"]
        assert faults.count(f"run_id={poison['id']}") >= rules.MAX_ATTEMPTS
        assert await work.states() == {"IN_SYNC": 3, "FAILED": 1}
        assert (await work.server())["failed"] == 1
        names = {run.info.run_name for run in await work.runs(unique)}
        assert names == {f"new {made['run 000']}", "run 001", f"new {made['run 002']}"}

        # when
        faults.passing()
        await work.graph.done("retryMlflowSync", {"ids": [poison["itemId"]]}, "items { id }")
        await work.quiet()

        # then
        assert await work.states() == {"IN_SYNC": 4}
        names = {run.info.run_name for run in await work.runs(unique)}
        assert names == {f"new {id}" for id in made.values()}


async def test_requests_are_answered_while_mlflow_hangs(
    own_database_url: str,
    faults: Faults,
    mlflow: Mlflow,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", IMPATIENT * 4)
    async with working(own_database_url, mlflow.url, faults.url) as work:
        made = await some_runs(work.graph, unique, 1)
        await work.quiet()
        for _ in range(3):
            # when: it hangs until we have been answered
            faults.slow(PATIENCE)
            asked = len(faults.requests)

            async def hangs(asked: int = asked) -> bool:
                return len(faults.requests) > asked

            await eventually(hangs)
            await work.graph.query("{ experiments(first: 1) { nodes { id } } }")
            await work.graph.done(
                "createExperiment", {"name": f"{unique}-{asked}"}, "experiment { id }"
            )
            faults.passing()
        await work.quiet()
        await assert_each_is_there_once(work, unique, [*made])


async def test_the_database_may_go_and_come_back(
    own_database_url: str, mlflow: Mlflow, unique: str, server_url: str
) -> None:
    async with working(own_database_url, mlflow.url) as work:
        # given
        made = await some_runs(work.graph, unique, 20)
        await in_sync(work, 3)
        name = make_url(own_database_url).database

        # when: it lets nobody in, and ends whoever is there
        async with asked(work.graph.url, server_url, mlflow.url) as other:
            await other.sql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            await other.sql.execute(end.replace("$1", f"'{name}'"))
            failed = await work.graph.answer("{ experiments(first: 1) { nodes { id } } }")
            assert failed["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
            await asyncio.sleep(1)
            await other.sql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

        # then
        async with asked(work.graph.url, own_database_url, mlflow.url) as again:
            await again.quiet()
            await assert_each_is_there_once(again, unique, [*made])


async def test_several_services_take_each_object_once(
    own_database_url: str, mlflow: Mlflow, unique: str
) -> None:
    async with (
        working(own_database_url, mlflow.url) as one,
        working(own_database_url, mlflow.url) as other,
    ):
        experiments = [f"{unique}-{n}" for n in range(2)]
        ones, others = await asyncio.gather(
            some_runs(one.graph, experiments[0], 40), some_runs(other.graph, experiments[1], 40)
        )
        await asyncio.gather(
            *(a_version(one.graph, f"{unique}-{n}", artifactPath="s3://m") for n in range(9))
        )
        await one.quiet()
        await assert_each_is_there_once(one, experiments[0], [*ones])
        await assert_each_is_there_once(one, experiments[1], [*others])
        assert await one.states() == {"IN_SYNC": 100}
        for n in range(9):
            found = one.plain.search_model_versions(f"name = '{unique}-{n}'")
            assert [int(version.version) for version in found] == [1]


@pytest.mark.parametrize("victim", ["worker", "serve"])
async def test_a_killed_worker_is_replaced_by_another(
    own_database_url: str, mlflow: Mlflow, unique: str, victim: str
) -> None:
    options = ["--database-url", own_database_url]
    mirrored = [*options, "--tracking-uri", mlflow.url]
    with forked(*options, "--no-worker") as writing:
        async with asked(writing.url, own_database_url, mlflow.url) as work:
            made = await some_runs(work.graph, unique, 30)
            port = ["--port", "0"] if victim == "serve" else []
            for killed in count(1):
                started = forks().kept("-m", "lifecycle", victim, *port, *mirrored)
                try:
                    if killed < 3:
                        await in_sync(work, 5 * killed)
                    else:
                        await work.quiet()
                        break
                finally:
                    started.kill()
                    await asyncio.to_thread(started.communicate, PATIENCE)
            await assert_each_is_there_once(work, unique, [*made])
            assert await work.sql.fetchval("SELECT max(attempts) FROM mlflow_item") == 0


async def test_it_stops_while_mlflow_hangs_and_leaves_nothing_behind(
    own_database_url: str, faults: Faults, mlflow: Mlflow, unique: str
) -> None:
    # given
    faults.slow(PATIENCE)
    options = ["--database-url", own_database_url, "--tracking-uri", faults.url]
    with process(*options, "--follow", "1", PYTHONWARNINGS="default") as started:
        async with Graph(started.url) as graph:
            await some_runs(graph, unique, 1)

            async def hangs() -> bool:
                return len(faults.requests) > 0

            await eventually(hangs)

        # when
        code = await asyncio.to_thread(started.stop, signal.SIGTERM)

        # then
        said = started.log.read_text()
    assert code == 0
    assert [
        word for word in ("Traceback", "destroyed", "unclosed", "Warning") if word in said
    ] == []
