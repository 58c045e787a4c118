"""Going back to the last good deployment, over GraphQL."""

import asyncpg
import pytest

from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_version, a_version_in
from tests.statements import rows

DEPLOYMENT = """deployment {
    id version environment status statusMessage health endpoint
    config { instances instanceType autoScaling }
    createdBy deployedAt revision modelVersion { id } rollbackFrom { id status }
    statusHistory { from to actor message }
}"""


async def a_good_deployment(
    graph: Graph, version: Json, environment: str = "DEVELOPMENT", end: str | None = None
) -> str:
    """The id of a deployment that was ACTIVE and HEALTHY, and perhaps came to an end then."""
    id = await a_deployment(graph, version, environment, "ACTIVE")
    await report(graph, id, health="HEALTHY")
    if end is not None:
        await report(graph, id, status=end)
    return id


async def report(graph: Graph, id: str, **changes: object) -> None:
    await graph.done("updateDeployment", {"id": id, **changes}, "deployment { id }")


async def set_stage(graph: Graph, version: Json, stage: str) -> None:
    input = {"modelVersion": {"id": version["id"]}, "stage": stage}
    await graph.done("setStage", input, "modelVersion { id }")


async def roll_back(graph: Graph, id: str, **input: object) -> Json:
    """The new deployment of a rollback that must work."""
    return await graph.done("rollbackDeployment", {"id": id, **input}, DEPLOYMENT)


async def state(graph: Graph, live: Live, model: str) -> Json:
    """All that a rollback could change about a model, for comparing before and after."""
    found = await graph.query(
        """query ($name: String!) {
          deployments(filter: {modelName: $name}) { nodes { id status statusMessage revision } }
          model(name: $name) {
            versions { nodes { version stage revision updatedAt deploymentCount } }
            stageHistory { nodes { stage cause validFrom validTo modelVersion { version } } }
          }
        }""",
        {"name": model},
    )
    return {**found, "live": await live_deployments(live, model)}


async def live_deployments(live: Live, model: str) -> dict[str, int]:
    """What the versions' rows count."""
    statement = "SELECT version, live_deployments FROM model_version WHERE model_name = :model"
    return dict(await rows(live.database, statement, model=model))


async def stages(graph: Graph, model: str) -> dict[str, str]:
    found = await graph.query(
        "query ($name: String!) { model(name: $name) { versions { nodes { version stage } } } }",
        {"name": model},
    )
    return {node["version"]: node["stage"] for node in found["model"]["versions"]["nodes"]}


def no_good_one(model: str, environment: str, version: str) -> Json:
    return {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": f"No earlier deployment of another version of {model} in {environment} was "
        f"ACTIVE and HEALTHY and can be gone back to. Another configuration of version {version} "
        "is deployed with createDeployment.",
        "path": ["id"],
    }


