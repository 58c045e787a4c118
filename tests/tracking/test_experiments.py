"""Experiments on both sides."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from mlflow import MlflowClient

from lifecycle.tracking.client import Client
from lifecycle.tracking.rules import Resolution, SyncState, TrackedKind
from lifecycle.tracking.tables import MlflowItemRow
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.tracking.conftest import Mlflow
from tests.tracking.drive import Mirror, differences, global_id

EXPERIMENT = TrackedKind.EXPERIMENT
FIELDS = "id name description owner status tags { key value } createdBy"


@pytest_asyncio.fixture
async def mirror(live: Live, any_mlflow: Mlflow, unique: str) -> AsyncIterator[Mirror]:
    """What is on both sides of each line of MLflow."""
    client = Client(any_mlflow.url)
    yield await Mirror.begin(live.database, client, unique)
    await client.close()


def plain(mirror: Mirror) -> Any:
    """What training code that only knows MLflow uses."""
    return MlflowClient(mirror.client.uri)


def pairs(**values: str) -> list[Json]:
    return [{"key": key, "value": value} for key, value in values.items()]


async def an_experiment(graph: Graph, name: str, **input: object) -> str:
    made = await graph.done("createExperiment", {"name": name, **input}, "experiment { id }")
    return str(made["id"])


async def change(graph: Graph, name: str, **input: object) -> None:
    await graph.done("updateExperiment", {"name": name, **input}, "experiment { id }")


async def read(graph: Graph, experiment: str) -> Json:
    query = f"query ($id: ID!) {{ node(id: $id) {{ ... on Experiment {{ {FIELDS} }} }} }}"
    found: Json = (await graph.query(query, {"id": experiment}))["node"]
    found["tags"] = {pair["key"]: pair["value"] for pair in found["tags"]}
    return found


async def mirrored(mirror: Mirror, experiment: str) -> MlflowItemRow:
    """How an experiment of ours stands after it was looked at."""
    return await mirror.ours(EXPERIMENT, ids.decode("Experiment", experiment))


async def followed(mirror: Mirror, there: str) -> str:
    """The experiment that one of MLflow's is here, after that was looked at."""
    item = await mirror.theirs(EXPERIMENT, there)
    assert item is not None
    assert (item.state, item.error, item.conflicts) == (SyncState.IN_SYNC, None, [])
    return global_id("Experiment", item)


