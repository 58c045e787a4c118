"""`lifecycle mlflow import`: all that people have made with MLflow alone comes in, once."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from sqlalchemy import select

from lifecycle import retention
from lifecycle.database import Database, connect
from lifecycle.retention import Policy
from lifecycle.tracking import repository
from lifecycle.tracking.tables import MlflowServerRow
from tests.client import PATIENCE, Graph, Json
from tests.conftest import MakeDatabase, forks, serving
from tests.factories import a_version
from tests.forks import Forked
from tests.tracking.conftest import LINES, Mlflow, an_mlflow
from tests.tracking.faults import Faults
from tests.uploads import uploaded

pytestmark = pytest.mark.slow

PLAIN = (Path(__file__).parent / "plain.py").read_text()
STATUSES = {
    "SCHEDULED": "PENDING",
    "RUNNING": "RUNNING",
    "FINISHED": "COMPLETED",
    "FAILED": "FAILED",
    "KILLED": "CANCELLED",
}
KINDS = {"NAN": "nan", "POSITIVE_INFINITY": "inf", "NEGATIVE_INFINITY": "-inf"}
# Of a run's tags those that are something else here.
FIELDS = {
    "mlflow.runName": "name",
    "mlflow.note.content": "statusMessage",
    "mlflow.source.name": "source",
    "mlflow.source.git.commit": "gitCommit",
}
PARENT = "mlflow.parentRunId"

EXPERIMENTS = """query ($first: Int!, $after: String) {
  experiments(first: $first, after: $after) {
    nodes { name description createdBy tags { key value } mlflow { id state conflicts { field } } }
    pageInfo { hasNextPage endCursor }
  } }"""
RUNS = """query ($first: Int!, $after: String) {
  runs(first: $first, after: $after) {
    nodes {
      id name status statusMessage source gitCommit startedAt endedAt createdBy datasetFacts
      experiment { name } parent { mlflow { id } } mlflow { id url state error conflicts { field } }
      params { key value } tags { key value } metrics { key }
      artifacts { name path sizeBytes }
    }
    pageInfo { hasNextPage endCursor }
  } }"""
HISTORY = """query ($id: ID!, $keys: [String!]!) {
  run(id: $id) {
    metricHistory(keys: $keys, maxPoints: 10000) {
      key steps values kinds timestamps totalPoints
    }
  } }"""
MODELS = """query ($first: Int!, $after: String) {
  models(first: $first, after: $after) {
    nodes { name description tags { key value } mlflow { id state } }
    pageInfo { hasNextPage endCursor }
  } }"""
VERSIONS = """query ($first: Int!, $after: String) {
  modelVersions(first: $first, after: $after) {
    nodes {
      id modelName version stage description artifactPath artifactUrl tags { key value }
      run { mlflow { id } } approval { status decidedBy notes } metrics { key }
      mlflow { id state conflicts { field } }
    }
    pageInfo { hasNextPage endCursor }
  } }"""
EVENTS = """query ($first: Int!, $after: String) {
  auditLog(first: $first, after: $after) {
    nodes { position } pageInfo { hasNextPage endCursor }
  } }"""


@dataclass(frozen=True)
class Done:
    """How a command has ended."""

    code: int
    out: str
    err: str


@dataclass
class World:
    """An MLflow server that people have filled, with what is `there` by its own word, and a service
    on another database."""

    mlflow: Mlflow
    faults: Faults
    graph: Graph
    database_url: str
    there: Json = field(default_factory=dict)
    imports: list[Done] = field(default_factory=list)

    async def bring_in(self, *options: str, uri: str | None = None) -> Done:
        """`lifecycle mlflow import` as a person types it."""
        arguments = ["--database-url", self.database_url, "--tracking-uri", uri or self.faults.url]
        return await lifecycle("mlflow", "import", *arguments, *options)

    async def train(self, script: str, *arguments: str) -> str:
        """Run training code that knows only MLflow."""
        return await asyncio.to_thread(self.mlflow.train, script, *arguments)

    async def all(self, query: str) -> list[Json]:
        """All nodes of a list."""
        nodes: list[Json] = []
        after = None
        while True:
            [page] = (await self.graph.query(query, {"first": 50, "after": after})).values()
            nodes += page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return nodes
            after = page["pageInfo"]["endCursor"]


async def lifecycle(*arguments: str, **environment: str) -> Done:
    """A command in a process of its own, while others go on."""
    process = start(*arguments, **environment)
    out, err = await asyncio.to_thread(process.communicate, PATIENCE)
    assert process.returncode is not None
    return Done(process.returncode, out, err)


def start(*arguments: str, **environment: str) -> Forked:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return forks().kept("-m", "lifecycle", *arguments, env=clean | environment)


async def a_world(stack: AsyncExitStack, migrated: MakeDatabase, mlflow: Mlflow) -> World:
    database_url = stack.enter_context(migrated())
    faults = await stack.enter_async_context(Faults(mlflow.url))
    live = await stack.enter_async_context(serving(database_url, mlflow_uri=faults.url))
    graph = await stack.enter_async_context(Graph(live.url))
    return World(mlflow, faults, graph, database_url)


@pytest_asyncio.fixture(params=LINES, scope="module")
async def world(request: pytest.FixtureRequest, migrated: MakeDatabase) -> AsyncIterator[World]:
    """A filled server of each line, imported once; one of its experiments was here before."""
    line: Any = request.param
    async with AsyncExitStack() as stack:
        mlflow = await asyncio.to_thread(stack.enter_context, an_mlflow(line))
        world = await a_world(stack, migrated, mlflow)
        await world.train(PLAIN, "fill", "t")
        here = {"name": "t/here-too", "tags": [{"key": "kept", "value": "yes"}]}
        await world.graph.done("createExperiment", here, "experiment { id }")
        world.there = json.loads(await world.train(PLAIN, "dump", "t"))
        world.imports.append(await world.bring_in())
        yield world


@pytest_asyncio.fixture
async def empty(mlflow: Mlflow, migrated: MakeDatabase) -> AsyncIterator[World]:
    """The newest MLflow, whatever is in it, and a service that knows nothing of it."""
    async with AsyncExitStack() as stack:
        yield await a_world(stack, migrated, mlflow)


def pairs(given: list[Json]) -> dict[str, str]:
    return {each["key"]: each["value"] for each in given}


def milliseconds(moment: str | None) -> int | None:
    return None if moment is None else int(datetime.fromisoformat(moment).timestamp() * 1000)


async def histories(world: World, run: Json) -> dict[str, list[list[Any]]]:
    """All points of a run as MLflow would tell them, in order."""
    found: dict[str, list[list[Any]]] = {}
    keys = [metric["key"] for metric in run["metrics"]]
    if keys:
        answer = await world.graph.query(HISTORY, {"id": run["id"], "keys": keys})
        for series in answer["run"]["metricHistory"]:
            values = [
                KINDS.get(kind, value)
                for kind, value in zip(series["kinds"], series["values"], strict=True)
            ]
            times = map(milliseconds, series["timestamps"])
            steps = map(int, series["steps"])
            points = [list(point) for point in zip(steps, times, values, strict=True)]
            found[series["key"]] = sorted(points, key=str)
    return found


async def test_everything_comes_in_and_the_command_says_how_much(world: World) -> None:
    there = world.there
    [done] = world.imports
    numbers = [len(there[kind]) for kind in ("experiments", "runs", "models", "versions")]
    assert done.out.splitlines() == [
        f"{kind}: {number:,} there, {number:,} looked at."
        for kind, number in zip(
            ("experiments", "runs", "models", "model versions"), numbers, strict=True
        )
    ]
    assert done.code == 0


async def test_nothing_is_written_to_mlflow(world: World) -> None:
    asked = {f"{each.method} {each.path.partition('?')[0]}" for each in world.faults.requests}
    api = "/api/2.0/mlflow"
    assert {each for each in asked if not each.startswith("GET ")} == {
        f"POST {api}/experiments/search",
        f"POST {api}/runs/search",
    }


async def test_experiments(world: World) -> None:
    there = world.there["experiments"]
    here = {each["name"]: each for each in await world.all(EXPERIMENTS)}
    assert set(here) == set(there) == {"t/training", "t/here-too", "t/without runs"}
    for name, tags in there.items():
        mine = {"kept": "yes"} if name == "t/here-too" else {}
        description = tags.get("mlflow.note.content")
        own = {key: value for key, value in tags.items() if key != "mlflow.note.content"}
        assert pairs(here[name]["tags"]) == own | mine
        assert here[name]["description"] == description
        assert (here[name]["mlflow"]["state"], here[name]["mlflow"]["conflicts"]) == ("IN_SYNC", [])


async def test_runs(world: World) -> None:
    there = world.there["runs"]
    here = {each["mlflow"]["id"]: each for each in await world.all(RUNS)}
    assert set(here) == set(there)
    for id, run in there.items():
        found, tags = here[id], dict(run["tags"])
        for tag, name in FIELDS.items():
            assert found[name] == tags.pop(tag, None), (run["name"], name)
        parent = tags.pop(PARENT, None)
        assert (found["parent"] and found["parent"]["mlflow"]["id"]) == parent
        assert found["experiment"]["name"] == run["experiment"]
        assert found["status"] == STATUSES[run["status"]]
        assert milliseconds(found["startedAt"]) == run["started"]
        assert milliseconds(found["endedAt"]) == run["ended"]
        assert pairs(found["params"]) == run["params"]
        assert pairs(found["tags"]) == tags
        files = {each["path"]: each["sizeBytes"] for each in found["artifacts"]}
        assert {path: int(size) for path, size in files.items()} == run["files"]
        assert found["createdBy"] == "system:mlflow"
        link = found["mlflow"]
        assert (link["state"], link["error"], link["conflicts"]) == ("IN_SYNC", None, [])
        assert link["url"].startswith(f"{world.faults.url}/#/experiments/")
    assert sum(run["parent"] is not None for run in here.values()) == 2


async def test_points_of_metrics(world: World) -> None:
    there = world.there["runs"]
    here = {each["mlflow"]["id"]: each for each in await world.all(RUNS)}
    thousands = 0
    for id, run in there.items():
        found = await histories(world, here[id])
        assert set(found) == set(run["points"])
        for key, points in run["points"].items():
            if len(points) > 10_000:
                thousands += 1
                answer = await world.graph.query(HISTORY, {"id": here[id]["id"], "keys": [key]})
                [series] = answer["run"]["metricHistory"]
                assert int(series["totalPoints"]) == len(points)
                # A page of the history is thinned out; what it has is there.
                assert [point for point in found[key] if point not in points] == []
            else:
                assert found[key] == sorted(points, key=str), (run["name"], key)
    assert thousands == 1


async def test_data_sets(world: World) -> None:
    [run] = [each for each in await world.all(RUNS) if each["name"] == "with data"]
    assert run["datasetFacts"]["name"] == "birds"
    assert run["datasetFacts"]["digest"] == "d1e2f3"


async def test_models(world: World) -> None:
    there = world.there["models"]
    here = {each["name"]: each for each in await world.all(MODELS)}
    assert set(here) == set(there)
    for name, model in there.items():
        assert here[name]["description"] == (model["description"] or None)
        assert pairs(here[name]["tags"]) == model["tags"]
        assert here[name]["mlflow"] == {"id": name, "state": "IN_SYNC"}


async def test_versions_with_their_stages_and_aliases(world: World) -> None:
    there = world.there["versions"]
    here = {each["mlflow"]["id"]: each for each in await world.all(VERSIONS)}
    assert set(here) == set(there)
    for id, version in there.items():
        found = here[id]
        assert f"{found['modelName']}/{found['version']}" == id
        assert found["description"] == (version["description"] or None)
        assert found["artifactPath"] == version["source"]
        assert (found["run"] and found["run"]["mlflow"]["id"]) == (version["run"] or None)
        aliases = {k: v for k, v in pairs(found["tags"]).items() if k.startswith("mlflow.alias.")}
        own = {k: v for k, v in pairs(found["tags"]).items() if k not in aliases}
        assert own == version["tags"]
        assert aliases == {
            "t-birds/4": {"mlflow.alias.champion": "true"},
            "t-birds/6": {"mlflow.alias.shadow": "true"},
        }.get(id, {})
        assert (found["mlflow"]["state"], found["mlflow"]["conflicts"]) == ("IN_SYNC", [])
    stages = {id: each["stage"] for id, each in here.items() if each["stage"] != "EXPERIMENTAL"}
    assert stages == {
        "t-birds/1": "ARCHIVED",
        # Two are in production there. Here it is the one that came later.
        "t-birds/3": "ARCHIVED",
        "t-birds/4": "PRODUCTION",
        "t-birds/5": "STAGING",
        "t-aliases/1": "PRODUCTION",
        "t-aliases/3": "STAGING",
    }
    assert here["t-birds/4"]["approval"] == {
        "status": "BYPASSED",
        "decidedBy": "admin",
        "notes": f"In stage Production on MLflow at {world.faults.url} when it was imported.",
    }


async def test_what_is_repeated_looks_at_nothing_and_changes_nothing(world: World) -> None:
    # given
    before = await world.all(EVENTS)
    world.faults.requests.clear()

    # when
    done = await world.bring_in()

    # then
    assert [line.partition(", ")[2] for line in done.out.splitlines()] == ["0 looked at."] * 4
    assert done.code == 0
    assert await world.all(EVENTS) == before
    assert world.faults.count("/runs/get[?]|get-history|artifacts/list|experiments/get[?]") == 0


CHANGES = """
import sys, mlflow
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("t/training").experiment_id
[run] = client.search_runs([experiment], "attributes.run_name = 'running'")
client.log_metric(run.info.run_id, "loss", 0.25, step=1)
client.set_terminated(run.info.run_id)
client.update_registered_model("t-birds", "Knows all birds.")
client.transition_model_version_stage("t-birds", "6", "Staging")
new = client.create_run(experiment, run_name="new")
client.set_terminated(new.info.run_id)
"""


async def test_what_has_changed_there_in_the_meantime_comes_in(world: World) -> None:
    # given
    await world.train(CHANGES)

    # when
    done = await world.bring_in()

    # then
    assert [line.partition(", ")[2] for line in done.out.splitlines()] == [
        "0 looked at.",
        "2 looked at.",
        "1 looked at.",
        "1 looked at.",
    ]
    runs = {each["name"]: each for each in await world.all(RUNS)}
    assert runs["running"]["status"] == runs["new"]["status"] == "COMPLETED"
    points = (await histories(world, runs["running"]))["loss"]
    assert [(step, value) for step, _, value in points] == [(0, 0.5), (1, 0.25)]
    [model] = [each for each in await world.all(MODELS) if each["name"] == "t-birds"]
    assert model["description"] == "Knows all birds."
    stages = {each["mlflow"]["id"]: each["stage"] for each in await world.all(VERSIONS)}
    assert (stages["t-birds/6"], stages["t-birds/5"]) == ("STAGING", "STAGING")


FEW = """
import sys
from mlflow import MlflowClient
from mlflow.entities import Metric
client = MlflowClient()
experiment = client.create_experiment(sys.argv[1])
for n in range(int(sys.argv[2])):
    run = client.create_run(experiment, run_name=str(n))
    client.log_batch(run.info.run_id, metrics=[Metric("loss", n, 1, step) for step in range(3)])
    client.set_terminated(run.info.run_id)