async def test_the_last_deployment_is_so_although_the_clock_of_the_database_goes_back(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # given: one that was good, an hour ahead of the clock, then another, and then a bad one
    versions = [await a_version(graph, unique) for _ in range(3)]
    first = await a_good_deployment(graph, versions[0])
    for statement in (
        "UPDATE deployment SET created_at = created_at + interval '1 hour', "
        "healthy_at = healthy_at + interval '1 hour' WHERE id = $1",
        "UPDATE deployment_transition SET at = at + interval '1 hour' WHERE deployment_id = $1",
    ):
        await sql.execute(statement, ids.decode("Deployment", first))
    good = await a_good_deployment(graph, versions[1])
    bad = await a_deployment(graph, versions[2], status="ACTIVE")

    # when
    refused = await graph.mutate("rollbackDeployment", {"id": good})
    new = await roll_back(graph, bad)
    await report(graph, first, status="TERMINATED")

    # then
    assert refused["message"] == (
        f"A later deployment of {unique} in DEVELOPMENT is ACTIVE, with version 3; it is the one "
        "to go back from."
    )
    assert new["version"] == "2"
    query = """query ($name: String!) { deployments(filter: { modelName: $name }) { nodes { id } }
        active: deployments(filter: { modelName: $name, activeAt: "2999-01-01T00:00:00Z" }) {
            nodes { id } } }"""
    found = await graph.query(query, {"name": unique})
    assert [node["id"] for node in found["deployments"]["nodes"]] == [new["id"], bad, good, first]
    assert [node["id"] for node in found["active"]["nodes"]] == [good]


async def test_a_rollback_makes_the_last_good_deployment_again(
    graph: Graph, live: Live, unique: str
) -> None:
    one, two = await a_version(graph, unique), await a_version(graph, unique)
    made = await graph.done(
        "createDeployment",
        {
            "modelVersion": {"id": one["id"]},
            "environment": "DEVELOPMENT",
            "config": {"instances": 4, "instanceType": "cpu.big", "autoScaling": True},
        },
        DEPLOYMENT,
    )
    for status in ("VALIDATING", "DEPLOYING"):
        await report(graph, made["id"], status=status)
    await report(graph, made["id"], status="ACTIVE", health="HEALTHY", endpoint="https://one")
    bad = await a_deployment(graph, two, status="ACTIVE")

    async with Graph(live.url, "oncall") as oncall:
        new = await roll_back(oncall, bad, reason="error rate")

    assert new == {
        "id": new["id"],
        "version": "1",
        "environment": "DEVELOPMENT",
        "status": "PENDING",
        "statusMessage": "error rate",
        "health": "UNKNOWN",
        "endpoint": "https://one",
        "config": {"instances": 4, "instanceType": "cpu.big", "autoScaling": True},
        "createdBy": "oncall",
        "deployedAt": None,
        "revision": 1,
        "modelVersion": {"id": one["id"]},
        "rollbackFrom": {"id": bad, "status": "ROLLBACK"},
        "statusHistory": [
            {"from": None, "to": "PENDING", "actor": "oncall", "message": "error rate"}
        ],
    }
    assert new["id"] not in (made["id"], bad)
    found = await graph.query(
        "query ($bad: ID!, $good: ID!) { bad: node(id: $bad) { ... on Deployment { status "
        "statusMessage revision statusHistory { from to actor message } } } "
        "good: node(id: $good) { ... on Deployment { status revision } } }",
        {"bad": bad, "good": made["id"]},
    )
    assert found["bad"]["statusHistory"].pop() == {
        "from": "ACTIVE",
        "to": "ROLLBACK",
        "actor": "oncall",
        "message": "error rate",
    }
    assert (found["bad"]["status"], found["bad"]["statusMessage"], found["bad"]["revision"]) == (
        "ROLLBACK",
        "error rate",
        5,
    )
    assert found["good"] == {"status": "ACTIVE", "revision": 4}
    assert await live_deployments(live, unique) == {"1": 2, "2": 0}


async def test_a_rollback_goes_to_the_one_that_was_good_last_not_to_the_last_made(
    graph: Graph, unique: str
) -> None:
    older, newer, unproven, bad = [await a_version(graph, unique) for _ in range(4)]
    first = await a_deployment(graph, older, status="ACTIVE")
    await a_good_deployment(graph, newer)
    await report(graph, first, health="HEALTHY")
    await a_deployment(graph, unproven, status="ACTIVE")
    id = await a_deployment(graph, bad, status="ACTIVE")

    assert (await roll_back(graph, id))["modelVersion"] == {"id": older["id"]}


async def test_a_later_health_report_does_not_put_an_old_deployment_first(
    graph: Graph, unique: str
) -> None:
    old, last, bad = [await a_version(graph, unique) for _ in range(3)]
    still_running = await a_good_deployment(graph, old)
    await a_good_deployment(graph, last)
    for health in ("DEGRADED", "HEALTHY", "HEALTHY"):
        await report(graph, still_running, health=health)
    id = await a_deployment(graph, bad, status="ACTIVE")

    assert (await roll_back(graph, id))["modelVersion"] == {"id": last["id"]}


async def test_health_that_was_known_before_it_became_active_counts(
    graph: Graph, unique: str
) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    first = await a_deployment(graph, good, status="DEPLOYING")
    await report(graph, first, health="HEALTHY")
    await report(graph, first, status="ACTIVE")
    await report(graph, first, status="TERMINATED")
    id = await a_deployment(graph, bad, status="ACTIVE")

    assert (await roll_back(graph, id))["modelVersion"] == {"id": good["id"]}


@pytest.mark.parametrize("spoilt", ["FAILED", "ROLLBACK"])
async def test_what_failed_or_was_rolled_back_from_is_not_good_even_when_it_was_before(
    graph: Graph, unique: str, spoilt: str
) -> None:
    good, spoilt_one, bad = [await a_version(graph, unique) for _ in range(3)]
    await a_good_deployment(graph, good, end="TERMINATED")
    former = await a_good_deployment(graph, spoilt_one, end=spoilt)
    await report(graph, former, status="TERMINATED")
    id = await a_deployment(graph, bad, status="ACTIVE")

    assert (await roll_back(graph, id))["modelVersion"] == {"id": good["id"]}


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [{"health": "HEALTHY"}, {"status": "TERMINATED"}],
        [
            {"status": "VALIDATING"},
            {"status": "DEPLOYING", "health": "HEALTHY"},
            {"health": "DEGRADED"},
            {"status": "ACTIVE"},
            {"status": "TERMINATED"},
        ],
        [
            {"status": "VALIDATING"},
            {"status": "DEPLOYING"},
            {"status": "ACTIVE", "health": "UNHEALTHY"},
        ],
    ],
    ids=["never started", "never active", "healthy only at other times", "unhealthy"],
)
async def test_without_a_good_deployment_there_is_no_rollback(
    graph: Graph, live: Live, unique: str, reports: list[Json]
) -> None:
    former, bad = await a_version(graph, unique), await a_version(graph, unique)
    first = await a_deployment(graph, former)
    for changes in reports:
        await report(graph, first, **changes)
    id = await a_good_deployment(graph, bad)
    before = await state(graph, live, unique)

    result = await graph.mutate("rollbackDeployment", {"id": id, "reason": "?"}, DEPLOYMENT)

    assert result == no_good_one(unique, "DEVELOPMENT", "2")
    assert await state(graph, live, unique) == before


