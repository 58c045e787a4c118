"""Global ids: any object is found again by the one that it came with."""

import pytest

from tests.client import Graph
from tests.conftest import Live
from tests.mutations import World, a_world, global_id


@pytest.fixture
async def world(live: Live, graph: Graph, unique: str) -> World:
    return await a_world(live, graph, unique)


async def test_every_kind_of_object_is_found_by_its_id(graph: Graph, world: World) -> None:
    trained = {"experimentName": world.name, "datasetFacts": {"name": world.name}}
    run = await graph.done("logRun", trained, "run { dataSet { id } }")
    data = await graph.query(
        "query ($name: String!) { experiment(name: $name) { id } model(name: $name) { id } "
        "driftPolicy { id } }",
        {"name": world.name},
    )
    ids = {
        "Experiment": data["experiment"]["id"],
        "DataSet": run["dataSet"]["id"],
        "Run": world.run,
        "Model": data["model"]["id"],
        "ModelVersion": world.version,
        "Deployment": world.deployment,
        "DriftEvent": world.drift_event,
        "DriftPolicy": data["driftPolicy"]["id"],
        "MlflowItem": world.mlflow_item,
    }

    for kind, id in ids.items():
        found = await graph.query(
            "query ($id: ID!) { node(id: $id) { __typename id } }", {"id": id}
        )
        assert found == {"node": {"__typename": kind, "id": id}}
    found = await graph.query(
        "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }", {"ids": list(ids.values())}
    )
    assert found["nodes"] == [{"__typename": kind, "id": ids[kind]} for kind in ids]


async def test_nodes_keep_their_order_and_leave_a_gap_for_what_is_not_there(
    graph: Graph, world: World
) -> None:
    ids = [world.version, global_id("Run"), world.run, world.version, global_id("Nothing")]

    data = await graph.query("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": ids})

    assert data["nodes"] == [
        {"id": world.version},
        None,
        {"id": world.run},
        {"id": world.version},
        None,
    ]


async def test_a_hundred_ids_may_be_asked_for_and_none(graph: Graph, world: World) -> None:
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"

    assert await graph.query(query, {"ids": []}) == {"nodes": []}
    assert (await graph.query(query, {"ids": [world.run] * 100}))["nodes"] == [
        {"id": world.run}
    ] * 100
    error = await graph.error(query, {"ids": [world.run] * 101})
    assert error["message"] == "Ask for at most 100 objects."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["ids"]}


async def test_what_has_an_id_but_is_no_node_gives_null(graph: Graph, world: World) -> None:
    assert await graph.query("query ($id: ID!) { node(id: $id) { id } }", {"id": world.item}) == {
        "node": None
    }


async def test_a_deleted_version_is_found_by_id_but_by_no_selector(
    graph: Graph, world: World
) -> None:
    await graph.done(
        "deleteModelVersion", {"modelVersion": {"id": world.spare}}, "modelVersion { id }"
    )

    data = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { version deletedAt } } "
        "modelVersion(by: { id: $id }) { id } }",
        {"id": world.spare},
    )

    assert data["node"]["version"] == "3"
    assert data["node"]["deletedAt"] is not None
    assert data["modelVersion"] is None


async def test_an_id_means_the_same_to_every_process(
    live: Live, graph: Graph, quiet: Live, world: World
) -> None:
    query = "query ($id: ID!) { node(id: $id) { id } }"

    async with Graph(live.url, actor="somebody else") as other:
        assert await other.query(query, {"id": world.run}) == {"node": {"id": world.run}}
    async with Graph(quiet.url) as elsewhere:
        assert await elsewhere.query(query, {"id": world.run}) == {"node": None}


async def test_the_server_says_what_it_is(graph: Graph, live: Live) -> None:
    query = "{ serverInfo { version schemaHash features } }"

    first, second = await graph.query(query), await graph.query(query)

    assert first == second
    assert first["serverInfo"]["version"].count(".") == 2
    assert len(first["serverInfo"]["schemaHash"]) == 12
    assert "idempotency" in first["serverInfo"]["features"]
