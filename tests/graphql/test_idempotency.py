"""Repeating a mutation with its idempotency key: the same object, and no second effect."""

import asyncio
from copy import deepcopy
from typing import Any

import asyncpg
import pytest

from lifecycle.promotion.repository import _POLICIES
from tests.client import Graph, Json
from tests.conftest import Live, serving
from tests.mutations import (
    MUTATIONS,
    World,
    a_world,
    contents,
    document,
    global_id,
    headers,
    inputs,
)

# What each mutation's success shows of the object that it made or changed.
OBJECTS = {
    "createExperiment": "experiment { id revision }",
    "updateExperiment": "experiment { id revision }",
    "logRun": "run { id revision }",
    "updateRun": "run { id revision }",
    "logMetrics": "run { id revision metrics { key value kind step } }",
    "logRunOutput": "run { id revision logs { totalCount nodes { line message } } }",
    "beginArtifactUpload": "artifactUpload { id path alreadyStored completeBy }",
    "completeArtifactUpload": "artifact { path digest area } run { id revision }",
    "registerModelVersion": "modelVersion { id version revision }",
    "updateModelVersion": "modelVersion { id revision metrics { key value kind } }",
    "deleteModelVersion": "modelVersion { id revision deletedAt stage }",
    "updateModel": "model { id revision }",
    "setStage": "modelVersion { id stage revision } displaced { id stage }",
    "validateModelVersion": "report { passed stage policyVersion createdAt }",
    "submitForApproval": "approval { status submittedAt } modelVersion { id revision }",
    "decideApproval": "approval { status decidedAt } modelVersion { id revision }",
    "withdrawApproval": "approval { status notes } modelVersion { id revision }",
    "setStagePolicy": "stagePolicy { id version rules { kind } }",
    "appendChecklistItem": "checklistItem { id status } modelVersion { id revision }",
    "markChecklistItem": "checklistItem { id status decidedAt } modelVersion { id revision }",
    "createDeployment": "deployment { id status revision }",
    "updateDeployment": "deployment { id status revision logs { totalCount } }",
    "rollbackDeployment": "deployment { id status revision rollbackFrom { id status } }",
    "terminateDeployment": "deployment { id status revision terminatedAt }",
    "recordDriftEvent": "driftEvent { id status revision }",
    "updateDriftEvent": "driftEvent { id status revision resolvedBy }",
    "setDriftPolicy": "driftPolicy { id version }",
    "retryMlflowSync": "mlflowServer { uri } items { id attempts nextAttemptAt }",
    "resolveMlflowConflict": "mlflowItem { id nextAttemptAt mlflow { state conflicts { field } } }",
    "grantRole": "roleGrant { id createdAt grant { role } }",
    "revokeRole": "roleGrant { id revokedAt }",
    "createApiToken": "apiToken { id prefix grants { role } }",
    "revokeApiToken": "apiToken { id revokedAt }",
}

# One value of each input, changed to another that would be acceptable too.
OTHERWISE: dict[str, Json] = {
    "createExperiment": {"description": "other"},
    "updateExperiment": {"owner": None},
    "logRun": {"params": []},
    "updateRun": {"name": None},
    "logMetrics": {"series": []},
    "logRunOutput": {"lines": [{"message": "other"}]},
    "beginArtifactUpload": {"area": "INTERNAL"},
    "registerModelVersion": {"checklist": []},
    "updateModelVersion": {"sizeBytes": None},
    "deleteModelVersion": {"reason": "other"},
    "updateModel": {"owner": None},
    "setStage": {"reason": "other"},
    "validateModelVersion": {"stage": "PRODUCTION"},
    "submitForApproval": {"notes": "other"},
    "decideApproval": {"notes": "other"},
    "withdrawApproval": {"notes": "other"},
    "setStagePolicy": {"rules": []},
    "appendChecklistItem": {"title": "other"},
    "markChecklistItem": {"note": "other"},
    "createDeployment": {"config": {"instances": 2}},
    "updateDeployment": {"logLines": []},
    "rollbackDeployment": {"reason": "other"},
    "terminateDeployment": {"reason": "other"},
    "recordDriftEvent": {"threshold": 0.16},
    "updateDriftEvent": {"resolution": "other"},
    "setDriftPolicy": {"reason": "other"},
    "retryMlflowSync": {"ids": None},
    "resolveMlflowConflict": {"resolution": "KEEP_OURS"},
    "grantRole": {"subject": "somebody"},
    "revokeRole": {"id": global_id("RoleGrant")},
    "createApiToken": {"grants": [{"role": "VIEWER"}]},
    "revokeApiToken": {"id": global_id("ApiToken")},
}