async def test_deployments_of_other_models_and_in_other_environments_are_not_gone_back_to(
    graph: Graph, live: Live, unique: str
) -> None:
    former, bad = [await a_version_in(graph, unique, "STAGING") for _ in range(2)]
    other = await a_version_in(graph, f"{unique}-b", "STAGING")
    await a_good_deployment(graph, former, "DEVELOPMENT")
    await a_good_deployment(graph, other, "STAGING")
    id = await a_good_deployment(graph, bad, "STAGING")
    before = await state(graph, live, unique)

    result = await graph.mutate("rollbackDeployment", {"id": id})

    assert result == no_good_one(unique, "STAGING", "2")
    assert await state(graph, live, unique) == before


async def test_going_back_never_leads_to_a_later_deployment(
    graph: Graph, live: Live, unique: str
) -> None:
    bad, later = await a_version(graph, unique), await a_version(graph, unique)
    id = await a_deployment(graph, bad, status="ACTIVE")
    await a_good_deployment(graph, later, end="TERMINATED")
    before = await state(graph, live, unique)

    result = await graph.mutate("rollbackDeployment", {"id": id})

    assert result == no_good_one(unique, "DEVELOPMENT", "1")
    assert await state(graph, live, unique) == before


@pytest.mark.parametrize(
    ("status", "instead"),
    [
        ("PENDING", "terminate it first"),
        ("VALIDATING", "terminate it first"),
        ("DEPLOYING", "terminate it first"),
        ("ACTIVE", "it is the one to go back from"),
    ],
)
async def test_what_a_live_deployment_has_replaced_is_not_rolled_back(
    graph: Graph, live: Live, unique: str, status: str, instead: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "PRODUCTION")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    later = await a_version_in(graph, unique, "PRODUCTION")
    await a_deployment(graph, later, "PRODUCTION", status)
    before = await state(graph, live, unique)

    result = await graph.mutate("rollbackDeployment", {"id": id})

    assert result == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": f"A later deployment of {unique} in PRODUCTION is {status}, with version 3; "
        f"{instead}.",
        "path": ["id"],
    }
    assert await state(graph, live, unique) == before