async def test_an_experiment_appears_there_and_changes_with_ours(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given
    given = {"description": "Why.", "owner": "ann", "tags": pairs(team="a", empty="")}
    experiment = await an_experiment(graph, unique, **given)

    # when
    item = await mirrored(mirror, experiment)

    # then
    assert (item.state, item.error, item.conflicts) == (SyncState.IN_SYNC, None, [])
    assert item.url == f"{mirror.client.uri}/#/experiments/{item.mlflow_id}"
    client = plain(mirror)
    ours = {"lifecycle.id": str(ids.decode("Experiment", experiment)), "lifecycle.owner": "ann"}
    there = client.get_experiment_by_name(unique)
    assert there.experiment_id == item.mlflow_id
    assert there.tags == {
        **ours,
        "lifecycle.status": "ACTIVE",
        "mlflow.note.content": "Why.",
        "team": "a",
    }

    # when
    await change(graph, unique, description=None, status="ARCHIVED", tags=pairs(team="b", new="1"))
    await mirrored(mirror, experiment)

    # then
    tags = client.get_experiment_by_name(unique).tags
    assert {key: value for key, value in tags.items() if value} == {
        **ours,
        "lifecycle.status": "ARCHIVED",
        "team": "b",
        "new": "1",
    }


async def test_an_experiment_there_appears_here_and_changes_with_theirs(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given
    client = plain(mirror)
    tags = {"mlflow.note.content": "Why.", "team": "a", "mlflow.x": "1", "lifecycle.foo": "bar"}
    there = client.create_experiment(unique, tags=tags)

    # when
    experiment = await followed(mirror, there)

    # then
    assert await read(graph, experiment) == {
        "id": experiment,
        "name": unique,
        "description": "Why.",
        "owner": None,
        "status": "ACTIVE",
        "tags": {"team": "a", "mlflow.x": "1"},
        "createdBy": "system:mlflow",
    }

    # when
    client.set_experiment_tag(there, "team", "b")
    client.set_experiment_tag(there, "mlflow.note.content", "")
    client.set_experiment_tag(there, "mlflow.x", "2")
    assert await followed(mirror, there) == experiment

    # then
    found = await read(graph, experiment)
    assert (found["description"], found["tags"]) == (None, {"team": "b", "mlflow.x": "2"})
    # What is MLflow's own may be changed here, and is not there.
    await change(graph, unique, tags=pairs(**{"mlflow.x": "3"}))
    assert (await mirrored(mirror, experiment)).state is SyncState.IN_SYNC
    tags = client.get_experiment(there).tags
    assert (tags["mlflow.x"], tags.get("team", "")) == ("2", "")


async def test_experiments_of_the_same_name_are_the_same(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: one on either side, of which neither knows
    experiment = await an_experiment(graph, unique, tags=pairs(ours="1", both="1"))
    client = plain(mirror)
    there = client.create_experiment(unique, tags={"theirs": "1", "both": "2"})

    # when
    item = await mirrored(mirror, experiment)

    # then
    assert item.mlflow_id == there
    assert differences(item) == [("tag:both", "1", "2", None)]
    assert (await read(graph, experiment))["tags"] == {"ours": "1", "both": "1", "theirs": "1"}
    tags = client.get_experiment(there).tags
    assert (tags["ours"], tags["both"], tags["theirs"]) == ("1", "2", "1")

    # And in the other order.
    other = client.create_experiment(f"{unique}-2")
    known = await an_experiment(graph, f"{unique}-2")
    assert await followed(mirror, other) == known


async def test_the_name_of_a_deleted_experiment_is_taken_until_somebody_decides(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    client = plain(mirror)
    there = client.create_experiment(unique)
    client.delete_experiment(there)
    experiment = await an_experiment(graph, unique)
    item = await mirrored(mirror, experiment)
    assert (item.state, item.error) == (
        SyncState.FAILED,
        f"MLflow has a deleted experiment {unique}: restore it there, or remove it for good.",
    )
    # when
    client.restore_experiment(there)
    item = await mirrored(mirror, experiment)
    # then
    assert (item.state, item.mlflow_id) == (SyncState.IN_SYNC, there)


async def test_an_experiment_that_is_renamed_there_is_in_conflict_and_can_be_renamed_back(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    experiment = await an_experiment(graph, unique)
    there = (await mirrored(mirror, experiment)).mlflow_id
    client = plain(mirror)
    client.rename_experiment(there, f"{unique}-new")

    # when
    item = await mirrored(mirror, experiment)

    # then
    assert differences(item) == [("name", unique, f"{unique}-new", "Only changed here.")]
    assert client.get_experiment(there).name == f"{unique}-new"

    # when
    item = await mirror.resolve(item, Resolution.KEEP_OURS)

    # then
    assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])
    assert client.get_experiment(there).name == unique


async def test_an_experiment_that_is_deleted_there_stays_here(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    experiment = await an_experiment(graph, unique)
    client = plain(mirror)
    client.delete_experiment((await mirrored(mirror, experiment)).mlflow_id)
    item = await mirrored(mirror, experiment)
    assert (item.state, [conflict["reason"] for conflict in item.conflicts]) == (
        SyncState.CONFLICT,
        [f"Experiment {unique} is deleted in MLflow."],
    )
    assert (await read(graph, experiment))["status"] == "ACTIVE"


async def test_names_and_tags_that_we_cannot_have_come_in_as_the_nearest_that_we_can(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    client = plain(mirror)
    first = client.create_experiment(f"{unique}\n{'x' * 400}1", tags={"a": "x\x01y"})
    second = client.create_experiment(f"{unique}\n{'x' * 400}2")
    here = [await read(graph, await followed(mirror, there)) for there in (first, second)]
    assert [len(each["name"]) for each in here] == [250, 250]
    assert here[0]["name"] != here[1]["name"]
    assert here[0]["name"].startswith(f"{unique} xxx")
    assert here[0]["tags"] == {"a": "x\ufffdy"}
    # And there they are as they were.
    assert client.get_experiment(first).name.endswith("1")
    assert client.get_experiment(first).tags["a"] == "x\x01y"


async def test_what_mlflow_makes_by_itself_comes_in_with_its_first_run(
    graph: Graph, mirror: Mirror
) -> None:
    run = plain(mirror).create_run("0").info.run_id
    item = await mirror.theirs(TrackedKind.RUN, run)
    assert item is not None
    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { experiment { name } } }",
        {"id": global_id("Run", item)},
    )
    assert found["run"]["experiment"]["name"] == "Default"