@pytest.fixture
async def world(quiet: Live, quiet_graph: Graph, unique: str) -> World:
    return await a_world(quiet, quiet_graph, unique)


@pytest.fixture(scope="module")
async def shared(quiet: Live, quiet_graph: Graph) -> World:
    """A world to which tests only add, each under keys of its own."""
    return await a_world(quiet, quiet_graph, "idempotency")


def otherwise(mutation: str, world: World) -> Json:
    """What would be acceptable too, but is something else."""
    if mutation == "completeArtifactUpload":
        return {"id": world.other_upload}
    return OTHERWISE[mutation]


def test_no_mutation_is_forgotten_here() -> None:
    assert set(OBJECTS) == {*OTHERWISE, "completeArtifactUpload"} == set(MUTATIONS)


async def send(graph: Graph, mutation: str, input: Json, **headers: str) -> Any:
    data = await graph.query(document(mutation, OBJECTS[mutation]), {"input": input}, **headers)
    return data[mutation]


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_key_stands_for_what_it_did_the_first_time(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str
) -> None:
    key = {"idempotencyKey": world.name}
    known = inputs(world)
    other = next(name for name in MUTATIONS if name != mutation)
    by = headers(mutation)

    first, at_once = await asyncio.gather(
        *(send(quiet_graph, mutation, {**known[mutation], **key}, **by) for _ in range(2))
    )
    assert first["__typename"].endswith("Success"), first
    before = await contents(quiet.database)
    again = await send(quiet_graph, mutation, deepcopy({**known[mutation], **key}), **by)
    changed = {**known[mutation], **otherwise(mutation, world), **key}
    something_else = await send(quiet_graph, mutation, changed, **by)
    elsewhere = await send(quiet_graph, other, {**known[other], **key}, **by)

    assert at_once == again == first
    assert (
        something_else
        == elsewhere
        == {
            "__typename": "IdempotencyConflict",
            "code": "IDEMPOTENCY_CONFLICT",
            "message": f"The idempotency key {world.name!r} was used before with another input; "
            "use a new one.",
            "path": ["idempotencyKey"],
        }
    )
    assert await contents(quiet.database) == before


async def test_ten_calls_at_once_with_one_key_make_one_object(
    quiet: Live, quiet_graph: Graph, shared: World, unique: str
) -> None:
    before = await contents(quiet.database)
    input = {"experimentName": shared.name, "idempotencyKey": unique}

    runs = await asyncio.gather(
        *(quiet_graph.done("logRun", input, "run { id }") for _ in range(10))
    )

    assert len({run["id"] for run in runs}) == 1
    after = await contents(quiet.database)
    assert {table: after[table][0] - before[table][0] for table in after} == {
        **dict.fromkeys(after, 0),
        "run": 1,
        "event": 1,
        "idempotency_key": 1,
    }


async def test_the_order_of_fields_does_not_make_another_input(
    quiet_graph: Graph, shared: World, unique: str
) -> None:
    input = {**inputs(shared)["logRun"], "idempotencyKey": unique}

    first = await send(quiet_graph, "logRun", input)
    again = await send(quiet_graph, "logRun", dict(reversed(input.items())))

    assert again == first


async def test_a_field_that_is_null_is_not_one_that_is_absent(
    quiet_graph: Graph, shared: World, unique: str
) -> None:
    input = {"name": shared.name, "idempotencyKey": unique}
    await send(quiet_graph, "updateExperiment", input)

    result = await send(quiet_graph, "updateExperiment", {**input, "description": None})

    assert result["__typename"] == "IdempotencyConflict"