async def test_later_deployments_that_are_over_or_elsewhere_do_not_hinder_a_rollback(
    graph: Graph, unique: str
) -> None:
    good, bad = await a_version(graph, unique), await a_version_in(graph, unique, "STAGING")
    other = await a_version(graph, f"{unique}-b")
    await a_good_deployment(graph, good)
    id = await a_deployment(graph, bad, status="ACTIVE")
    for status in ("FAILED", "ROLLBACK", "TERMINATED"):
        await a_deployment(graph, bad, status=status)
    await a_deployment(graph, bad, "STAGING", "ACTIVE")
    await a_deployment(graph, other, status="ACTIVE")

    assert (await roll_back(graph, id))["modelVersion"] == {"id": good["id"]}


async def test_a_failed_deployment_is_rolled_back_too(
    graph: Graph, live: Live, unique: str
) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, good, end="TERMINATED")
    id = await a_deployment(graph, bad, status="FAILED")

    new = await roll_back(graph, id)

    assert new["rollbackFrom"] == {"id": id, "status": "ROLLBACK"}
    assert await live_deployments(live, unique) == {"1": 1, "2": 0}


@pytest.mark.parametrize("environment", ["DEVELOPMENT", "PRODUCTION"])
async def test_a_rollback_leaves_the_bad_version_however_often_that_was_deployed(
    graph: Graph, live: Live, unique: str, environment: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, environment)
    bad = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, bad, environment)
    id = await a_good_deployment(graph, bad, environment)

    new = await roll_back(graph, id)

    assert new["modelVersion"] == {"id": good["id"]}
    assert await live_deployments(live, unique) == {"1": 2, "2": 1}


async def test_a_version_that_alone_was_deployed_is_not_rolled_back(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, version, "PRODUCTION")
    id = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    before = await state(graph, live, unique)

    result = await graph.mutate("rollbackDeployment", {"id": id})

    assert result == no_good_one(unique, "PRODUCTION", "1")
    assert await state(graph, live, unique) == before


async def test_of_two_rollbacks_in_a_row_neither_goes_to_what_was_rolled_back(
    graph: Graph, live: Live, unique: str
) -> None:
    older, good, bad = [await a_version(graph, unique) for _ in range(3)]
    await a_good_deployment(graph, older, end="TERMINATED")
    await a_good_deployment(graph, good, end="TERMINATED")
    id = await a_good_deployment(graph, bad)

    first = await roll_back(graph, id, reason="first")
    for status in ("VALIDATING", "DEPLOYING", "ACTIVE"):
        await report(graph, first["id"], status=status, health="HEALTHY")
    second = await roll_back(graph, first["id"], reason="second")

    assert [(new["version"], new["rollbackFrom"]["id"]) for new in (first, second)] == [
        ("2", id),
        ("1", first["id"]),
    ]
    assert await live_deployments(live, unique) == {"1": 1, "2": 0, "3": 0}


async def test_a_rollback_that_worked_can_itself_be_gone_back_to(graph: Graph, unique: str) -> None:
    good, bad, worse = [await a_version(graph, unique) for _ in range(3)]
    await report(graph, await a_good_deployment(graph, good), endpoint="https://first")
    new = await roll_back(graph, await a_good_deployment(graph, bad))
    for status in ("VALIDATING", "DEPLOYING", "ACTIVE"):
        await report(graph, new["id"], status=status, health="HEALTHY")
    await report(graph, new["id"], endpoint="https://again")

    last = await roll_back(graph, await a_deployment(graph, worse, status="ACTIVE"))

    assert (last["version"], last["endpoint"]) == ("1", "https://again")


@pytest.mark.parametrize("status", ["PENDING", "VALIDATING", "DEPLOYING", "ROLLBACK", "TERMINATED"])
async def test_only_an_active_or_failed_deployment_can_be_rolled_back(
    graph: Graph, live: Live, unique: str, status: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "PRODUCTION")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", status)
    before = await state(graph, live, unique)
    allowed = {
        "PENDING": ["FAILED", "TERMINATED", "VALIDATING"],
        "VALIDATING": ["DEPLOYING", "FAILED", "TERMINATED"],
        "DEPLOYING": ["ACTIVE", "FAILED", "TERMINATED"],
        "ROLLBACK": ["TERMINATED"],
        "TERMINATED": [],
    }[status]

    result = await graph.mutate("rollbackDeployment", {"id": id, "reason": "?"})

    assert result == {
        "__typename": "InvalidTransition",
        "code": "INVALID_TRANSITION",
        "message": f"{status} cannot become ROLLBACK; allowed next: "
        f"{', '.join(allowed) or 'nothing: it is final'}.",
        "path": ["id"],
        "from": status,
        "to": "ROLLBACK",
        "allowed": allowed,
    }
    assert await state(graph, live, unique) == before
    assert await stages(graph, unique) == {"1": "ARCHIVED", "2": "PRODUCTION"}


