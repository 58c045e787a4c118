"""What others do with MLflow alone comes in while it happens, if that is wanted."""

import asyncio
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from tests.client import PATIENCE, Json
from tests.factories import a_run
from tests.following import RUN as PROGRESS
from tests.following import items, take
from tests.graphql.test_metrics import histories, logged
from tests.tracking.conftest import Mlflow, an_mlflow
from tests.tracking.faults import Faults
from tests.tracking.working import Working, eventually, working

pytestmark = pytest.mark.slow

# It goes on with the next step when it is told to.
TRAINING = """
import sys, mlflow
mlflow.set_experiment(sys.argv[1])
with mlflow.start_run(run_name="plain") as run:
    mlflow.log_params({"lr": 0.01, "layers": 3})
    mlflow.set_tag("team", "vision")
    for step in range(4):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        print(run.info.run_id, flush=True)
        sys.stdin.readline()
"""

AUTOLOG = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
name = sys.argv[1]
mlflow.set_experiment(name)
mlflow.sklearn.autolog(registered_model_name=name)
X, y = load_iris(return_X_y=True)
with mlflow.start_run() as run:
    LogisticRegression(max_iter=200, C=0.5).fit(X, y)
print(run.info.run_id)
"""

RUNS = """query ($name: String!) { experiment(name: $name) { runs(first: 10) { nodes {
  id name status params { key value } tags { key value } datasetFacts createdBy endedAt
  artifacts { name path } mlflow { id state } } } } }"""
VERSIONS = """query ($name: String!) { model(name: $name) { versions(first: 10) { nodes {
  version stage artifactPath run { id } mlflow { id state } } } } }"""
# What only looks whether something has changed.
LOOKS = (
    r"GET /version|POST .*/(experiments|runs)/search|"
    r"GET .*/(registered-models|model-versions)/search\?"
)


@pytest.fixture(scope="module")
def followed() -> Iterator[Mlflow]:
    """A server of this module's own: whoever follows it takes in all that is there."""
    with an_mlflow() as server:
        yield server


