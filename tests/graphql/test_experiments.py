"""Experiments, over GraphQL."""

from tests.client import Graph


async def test_an_experiment_is_made_and_found_by_its_name(graph: Graph, unique: str) -> None:
    made = await graph.done(
        "createExperiment",
        {"name": unique, "owner": "ada", "tags": [{"key": "team", "value": "vision"}]},
        "experiment { id name owner status revision tags { key value } createdBy }",
    )

    assert made == {
        "id": made["id"],
        "name": unique,
        "owner": "ada",
        "status": "ACTIVE",
        "revision": 1,
        "tags": [{"key": "team", "value": "vision"}],
        "createdBy": "tester",
    }
    found = await graph.query(
        "query ($name: String!, $id: ID!) { experiment(name: $name) { id } "
        "node(id: $id) { __typename id ... on Experiment { name } } }",
        {"name": unique, "id": made["id"]},
    )
    assert found == {
        "experiment": {"id": made["id"]},
        "node": {"__typename": "Experiment", "id": made["id"], "name": unique},
    }
