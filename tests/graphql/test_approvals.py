"""Validation, submission, decision, and what lets a version into production and what does not."""

import asyncio
from typing import Any

import pytest

from lifecycle.promotion import evaluation
from lifecycle.promotion.evaluation import Policy
from lifecycle.promotion.gates import Facts, Report
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import (
    VERSION,
    a_deployment,
    a_run,
    a_version,
    a_version_in,
    approved,
)
from tests.statements import rows, written

ADMIN = {"Lifecycle-Actor": "admin"}
APPROVAL = """approval { status reason submittedBy submittedAt submissionNotes decidedBy decidedAt
  notes policyVersion digest staleReason staleAt supersededAt usedAt
  decisions { actor decision notes } report { passed checks { name passed } } }"""
STATE = f"""query ($id: ID!) {{ node(id: $id) {{ ... on ModelVersion {{
  stage revision {APPROVAL} approvalHistory {{ status reason }} validation {{ stage passed }}
  stageHistory {{ stage cause }} }} }} }}"""


def by(name: str) -> dict[str, str]:
    """The header of somebody."""
    return {"Lifecycle-Actor": name}


def of(version: Json) -> Json:
    """An input that names the version."""
    return {"modelVersion": {"id": version["id"]}}


def accuracy(value: float) -> list[Json]:
    return [{"key": "accuracy", "value": value}]


async def state(graph: Graph, version: Json) -> Json:
    """All that promotion can change in a version."""
    found: Json = (await graph.query(STATE, {"id": version["id"]}))["node"]
    return found


async def status(graph: Graph, version: Json) -> str:
    return str((await state(graph, version))["approval"]["status"])


async def submit(graph: Graph, version: Json, actor: str = "tester", **input: object) -> Json:
    selection = f"{APPROVAL} {VERSION}"
    return await graph.mutate("submitForApproval", of(version) | input, selection, **by(actor))


async def decide(graph: Graph, version: Json, decision: str, actor: str, **input: object) -> Json:
    given = {**of(version), "decision": decision, **input}
    return await graph.mutate("decideApproval", given, f"{APPROVAL} {VERSION}", **by(actor))


async def withdraw(graph: Graph, version: Json, actor: str = "tester", **input: object) -> Json:
    selection = f"{APPROVAL} {VERSION}"
    return await graph.mutate("withdrawApproval", of(version) | input, selection, **by(actor))


async def set_stage(graph: Graph, version: Json, stage: str, **input: object) -> Json:
    selection = (
        "dryRun displaced { version } modelVersion { stage revision } "
        "validation { passed stage policyVersion checks { name passed } }"
    )
    return await graph.mutate("setStage", {**of(version), "stage": stage, **input}, selection)


async def set_policy(graph: Graph, model: str, *rules: Json, stage: str = "PRODUCTION") -> None:
    """Give the model a policy of its own."""
    input = {"stage": stage, "modelName": model, "rules": list(rules)}
    done = await graph.mutate("setStagePolicy", input, "stagePolicy { version }", **ADMIN)
    assert done["__typename"] == "SetStagePolicySuccess", done


async def forbidden(graph: Graph, name: str, input: Json, actor: str) -> str:
    """What a mutation says to somebody who may not do it."""
    kind = f"{name[0].upper()}{name[1:]}Input"
    answer = await graph.answer(
        f"mutation ($input: {kind}!) {{ {name}(input: $input) {{ __typename }} }}",
        {"input": input},
        **by(actor),
    )
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "FORBIDDEN"
    return str(error["message"])


async def pending(graph: Graph, model: str, **input: object) -> Json:
    """A version that people have to decide about."""
    version = await a_version(graph, model, **input)
    submitted = await submit(graph, version)
    assert submitted["approval"]["status"] in ("PENDING", "NEEDS_REVIEW"), submitted
    return version


# Validation


async def test_a_validation_is_kept_with_the_version_and_changes_nothing(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique, datasetFacts={"train_size": 999})
    version = await a_version(
        graph, unique, runId=run, metrics=accuracy(0.7), hyperparameters={"learning_rate": 0.2}
    )
    before = await state(graph, version)

    report = await graph.done(
        "validateModelVersion",
        of(version),
        "report { passed stage policyVersion recommendations checks { name category severity "
        "passed observed required message advice evidence { id } } }",
    )

    failed = [check for check in report["checks"] if not check["passed"]]
    assert [(c["name"], c["category"], c["severity"]) for c in failed] == [
        ("accuracy", "performance", "BLOCKING"),
        ("train_size", "data quality", "WARNING"),
        ("learning_rate", "complexity", "WARNING"),
    ]
    assert failed[0] == {
        "name": "accuracy",
        "category": "performance",
        "severity": "BLOCKING",
        "passed": False,
        "observed": 0.7,
        "required": {"atLeast": 0.75, "atMost": None, "required": False},
        "message": "accuracy is 0.7; at least 0.75 is required.",
        "advice": "Bring accuracy to at least 0.75.",
        "evidence": {"id": version["id"]},
    }
    assert failed[1]["evidence"] == {"id": run}
    assert report["recommendations"] == [check["advice"] for check in failed]
    assert (report["passed"], report["stage"], len(report["checks"])) == (False, "PRODUCTION", 10)
    after = await state(graph, version)
    assert after == {**before, "validation": {"stage": "PRODUCTION", "passed": False}}


