"""Reviews, changes and decisions that happen at the same time.

Each race is run in both orders, held up at the version's lock so that the second really waits for
the first, and then freely, several times.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg
import pytest

from lifecycle.database import connect
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import VERSION, a_run, a_version
from tests.history import faults_in_history

ADMIN, ANN, BOB = ({"Lifecycle-Actor": name} for name in ("admin", "ann", "bob"))
GOOD, BAD = ([{"key": "accuracy", "value": value}] for value in (0.9, 0.5))
APPROVAL = "approval { status decidedBy decisions { actor decision } } modelVersion { stage }"
ROUNDS = range(6)
Action = Coroutine[Any, Any, Json]


async def waiting(sql: asyncpg.Connection) -> int:
    """How many wait for a lock of the database."""
    return int(
        await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


async def queued(live: Live, sql: asyncpg.Connection, version: str, *actions: Action) -> list[Json]:
    """What comes of these when each begins while those before it wait for the version, which is
    free only when all of them are there."""
    holder = await connect(live.database.url, "test")
    tasks: list[asyncio.Task[Json]] = []
    try:
        async with holder.transaction():
            statement = "SELECT FROM model_version WHERE id = $1 FOR NO KEY UPDATE"
            await holder.execute(statement, ids.decode("ModelVersion", version))
            for action in actions:
                tasks.append(asyncio.create_task(action))
                while sum(task.done() for task in tasks) + await waiting(sql) < len(tasks):
                    pass
    finally:
        await holder.close()
    return [await task for task in tasks]


async def events(sql: asyncpg.Connection, version: str) -> list[str]:
    """What the journal says about a version, in order."""
    rows = await sql.fetch(
        "SELECT type, after ->> 'approval_status' AS status FROM event "
        "WHERE subject_id = $1 ORDER BY id",
        ids.decode("ModelVersion", version),
    )
    return [(row["status"] or row["type"]).removeprefix("model_version.") for row in rows]


def by_id(version: Json, **input: object) -> Json:
    return {"modelVersion": {"id": version["id"]}, **input}


async def set_policy(graph: Graph, model: str, *rules: Json) -> Json:
    input = {"stage": "PRODUCTION", "modelName": model, "rules": list(rules)}
    return await graph.mutate("setStagePolicy", input, **ADMIN)


async def pending(graph: Graph, model: str, approvals: int = 1) -> Json:
    """A version that waits for so many approvals."""
    made = await a_version(graph, model, metrics=GOOD)
    await set_policy(graph, model, {"approvals": {"count": approvals}})
    await submit(graph, made)
    return made


async def in_staging(graph: Graph, model: str) -> Json:
    """A version that the policy has approved by itself."""
    made = await a_version(graph, model, metrics=GOOD)
    submitted = await submit(graph, made)
    assert submitted["approval"]["status"] == "APPROVED", submitted
    return made


async def submit(graph: Graph, version: Json) -> Json:
    return await graph.mutate("submitForApproval", by_id(version), APPROVAL)


async def approve(graph: Graph, version: Json, by: dict[str, str]) -> Json:
    return await graph.mutate("decideApproval", by_id(version, decision="APPROVE"), APPROVAL, **by)


async def promote(graph: Graph, version: Json) -> Json:
    return await graph.mutate("setStage", by_id(version, stage="PRODUCTION"))


async def change(graph: Graph, version: Json) -> Json:
    return await graph.mutate("updateModelVersion", by_id(version, metrics=BAD), VERSION)


async def status(graph: Graph, version: Json) -> tuple[str, str, list[str]]:
    """Its stage, its approval, and those that were before."""
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { "
        "stage approval { status } approvalHistory { status } } } }",
        {"id": version["id"]},
    )
    node = found["node"]
    former = [approval["status"] for approval in node["approvalHistory"][1:]]
    return node["stage"], node["approval"]["status"], former


async def run(
    order: str, live: Live, sql: asyncpg.Connection, version: Json, first: Action, second: Action
) -> tuple[Json, Json]:
    """Both at once; `order` says which of them has the version first, if that is said at all."""
    if order == "first":
        one, two = await queued(live, sql, version["id"], first, second)
    elif order == "second":
        two, one = await queued(live, sql, version["id"], second, first)
    else:
        one, two = await asyncio.gather(first, second)
    return one, two


in_each_order = pytest.mark.parametrize("order", ["first", "second", "free"])


@in_each_order
async def test_an_approval_is_never_in_force_for_a_content_that_nobody_approved(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, order: str
) -> None:
    for number in ROUNDS if order == "free" else [0]:
        made = await pending(graph, f"{unique}-{number}")

        decided, changed = await run(
            order,
            live,
            sql,
            made,
            approve(graph, made, ANN),
            change(graph, made),
        )

        assert changed["__typename"] == "UpdateModelVersionSuccess"
        story = await events(sql, made["id"])
        if decided["__typename"] == "DecideApprovalSuccess":
            assert order != "second"
            assert story == [
                "registered",
                "PENDING",
                "APPROVED",
                "stage_changed",
                "updated",
                "STALE",
            ]
        else:
            assert order != "first"
            assert (decided["__typename"], decided["from"]) == ("InvalidTransition", "STALE")
            assert story == ["registered", "PENDING", "updated", "STALE"]
        refused = await promote(graph, made)
        assert refused["__typename"] in ("ApprovalRequired", "InvalidTransition")


async def test_of_two_who_approve_at_once_one_decides_where_one_is_enough(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    for number in ROUNDS:
        made = await pending(graph, f"{unique}-{number}")

        results = await run(
            "free" if number else "first",
            live,
            sql,
            made,
            approve(graph, made, ANN),
            approve(graph, made, BOB),
        )

        won, lost = sorted(results, key=lambda result: result["__typename"])
        assert (won["approval"]["status"], won["modelVersion"]["stage"]) == ("APPROVED", "STAGING")
        assert won["approval"]["decisions"] == [
            {"actor": won["approval"]["decidedBy"], "decision": "APPROVE"}
        ]
        assert (lost["__typename"], lost["from"]) == ("InvalidTransition", "APPROVED")
        assert await events(sql, made["id"]) == [
            "registered",
            "PENDING",
            "APPROVED",
            "stage_changed",
        ]


async def test_of_two_who_approve_at_once_both_count_where_two_are_needed(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    for number in ROUNDS:
        made = await pending(graph, f"{unique}-{number}", approvals=2)

        results = await run(
            "free" if number else "first",
            live,
            sql,
            made,
            approve(graph, made, ANN),
            approve(graph, made, BOB),
        )

        assert [r["__typename"] for r in results] == ["DecideApprovalSuccess"] * 2
        said = max((result["approval"]["decisions"] for result in results), key=len)
        assert {each["actor"] for each in said} == {"ann", "bob"}
        assert await status(graph, made) == ("STAGING", "APPROVED", [])
        assert await events(sql, made["id"]) == [
            "registered",
            "PENDING",
            "PENDING",
            "APPROVED",
            "stage_changed",
        ]


@pytest.mark.parametrize(
    ("decision", "second", "then"),
    [("APPROVE", "Conflict", "PENDING"), ("REJECT", "DecideApprovalSuccess", "REJECTED")],
)
async def test_who_approves_twice_is_heard_once_but_may_still_object(
    graph: Graph,
    live: Live,
    sql: asyncpg.Connection,
    unique: str,
    decision: str,
    second: str,
    then: str,
) -> None:
    made = await pending(graph, unique, approvals=2)

    results = await queued(
        live,
        sql,
        made["id"],
        approve(graph, made, ANN),
        graph.mutate("decideApproval", by_id(made, decision=decision), APPROVAL, **ANN),
    )

    assert [result["__typename"] for result in results] == ["DecideApprovalSuccess", second]
    assert (await status(graph, made))[1] == then


@in_each_order
async def test_a_submission_and_a_withdrawal_at_once_leave_one_of_two_stories(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, order: str
) -> None:
    for number in ROUNDS if order == "free" else [0]:
        made = await pending(graph, f"{unique}-{number}")

        submitted, withdrawn = await run(
            order,
            live,
            sql,
            made,
            submit(graph, made),
            graph.mutate("withdrawApproval", by_id(made), APPROVAL),
        )

        assert submitted["__typename"] == "SubmitForApprovalSuccess"
        assert withdrawn["__typename"] == "WithdrawApprovalSuccess"
        story = await events(sql, made["id"])
        if story[2:] == ["PENDING", "WITHDRAWN"]:
            assert order != "second"
            # It is the second submission that was taken back; the first was superseded by it.
            assert await status(graph, made) == ("EXPERIMENTAL", "WITHDRAWN", ["PENDING"])
        else:
            assert order != "first"
            assert story[2:] == ["WITHDRAWN", "PENDING"]
            assert await status(graph, made) == ("EXPERIMENTAL", "PENDING", ["WITHDRAWN"])


async def test_of_submissions_at_once_the_last_is_the_present_one(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    made = await pending(graph, unique)

    results = await queued(live, sql, made["id"], *(submit(graph, made) for _ in range(6)))

    assert {result["__typename"] for result in results} == {"SubmitForApprovalSuccess"}
    rows = await sql.fetch(
        "SELECT superseded_at, submitted_at FROM approval WHERE model_version_id = $1 "
        "ORDER BY submitted_at",
        ids.decode("ModelVersion", made["id"]),
    )
    # Each ends when the next begins.
    assert [row["superseded_at"] for row in rows] == [
        *[row["submitted_at"] for row in rows[1:]],
        None,
    ]
    assert await events(sql, made["id"]) == ["registered", *["PENDING"] * 7]


@in_each_order
async def test_a_promotion_passes_the_policy_before_its_change_or_the_one_after(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, order: str
) -> None:
    for number in ROUNDS if order == "free" else [0]:
        name = f"{unique}-{number}"
        made = await in_staging(graph, name)

        promoted, changed = await run(
            order,
            live,
            sql,
            made,
            promote(graph, made),
            set_policy(graph, name, {"approvals": {"count": 1}}),
        )

        assert changed["__typename"] == "SetStagePolicySuccess"
        story = await events(sql, made["id"])
        if promoted["__typename"] == "SetStageSuccess":
            assert order != "second"
            # What the old policy let in stays in.
            assert await status(graph, made) == ("PRODUCTION", "APPROVED", [])
            assert story == ["registered", "APPROVED", "stage_changed", "stage_changed"]
        else:
            assert order != "first"
            assert (promoted["__typename"], promoted["status"]) == ("ApprovalRequired", "STALE")
            assert await status(graph, made) == ("STAGING", "STALE", [])
            assert story == ["registered", "APPROVED", "stage_changed", "STALE"]


async def test_who_sets_the_policy_of_one_model_holds_up_no_other(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    # given
    mine = await pending(graph, f"{unique}-mine")
    waits, goes_on = await pending(graph, f"{unique}-other"), await in_staging(graph, unique)
    rule = {"noOpenDrift": {"severity": "INFO"}}

    async def others() -> list[Json]:
        """What everybody else does meanwhile."""
        drift = {"modelName": unique, "reason": "None.", "responses": [], "degradation": []}
        return [
            await promote(graph, goes_on),
            await approve(graph, waits, ANN),
            await set_policy(graph, unique, rule),
            await graph.mutate("setDriftPolicy", drift, **ADMIN),
        ]

    # when
    holder = await connect(live.database.url, "test")
    try:
        async with holder.transaction():
            key = ids.decode("ModelVersion", mine["id"])
            await holder.execute("SELECT FROM model_version WHERE id = $1 FOR UPDATE", key)
            setting = asyncio.create_task(set_policy(graph, f"{unique}-mine", rule))
            while not await waiting(sql):
                pass
            # It has not become STALE yet.
            done = await others()
            assert not setting.done()
    finally:
        await holder.close()

    # then
    assert [each["__typename"] for each in (*done, await setting)] == [
        "SetStageSuccess",
        "DecideApprovalSuccess",
        "SetStagePolicySuccess",
        "SetDriftPolicySuccess",
        "SetStagePolicySuccess",
    ]
    assert await status(graph, mine) == ("EXPERIMENTAL", "STALE", [])


@in_each_order
async def test_an_approval_and_a_deletion_at_once(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, order: str
) -> None:
    for number in ROUNDS if order == "free" else [0]:
        name = f"{unique}-{number}"
        made = await pending(graph, name)

        decided, deleted = await run(
            order,
            live,
            sql,
            made,
            approve(graph, made, ANN),
            graph.mutate("deleteModelVersion", by_id(made)),
        )

        assert deleted["__typename"] == "DeleteModelVersionSuccess"
        end = ["stage_changed", "deleted"]
        if decided["__typename"] == "DecideApprovalSuccess":
            assert order != "second"
            end = ["APPROVED", "stage_changed", *end]
        else:
            assert order != "first"
            assert decided["__typename"] == "NotFound"
        assert await events(sql, made["id"]) == ["registered", "PENDING", *end]
        assert await faults_in_history(sql, name) == 0


@in_each_order
async def test_a_promotion_and_a_change_at_once(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, order: str
) -> None:
    for number in ROUNDS if order == "free" else [0]:
        made = await in_staging(graph, f"{unique}-{number}")

        promoted, changed = await run(
            order,
            live,
            sql,
            made,
            promote(graph, made),
            change(graph, made),
        )

        assert changed["__typename"] == "UpdateModelVersionSuccess"
        story = await events(sql, made["id"])
        if promoted["__typename"] == "SetStageSuccess":
            assert order != "second"
            assert story[3:] == ["stage_changed", "updated", "STALE"]
        else:
            assert order != "first"
            assert promoted["__typename"] == "GateFailed"
            assert story[3:] == ["updated", "STALE"]


@in_each_order
async def test_nothing_is_deployed_to_production_once_its_approval_is_stale(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, order: str
) -> None:
    for number in ROUNDS if order == "free" else [0]:
        made = await in_staging(graph, f"{unique}-{number}")
        await promote(graph, made)

        deployed, changed = await run(
            order,
            live,
            sql,
            made,
            graph.mutate("createDeployment", by_id(made, environment="PRODUCTION")),
            change(graph, made),
        )

        assert changed["__typename"] == "UpdateModelVersionSuccess"
        assert await status(graph, made) == ("PRODUCTION", "STALE", [])
        if order == "free":
            kinds = ("CreateDeploymentSuccess", "ApprovalRequired")
            assert deployed["__typename"] in kinds
        else:
            kind = {"first": "CreateDeploymentSuccess", "second": "ApprovalRequired"}[order]
            assert deployed["__typename"] == kind
        count = await sql.fetchval(
            "SELECT count(*) FROM deployment WHERE model_version_id = $1",
            ids.decode("ModelVersion", made["id"]),
        )
        assert count == (deployed["__typename"] == "CreateDeploymentSuccess")


async def test_a_version_of_a_run_that_is_changing_is_approved_on_what_the_run_becomes(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique, datasetFacts={"train_size": 500})
    known = await a_version(graph, unique, runId=run, metrics=GOOD)

    async def report() -> Json:
        return await graph.mutate("updateRun", {"id": run, "datasetFacts": {"train_size": 5}})

    async def register_and_submit() -> Json:
        made = await a_version(graph, unique, runId=run, metrics=GOOD)
        await submit(graph, made)
        return made

    # The report waits for the version that it knows of; it cannot know of the other.
    reported, made = await queued(live, sql, known["id"], report(), register_and_submit())

    assert reported["__typename"] == "UpdateRunSuccess"
    found = await sql.fetchval(
        "SELECT approval_status FROM model_version WHERE id = $1",
        ids.decode("ModelVersion", made["id"]),
    )
    assert found == (await status(graph, made))[1] == "APPROVED"
    assert (await promote(graph, made))["__typename"] == "SetStageSuccess"


async def test_what_is_changed_is_what_was_meant_when_the_change_began(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str
) -> None:
    """Else what comes into the stage meanwhile is changed, and stays approved."""
    # given: one in the stage, and another that is approved
    meant = await a_version(graph, unique, metrics=GOOD)
    other = await in_staging(graph, unique)
    of_stage = {"modelVersion": {"inStage": {"modelName": unique, "stage": "EXPERIMENTAL"}}}
    selection = "id approval { status } metrics { value }"

    # when: that comes into the stage while the one that is there is changed
    async with sql.transaction():
        await sql.execute("LOCK TABLE checklist_item IN ACCESS EXCLUSIVE MODE")
        changing = asyncio.create_task(
            graph.mutate(
                "updateModelVersion",
                of_stage | {"metrics": BAD},
                f"modelVersion {{ {selection} }}",
            )
        )
        while not await waiting(sql):
            pass
        await graph.done("setStage", by_id(other, stage="EXPERIMENTAL"), VERSION)
    changed = await changing

    # then
    assert changed["modelVersion"] == {
        "id": meant["id"],
        "approval": {"status": "NOT_SUBMITTED"},
        "metrics": [{"value": 0.5}],
    }
    query = f"query ($id: ID!) {{ modelVersion(by: {{ id: $id }}) {{ {selection} }} }}"
    found = await graph.query(query, {"id": other["id"]})
    assert found["modelVersion"] == {
        "id": other["id"],
        "approval": {"status": "APPROVED"},
        "metrics": [{"value": 0.9}],
    }
