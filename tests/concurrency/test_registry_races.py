"""Registering, deleting and deploying versions at the same time."""

import asyncio
from asyncio import gather

import asyncpg
import pytest

from schema import ids
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Live, serving
from tests.factories import VERSION, a_run, a_version
from tests.following import waiting


def taken(model: str, version: str) -> Json:
    return {
        "__typename": "AlreadyExists",
        "code": "ALREADY_EXISTS",
        "message": f"There is version {version} of model {model}.",
        "path": ["version"],
    }


async def register(graph: Graph, model: str, **input: object) -> Json:
    return await graph.mutate("registerModelVersion", {"modelName": model, **input}, VERSION)


async def listed(graph: Graph, model: str) -> list[str]:
    """The versions of a model, oldest first."""
    found = await graph.query(
        "query ($name: String!) { model(name: $name) { versions(first: 100) "
        "{ nodes { version } } } }",
        {"name": model},
    )
    return [node["version"] for node in found["model"]["versions"]["nodes"]][::-1]


async def test_fifty_registrations_at_once_of_a_new_model_get_the_numbers_one_to_fifty(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    results = await gather(*(register(graph, unique) for _ in range(50)))

    assert {result["__typename"] for result in results} == {"RegisterModelVersionSuccess"}
    numbers = sorted(int(result["modelVersion"]["version"]) for result in results)
    assert numbers == list(range(1, 51))
    # The list is in the order of the numbers: who waited for its turn is not older for it.
    assert await listed(graph, unique) == [str(number) for number in numbers]
    assert await sql.fetchval("SELECT count(*) FROM model WHERE name = $1", unique) == 1
    assert (
        await sql.fetchval(
            "SELECT count(*) FROM event JOIN model ON subject_id = model.id "
            "WHERE name = $1 AND type = 'model.created'",
            unique,
        )
        == 1
    )


async def test_numbers_are_one_sequence_over_several_servers_beside_names_of_clients(
    graph: Graph, live: Live, unique: str
) -> None:
    async with serving(live.database.url) as second, Graph(second.url) as other:
        results = await gather(
            *(register(server, unique) for server in (graph, other) for _ in range(8)),
            *(
                register(server, unique, version=str(n))
                for n in (3, 5)
                for server in (graph, other)
            ),
        )

    numbered, named = results[:16], results[16:]
    made = [result["modelVersion"]["version"] for result in numbered]
    won = [r["modelVersion"]["version"] for r in named if "modelVersion" in r]
    # Each of the names went to one client, or as a number to whoever came first.
    refusals = (taken(unique, "3"), taken(unique, "5"))
    assert all(result in refusals for result in named if "modelVersion" not in result)
    assert len(set(won)) == len(won)
    assert sorted(made + won, key=int) == [str(n) for n in range(1, 17 + len(won))]
    assert sorted(await listed(graph, unique), key=int) == sorted(made + won, key=int)


async def test_of_registrations_of_one_name_at_once_one_wins(graph: Graph, unique: str) -> None:
    results = await gather(*(register(graph, unique, version="1.0") for _ in range(20)))

    won = [result for result in results if result != taken(unique, "1.0")]
    assert [result["modelVersion"]["version"] for result in won] == ["1.0"]
    assert await listed(graph, unique) == ["1.0"]


async def test_a_registration_under_one_key_twice_at_once_is_one(
    graph: Graph, live: Live, unique: str
) -> None:
    async with serving(live.database.url) as second, Graph(second.url) as other:
        results = await gather(
            *(register(server, unique, idempotencyKey=unique) for server in (graph, other) * 5)
        )

    assert results == [results[0]] * 10
    assert results[0]["__typename"] == "RegisterModelVersionSuccess"
    assert await listed(graph, unique) == ["1"]


async def test_one_key_with_two_inputs_at_once_serves_only_one_of_them(
    graph: Graph, unique: str
) -> None:
    results = await gather(
        *(register(graph, unique, idempotencyKey=unique, version=f"v{n}") for n in range(8))
    )

    kinds = sorted(result["__typename"] for result in results)
    assert kinds == ["IdempotencyConflict"] * 7 + ["RegisterModelVersionSuccess"]
    (won,) = (r["modelVersion"]["version"] for r in results if "modelVersion" in r)
    assert await listed(graph, unique) == [won]


async def test_of_changes_decided_on_one_revision_at_once_one_is_made(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)

    results = await gather(
        *(
            graph.mutate(
                "updateModelVersion",
                {
                    "modelVersion": {"id": made["id"]},
                    "description": f"{n}",
                    "expectedRevision": 1,
                },
                "modelVersion { description revision }",
            )
            for n in range(10)
        )
    )

    (won,) = (result for result in results if "modelVersion" in result)
    assert won["modelVersion"]["revision"] == 2
    stale = [result for result in results if result is not won]
    assert {(r["__typename"], r["currentRevision"]) for r in stale} == {("StaleRevision", 2)}
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { description revision } } }",
        {"id": made["id"]},
    )
    assert found["node"] == won["modelVersion"]