@pytest.mark.parametrize("stage", ["EXPERIMENTAL", "ARCHIVED"])
async def test_only_a_stage_that_is_guarded_can_be_validated_for(
    graph: Graph, unique: str, stage: str
) -> None:
    version = await a_version(graph, unique)

    refused = await graph.mutate("validateModelVersion", {**of(version), "stage": stage})

    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": f"{stage} is guarded by no policy.",
        "path": ["stage"],
    }


# Submission


@pytest.mark.parametrize(
    ("value", "outcome", "reason"),
    [
        (0.82, "APPROVED", "accuracy is 0.82, and 0.8 for version 1 in production: at least 0.02 "
         "better."),
        (0.79, "APPROVED", "accuracy is 0.79, and 0.8 for version 1 in production: not more than "
         "0.01 worse."),
        (0.78, "NEEDS_REVIEW", "accuracy is 0.78, and 0.8 for version 1 in production: more than "
         "0.01 worse."),
        (0.74, "REJECTED", "accuracy is 0.74; at least 0.75 is required. accuracy is 0.74, 0.06 "
         "worse than that of version 1 in production; at most 0.05 worse is allowed."),
    ],
)  # fmt: skip
async def test_the_policy_decides_as_far_as_it_can(
    graph: Graph, unique: str, value: float, outcome: str, reason: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    version = await a_version(graph, unique, metrics=accuracy(value))

    submitted = await submit(graph, version, notes="please")

    approval = submitted["approval"]
    by_itself = outcome != "NEEDS_REVIEW"
    assert (approval["status"], approval["reason"]) == (outcome, reason)
    assert (approval["submittedBy"], approval["submissionNotes"]) == ("tester", "please")
    assert approval["decidedBy"] == ("system:policy" if by_itself else None)
    assert approval["decidedAt"] == (approval["submittedAt"] if by_itself else None)
    assert (approval["policyVersion"], approval["decisions"]) == (1, [])
    assert approval["report"]["passed"] == (outcome != "REJECTED")
    after = await state(graph, version)
    assert after["approval"] == approval
    ways = [("EXPERIMENTAL", "REGISTERED")]
    ways += [("STAGING", "APPROVED")] if outcome == "APPROVED" else []
    assert [(entry["stage"], entry["cause"]) for entry in after["stageHistory"]] == ways


async def test_a_second_submission_supersedes_the_first(graph: Graph, unique: str) -> None:
    version = await pending(graph, unique)
    first = (await state(graph, version))["approval"]

    await graph.done("updateModelVersion", of(version) | {"metrics": accuracy(0.7)}, VERSION)
    rejected = await submit(graph, version)
    await graph.done("updateModelVersion", of(version) | {"metrics": accuracy(0.9)}, VERSION)
    last = await submit(graph, version)

    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { approvalHistory { status "
        "submittedAt supersededAt } } } }",
        {"id": version["id"]},
    )
    times = [s["approval"]["submittedAt"] for s in (last, rejected)]
    assert found["node"]["approvalHistory"] == [
        {"status": "APPROVED", "submittedAt": times[0], "supersededAt": None},
        {"status": "REJECTED", "submittedAt": times[1], "supersededAt": times[0]},
        {"status": "STALE", "submittedAt": first["submittedAt"], "supersededAt": times[1]},
    ]


async def test_what_is_approved_and_in_production_is_not_submitted_again(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    before = await state(graph, version)

    refused = await submit(graph, version)

    assert refused == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "Version 1 is in PRODUCTION, and APPROVED.",
        "path": ["modelVersion"],
    }
    assert await state(graph, version) == before


async def test_a_submission_that_staging_refuses_is_none(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique, metrics=accuracy(0.8))
    await set_policy(graph, unique, {"artifactDigest": {}}, stage="STAGING")
    before = await state(graph, version)

    refused = await submit(graph, version)

    assert (refused["__typename"], refused["report"]["stage"]) == ("GateFailed", "STAGING")
    assert refused["message"] == ("STAGING is refused: The artifact has no path or no digest.")
    assert await state(graph, version) == before


# Decision


async def test_an_approval_by_somebody_else_moves_the_version_to_staging(
    graph: Graph, unique: str
) -> None:
    version = await pending(graph, unique)

    done = await decide(graph, version, "APPROVE", "bob", notes="looked at it")

    approval = done["approval"]
    assert done["modelVersion"] == {**version, "stage": "STAGING", "revision": 4}
    assert (approval["status"], approval["decidedBy"]) == ("APPROVED", "bob")
    assert approval["notes"] == "looked at it"
    assert approval["decisions"] == [
        {"actor": "bob", "decision": "APPROVE", "notes": "looked at it"}
    ]
    assert (approval["usedAt"], approval["staleAt"]) == (None, None)
    assert approval["decidedAt"] > approval["submittedAt"]


async def test_a_rejection_leaves_the_version_where_it_is(graph: Graph, unique: str) -> None:
    version = await pending(graph, unique)

    done = await decide(graph, version, "REJECT", "bob", notes="no")

    assert (done["approval"]["status"], done["approval"]["decidedBy"]) == ("REJECTED", "bob")
    assert done["modelVersion"]["stage"] == "EXPERIMENTAL"
    refused = await decide(graph, version, "APPROVE", "bob")
    assert (refused["__typename"], refused["from"], refused["path"]) == (
        "InvalidTransition",
        "REJECTED",
        ["decision"],
    )


async def test_author_and_submitter_cannot_approve(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    await submit(graph, version, "sue")
    before = await state(graph, version)
    input = {**of(version), "decision": "APPROVE"}

    said = [await forbidden(graph, "decideApproval", input, name) for name in ("tester", "sue")]

    assert said == [
        "tester registered this version; somebody else has to approve it.",
        "sue submitted this version; somebody else has to approve it.",
    ]
    assert await state(graph, version) == before
    # To say no is open to everybody.
    assert (await decide(graph, version, "REJECT", "sue"))["approval"]["status"] == "REJECTED"


async def test_only_those_whom_the_policy_names_approve(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    await set_policy(graph, unique, {"approvals": {"count": 1, "approvers": ["cid", "dan"]}})
    version = await pending(graph, unique)
    input = {**of(version), "decision": "APPROVE"}

    said = await forbidden(graph, "decideApproval", input, "bob")
    done = await decide(graph, version, "APPROVE", "dan")

    assert said == "bob is not among those who may approve it: cid, dan."
    assert done["approval"]["status"] == "APPROVED"


async def test_a_quorum_is_of_different_people(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    await set_policy(graph, unique, {"approvals": {"count": 2}})
    version = await pending(graph, unique)

    first = await decide(graph, version, "APPROVE", "bob", notes="one")
    again = await decide(graph, version, "APPROVE", "bob")
    missing = await set_stage(graph, version, "STAGING")
    refused = await set_stage(graph, version, "PRODUCTION")
    last = await decide(graph, version, "APPROVE", "cid", notes="two")
    late = await decide(graph, version, "APPROVE", "dan")

    assert (first["approval"]["status"], first["approval"]["decidedBy"]) == ("PENDING", None)
    assert first["modelVersion"]["stage"] == "EXPERIMENTAL"
    assert again == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "bob has approved it already; 2 people must.",
        "path": ["decision"],
    }
    assert missing["__typename"] == "SetStageSuccess"
    assert (refused["__typename"], refused["status"]) == ("ApprovalRequired", "PENDING")
    assert (last["approval"]["status"], last["approval"]["decidedBy"]) == ("APPROVED", "cid")
    assert [d["actor"] for d in last["approval"]["decisions"]] == ["bob", "cid"]
    assert late["__typename"] == "InvalidTransition"


async def test_who_has_approved_may_still_object(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    await set_policy(graph, unique, {"approvals": {"count": 2}})
    version = await pending(graph, unique)
    await decide(graph, version, "APPROVE", "bob")

    done = await decide(graph, version, "REJECT", "bob", notes="on second thoughts")

    approval = done["approval"]
    assert (approval["status"], approval["decidedBy"]) == ("REJECTED", "bob")
    assert approval["decisions"] == [
        {"actor": "bob", "decision": "REJECT", "notes": "on second thoughts"}
    ]


async def test_what_was_not_submitted_cannot_be_decided(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)

    for decision, wanted in (("APPROVE", "APPROVED"), ("REJECT", "REJECTED")):
        refused = await decide(graph, version, decision, "bob")
        assert refused == {
            "__typename": "InvalidTransition",
            "code": "INVALID_TRANSITION",
            "message": f"NOT_SUBMITTED cannot become {wanted}; submit it for approval first, with "
            "submitForApproval.",
            "path": ["decision"],
            "from": "NOT_SUBMITTED",
            "to": wanted,
            "allowed": [],
        }


async def test_nobody_approves_what_does_not_pass_or_is_not_finished(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    await set_policy(graph, unique, {"checklist": {}}, {"approvals": {}})
    version = await pending(graph, unique, checklist=["data"])

    refused = await decide(graph, version, "APPROVE", "bob")

    assert refused["__typename"] == "GateFailed"
    assert refused["message"] == (
        "PRODUCTION is refused: 0 of 1 items of the checklist are APPROVED; open or rejected: "
        "“data”."
    )
    assert await status(graph, version) == "PENDING"


async def test_an_administrator_may_go_past_the_policy_and_is_seen_to(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique, metrics=accuracy(0.1))
    await submit(graph, version)
    input = {**of(version), "decision": "BYPASS", "notes": "the customer waits"}

    said = await forbidden(graph, "decideApproval", input, "bob")
    silent = await decide(graph, version, "BYPASS", "admin")
    empty = await decide(graph, version, "BYPASS", "admin", notes="")
    before = await status(graph, version)
    done = await decide(graph, version, "BYPASS", "admin", notes="the customer waits")
    promoted = await set_stage(graph, version, "PRODUCTION")

    assert said == ("bob may not go past a policy with BYPASS: that takes the role ADMIN.")
    assert silent == empty
    assert silent == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "A BYPASS needs notes that say why.",
        "path": ["notes"],
    }
    assert before == "REJECTED"
    approval = done["approval"]
    assert (approval["status"], approval["decidedBy"]) == ("BYPASSED", "admin")
    assert approval["notes"] == "the customer waits"
    assert not approval["report"]["passed"]
    assert done["modelVersion"]["stage"] == "STAGING"
    assert promoted["__typename"] == "SetStageSuccess"
    assert not promoted["validation"]["passed"]
    assert (await state(graph, version))["stageHistory"][-1] == {
        "stage": "PRODUCTION",
        "cause": "BYPASSED",
    }


# Withdrawal


async def test_a_submission_is_withdrawn_by_its_submitter(graph: Graph, unique: str) -> None:
    version = await pending(graph, unique)

    said = await forbidden(graph, "withdrawApproval", of(version), "bob")
    done = await withdraw(graph, version, notes="too early")
    again = await withdraw(graph, version)
    decided = await decide(graph, version, "APPROVE", "bob")

    assert said.startswith("bob may not withdraw what others have submitted and decided")
    assert (done["approval"]["status"], done["approval"]["notes"]) == ("WITHDRAWN", "too early")
    assert (again["__typename"], again["from"]) == ("InvalidTransition", "WITHDRAWN")
    assert (decided["__typename"], decided["from"]) == ("InvalidTransition", "WITHDRAWN")
    assert (await submit(graph, version))["approval"]["status"] == "NEEDS_REVIEW"


@pytest.mark.parametrize("actor", ["tester", "approver", "admin"])
async def test_an_approval_is_withdrawn_by_those_it_concerns_and_lets_nothing_in_then(
    graph: Graph, unique: str, actor: str
) -> None:
    version = await approved(graph, await a_version(graph, unique))

    done = await withdraw(graph, version, actor)
    refused = await set_stage(graph, version, "PRODUCTION")

    assert done["approval"]["status"] == "WITHDRAWN"
    assert done["modelVersion"]["stage"] == "STAGING"
    assert (refused["__typename"], refused["status"]) == ("ApprovalRequired", "WITHDRAWN")


async def test_what_is_in_production_is_not_withdrawn(graph: Graph, unique: str) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")

    refused = await withdraw(graph, version)

    assert (refused["__typename"], refused["message"]) == (
        "Conflict",
        "Version 1 is in PRODUCTION; move it to STAGING or ARCHIVED first.",
    )


# Lists


async def test_those_who_decide_see_what_waits_for_them(graph: Graph, unique: str) -> None:
    review = await pending(graph, unique)
    await a_version(graph, f"{unique}-2")
    await set_policy(graph, f"{unique}-2", {"approvals": {}})
    waiting = await pending(graph, f"{unique}-2")
    deleted = await pending(graph, unique)
    await graph.done("deleteModelVersion", of(deleted), VERSION)
    done = await approved(graph, await a_version(graph, unique))
    rejected = await a_version(graph, unique, metrics=accuracy(0.1))
    await submit(graph, rejected)

    async def listed(*statuses: str, model: str = unique) -> list[str]:
        filter = {"modelName": model, "approvalStatuses": statuses}
        found = await graph.query(
            "query ($filter: ModelVersionFilter) { modelVersions(filter: $filter) { totalCount "
            "nodes { id } } }",
            {"filter": filter},
        )
        nodes = found["modelVersions"]["nodes"]
        assert found["modelVersions"]["totalCount"] == len(nodes)
        return [node["id"] for node in nodes]

    pages = []
    after = None
    for _ in range(2):
        found = await graph.query(
            "query ($after: String) { pendingApprovals(first: 1, after: $after) { nodes { id } "
            "pageInfo { endCursor } } }",
            {"after": after},
        )
        pages.append(found["pendingApprovals"]["nodes"])
        after = found["pendingApprovals"]["pageInfo"]["endCursor"]
    assert pages == [[{"id": waiting["id"]}], [{"id": review["id"]}]]
    found = await graph.query("{ pendingApprovals(first: 100) { nodes { id } } }")
    ids = [node["id"] for node in found["pendingApprovals"]["nodes"]]
    mine = {v["id"] for v in (review, waiting, deleted, done, rejected)}
    assert [id for id in ids if id in mine] == [waiting["id"], review["id"]]
    assert await listed("NEEDS_REVIEW") == [review["id"]]
    assert await listed("APPROVED", "REJECTED") == [rejected["id"], done["id"]]
    assert await listed("NOT_SUBMITTED", model=f"{unique}-2") != []
    assert await listed() == [rejected["id"], done["id"], review["id"]]


# Staleness

NEW_CONTENT: dict[str, Json] = {
    "metrics": {"metrics": accuracy(0.81)},
    "another metric": {"metrics": [*accuracy(0.8), {"key": "recall", "value": 0.9}]},
    "hyperparameters": {"hyperparameters": {"depth": 4}},
    "artifact": {"artifactPath": "b"},
    "digest of the artifact": {"artifactDigest": "sha256:1"},
}
SAME_CONTENT: dict[str, Json] = {
    "the same": {
        "metrics": accuracy(0.8),
        "hyperparameters": {"depth": 3},
        "artifactPath": "a",
    },
    "measured again": {
        "metrics": [{**accuracy(0.8)[0], "step": 9, "timestamp": "2026-01-02T03:04:05Z"}]
    },
    "what is only said of it": {"description": "d", "tags": [{"key": "a", "value": "b"}]},
}


async def content(graph: Graph, model: str) -> Json:
    """A version with everything that an approval is for."""
    run = await a_run(
        graph, model, datasetFacts={"rows": 5}, params=[{"key": "seed", "value": "1"}]
    )
    return await a_version(
        graph,
        model,
        runId=run,
        metrics=accuracy(0.8),
        hyperparameters={"depth": 3},
        artifactPath="a",
        checklist=["data"],
    ) | {"run": run}


@pytest.mark.parametrize("change", NEW_CONTENT)
async def test_a_real_change_makes_an_approval_stale_and_production_refuses_it(
    graph: Graph, unique: str, change: str
) -> None:
    version = await content(graph, unique)
    await submit(graph, version)

    await graph.done("updateModelVersion", of(version) | NEW_CONTENT[change], VERSION)

    approval = (await state(graph, version))["approval"]
    assert (approval["status"], approval["staleReason"]) == ("STALE", "Version 1 was changed.")
    assert approval["staleAt"] > approval["decidedAt"]
    refused = await set_stage(graph, version, "PRODUCTION")
    assert (refused["__typename"], refused["status"]) == ("ApprovalRequired", "STALE")
    decided = await decide(graph, version, "APPROVE", "bob")
    assert (decided["__typename"], decided["from"]) == ("InvalidTransition", "STALE")


@pytest.mark.parametrize("change", SAME_CONTENT)
async def test_a_change_of_nothing_leaves_an_approval_alone(
    graph: Graph, unique: str, change: str
) -> None:
    version = await content(graph, unique)
    before = (await submit(graph, version))["approval"]

    await graph.done("updateModelVersion", of(version) | SAME_CONTENT[change], VERSION)

    assert (await state(graph, version))["approval"] == before


async def test_what_waits_for_a_decision_goes_stale_too(graph: Graph, unique: str) -> None:
    version = await pending(graph, unique)

    await graph.done("updateModelVersion", of(version) | {"artifactPath": "b"}, VERSION)

    assert await status(graph, version) == "STALE"


async def test_the_run_belongs_to_what_was_approved(graph: Graph, unique: str) -> None:
    versions = [await content(graph, unique) for _ in range(2)]
    for version in versions:
        await submit(graph, version)
    same = {
        "datasetFacts": {"rows": 5},
        "params": [{"key": "seed", "value": "1"}],
        "status": "COMPLETED",
        "metrics": accuracy(0.1),
    }
    changes: list[Json] = [
        {"datasetFacts": {"rows": 6}},
        {"params": [{"key": "more", "value": "1"}]},
    ]

    for version in versions:
        await graph.done("updateRun", {"id": version["run"], **same}, "run { id }")
        assert await status(graph, version) == "APPROVED"
    for version, change in zip(versions, changes, strict=True):
        await graph.done("updateRun", {"id": version["run"], **change}, "run { id }")
        approval = (await state(graph, version))["approval"]
        assert approval["status"] == "STALE"
        assert approval["staleReason"] == "The run that it came out of was changed."


async def test_the_checklist_may_be_worked_on_until_the_decision(graph: Graph, unique: str) -> None:
    version = await pending(graph, unique, checklist=["data"])
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { checklist { id } } } }",
        {"id": version["id"]},
    )
    item = found["node"]["checklist"][0]

    async def mark(to: str, note: str | None = None) -> str:
        other = {"Lifecycle-Actor": "approver"}
        await graph.mutate("markChecklistItem", {**item, "status": to, "note": note}, **other)
        return await status(graph, version)

    assert await mark("APPROVED") == "NEEDS_REVIEW"
    await graph.done("appendChecklistItem", of(version) | {"title": "bias"}, VERSION)
    assert await status(graph, version) == "NEEDS_REVIEW"
    await decide(graph, version, "APPROVE", "bob")
    assert await mark("APPROVED") == "APPROVED"
    assert await mark("APPROVED", "a note") == "APPROVED"
    assert await mark("REJECTED") == "STALE"
    assert (await state(graph, version))["approval"]["staleReason"] == (
        "“data” of its checklist is REJECTED."
    )
    again = await submit(graph, version)
    assert again["approval"]["status"] == "NEEDS_REVIEW"
    await decide(graph, version, "APPROVE", "bob")
    await graph.done("appendChecklistItem", of(version) | {"title": "cost"}, VERSION)
    assert (await state(graph, version))["approval"]["staleReason"] == (
        "“cost” was added to its checklist."
    )


async def test_another_policy_makes_stale_what_has_not_been_in_production(
    graph: Graph, unique: str
) -> None:
    used = await a_version_in(graph, unique, "PRODUCTION")
    waiting = await pending(graph, unique)
    ready = await approved(graph, await a_version(graph, unique))
    other = await approved(graph, await a_version(graph, f"{unique}-other"))
    rejected = await a_version(graph, unique, metrics=accuracy(0.1))
    await submit(graph, rejected)

    await set_policy(graph, unique, {"metric": {"key": "f1", "atLeast": 0.5}}, stage="STAGING")
    before = [await status(graph, v) for v in (used, waiting, ready, other, rejected)]
    await set_policy(graph, unique, {"metric": {"key": "f1", "atLeast": 0.5}})
    after = [await status(graph, v) for v in (used, waiting, ready, other, rejected)]

    assert before == ["APPROVED", "NEEDS_REVIEW", "APPROVED", "APPROVED", "REJECTED"]
    assert after == ["APPROVED", "STALE", "STALE", "APPROVED", "REJECTED"]
    assert (await state(graph, ready))["approval"]["staleReason"] == (
        "The policy of PRODUCTION has changed; version 1 holds."
    )


async def test_a_policy_takes_as_many_statements_however_many_approvals_it_makes_stale(
    graph: Graph, live: Live, unique: str
) -> None:
    counts = []
    for number in (2, 5):
        model = f"{unique}-{number}"
        versions = [await pending(graph, model) for _ in range(number)]
        before = [await state(graph, version) for version in versions]
        with written(live.database) as statements:
            await set_policy(graph, model, {"metric": {"key": "f1", "atLeast": 0.5}})
        counts.append(len(statements))

        # Each of them has changed, and says so.
        after = [await state(graph, version) for version in versions]
        changed = [
            (one["revision"], other["revision"]) for one, other in zip(before, after, strict=True)
        ]
        assert all(now == then + 1 for then, now in changed)
        said = await rows(
            live.database,
            "SELECT before ->> 'approval_status', after ->> 'approval_status', "
            "after ->> 'version', reason FROM event "
            "WHERE type = 'model_version.approval_stale' AND after ->> 'model_name' = :name "
            "ORDER BY after ->> 'version'",
            name=model,
        )
        why = "The policy of PRODUCTION has changed; version 1 holds."
        assert said == [("NEEDS_REVIEW", "STALE", each["version"], why) for each in versions]

    assert counts[0] == counts[1]


async def test_another_policy_leaves_what_was_in_production_though_it_was_approved_again_since(
    graph: Graph, unique: str
) -> None:
    # given: what ran well in production, has made way, and was approved once more
    former = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    id = await a_deployment(graph, former, "PRODUCTION", "ACTIVE")
    await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    bad = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    await approved(graph, former)
    # and what was approved again as something else, which was never there
    changed = await a_version_in(graph, f"{unique}-b", "PRODUCTION", metrics=accuracy(0.9))
    await graph.done("setStage", of(changed) | {"stage": "ARCHIVED"}, VERSION)
    await graph.done("updateModelVersion", of(changed) | {"artifactPath": "b"}, VERSION)
    await approved(graph, changed)

    # when
    for model in (unique, f"{unique}-b"):
        await set_policy(graph, model, {"artifactDigest": {}})

    # then
    assert [await status(graph, each) for each in (former, changed)] == ["APPROVED", "STALE"]
    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")
    assert back == {"version": "1"}


# The gate


async def test_a_refusal_names_each_rule_that_is_not_met(graph: Graph, unique: str) -> None:
    holder = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    rules: list[Json] = [
        {"metric": {"key": "accuracy", "atLeast": 0.85}},
        {"baseline": {"key": "accuracy", "tolerance": 0.05}},
        {"metric": {"key": "recall", "atLeast": 0.5, "required": True, "severity": "WARNING"}},
        {"runCompleted": {}},
        {"approvals": {"count": 2}},
    ]
    await set_policy(graph, unique, *rules)
    version = await a_version_in(graph, unique, "STAGING", metrics=accuracy(0.8))
    before = await state(graph, version)

    refused = await set_stage(graph, version, "PRODUCTION")
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { whyNot { name category passed "
        "severity observed required message evidence { id } } } } }",
        {"id": version["id"]},
    )

    assert refused["__typename"] == "GateFailed"
    assert (refused["code"], refused["path"]) == ("GATE_FAILED", ["modelVersion"])
    unmet = [
        check
        for check in refused["report"]["checks"]
        if not check["passed"] and check["severity"] == "BLOCKING"
    ]
    assert [(check["name"], check["observed"], check["required"]) for check in unmet] == [
        ("accuracy", 0.8, {"atLeast": 0.85, "atMost": None, "required": False}),
        (
            "accuracy against production",
            0.8,
            {"tolerance": 0.05, "relative": False, "baselineVersion": "1", "baseline": 0.9},
        ),
        ("run completed", None, "COMPLETED"),
        (
            "approval",
            {"status": "NOT_SUBMITTED", "approvedBy": []},
            {"status": "APPROVED", "approvals": 2},
        ),
    ]
    assert refused["message"] == "PRODUCTION is refused: " + " ".join(c["message"] for c in unmet)
    why_not = found["node"]["whyNot"]
    assert [check.pop("evidence") for check in why_not] == [
        {"id": version["id"]},
        {"id": holder["id"]},
        None,
        {"id": version["id"]},
    ]
    assert why_not == unmet
    assert await state(graph, version) == before


async def test_others_have_their_turns_while_many_versions_are_looked_at(
    graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    for _ in range(3):
        await a_version(graph, unique)
    turns = 0
    looked_at: list[int] = []

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def outlook(policy: Policy, facts: Facts) -> Report:
        looked_at.append(turns)
        return look(policy, facts)

    look = evaluation.outlook
    monkeypatch.setattr(evaluation, "outlook", outlook)

    # when
    other = asyncio.create_task(another())
    try:
        await graph.query(
            "query ($name: String!) { model(name: $name) { versions { nodes { whyNot { name } "
            "checklist { title } } } } }",
            {"name": unique},
        )
    finally:
        other.cancel()

    # then
    assert len(looked_at) == len(set(looked_at)) == 3


async def test_without_an_approval_nothing_comes_into_production(graph: Graph, unique: str) -> None:
    version = await a_version_in(graph, unique, "STAGING", metrics=accuracy(0.9))

    refused = await set_stage(graph, version, "PRODUCTION")

    assert refused["__typename"] == "ApprovalRequired"
    assert (refused["code"], refused["status"]) == ("APPROVAL_REQUIRED", "NOT_SUBMITTED")
    assert refused["message"] == (
        "Version 1 is NOT_SUBMITTED; submit it for approval first, with submitForApproval."
    )
    assert [c["name"] for c in refused["report"]["checks"] if not c["passed"]] == ["approval"]


async def test_a_dry_run_answers_as_if_and_keeps_nothing(graph: Graph, unique: str) -> None:
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    ready = await a_version(graph, unique, metrics=accuracy(0.8))
    await submit(graph, ready)
    fresh = await a_version(graph, unique)
    before = [await state(graph, version) for version in (ready, fresh)]

    tried = [await set_stage(graph, ready, "PRODUCTION", dryRun=True) for _ in range(2)]
    keyed = await set_stage(graph, ready, "PRODUCTION", dryRun=True, idempotencyKey=unique)
    refusals = [
        [await set_stage(graph, version, stage, dryRun=dry, **input) for dry in (True, False)]
        for version, stage, input in (
            (fresh, "PRODUCTION", {}),
            (ready, "STAGING", {}),
            (ready, "PRODUCTION", {"expectedRevision": 1}),
            ({"id": "x"}, "PRODUCTION", {}),
        )
    ]
    staging = [await set_stage(graph, fresh, "STAGING", dryRun=dry) for dry in (True, False)]
    unapproved = [await set_stage(graph, fresh, "PRODUCTION", dryRun=dry) for dry in (True, False)]
    after = await state(graph, ready)
    done = await set_stage(graph, ready, "PRODUCTION", idempotencyKey=unique)

    assert after == before[0]
    assert tried == [keyed, keyed]
    assert keyed["dryRun"]
    assert done == {
        **keyed,
        "dryRun": False,
        "modelVersion": {"stage": "PRODUCTION", "revision": before[0]["revision"] + 1},
    }
    assert (done["displaced"], done["validation"]["passed"]) == ([{"version": "1"}], True)
    assert [refused[0]["__typename"] for refused in refusals] == [
        "InvalidTransition",
        "InvalidTransition",
        "StaleRevision",
        "InvalidInput",
    ]
    assert all(refused[0] == refused[1] for refused in refusals)
    assert [staging[0][name] for name in ("validation", "displaced")] == [
        staging[1][name] for name in ("validation", "displaced")
    ]
    assert unapproved[0]["__typename"] == "ApprovalRequired"
    assert unapproved[0] == unapproved[1]


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [(s, w) for s in ("EXPERIMENTAL", "STAGING", "PRODUCTION", "ARCHIVED")
     for w in ("STAGING", "PRODUCTION", "ARCHIVED")],
)  # fmt: skip
async def test_why_not_is_empty_exactly_where_a_version_may_go(
    graph: Graph, unique: str, stage: str, wanted: str
) -> None:
    version = await a_version_in(graph, unique, stage)

    found = await graph.query(
        "query ($id: ID!, $stage: Stage!) { node(id: $id) { ... on ModelVersion { "
        "whyNot(stage: $stage) { name } } } }",
        {"id": version["id"], "stage": wanted},
    )

    names = [check["name"] for check in found["node"]["whyNot"]]
    tried = await set_stage(graph, version, wanted, dryRun=True)
    assert (names == []) == (tried["__typename"] == "SetStageSuccess")
    assert ("stage" in names) == (tried["__typename"] == "InvalidTransition")
    assert ("approval" in names) == (wanted == "PRODUCTION" and stage != "PRODUCTION")


async def test_history_says_what_let_a_version_in_and_what_it_replaced(
    graph: Graph, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    second = await a_version(graph, unique, metrics=accuracy(0.77))
    await submit(graph, second)
    await decide(graph, second, "APPROVE", "bob", notes="good enough")
    await set_stage(graph, second, "PRODUCTION")

    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { stageHistory { stage cause "
        "validFrom approval { status decidedBy notes usedAt report { passed } } report { passed "
        "stage policyVersion checks { name } } displaced { version } } } } }",
        {"id": second["id"]},
    )

    registered, staged, promoted = found["node"]["stageHistory"]
    for entry, cause in ((registered, "REGISTERED"), (staged, "APPROVED")):
        assert (entry["cause"], entry["approval"], entry["displaced"]) == (cause, None, [])
    # Nothing guards STAGING as long as its policy has no rules.
    assert staged["report"] is None
    assert promoted["approval"] == {
        "status": "APPROVED",
        "decidedBy": "bob",
        "notes": "good enough",
        "usedAt": promoted["validFrom"],
        "report": {"passed": True},
    }
    assert promoted["displaced"] == [{"version": "1"}]
    report = promoted["report"]
    assert (report["passed"], report["stage"], report["policyVersion"]) == (True, "PRODUCTION", 1)
    assert [check["name"] for check in report["checks"]][-1] == "approval"


# Deployments look again at their own moment


async def test_what_is_stale_is_not_deployed_to_production(graph: Graph, unique: str) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    waiting = await a_deployment(graph, version, "PRODUCTION", "VALIDATING")
    live = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    await graph.done("updateModelVersion", of(version) | {"artifactPath": "b"}, VERSION)

    created = await graph.mutate("createDeployment", of(version) | {"environment": "PRODUCTION"})
    going_on = await graph.mutate("updateDeployment", {"id": waiting, "status": "DEPLOYING"})
    reported = await graph.mutate("updateDeployment", {"id": live, "health": "HEALTHY"})
    staging = await graph.mutate("createDeployment", of(version) | {"environment": "STAGING"})

    assert (created["path"], going_on["path"]) == (["modelVersion"], ["status"])
    for refused in (created, going_on):
        assert (refused["__typename"], refused["status"]) == ("ApprovalRequired", "STALE")
        assert refused["message"] == (
            "Version 1 is STALE; submit it for approval first, with submitForApproval."
        )
    # What runs goes on running, and elsewhere it may be looked at.
    assert reported["__typename"] == "UpdateDeploymentSuccess"
    assert staging["__typename"] == "CreateDeploymentSuccess"
    # There is nothing to compare it with but itself.
    again = await submit(graph, version)
    assert (again["approval"]["status"], again["approval"]["reason"]) == (
        "NEEDS_REVIEW",
        "Version 1 is in production itself; there is nothing to compare it with.",
    )
    await decide(graph, version, "APPROVE", "bob")
    created = await graph.mutate("createDeployment", of(version) | {"environment": "PRODUCTION"})
    assert created["__typename"] == "CreateDeploymentSuccess"


async def test_a_rollback_brings_nothing_back_that_is_stale(graph: Graph, unique: str) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, good, "PRODUCTION", "ACTIVE")
    await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    await graph.done("updateModelVersion", of(good) | {"artifactPath": "b"}, VERSION)
    before = [await state(graph, version) for version in (good, bad)]

    refused = await graph.mutate("rollbackDeployment", {"id": id})

    assert (refused["__typename"], refused["status"]) == ("ApprovalRequired", "STALE")
    assert [await state(graph, version) for version in (good, bad)] == before


async def test_a_rollback_does_not_ask_the_policy_but_for_the_approval(
    graph: Graph, unique: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, good, "PRODUCTION", "ACTIVE")
    await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
    await set_policy(graph, unique, {"artifactDigest": {}}, {"approvals": {"count": 2}})

    await graph.done("rollbackDeployment", {"id": id}, "deployment { id }")

    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { stage stageHistory { cause "
        "approval { status } report { checks { name passed } } } } } }",
        {"id": good["id"]},
    )
    assert found["node"]["stage"] == "PRODUCTION"
    assert found["node"]["stageHistory"][-1] == {
        "cause": "ROLLED_BACK",
        "approval": {"status": "APPROVED"},
        "report": {"checks": [{"name": "approval", "passed": True}]},
    }


# Revisions


@pytest.mark.parametrize("mutation", ["submitForApproval", "decideApproval", "withdrawApproval"])
async def test_what_was_decided_on_an_old_revision_is_refused(
    graph: Graph, unique: str, mutation: str
) -> None:
    version = await pending(graph, unique)
    before = await state(graph, version)
    more: Any = {"decision": "REJECT"} if mutation == "decideApproval" else {}

    refused = await graph.mutate(mutation, {**of(version), **more, "expectedRevision": 1})
    done = await graph.mutate(mutation, {**of(version), **more, "expectedRevision": 2})

    assert (refused["__typename"], refused["currentRevision"]) == ("StaleRevision", 2)
    assert refused["path"] == ["expectedRevision"]
    assert done["__typename"].endswith("Success")
    assert (await state(graph, version))["revision"] == before["revision"] + 1