name = sys.argv[1]
client.create_registered_model(name)
client.create_model_version(name, "s3://bucket/few", await_creation_for=0)
client.transition_model_version_stage(name, "1", "Production")
"""


async def in_whose_name(world: World) -> str | None:
    """In whose name somebody who comes by would do what is due."""
    database = Database(world.database_url)
    try:
        async with database.read() as session:
            [server] = await session.fetch(select(MlflowServerRow.id))
        task = await database.write(lambda session: repository.take(session, server, 0.0))
    finally:
        await database.close()
    assert task is not None
    return task.importing_for


async def test_a_killed_import_is_completed_by_the_next(empty: World, unique: str) -> None:
    # given
    await empty.train(FEW, unique, "12")
    empty.faults.slow(0.2, "GET .*runs/get[?]")
    arguments = ("--database-url", empty.database_url, "--tracking-uri", empty.faults.url)
    first = start("mlflow", "import", *arguments)
    while empty.faults.count("get-history") < 3:
        assert first.poll() is None
        await asyncio.sleep(0.01)

    assert await in_whose_name(empty) == "admin"

    # when
    first.kill()
    await asyncio.to_thread(first.communicate, PATIENCE)
    empty.faults.passing()
    # Nobody does it in its name, though it could not say that it ended.
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if await in_whose_name(empty) is None:
                break
            await asyncio.sleep(0.01)  # PostgreSQL has not noticed
    done = await empty.bring_in()

    # then
    assert done.code == 0
    of_experiment = [run for run in await empty.all(RUNS) if run["experiment"]["name"] == unique]
    assert sorted(run["name"] for run in of_experiment) == sorted(map(str, range(12)))
    for run in of_experiment:
        points = (await histories(empty, run))["loss"]
        assert [(step, value) for step, _, value in points] == [
            (step, int(run["name"])) for step in range(3)
        ]


async def test_an_mlflow_that_dies_in_the_middle_is_told_in_one_line(
    empty: World, unique: str
) -> None:
    # given
    await empty.train(FEW, unique, "8")
    empty.faults.slow(0.2, "GET .*runs/get[?]")
    arguments = ("--database-url", empty.database_url, "--tracking-uri", empty.faults.url)
    first = start("mlflow", "import", *arguments)
    while empty.faults.count("GET .*runs/get[?]") < 3:
        assert first.poll() is None
        await asyncio.sleep(0.01)

    # when
    await empty.faults.refuse()
    out, err = await asyncio.to_thread(first.communicate, PATIENCE)
    await empty.faults.accept()
    empty.faults.passing()
    done = await empty.bring_in()

    # then
    assert first.returncode == 1
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith(f"Error: MLflow at {empty.faults.url}: cannot be reached")
    assert last.endswith(" What is in stays; repeat to go on.")
    assert "Traceback" not in err
    assert done.code == 0
    names = [run["name"] for run in await empty.all(RUNS) if run["experiment"]["name"] == unique]
    assert sorted(names) == sorted(map(str, range(8)))


async def test_a_run_that_mlflow_cannot_give_does_not_hinder_the_others(
    empty: World, unique: str
) -> None:
    # given
    await empty.train(FEW, unique, "3")
    client = MlflowClient(empty.mlflow.url)
    experiment = client.get_experiment_by_name(unique)
    first, *_ = client.search_runs([experiment.experiment_id])
    empty.faults.answering(500, matching=f"GET .*runs/get[?].*{first.info.run_id}")

    # when
    done = await empty.bring_in()
    empty.faults.passing()
    again = await empty.bring_in()

    # then
    assert done.code == 1
    assert "answered 500" in done.out
    assert done.err.splitlines()[-1] == (
        f"Error: Not everything of {empty.faults.url} is in; the lines above say why."
    )
    assert again.code == 0
    names = [run["name"] for run in await empty.all(RUNS) if run["experiment"]["name"] == unique]
    assert sorted(names) == ["0", "1", "2"]


async def test_a_worker_that_gets_to_it_first_takes_the_stage_over_too(
    empty: World, unique: str
) -> None:
    # given
    await empty.train(FEW, unique, "1")
    async with serving(empty.database_url, mlflow_uri=empty.faults.url, mlflow_worker=True):
        # when
        done = await empty.bring_in()

    # then
    assert (done.code, "conflict" in done.out) == (0, False)
    [version] = [each for each in await empty.all(VERSIONS) if each["modelName"] == unique]
    assert (version["stage"], version["approval"]["decidedBy"]) == ("PRODUCTION", "admin")


async def mirrored(graph: Graph, version: Json) -> Json:
    """How it stands with a version in MLflow."""
    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { mlflow { state } } }"
    found = await graph.query(query, {"id": version["id"]})
    return dict(found["modelVersion"]["mlflow"])


KEPT_OUT = ("EXPERIMENTAL", "NOT_SUBMITTED", [{"field": "alias:production"}])


async def imported_from_production(
    empty: World, client: MlflowClient, name: str, uri: str | None = None
) -> tuple[str, str, list[Json]]:
    """Stage, approval and conflicts of the version of a model that is imported once it is in
    production in MLflow."""
    client.set_registered_model_alias(name, "production", "1")
    try:
        await empty.bring_in(uri=uri)
    finally:  # others import from this server, too
        client.delete_registered_model(name)
    version = await the_version(empty, name)
    return version["stage"], version["approval"]["status"], version["mlflow"]["conflicts"]


async def the_version(empty: World, name: str) -> Json:
    """The one version of a model."""
    [version] = [each for each in await empty.all(VERSIONS) if each["modelName"] == name]
    return version


async def the_run(empty: World, name: str) -> Json:
    """The one run of an experiment."""
    [run] = [each for each in await empty.all(RUNS) if each["experiment"]["name"] == name]
    return run


def a_run_there(client: MlflowClient, name: str) -> str:
    """A run that has ended, in an experiment of this name."""
    run = str(client.create_run(client.create_experiment(name)).info.run_id)
    client.log_metric(run, "accuracy", 0.5)
    client.set_terminated(run)
    return run


def a_version_there(
    client: MlflowClient, name: str, source: str = "s3://somewhere/good", run: str | None = None
) -> None:
    """The first version of a model."""
    client.create_registered_model(name)
    client.create_model_version(name, source, run, await_creation_for=0)


async def until_mirrored(graph: Graph, version: Json) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await mirrored(graph, version))["state"] != "IN_SYNC":  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_what_was_registered_here_comes_into_production_by_nobodys_import(
    empty: World, unique: str
) -> None:
    # given a version that was registered here, and is mirrored
    client = MlflowClient(empty.mlflow.url)
    async with (
        serving(empty.database_url, mlflow_uri=empty.faults.url, mlflow_worker=True) as live,
        Graph(live.url) as graph,
    ):
        await until_mirrored(graph, await a_version(graph, unique))

    # when
    version = await imported_from_production(empty, client, unique)

    # then
    assert version == KEPT_OUT


async def test_what_somebody_has_made_of_a_version_here_comes_into_production_by_nobodys_import(
    empty: World, unique: str
) -> None:
    # given a version of MLflow's that has come in, and was changed here
    client = MlflowClient(empty.mlflow.url)
    a_version_there(client, unique)
    await empty.bring_in()
    made = await the_version(empty, unique)
    change = {"modelVersion": {"id": made["id"]}, "artifactPath": "s3://somewhere/bad"}
    await empty.graph.done("updateModelVersion", change, "modelVersion { id }")

    # when
    version = await imported_from_production(empty, client, unique)

    # then
    assert version == KEPT_OUT


@pytest.mark.parametrize("what", ["params", "metrics"])
async def test_what_somebody_has_made_of_its_run_here_comes_into_production_by_nobodys_import(
    empty: World, unique: str, what: str
) -> None:
    # given a run of MLflow's that has come in, and was written to here before it had a version
    client = MlflowClient(empty.mlflow.url)
    there = a_run_there(client, unique)
    await empty.bring_in()
    run = (await the_run(empty, unique))["id"]
    written: Json = {
        "params": {"params": [{"key": "depth", "value": "9"}]},
        "metrics": {"metrics": [{"key": "accuracy", "value": 0.99, "step": 1}]},
    }
    await empty.graph.done("updateRun", {"id": run, **written[what]}, "run { id }")
    a_version_there(client, unique, run=there)

    # when
    version = await imported_from_production(empty, client, unique)

    # then
    assert version == KEPT_OUT


@pytest.mark.parametrize("forgotten", ["the run", "both"])
async def test_what_nobody_knows_the_beginning_of_comes_into_production_by_nobodys_import(
    empty: World, unique: str, forgotten: str
) -> None:
    # given a run of MLflow's that was written to here so long ago that the journal has forgotten it
    client = MlflowClient(empty.mlflow.url)
    there = a_run_there(client, unique)
    await empty.bring_in()
    run = (await the_run(empty, unique))["id"]
    written = {"metrics": [{"key": "accuracy", "value": 0.99, "step": 1}]}
    await empty.graph.done("updateRun", {"id": run, **written}, "run { id }")
    if forgotten == "both":
        a_version_there(client, unique, run=there)
        await empty.bring_in()
    # The last entry of the journal stays.
    await empty.graph.done("createExperiment", {"name": f"{unique}-b"}, "experiment { id }")
    later = datetime.now(UTC) + timedelta(days=800)
    await retention.apply(empty.database_url, Policy(journal=730), later)
    if forgotten == "the run":
        a_version_there(client, unique, run=there)

    # when
    version = await imported_from_production(empty, client, unique)

    # then
    assert version == KEPT_OUT


@pytest.mark.parametrize("uploaded_first", [True, False])
async def test_what_somebody_has_uploaded_for_a_version_of_mlflows_is_not_what_comes_in(
    empty: World, unique: str, uploaded_first: bool
) -> None:
    # given a version of MLflow's that has come in, and a file at its path
    client, path = MlflowClient(empty.mlflow.url), "dbfs:/somewhere/good"
    there = a_run_there(client, unique)
    await empty.bring_in()
    run = (await the_run(empty, unique))["id"]
    if uploaded_first:
        await uploaded(empty.graph, run, b"bad", path=path)
    a_version_there(client, unique, path, there)
    await empty.bring_in()
    if not uploaded_first:
        await uploaded(empty.graph, run, b"bad", path=path)

    # when
    version = await imported_from_production(empty, client, unique)

    # then
    assert version == ("PRODUCTION", "BYPASSED", [])
    assert (await the_version(empty, unique))["artifactUrl"] is None


@pytest.mark.parametrize("since", ["nothing", "a parameter"])
async def test_what_people_have_rejected_here_comes_into_production_by_nobodys_import(
    empty: World, unique: str, since: str
) -> None:
    # given
    client = MlflowClient(empty.mlflow.url)
    # Without a figure that the policy would reject.
    run = client.create_run(client.create_experiment(unique)).info.run_id
    a_version_there(client, unique, run=run)
    await empty.bring_in()
    of = {"modelVersion": {"id": (await the_version(empty, unique))["id"]}}
    await empty.graph.done("submitForApproval", of, "approval { status }")
    await empty.graph.done("decideApproval", {**of, "decision": "REJECT"}, "approval { status }")
    if since == "a parameter":
        client.log_param(run, "host", "gpu-7")

    # when
    version = await imported_from_production(empty, client, unique)

    # then
    assert version == ("EXPERIMENTAL", "REJECTED", KEPT_OUT[2])


@pytest.mark.parametrize(
    ("stage", "refused"), [("STAGING", False), ("ARCHIVED", False), ("ARCHIVED", True)]
)
async def test_what_is_approved_here_is_imported_past_the_policy_only_if_that_refuses_it(
    empty: World, unique: str, stage: str, refused: bool
) -> None:
    # given a version of MLflow's that is approved here, under a policy of its model
    client = MlflowClient(empty.mlflow.url)
    run = client.create_run(client.create_experiment(unique)).info.run_id
    a_version_there(client, unique, run=run)
    await empty.bring_in()
    version = await the_version(empty, unique)
    of = {"modelVersion": {"id": version["id"]}}
    guard = {"modelName": unique, "stage": "PRODUCTION", "rules": [{"approvals": {"count": 1}}]}
    as_admin = {"Lifecycle-Actor": "admin"}
    await empty.graph.mutate("setStagePolicy", guard, **as_admin)
    await empty.graph.done("submitForApproval", of, "approval { status }")
    approve = {**of, "decision": "APPROVE"}
    await empty.graph.mutate("decideApproval", approve, **{"Lifecycle-Actor": "pat"})
    if stage != "STAGING":
        await empty.graph.done("setStage", {**of, "stage": stage}, "modelVersion { id }")
    if refused:
        # It has none, and would have to come into STAGING again.
        of_staging = {"modelName": unique, "stage": "STAGING", "rules": [{"artifactDigest": {}}]}
        await empty.graph.mutate("setStagePolicy", of_staging, **as_admin)

    # when
    imported = await imported_from_production(empty, client, unique)

    # then
    assert imported == ("PRODUCTION", "BYPASSED" if refused else "APPROVED", [])
    found = await empty.graph.query(
        "query ($id: ID!) { modelVersion(by: { id: $id }) { approval { decidedBy } "
        "stageHistory { stage cause actor } } }",
        {"id": version["id"]},
    )
    assert found["modelVersion"]["approval"] == {"decidedBy": "admin" if refused else "pat"}
    cause = "BYPASSED" if refused else "REQUESTED"
    last = found["modelVersion"]["stageHistory"][-1]
    assert last == {"stage": "PRODUCTION", "cause": cause, "actor": "admin"}


async def test_a_policy_of_staging_is_kept_by_what_is_imported_into_that_alone(
    empty: World, unique: str
) -> None:
    # given
    client = MlflowClient(empty.mlflow.url)
    a_version_there(client, unique)
    await empty.bring_in()
    guard = {"modelName": unique, "stage": "STAGING", "rules": [{"artifactDigest": {}}]}
    await empty.graph.mutate("setStagePolicy", guard, **{"Lifecycle-Actor": "admin"})

    # when
    client.set_registered_model_alias(unique, "staging", "1")
    await empty.bring_in()
    kept_out = await the_version(empty, unique)
    imported = await imported_from_production(empty, client, unique)

    # then
    assert (kept_out["stage"], kept_out["mlflow"]["conflicts"]) == (
        "EXPERIMENTAL",
        [{"field": "alias:staging"}],
    )
    assert imported == ("PRODUCTION", "BYPASSED", [])


async def test_what_data_production_was_trained_on_is_not_said_late_in_mlflow(
    empty: World, unique: str
) -> None:
    # given
    client = MlflowClient(empty.mlflow.url)
    run = client.create_run(client.create_experiment(unique)).info.run_id
    a_version_there(client, unique, run=run)
    client.set_registered_model_alias(unique, "production", "1")
    await empty.bring_in()
    assert (await the_version(empty, unique))["stage"] == "PRODUCTION"

    # when
    client.log_inputs(run, [DatasetInput(Dataset("birds", "d1", "local", "{}"), [])])
    await empty.bring_in()
    client.delete_registered_model(unique)

    # then
    found = await the_run(empty, unique)
    assert found["datasetFacts"] is None
    assert found["mlflow"]["conflicts"] == [{"field": "dataset"}]


async def test_what_came_in_from_one_server_is_a_mirror_on_another(
    empty: World, unique: str
) -> None:
    # given a version, and its run, that came in from one and are mirrored to another
    client = MlflowClient(empty.mlflow.url)
    a_version_there(client, unique, run=a_run_there(client, unique))
    await empty.bring_in()
    client.delete_registered_model(unique)  # others import from this server, too
    with an_mlflow() as other:
        async with (
            serving(
                empty.database_url, mlflow_uri=other.url, mlflow_worker=True, mlflow_follow=1
            ) as live,
            Graph(live.url) as empty.graph,
        ):
            await until_mirrored(empty.graph, await the_version(empty, unique))
            run = await the_run(empty, unique)

            # when
            there = MlflowClient(other.url)
            there.log_metric(run["mlflow"]["id"], "accuracy", 0.99, step=1)
            there.log_param(run["mlflow"]["id"], "depth", "9")
            async with asyncio.timeout(PATIENCE):
                while run["mlflow"]["state"] != "CONFLICT":
                    await asyncio.sleep(0.1)
                    run = await the_run(empty, unique)
            version = await imported_from_production(empty, there, unique, other.url)

            # then
            assert (run["params"], run["mlflow"]["conflicts"]) == ([], [{"field": "param:depth"}])
            points = (await histories(empty, run))["accuracy"]
            assert [(step, value) for step, _, value in points] == [(0, 0.5)]
            assert version == KEPT_OUT


async def test_what_waits_when_an_import_ends_comes_in_nobodys_name(
    empty: World, unique: str
) -> None:
    # given a version of a run that cannot come in: two runs that are each other's parent
    client = MlflowClient(empty.mlflow.url)
    experiment = client.create_experiment(unique)
    one = client.create_run(experiment).info.run_id
    other = client.create_run(experiment, tags={PARENT: one}).info.run_id
    client.set_tag(one, PARENT, other)
    client.create_registered_model(unique)
    client.create_model_version(unique, source="s3://somewhere/model", run_id=one)

    # when
    try:
        done = await empty.bring_in()
    finally:  # others import from this server, too
        client.delete_registered_model(unique)
        client.delete_experiment(experiment)

    # then
    connection = await connect(empty.database_url, "test")
    waiting = await connection.fetch(
        "SELECT kind, importing_for FROM mlflow_item WHERE error LIKE 'Waits for%'"
    )
    await connection.close()
    assert done.code == 1
    assert {row["kind"] for row in waiting} == {"RUN", "MODEL_VERSION"}
    assert {row["importing_for"] for row in waiting} == {None}


async def test_from_another_server_than_the_one_that_is_mirrored_to(
    empty: World, mlflow: Mlflow, unique: str
) -> None:
    # given: nothing of what is imported has to do with the server that the service knows
    await empty.train(FEW, unique, "2")
    async with Faults(mlflow.url) as other:
        # when
        done = await empty.bring_in(uri=other.url)

    # then
    assert done.code == 0
    runs = [run for run in await empty.all(RUNS) if run["experiment"]["name"] == unique]
    assert sorted(run["name"] for run in runs) == ["0", "1"]
    assert {(run["mlflow"]["id"], run["mlflow"]["state"]) for run in runs} == {(None, "PENDING")}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "No.", "access denied (401)"),
        (403, "No.", "access denied (403)"),
        (200, "<html>Hello</html>", "the answer is not MLflow's"),
        (503, "Busy.", "answered 503"),
    ],
)
async def test_an_mlflow_that_does_not_let_us_in_is_told_in_one_line(
    empty: World, status: int, body: str, said: str
) -> None:
    # given
    empty.faults.answering(status, body)

    # when
    done = await empty.bring_in()

    # then
    assert (done.code, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"Error: MLflow at {empty.faults.url}: {said}")


async def test_credentials_are_used_and_not_shown(empty: World) -> None:
    # given
    empty.faults.answering(401, "No.")

    # when
    done = await empty.bring_in(uri=empty.faults.url.replace("//", "//me:secret@"))

    # then
    assert done.code == 1
    assert "secret" not in done.err + done.out