@asynccontextmanager
async def training(mlflow: Mlflow, experiment: str) -> AsyncIterator[Process]:
    """A script that trains with MLflow alone, step by step."""
    script = await asyncio.create_subprocess_exec(
        *(mlflow.python, "-c", TRAINING, experiment),
        stdin=PIPE,
        stdout=PIPE,
        env={"MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        yield script
    finally:
        if script.returncode is None:
            script.kill()
            await script.wait()


async def step(script: Process) -> str:
    """Let it go on to where it has logged the next point; the run's id in MLflow."""
    assert script.stdout is not None
    assert script.stdin is not None
    async with asyncio.timeout(PATIENCE):
        line = (await script.stdout.readline()).decode().strip()
    assert line, "The script has failed."
    return line


def go_on(script: Process) -> None:
    assert script.stdin is not None
    script.stdin.write(b"\n")


async def only_run(work: Working, experiment: str) -> Json:
    """The run of an experiment that comes in."""

    async def found() -> Json | None:
        experiment_ = (await work.graph.query(RUNS, {"name": experiment}))["experiment"]
        runs = experiment_["runs"]["nodes"] if experiment_ else []
        assert len(runs) < 2
        return runs[0] if runs else None

    run: Any = await eventually(found)
    return dict(run)


async def test_a_run_is_followed_while_it_lasts(
    own_database_url: str, followed: Mlflow, unique: str
) -> None:
    async with (
        working(own_database_url, followed.url, mlflow_follow=1) as work,
        training(followed, unique) as script,
    ):
        # given: a run that has logged something
        mlflow_id = await step(script)
        run = await only_run(work, unique)
        assert (run["status"], run["name"], run["mlflow"]["id"]) == ("RUNNING", "plain", mlflow_id)

        stream = items("socket", work.graph.url, PROGRESS, id=run["id"])
        async with aclosing(stream) as events:  # type: ignore[type-var]
            while (await take(events, 1))[0]["__typename"] != "CaughtUp":
                pass
            seen: list[float] = []
            for number in (1, 2, 3):
                # when
                go_on(script)
                await step(script)

                # then: while it waits
                while not seen or seen[-1] != number:
                    [event] = await take(events, 1)
                    if event["__typename"] == "RunMetricsEvent":
                        [metric] = event["metrics"]
                        assert metric["value"] == 1 / (metric["step"] + 1)
                        seen.append(int(metric["step"]))
                assert script.returncode is None
            go_on(script)
            assert await script.wait() == 0
            while (event := (await take(events, 1))[0])["__typename"] != "RunStatusEvent":
                assert event["__typename"] == "RunMetricsEvent"
            assert (event["from"], event["to"]) == ("RUNNING", "COMPLETED")

        await work.quiet()
        run = await only_run(work, unique)
        assert (run["status"], run["mlflow"]["state"]) == ("COMPLETED", "IN_SYNC")
        assert run["endedAt"] is not None
        assert work.plain.get_run(mlflow_id).data.tags["lifecycle.status"] == "COMPLETED"
        assert run["createdBy"] == "system:mlflow"
        assert sorted((p["key"], p["value"]) for p in run["params"]) == [
            ("layers", "3"),
            ("lr", "0.01"),
        ]
        assert {"key": "team", "value": "vision"} in run["tags"]
        history = (await histories(work.graph, run["id"], "loss"))["loss"]
        assert (history["steps"], history["values"]) == (
            [0, 1, 2, 3],
            [1 / n for n in range(1, 5)],
        )


async def test_what_autologging_registers_comes_in_whole(
    own_database_url: str, followed: Mlflow, unique: str
) -> None:
    async with working(own_database_url, followed.url, mlflow_follow=1) as work:
        # when
        mlflow_id = (await asyncio.to_thread(followed.train, AUTOLOG, unique)).split()[-1]

        # then
        async def registered() -> list[Json]:
            model = (await work.graph.query(VERSIONS, {"name": unique}))["model"]
            return model["versions"]["nodes"] if model else []

        async def over() -> bool:
            # A look of its own may find the version before it finds that the run has ended.
            return str((await only_run(work, unique))["status"]) != "RUNNING"

        await eventually(registered)
        await eventually(over)
        await work.quiet()
        run = await only_run(work, unique)
        [version] = await registered()
        assert (run["status"], run["mlflow"]) == (
            "COMPLETED",
            {"id": mlflow_id, "state": "IN_SYNC"},
        )
        assert {"key": "C", "value": "0.5"} in run["params"]
        assert "training_accuracy_score" in await histories(
            work.graph, run["id"], "training_accuracy_score"
        )
        assert run["datasetFacts"]["name"] == "dataset"
        assert run["datasetFacts"]["context"] == "train"
        assert any("confusion_matrix" in artifact["path"] for artifact in run["artifacts"])
        assert (version["version"], version["stage"]) == ("1", "EXPERIMENTAL")
        assert version["run"] == {"id": run["id"]}
        assert version["mlflow"] == {"id": f"{unique}/1", "state": "IN_SYNC"}
        # What MLflow makes by itself stays there while nobody uses it.
        experiments = (
            "SELECT count(*) FROM mlflow_item WHERE kind = 'EXPERIMENT' AND mlflow_id = $1"
        )
        assert await work.sql.fetchval(experiments, "0") == 0


async def test_a_version_that_is_made_while_its_model_comes_in_comes_in(
    own_database_url: str, followed: Mlflow, unique: str
) -> None:
    async with (
        Faults(followed.url) as faults,
        working(own_database_url, followed.url, faults.url, mlflow_follow=5) as work,
    ):
        # given: a model that was found before it had a version
        comes_in = "GET .*/registered-models/get\\?"
        faults.slow(1, comes_in)
        work.plain.create_registered_model(unique)

        async def found() -> bool:
            return faults.count(comes_in + f".*{unique}") > 0

        await eventually(found)

        # when: it gets one before it is compared
        work.plain.create_model_version(unique, "s3://models/made")

        # then
        async def versions() -> list[Json]:
            model = (await work.graph.query(VERSIONS, {"name": unique}))["model"]
            return model["versions"]["nodes"] if model else []

        await eventually(versions)
        await work.quiet()
        [version] = await versions()
        assert (version["version"], version["artifactPath"], version["mlflow"]) == (
            "1",
            "s3://models/made",
            {"id": f"{unique}/1", "state": "IN_SYNC"},
        )


async def test_without_following_nothing_that_begins_there_comes_in(
    own_database_url: str, followed: Mlflow, unique: str
) -> None:
    # given
    followed.train(
        "import mlflow, sys; mlflow.set_experiment(sys.argv[1]); mlflow.start_run()", unique
    )

    async with working(own_database_url, followed.url) as work:
        # when
        await a_run(work.graph, f"{unique}-ours")
        await work.quiet()

        async def looked() -> bool:
            return bool(await work.sql.fetchval("SELECT compared_at FROM mlflow_server"))

        await eventually(looked)
        await work.quiet()

        # then
        found = await work.graph.query("{ experiments(first: 10) { nodes { name } } }")
        assert found["experiments"]["nodes"] == [{"name": f"{unique}-ours"}]
        assert await work.sql.fetchval("SELECT count(*) FROM mlflow_item") == 2


async def test_what_has_come_in_does_not_echo(
    own_database_url: str, followed: Mlflow, unique: str
) -> None:
    async with (
        Faults(followed.url) as faults,
        working(own_database_url, followed.url, faults.url, mlflow_follow=1) as work,
    ):
        # given: something from either side
        await asyncio.to_thread(followed.train, AUTOLOG, unique)
        gone = work.plain.create_experiment(f"{unique}-gone")

        async def in_conflict() -> bool:
            states = await work.sql.fetch(
                "SELECT state FROM mlflow_item WHERE mlflow_id = $1", gone
            )
            return [row["state"] for row in states] == ["CONFLICT"]

        known = "SELECT count(object_id) FROM mlflow_item WHERE mlflow_id = $1"
        await eventually(lambda: work.sql.fetchval(known, gone))
        work.plain.delete_experiment(gone)
        await eventually(in_conflict)
        work.plain.delete_experiment(work.plain.create_experiment(f"{unique}-never"))
        run = await a_run(work.graph, f"{unique}-ours")
        await logged(work.graph, run, {"key": "loss", "steps": [0], "values": [1.0]})
        await only_run(work, unique)
        await looks(work, 3)
        await work.quiet()

        # when
        calls = "SELECT sum(wanted) FROM mlflow_item"
        wanted = await work.sql.fetchval(calls)
        faults.requests.clear()
        await looks(work, 4)

        # then
        asked = {f"{request.method} {request.path}" for request in faults.requests}
        assert [request for request in asked if not re.match(LOOKS, request)] == []
        assert await work.sql.fetchval(calls) == wanted
        assert await work.sql.fetchval("SELECT count(due_at) FROM mlflow_item") == 0


async def looks(work: Working, number: int) -> None:
    """Until MLflow has been looked at so many times more."""
    last = "SELECT looked_at FROM mlflow_server"
    for _ in range(number):
        former = await work.sql.fetchval(last)

        async def again(former: Any = former) -> bool:
            return bool(await work.sql.fetchval(last) != former)

        await eventually(again)