async def test_a_version_that_was_deleted_is_passed_over(
    graph: Graph, live: Live, unique: str
) -> None:
    older, deleted, bad = [await a_version(graph, unique) for _ in range(3)]
    await a_good_deployment(graph, older, end="TERMINATED")
    await a_good_deployment(graph, deleted, end="TERMINATED")
    id = await a_deployment(graph, bad, status="ACTIVE")

    async def delete(version: Json) -> None:
        input = {"modelVersion": {"id": version["id"]}}
        await graph.done("deleteModelVersion", input, "modelVersion { id }")

    await delete(deleted)
    new = await roll_back(graph, id)
    await graph.done("terminateDeployment", {"id": new["id"]}, "deployment { id }")
    await delete(older)
    again = await a_deployment(graph, bad, status="ACTIVE")
    before = await state(graph, live, unique)
    result = await graph.mutate("rollbackDeployment", {"id": again})

    assert new["modelVersion"] == {"id": older["id"]}
    assert result == no_good_one(unique, "DEVELOPMENT", "3")
    assert await state(graph, live, unique) == before


async def test_the_bad_version_may_have_been_deleted(graph: Graph, unique: str) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, good)
    id = await a_deployment(graph, bad, status="FAILED")
    input = {"modelVersion": {"id": bad["id"]}}
    await graph.done("deleteModelVersion", input, "modelVersion { id }")

    new = await roll_back(graph, id)

    assert (new["version"], new["rollbackFrom"]["id"]) == ("1", id)


async def test_in_production_the_stage_comes_back_with_the_deployment(
    graph: Graph, live: Live, unique: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "PRODUCTION", end="TERMINATED")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    assert await stages(graph, unique) == {"1": "ARCHIVED", "2": "PRODUCTION"}

    async with Graph(live.url, "oncall") as oncall:
        new = await roll_back(oncall, id, reason="wrong labels")

    assert (new["version"], new["environment"]) == ("1", "PRODUCTION")
    assert await stages(graph, unique) == {"1": "PRODUCTION", "2": "ARCHIVED"}
    found = await graph.query(
        """query ($name: String!) { model(name: $name) { stageHistory(first: 4) { nodes {
             modelVersion { version } stage validFrom validTo actor reason cause } } } }""",
        {"name": unique},
    )
    entries = found["model"]["stageHistory"]["nodes"]
    moment = entries[0]["validFrom"]
    assert sorted(entries[:2], key=lambda entry: str(entry["modelVersion"])) == [
        {
            "modelVersion": {"version": "1"},
            "stage": "PRODUCTION",
            "validFrom": moment,
            "validTo": None,
            "actor": "oncall",
            "reason": "wrong labels",
            "cause": "ROLLED_BACK",
        },
        {
            "modelVersion": {"version": "2"},
            "stage": "ARCHIVED",
            "validFrom": moment,
            "validTo": None,
            "actor": "oncall",
            "reason": "Displaced by version 1.",
            "cause": "DISPLACED",
        },
    ]
    # What each of the two was before ends where the new entry begins.
    assert sorted(
        (entry["modelVersion"]["version"], entry["stage"])
        for entry in entries
        if entry["validTo"] == moment
    ) == [("1", "ARCHIVED"), ("2", "PRODUCTION")]


async def test_what_one_rollback_changes_becomes_visible_at_once(
    graph: Graph, live: Live, unique: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "PRODUCTION")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")

    new = await roll_back(graph, id)

    touched = {"deployment": [id, new["id"]], "model_version": [good["id"], bad["id"]]}
    found: list[object] = []
    for table, wanted in touched.items():
        for global_id in wanted:
            statement = f"SELECT xmin::text FROM {table} WHERE id = :id"
            found += await rows(live.database, statement, id=ids.split(global_id)[1])
    assert len(found) == 4
    assert len(set(found)) == 1


