"""Registered models on both sides."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from mlflow import MlflowClient

from lifecycle.tracking.client import Client, Unreachable
from lifecycle.tracking.rules import Resolution, SyncState, TrackedKind
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_version
from tests.tracking.conftest import Mlflow
from tests.tracking.drive import Mirror
from tests.tracking.faults import Faults

MODEL, VERSION = TrackedKind.MODEL, TrackedKind.MODEL_VERSION
SYNCED, CONFLICT, FAILED = SyncState.IN_SYNC, SyncState.CONFLICT, SyncState.FAILED


@pytest_asyncio.fixture
async def mirror(live: Live, mlflow: Mlflow, unique: str) -> AsyncIterator[Mirror]:
    client = Client(mlflow.url)
    yield await Mirror.begin(live.database, client, unique)
    await client.close()


@pytest.fixture
def plain(mlflow: Mlflow) -> MlflowClient:
    """What code that only knows MLflow uses."""
    return MlflowClient(mlflow.url)


async def model(graph: Graph, name: str) -> Json:
    """The model, and who made it."""
    found = await graph.query(
        "query ($name: String!) { model(name: $name) "
        "{ id name description createdBy tags { key value } versions { totalCount } } }",
        {"name": name},
    )
    return dict(found["model"])


async def a_model(graph: Graph, name: str, **input: object) -> str:
    """The name of a new model, with these values."""
    await a_version(graph, name)
    if input:
        await graph.done("updateModel", {"name": name, **input}, "model { id }")
    return name


async def told(graph: Graph, mirror: Mirror, name: str) -> str:
    """Its name in MLflow, once it is there."""
    item = await mirror.ours(MODEL, ids.decode("Model", (await model(graph, name))["id"]))
    assert item.state is SYNCED, (item.error, item.conflicts)
    assert item.mlflow_id is not None
    return item.mlflow_id


async def test_a_model_appears_in_mlflow_with_what_it_is(
    graph: Graph, live: Live, any_mlflow: Mlflow, unique: str
) -> None:
    client = Client(any_mlflow.url)
    mirror = await Mirror.begin(live.database, client, unique)
    tags = [{"key": "team", "value": "fraud"}, {"key": "recall@5", "value": "x" * 20_000}]
    await a_model(graph, unique, description="Finds fraud.", owner="ada", tags=tags)
    there = MlflowClient(any_mlflow.url).get_registered_model(await told(graph, mirror, unique))
    await client.close()
    assert there.name == unique
    assert there.description == "Finds fraud."
    assert there.tags == {
        "team": "fraud",
        "recall_x40_5": "x" * 4_999 + "…",
        "lifecycle.id": str(ids.decode("Model", (await model(graph, unique))["id"])),
        "lifecycle.name": unique,
        "lifecycle.owner": "ada",
    }


async def test_what_changes_on_one_side_comes_to_the_other(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    tags = [{"key": "team", "value": "fraud"}, {"key": "old", "value": "yes"}]
    await a_model(graph, unique, description="Finds fraud.", tags=tags)
    await told(graph, mirror, unique)

    plain.update_registered_model(unique, "Finds most fraud.")
    plain.set_registered_model_tag(unique, "recall_x40_5", "high")
    plain.delete_registered_model_tag(unique, "old")
    await told(graph, mirror, unique)
    found = await model(graph, unique)
    assert found["description"] == "Finds most fraud."
    assert sorted((tag["key"], tag["value"]) for tag in found["tags"]) == [
        ("recall@5", "high"),
        ("team", "fraud"),
    ]

    changed = {"description": None, "tags": [{"key": "team", "value": "risk"}], "owner": None}
    await graph.done("updateModel", {"name": unique, **changed}, "model { id }")
    await told(graph, mirror, unique)
    there = plain.get_registered_model(unique)
    assert not there.description
    assert {k: v for k, v in there.tags.items() if not k.startswith("lifecycle.")} == {
        "team": "risk"
    }
    assert (await model(graph, unique))["description"] is None


@pytest.mark.parametrize(
    ("resolution", "here", "there"),
    [
        (Resolution.KEEP_OURS, "Ours.", "Ours."),
        (Resolution.TAKE_THEIRS, "Theirs.", "Theirs."),
        (Resolution.LEAVE, "Ours.", "Theirs."),
    ],
)
async def test_what_changes_on_both_sides_is_shown_until_somebody_decides(
    graph: Graph,
    mirror: Mirror,
    plain: MlflowClient,
    unique: str,
    resolution: Resolution,
    here: str,
    there: str,
) -> None:
    await a_model(graph, unique, description="Before.")
    await told(graph, mirror, unique)
    await graph.done("updateModel", {"name": unique, "description": "Ours."}, "model { id }")
    plain.update_registered_model(unique, "Theirs.")
    id = ids.decode("Model", (await model(graph, unique))["id"])

    item = await mirror.ours(MODEL, id)

    assert item.state is CONFLICT
    (conflict,) = item.conflicts
    assert conflict == {
        "field": "description",
        "ours": "Ours.",
        "theirs": "Theirs.",
        "reason": None,
        "rule": "EITHER",
    }
    assert (await model(graph, unique))["description"] == "Ours."
    assert plain.get_registered_model(unique).description == "Theirs."

    item = await mirror.resolve(item, resolution)

    assert item.state is SYNCED
    assert (await model(graph, unique))["description"] == here
    assert plain.get_registered_model(unique).description == there


@pytest.mark.parametrize("name", ["{}/fraud:eu", "../{}", ".{}", '{}\'s "best"', "{}%2F100%"])
async def test_a_name_that_mlflow_does_not_take_is_spelled_out_there(
    graph: Graph, mirror: Mirror, live: Live, plain: MlflowClient, unique: str, name: str
) -> None:
    ours = await a_model(graph, name.format(unique))
    theirs = await told(graph, mirror, ours)
    assert plain.get_registered_model(theirs).tags["lifecycle.name"] == ours

    # Somebody who knows nothing of it but MLflow's name comes to the same model.
    again = await Mirror.begin(live.database, mirror.client, f"{unique}-again")
    plain.delete_registered_model_tag(theirs, "lifecycle.id")
    item = await again.theirs(MODEL, theirs)
    assert item is not None
    assert item.object_id == ids.decode("Model", (await model(graph, ours))["id"])


async def test_a_model_that_begins_in_mlflow_comes_in(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    tags = {"team": "fraud", "mlflow.domain": "risk"}
    plain.create_registered_model(unique, tags, "Finds\x01 fraud.")

    item = await mirror.theirs(MODEL, unique)

    assert item is not None
    assert item.state is SYNCED
    assert item.url == f"{plain.tracking_uri}/#/models/{unique}"
    found = await model(graph, unique)
    assert ids.decode("Model", found.pop("id")) == item.object_id
    assert found == {
        "name": unique,
        "description": "Finds\ufffd fraud.",
        "createdBy": "system:mlflow",
        "tags": [
            {"key": "mlflow.domain", "value": "risk"},
            {"key": "team", "value": "fraud"},
        ],
        "versions": {"totalCount": 0},
    }
    # Only our own tags have been added there.
    assert plain.get_registered_model(unique).tags == tags | {
        "lifecycle.id": str(item.object_id),
        "lifecycle.name": unique,
    }
    assert plain.get_registered_model(unique).description == "Finds\x01 fraud."


async def test_a_model_of_the_same_name_is_the_same(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    await a_model(graph, unique, description="Finds fraud.")
    plain.create_registered_model(unique, {"team": "fraud"})
    await told(graph, mirror, unique)
    found = await model(graph, unique)
    assert (found["description"], found["tags"]) == (
        "Finds fraud.",
        [{"key": "team", "value": "fraud"}],
    )
    assert plain.get_registered_model(unique).description == "Finds fraud."


async def test_a_prompt_is_no_model(
    graph: Graph, mirror: Mirror, plain: MlflowClient, mlflow: Mlflow, unique: str
) -> None:
    mlflow.train(
        "import mlflow, sys; mlflow.genai.register_prompt(sys.argv[1], 'Hello {{name}}')", unique
    )

    assert await mirror.theirs(MODEL, unique) is None
    assert await mirror.theirs(VERSION, f"{unique}/1") is None
    assert await mirror.items() == []

    # Nor does a model of ours become one.
    await a_model(graph, unique)
    item = await mirror.ours(MODEL, ids.decode("Model", (await model(graph, unique))["id"]))
    assert item.state is FAILED
    assert item.error == (
        f"MLflow has a prompt named {unique}: rename it there, or the model cannot be."
    )
    assert "lifecycle.id" not in plain.get_prompt(unique).tags


async def test_a_model_that_is_deleted_there_stays_here(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    version = await a_version(graph, unique)
    await mirror.ours(VERSION, ids.decode("ModelVersion", version["id"]))
    plain.delete_registered_model(unique)

    id = ids.decode("Model", (await model(graph, unique))["id"])
    items = [
        await mirror.ours(MODEL, id),
        await mirror.ours(VERSION, ids.decode("ModelVersion", version["id"])),
    ]

    assert [item.state for item in items] == [CONFLICT, CONFLICT]
    assert all("not found" in item.conflicts[0]["reason"] for item in items)
    assert (await model(graph, unique))["versions"] == {"totalCount": 1}
    assert plain.search_registered_models(f"name = '{unique}'") == []


async def test_a_model_that_is_renamed_there_stays_the_same(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    versions = [await a_version(graph, unique) for _ in range(2)]
    version_ids = [ids.decode("ModelVersion", version["id"]) for version in versions]
    for id in version_ids:
        await mirror.ours(VERSION, id)
    before = await model(graph, unique)
    plain.rename_registered_model(unique, f"{unique}-new")
    plain.update_registered_model(f"{unique}-new", "Now with another name.")

    # A version may be seen first, and there is a third one by then.
    plain.create_model_version(f"{unique}-new", "s3://models/3")
    for number in ("2", "3", "1"):
        await mirror.theirs(VERSION, f"{unique}-new/{number}")
    await mirror.theirs(MODEL, f"{unique}-new")

    assert await mirror.there(MODEL, ids.decode("Model", before["id"])) == f"{unique}-new"
    assert [await mirror.there(VERSION, id) for id in version_ids] == [
        f"{unique}-new/1",
        f"{unique}-new/2",
    ]
    assert {item.state for item in await mirror.items()} == {SYNCED}
    after = await model(graph, unique)
    assert after == before | {
        "description": "Now with another name.",
        "versions": {"totalCount": 3},
    }


async def test_our_tags_on_another_model_do_not_make_it_ours(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    await a_model(graph, unique)
    await told(graph, mirror, unique)
    plain.create_registered_model(
        f"{unique}-copy", plain.get_registered_model(unique).tags, "A copy."
    )
    item = await mirror.theirs(MODEL, f"{unique}-copy")
    assert item is not None
    assert item.state is SYNCED
    copy = await model(graph, f"{unique}-copy")
    assert ids.decode("Model", copy["id"]) == item.object_id
    assert plain.get_registered_model(f"{unique}-copy").tags == {
        "lifecycle.id": str(item.object_id),
        "lifecycle.name": f"{unique}-copy",
    }
    assert (await model(graph, unique))["description"] is None


async def test_a_model_whose_making_was_not_answered_is_made_once(
    graph: Graph,
    live: Live,
    sql: asyncpg.Connection,
    faults: Faults,
    plain: MlflowClient,
    unique: str,
) -> None:
    client = Client(faults.url)
    mirror = await Mirror.begin(live.database, client, unique)
    await a_model(graph, unique, description="Finds fraud.")
    id = ids.decode("Model", (await model(graph, unique))["id"])
    faults.dropping("registered-models/create", times=1)

    with pytest.raises(Unreachable):
        await mirror.ours(MODEL, id)
    item = await mirror.ours(MODEL, id)

    await client.close()
    assert item.state is SYNCED
    assert faults.count("registered-models/create") == 2
    assert plain.get_registered_model(unique).tags["lifecycle.id"] == str(id)