async def test_actors_do_not_share_keys(
    quiet: Live, quiet_graph: Graph, shared: World, unique: str
) -> None:
    input = {"experimentName": shared.name, "idempotencyKey": unique}
    selection = "run { id createdBy }"

    mine = await quiet_graph.done("logRun", input, selection)
    async with Graph(quiet.url, actor="somebody else") as other:
        theirs = await other.done("logRun", input, selection)
        different = await other.done(
            "logRun", {**input, "name": "n", "idempotencyKey": f"{unique}-2"}, selection
        )
    unclaimed = {"experimentName": shared.name, "idempotencyKey": f"{unique}-2"}
    mine_too = await quiet_graph.done("logRun", unclaimed, selection)

    assert mine["createdBy"] == "tester"
    assert theirs["createdBy"] == "somebody else"
    assert len({run["id"] for run in (mine, theirs, different, mine_too)}) == 4


async def test_another_process_knows_the_keys_of_the_first(
    quiet: Live, quiet_graph: Graph, world: World
) -> None:
    input = {**inputs(world)["setStage"], "idempotencyKey": world.name}
    first = await send(quiet_graph, "setStage", input)

    async with serving(quiet.database.url) as another, Graph(another.url) as graph:
        again = await send(graph, "setStage", input)
        other = await send(graph, "setStage", {**input, "reason": "other"})

    assert again == first
    assert other["__typename"] == "IdempotencyConflict"


async def test_two_processes_agree_on_a_key_that_both_get_at_once(
    quiet: Live, quiet_graph: Graph, shared: World, unique: str
) -> None:
    input = {**inputs(shared)["logRun"], "idempotencyKey": unique}

    async with serving(quiet.database.url) as another, Graph(another.url) as graph:
        first, second = await asyncio.gather(
            send(quiet_graph, "logRun", input), send(graph, "logRun", input)
        )

    assert first["__typename"] == "LogRunSuccess"
    assert second == first


async def test_a_key_that_is_chosen_for_it_holds_nothing_else(
    live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    # given: a key that PostgreSQL's own hash makes the lock of the policies of
    actor, key = "chooser", "kkkk.l@p)QQy;',3"
    aimed = await sql.fetchval("SELECT hashtextextended($1, 0)", f"{actor}\n{key}")
    assert aimed == _POLICIES
    async with Graph(live.url, actor=actor) as graph, sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock_shared($1)", _POLICIES)

        # when
        made = await graph.mutate("createExperiment", {"name": unique, "idempotencyKey": key})

    # then
    assert made["__typename"] == "CreateExperimentSuccess"


@pytest.mark.parametrize(
    ("mutation", "refused", "accepted", "error"),
    [
        ("setStage", {"stage": "PRODUCTION"}, {"stage": "STAGING"}, "InvalidTransition"),
        ("setStage", {"expectedRevision": 7}, {"expectedRevision": 1}, "StaleRevision"),
        ("logRun", {"experimentName": "nowhere"}, {}, "NotFound"),
        ("logRun", {"leaseSeconds": 0}, {"leaseSeconds": 1}, "InvalidInput"),
        ("createExperiment", {"name": None}, {}, "AlreadyExists"),
    ],
)
async def test_a_refused_call_does_not_use_up_its_key(
    quiet_graph: Graph,
    world: World,
    mutation: str,
    refused: Json,
    accepted: Json,
    error: str,
) -> None:
    input = {**inputs(world)[mutation], "idempotencyKey": world.name}
    if error == "AlreadyExists":
        refused = {"name": world.name}

    first = await send(quiet_graph, mutation, {**input, **refused})
    second = await send(quiet_graph, mutation, {**input, **accepted})

    assert first["__typename"] == error
    assert second["__typename"].endswith("Success"), second


async def test_without_a_key_each_call_is_new(quiet_graph: Graph, shared: World) -> None:
    input = {"experimentName": shared.name}

    first = await quiet_graph.done("logRun", input, "run { id }")
    second = await quiet_graph.done("logRun", input, "run { id }")
    third = await quiet_graph.done("logRun", {**input, "idempotencyKey": None}, "run { id }")

    assert len({run["id"] for run in (first, second, third)}) == 3


@pytest.mark.parametrize("key", ["", " ", "x" * 251, "a\x00b", "a\nb"])
async def test_a_key_must_be_a_short_line_of_text(
    quiet: Live, quiet_graph: Graph, shared: World, key: str
) -> None:
    before = await contents(quiet.database)

    result = await send(
        quiet_graph, "logRun", {"experimentName": shared.name, "idempotencyKey": key}
    )

    assert (result["__typename"], result["path"]) == ("InvalidInput", ["idempotencyKey"])
    assert await contents(quiet.database) == before