@pytest.mark.parametrize("deletions", [1, 3])
async def test_a_version_is_deployed_or_deleted_but_never_both(
    graph: Graph, sql: asyncpg.Connection, unique: str, deletions: int
) -> None:
    versions = [await a_version(graph, unique) for _ in range(10)]

    async def both(id: str, first: bool) -> list[Json]:
        deploy = graph.mutate(
            "createDeployment", {"modelVersion": {"id": id}, "environment": "DEVELOPMENT"}
        )
        delete = [
            graph.mutate("deleteModelVersion", {"modelVersion": {"id": id}})
            for _ in range(deletions)
        ]
        found = await gather(*([deploy, *delete] if first else [*delete, deploy]))
        return list(found if first else [found[-1], *found[:-1]])

    results = await gather(*(both(v["id"], n % 2 == 0) for n, v in enumerate(versions)))

    for deployed, *deleted in results:
        kinds = sorted(result["__typename"] for result in deleted)
        if deployed["__typename"] == "CreateDeploymentSuccess":
            assert kinds == ["InUse"] * deletions
        else:
            assert (deployed["__typename"], deployed["path"]) == ("NotFound", ["modelVersion"])
            assert kinds == ["DeleteModelVersionSuccess"] + ["NotFound"] * (deletions - 1)
    deployed = await sql.fetch(
        "SELECT deleted_at, live_deployments FROM model_version "
        "JOIN deployment ON model_version_id = model_version.id "
        "WHERE model_version.model_name = $1",
        unique,
    )
    made = [found for found, *_ in results if found["__typename"] == "CreateDeploymentSuccess"]
    assert [tuple(row) for row in deployed] == [(None, 1)] * len(made)


@pytest.mark.parametrize("first", ["deleteModelVersion", "createDeployment"])
async def test_who_waits_for_a_version_decides_on_what_the_other_left(
    graph: Graph, sql: asyncpg.Connection, unique: str, first: str
) -> None:
    made = await a_version(graph, unique)
    inputs: dict[str, Json] = {
        "deleteModelVersion": {"modelVersion": {"id": made["id"]}},
        "createDeployment": {"modelVersion": {"id": made["id"]}, "environment": "DEVELOPMENT"},
    }
    second = next(name for name in inputs if name != first)

    async with asyncio.timeout(PATIENCE):
        # Both have found the version and wait for it, one behind the other.
        async with sql.transaction():
            await sql.execute("SELECT FROM model_version WHERE model_name = $1 FOR UPDATE", unique)
            ahead = asyncio.create_task(graph.mutate(first, inputs[first]))
            await waiting(sql, 1)
            behind = asyncio.create_task(graph.mutate(second, inputs[second]))
            await waiting(sql, 2)
        results = (await ahead)["__typename"], (await behind)["__typename"]

    assert (
        results
        == {
            "deleteModelVersion": ("DeleteModelVersionSuccess", "NotFound"),
            "createDeployment": ("CreateDeploymentSuccess", "InUse"),
        }[first]
    )


async def test_who_registers_versions_of_a_run_does_not_go_past_whoever_waits_to_change_it(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await a_version(graph, unique)
    run = await a_run(graph, unique)
    change = {"id": run, "status": "COMPLETED"}

    async with asyncio.timeout(PATIENCE):
        # The first has the run and waits for the model; the others come one after the other.
        async with sql.transaction():
            await sql.execute("SELECT FROM model WHERE name = $1 FOR UPDATE", unique)
            tasks = []
            for mutation in (
                register(graph, unique, runId=run),
                graph.mutate("updateRun", change, "run { id }"),
                register(graph, unique, runId=run),
            ):
                tasks.append(asyncio.create_task(mutation))
                await waiting(sql, len(tasks))
        await gather(*tasks)

    rows = await sql.fetch(
        "SELECT type FROM event WHERE subject_id = $1 OR after ->> 'model_name' = $2 ORDER BY id",
        ids.decode("Run", run),
        unique,
    )
    assert [row["type"] for row in rows] == [
        *("model_version.registered", "run.created"),
        *("model_version.registered", "run.status_changed", "model_version.registered"),
    ]