async def test_whoever_holds_production_by_then_makes_way(graph: Graph, unique: str) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "PRODUCTION")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    await a_version_in(graph, unique, "PRODUCTION")
    await set_stage(graph, bad, "STAGING")

    await roll_back(graph, id)

    assert await stages(graph, unique) == {"1": "PRODUCTION", "2": "STAGING", "3": "ARCHIVED"}


async def test_a_rollback_fills_a_production_stage_that_is_empty(graph: Graph, unique: str) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "PRODUCTION")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    await set_stage(graph, bad, "ARCHIVED")

    await roll_back(graph, id)

    assert await stages(graph, unique) == {"1": "PRODUCTION", "2": "ARCHIVED"}


@pytest.mark.parametrize("stage", ["ARCHIVED", "EXPERIMENTAL"])
async def test_in_staging_the_version_comes_back_to_staging(
    graph: Graph, unique: str, stage: str
) -> None:
    good = await a_version_in(graph, unique, "STAGING")
    await a_good_deployment(graph, good, "STAGING")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "STAGING", "ACTIVE")
    await set_stage(graph, good, stage)

    await roll_back(graph, id, reason="back")

    assert await stages(graph, unique) == {"1": "STAGING", "2": "PRODUCTION"}
    found = await graph.query(
        "query ($name: String!) { model(name: $name) { stageHistory(first: 1) { nodes { cause "
        "reason stage modelVersion { version } } } } }",
        {"name": unique},
    )
    assert found["model"]["stageHistory"]["nodes"] == [
        {
            "cause": "ROLLED_BACK",
            "reason": "back",
            "stage": "STAGING",
            "modelVersion": {"version": "1"},
        }
    ]


async def test_in_staging_a_version_in_production_stays_there(
    graph: Graph, live: Live, unique: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, "STAGING")
    bad = await a_version_in(graph, unique, "STAGING")
    id = await a_deployment(graph, bad, "STAGING", "ACTIVE")
    before = await state(graph, live, unique)

    await roll_back(graph, id)

    after = await state(graph, live, unique)
    assert after["model"]["stageHistory"] == before["model"]["stageHistory"]


async def test_in_development_stages_are_left_alone(graph: Graph, live: Live, unique: str) -> None:
    good = await a_version_in(graph, unique, "ARCHIVED")
    await a_good_deployment(graph, good)
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, status="ACTIVE")
    before = await state(graph, live, unique)

    await roll_back(graph, id)

    after = await state(graph, live, unique)
    assert after["model"]["stageHistory"] == before["model"]["stageHistory"]
    assert await stages(graph, unique) == {"1": "ARCHIVED", "2": "PRODUCTION"}


async def test_the_same_idempotency_key_rolls_back_once(
    graph: Graph, live: Live, unique: str
) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, good)
    id = await a_deployment(graph, bad, status="ACTIVE")

    first = await roll_back(graph, id, idempotencyKey=unique)
    before = await state(graph, live, unique)
    again = await roll_back(graph, id, idempotencyKey=unique)
    other = await graph.mutate(
        "rollbackDeployment", {"id": id, "reason": "another", "idempotencyKey": unique}
    )

    assert again == first
    assert other["__typename"] == "IdempotencyConflict"
    assert await state(graph, live, unique) == before


async def test_a_rollback_may_insist_on_the_revision_that_it_was_decided_on(
    graph: Graph, unique: str
) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, good)
    id = await a_deployment(graph, bad, status="ACTIVE")

    stale = await graph.mutate("rollbackDeployment", {"id": id, "expectedRevision": 3})
    new = await roll_back(graph, id, expectedRevision=4)

    assert (stale["__typename"], stale["currentRevision"]) == ("StaleRevision", 4)
    assert new["rollbackFrom"] == {"id": id, "status": "ROLLBACK"}


async def test_an_unacceptable_reason_is_refused(graph: Graph, live: Live, unique: str) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, good)
    id = await a_deployment(graph, bad, status="ACTIVE")
    before = await state(graph, live, unique)

    for mutation in ("rollbackDeployment", "terminateDeployment"):
        for reason in ("x" * 20_001, "\x00"):
            result = await graph.mutate(mutation, {"id": id, "reason": reason})
            assert (result["__typename"], result["path"]) == ("InvalidInput", ["reason"])
    assert await state(graph, live, unique) == before
