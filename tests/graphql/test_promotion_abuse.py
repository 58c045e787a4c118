"""Ways around the gates that somebody might try, and what becomes of them."""

from datetime import datetime, timedelta, tzinfo
from typing import Self

import asyncpg
import pytest

from tests.client import Graph, Json
from tests.factories import VERSION, a_deployment, a_run, a_version, a_version_in, approved


def of(version: Json) -> Json:
    return {"modelVersion": {"id": version["id"]}}


def accuracy(value: float) -> list[Json]:
    return [{"key": "accuracy", "value": value}]


def alike(value: float) -> Json:
    """What says that versions are the same: figures alone do not."""
    return {"metrics": accuracy(value), "artifactPath": "model.bin"}


async def submit(graph: Graph, version: Json) -> Json:
    """The approval that came of it."""
    return await graph.done(
        "submitForApproval", of(version), "approval { status reason decidedBy }"
    )


async def guarded(graph: Graph, model: str, stage: str, *rules: Json) -> None:
    """A model, which is made with its first version, and a policy of its own."""
    await a_version(graph, model)
    policy = {"modelName": model, "stage": stage, "rules": list(rules)}
    done = await graph.mutate("setStagePolicy", policy, **{"Lifecycle-Actor": "admin"})
    assert done["__typename"] == "SetStagePolicySuccess", done


async def promote(graph: Graph, version: Json, **input: object) -> Json:
    return await graph.mutate("setStage", {**of(version), "stage": "PRODUCTION", **input}, VERSION)


async def test_what_replaces_the_content_in_production_is_for_people(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.97))
    await graph.done(
        "updateModelVersion", of(version) | {"metrics": accuracy(0.76)}, "modelVersion { id }"
    )

    # As a version of its own it would be rejected: 0.21 worse than production.
    report = await graph.done(
        "validateModelVersion", of(version), "report { checks { name message } }"
    )
    approval = await submit(graph, version)

    assert approval == {
        "status": "NEEDS_REVIEW",
        "reason": "Version 1 is in production itself; there is nothing to compare it with.",
        "decidedBy": None,
    }
    assert {
        "name": "accuracy against production",
        "message": "Version 1 is in production itself.",
    } in report["checks"]
    refused = await graph.mutate("createDeployment", of(version) | {"environment": "PRODUCTION"})
    assert (refused["__typename"], refused["status"]) == ("ApprovalRequired", "NEEDS_REVIEW")


SUBMIT_FIRST = "Submit it for approval first, with submitForApproval."


async def tried_and_asked(graph: Graph, version: Json) -> tuple[list[Json], list[Json]]:
    """What a dry run and a promotion are answered, and what is said to be in the way."""
    tried = [await promote(graph, version, dryRun=dry) for dry in (True, False)]
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { "
        "whyNot(stage: PRODUCTION) { message advice } } } }",
        {"id": version["id"]},
    )
    return tried, found["node"]["whyNot"]


async def test_what_the_policy_approved_it_would_approve_against_production_as_it_is_now(
    graph: Graph, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.80))
    good_then = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.79)))
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.83))

    tried, why_not = await tried_and_asked(graph, good_then)

    message = (
        "Version 2 is APPROVED, but without a person, and now the policy would leave it to people: "
        "accuracy is 0.79, and 0.83 for version 3 in production: more than 0.01 worse; submit it "
        "for approval first, with submitForApproval."
    )
    for refused in tried:
        assert (refused["__typename"], refused["message"]) == ("ApprovalRequired", message)
    assert why_not == [{"message": message, "advice": SUBMIT_FIRST}]
    # That leads on: a person decides.
    assert (await promote(graph, await approved(graph, good_then)))["__typename"] == (
        "SetStageSuccess"
    )


async def test_a_deployment_goes_on_only_while_its_version_may_run_there(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    waiting = await a_deployment(graph, version, "PRODUCTION", "VALIDATING")
    # Displaced by a better one, it is ARCHIVED; its approval is still in force.
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))

    refused = await graph.mutate("updateDeployment", {"id": waiting, "status": "DEPLOYING"})

    assert (refused["__typename"], refused["message"]) == (
        "Conflict",
        "Version 1 is in stage ARCHIVED; to run in PRODUCTION it must be in PRODUCTION. Move it "
        "there with setStage first.",
    )
    # It can be ended.
    ended = await graph.mutate("updateDeployment", {"id": waiting, "status": "FAILED"})
    assert ended["__typename"] == "UpdateDeploymentSuccess"


async def test_a_bypass_is_seen_in_staging_too(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique, metrics=accuracy(0.1))
    input = of(version) | {"decision": "BYPASS", "notes": "for the fair"}

    done = await graph.mutate(
        "decideApproval",
        input,
        "modelVersion { stageHistory { stage cause } }",
        **{"Lifecycle-Actor": "admin"},
    )

    assert done["modelVersion"]["stageHistory"][-1] == {"stage": "STAGING", "cause": "BYPASSED"}


async def test_nobody_supersedes_what_others_have_submitted(graph: Graph, unique: str) -> None:
    version = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.9)))

    async with Graph(graph.url, "mallory") as mallory:
        error = await mallory.error(
            "mutation ($input: SubmitForApprovalInput!) "
            "{ submitForApproval(input: $input) { __typename } }",
            {"input": of(version)},
        )
    mine = await submit(graph, version)

    assert error["extensions"]["code"] == "FORBIDDEN"
    assert error["message"].startswith(
        "mallory may not supersede what others have submitted and decided"
    )
    assert mine["status"] == "APPROVED"


async def test_a_rollback_passes_over_what_is_stale(graph: Graph, unique: str) -> None:
    made = []
    for _ in range(3):
        version = await a_version_in(graph, unique, "PRODUCTION")
        id = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
        await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
        made.append(version)
    await graph.done("updateModelVersion", of(made[1]) | {"artifactPath": "b"}, VERSION)

    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")

    assert back == {"version": "1"}


async def test_metrics_of_the_future_are_no_fresh_evidence(graph: Graph, unique: str) -> None:
    metrics = [{"key": "accuracy", "value": 0.9, "timestamp": "2999-01-01T00:00:00Z"}]
    version = await a_version(graph, unique, metrics=metrics)
    policy = {
        "modelName": unique,
        "stage": "PRODUCTION",
        "rules": [{"evidenceAge": {"maxDays": 1}}],
    }
    await graph.mutate("setStagePolicy", policy, **{"Lifecycle-Actor": "admin"})

    found = await graph.done("validateModelVersion", of(version), "report { passed }")

    assert found == {"passed": False}


class _Ahead(datetime):
    """The clock of a machine that is two hours ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(hours=2)


async def test_how_old_a_figure_is_is_told_by_the_clock_of_the_database_alone(
    monkeypatch: pytest.MonkeyPatch, graph: Graph, unique: str
) -> None:
    monkeypatch.setattr("lifecycle.registry.service.datetime", _Ahead)
    rule = {"evidenceAge": {"maxDays": 1}}
    await guarded(graph, unique, "PRODUCTION", rule)
    version = await a_version(graph, unique, metrics=accuracy(0.8))
    fresh = [await graph.done("validateModelVersion", of(version), "report { passed }")]

    await graph.done("updateModelVersion", of(version) | {"metrics": accuracy(0.9)}, VERSION)
    fresh.append(await graph.done("validateModelVersion", of(version), "report { passed }"))

    assert fresh == [{"passed": True}] * 2


async def test_who_withdraws_puts_no_words_into_the_mouth_of_who_decided(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    await submit(graph, version)
    decision = of(version) | {"decision": "APPROVE", "notes": "Fine."}
    await graph.mutate("decideApproval", decision, **{"Lifecycle-Actor": "ben"})

    taken = await graph.done(
        "withdrawApproval", of(version) | {"notes": "Found a bug."}, "approval { status notes }"
    )

    assert taken == {"status": "WITHDRAWN", "notes": "Fine."}


DRIFT = {"severity": "HIGH", "metric": "psi"}
MALLORY = {"Lifecycle-Actor": "mallory"}


async def drifts(graph: Graph, version: Json) -> Json:
    """As mallory says, who closes it at once: the version, for which a review is open then."""
    selection = "driftEvent { id modelVersion { approval { status submittedBy } } }"
    found = await graph.mutate("recordDriftEvent", of(version) | DRIFT, selection, **MALLORY)
    event: Json = found["driftEvent"]
    await graph.mutate("updateDriftEvent", {"id": event["id"], "status": "RESOLVED"}, **MALLORY)
    made: Json = event["modelVersion"]
    return made


async def decide(graph: Graph, version: Json, actor: str = "mallory") -> Json:
    decision = of(version) | {"decision": "APPROVE"}
    return await graph.mutate("decideApproval", decision, **{"Lifecycle-Actor": actor})


OF_NOBODY = {"approval": {"status": "NEEDS_REVIEW", "submittedBy": "system:drift"}}


async def test_drift_has_no_change_reviewed_that_nobody_has_submitted(
    graph: Graph, unique: str
) -> None:
    # Given what one has submitted, others have approved, and mallory has put something else into
    version = await approved(graph, await a_version(graph, unique, artifactPath="good"))
    await graph.mutate("updateModelVersion", of(version) | {"artifactPath": "bad"}, **MALLORY)

    assert await drifts(graph, version) == OF_NOBODY
    refused = await decide(graph, version)
    # Whoever else may approve would not know whom to ask either.
    by_another = await decide(graph, version, "ben")

    assert refused == by_another
    assert refused == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "Nobody stands for what version 1 is now: whoever does submits it with "
        "submitForApproval.",
        "path": ["decision"],
    }
    # Somebody stands for it then, and it is for others to decide.
    await graph.mutate("submitForApproval", of(version), **{"Lifecycle-Actor": "ben"})
    assert (await decide(graph, version, "ann"))["__typename"] == "DecideApprovalSuccess"


async def test_drift_makes_nobodys_submission_of_somebodys(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    await graph.mutate("submitForApproval", of(version), **MALLORY)

    assert await drifts(graph, version) == OF_NOBODY
    refused = await graph.answer(
        "mutation ($input: DecideApprovalInput!) { decideApproval(input: $input) { __typename } }",
        {"input": of(version) | {"decision": "APPROVE"}},
        **MALLORY,
    )

    [error] = refused["errors"]
    assert (error["extensions"]["code"], error["message"]) == (
        "FORBIDDEN",
        "mallory submitted this version; somebody else has to approve it.",
    )
    assert (await decide(graph, version, "ben"))["__typename"] == "DecideApprovalSuccess"


@pytest.mark.parametrize("way", ["submit", "change", "withdraw", "reject"])
async def test_who_submits_again_does_not_decide_what_drift_has_people_decide(
    graph: Graph, unique: str, way: str
) -> None:
    version = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.9)))
    assert await drifts(graph, version) == OF_NOBODY
    if way == "change":
        await graph.mutate("updateModelVersion", of(version) | {"metrics": accuracy(0.91)})
    if way == "withdraw":
        await graph.mutate("withdrawApproval", of(version))
    if way == "reject":
        await graph.mutate("decideApproval", of(version) | {"decision": "REJECT"}, **MALLORY)

    # Without drift the policy would approve it.
    submitted = [await submit(graph, version) for _ in range(2)]

    assert (
        submitted
        == [
            {
                "status": "NEEDS_REVIEW",
                "reason": "Since it was rejected or taken back, or drift opened a review of it, "
                "nobody has approved it.",
                "decidedBy": None,
            }
        ]
        * 2
    )
    assert (await decide(graph, version))["__typename"] == "DecideApprovalSuccess"
    # What people have approved, a change makes a matter of the policy again.
    await graph.mutate("updateModelVersion", of(version) | {"metrics": accuracy(0.92)})
    assert (await submit(graph, version))["status"] == "APPROVED"


async def test_drift_has_nothing_reviewed_that_was_submitted_once_and_replaced_since(
    graph: Graph, unique: str
) -> None:
    # Given what somebody has submitted once, and something better that was approved since
    version = await approved(graph, await a_version(graph, unique, artifactPath="leaky"))
    await graph.mutate("updateModelVersion", of(version) | {"artifactPath": "mended"})
    await approved(graph, version)

    await graph.mutate("updateModelVersion", of(version) | {"artifactPath": "leaky"}, **MALLORY)
    assert await drifts(graph, version) == OF_NOBODY
    refused = await decide(graph, version)

    assert (refused["__typename"], refused["message"]) == (
        "Conflict",
        "Nobody stands for what version 1 is now: whoever does submits it with submitForApproval.",
    )


async def test_drift_has_nothing_reviewed_that_its_submitter_took_back(
    graph: Graph, unique: str
) -> None:
    version = await approved(graph, await a_version(graph, unique))
    await graph.done("withdrawApproval", of(version), "approval { status }")

    assert await drifts(graph, version) == OF_NOBODY

    assert (await decide(graph, version))["__typename"] == "Conflict"


async def test_a_rollback_brings_back_nothing_that_was_never_in_production(
    graph: Graph, unique: str
) -> None:
    # Given two versions that were in production and ran well there, and a third that does
    made = []
    for figure in (0.80, 0.81, 0.82):
        made.append(await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(figure)))
        id = await a_deployment(graph, made[-1], "PRODUCTION", "ACTIVE")
        await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    # When the second becomes something else, which is approved but does not come into production
    changed = of(made[1]) | {"metrics": accuracy(0.815), "artifactPath": "new"}
    await graph.done("updateModelVersion", changed, VERSION)
    await approved(graph, made[1])

    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")

    assert back == {"version": "1"}


async def test_a_rollback_is_no_way_into_production_for_what_was_never_there(
    graph: Graph, unique: str
) -> None:
    # Given a version that was in production and ran well there, and the one that displaced it
    made = []
    for figure in (0.80, 0.81):
        made.append(await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(figure)))
        id = await a_deployment(graph, made[-1], "PRODUCTION", "ACTIVE")
        await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    # When the first becomes something else, which is approved, but which nobody has promoted
    changed = of(made[0]) | {"metrics": accuracy(0.82), "artifactPath": "new"}
    await graph.done("updateModelVersion", changed, VERSION)
    await approved(graph, made[0])

    refused = await graph.mutate("rollbackDeployment", {"id": id}, **MALLORY)

    assert (refused["__typename"], refused["message"], refused["path"]) == (
        "Conflict",
        "Version 1 is not what was in PRODUCTION any more; move it there with setStage first.",
        ["id"],
    )
    # Whoever may promote it does, and it is what was rolled back to from then on.
    assert (await promote(graph, made[0]))["__typename"] == "SetStageSuccess"
    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")
    assert back == {"version": "1"}


async def test_a_rollback_is_no_way_into_staging_past_its_policy(graph: Graph, unique: str) -> None:
    # given: a version that ran well in STAGING, has left it, and is what STAGING does not allow
    await guarded(graph, unique, "STAGING", {"artifactDigest": {}})
    made = []
    for digest in ("sha256:1", "sha256:2"):
        content = {"artifactPath": digest, "artifactDigest": digest, "metrics": accuracy(0.9)}
        made.append(await a_version_in(graph, unique, "STAGING", **content))
        id = await a_deployment(graph, made[-1], "STAGING", "ACTIVE")
        await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    good, _ = made
    await graph.done("setStage", {**of(good), "stage": "ARCHIVED"}, VERSION)
    changed = of(good) | {"artifactPath": "bad", "artifactDigest": None}
    await graph.done("updateModelVersion", changed, VERSION)

    # when
    refused = await graph.mutate("rollbackDeployment", {"id": id})

    # then: it comes back as what the policy allows,
    assert refused["__typename"] == "GateFailed", refused
    asked = await graph.mutate("setStage", {**of(good), "stage": "STAGING"})
    assert (refused["message"], refused["path"]) == (asked["message"], ["id"])
    allowed = of(good) | {"artifactDigest": "sha256:1"}
    await graph.done("updateModelVersion", allowed, VERSION)
    back = await graph.done(
        "rollbackDeployment",
        {"id": id},
        "deployment { version modelVersion { stageHistory { cause report { passed } } } }",
    )
    assert back["version"] == "2"
    assert back["modelVersion"]["stageHistory"][-1] == {
        "cause": "ROLLED_BACK",
        "report": {"passed": True},
    }


async def test_a_rollback_in_staging_brings_back_what_was_approved(
    graph: Graph, unique: str
) -> None:
    # given: one that is approved, and a policy of STAGING that came later and would refuse it
    good = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.9)))
    first = await a_deployment(graph, good, "STAGING", "ACTIVE")
    await graph.done("updateDeployment", {"id": first, "health": "HEALTHY"}, "deployment { id }")
    bad = await a_deployment(
        graph, await a_version_in(graph, unique, "STAGING"), "STAGING", "ACTIVE"
    )
    await guarded(graph, unique, "STAGING", {"artifactDigest": {}})
    await graph.done("setStage", {**of(good), "stage": "ARCHIVED"}, VERSION)

    back = await graph.done(
        "rollbackDeployment", {"id": bad}, "deployment { version modelVersion { stage } }"
    )

    assert back == {"version": "1", "modelVersion": {"stage": "STAGING"}}


async def test_what_the_policy_approved_is_for_people_once_the_policy_decides_nothing(
    graph: Graph, unique: str
) -> None:
    # Given what was in production without a person's approval, until another took its place
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    policy = {"modelName": unique, "stage": "PRODUCTION", "rules": []}
    await graph.mutate("setStagePolicy", policy, **{"Lifecycle-Actor": "admin"})
    await graph.done("setStage", of(version) | {"stage": "STAGING"}, VERSION)

    refused = await promote(graph, version)

    assert (refused["__typename"], refused["message"]) == (
        "ApprovalRequired",
        "Version 1 is APPROVED, but without a person, and now the policy would leave it to people: "
        "The policy decides nothing by itself; submit it for approval first, with "
        "submitForApproval.",
    )


async def test_what_was_open_when_drift_called_for_people_is_for_people(
    graph: Graph, unique: str
) -> None:
    # Given a submission that is open already
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    version = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.9)))
    await graph.done("updateModelVersion", of(version) | {"metrics": accuracy(0.87)}, VERSION)
    policy = {
        "modelName": unique,
        "responses": [{"fromSeverity": "HIGH", "action": "OPEN_REVIEW"}],
        "degradation": [],
        "reason": "People look at it.",
    }
    await graph.mutate("setDriftPolicy", policy, **{"Lifecycle-Actor": "admin"})
    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"

    await drifts(graph, version)
    await graph.done("updateModelVersion", of(version) | {"metrics": accuracy(0.9)}, VERSION)

    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"


async def test_the_policy_does_not_approve_what_people_have_rejected(
    graph: Graph, unique: str
) -> None:
    leader = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    version = await a_version(graph, unique, metrics=accuracy(0.87))
    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"
    rejected = of(version) | {"decision": "REJECT"}
    await graph.mutate("decideApproval", rejected, **{"Lifecycle-Actor": "ben"})

    # Nothing to compare it with: the policy would approve it by itself.
    await graph.done("setStage", of(leader) | {"stage": "ARCHIVED"}, VERSION)
    same = await a_version(graph, unique, metrics=accuracy(0.87))
    other = await a_version(graph, unique, metrics=accuracy(0.88))

    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    assert (await submit(graph, other))["status"] == "APPROVED"

    # Until people think otherwise
    approved = of(same) | {"decision": "APPROVE"}
    await graph.mutate("decideApproval", approved, **{"Lifecycle-Actor": "ben"})

    assert (await submit(graph, version))["status"] == "APPROVED"


async def rejected(graph: Graph, version: Json) -> None:
    await graph.mutate(
        "decideApproval", of(version) | {"decision": "REJECT"}, **{"Lifecycle-Actor": "ben"}
    )


async def doubtful(graph: Graph, name: str) -> list[Json]:
    """Two versions alike, which people have to decide about, until nothing is in production any
    more."""
    leader = await a_version_in(graph, name, "PRODUCTION", metrics=accuracy(0.9))
    versions = [await a_version(graph, name, **alike(0.87)) for _ in range(2)]
    for version in versions:
        assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"
    await graph.done("setStage", of(leader) | {"stage": "ARCHIVED"}, VERSION)
    return versions


async def two_alike(graph: Graph, name: str) -> list[Json]:
    """Two versions of one content, which wait for people; the policy approves the second."""
    leader = await a_version_in(graph, name, "PRODUCTION", metrics=accuracy(0.9))
    first, second = [await a_version(graph, name, **alike(0.87)) for _ in range(2)]
    assert (await submit(graph, first))["status"] == "NEEDS_REVIEW"
    await graph.done("setStage", of(leader) | {"stage": "ARCHIVED"}, VERSION)
    assert (await submit(graph, second))["decidedBy"] == "system:policy"
    return [first, second]


def overruled(version: str, refused: str) -> str:
    return (
        f"Version {version} is APPROVED, but nobody has approved what it is since the same, as "
        f"version {refused}, was rejected or taken back, or drift opened a review of it; submit "
        "it for approval first, with submitForApproval."
    )


@pytest.mark.parametrize("approved_by", ["policy", "people"])
async def test_what_people_have_rejected_goes_on_as_no_other_version_that_was_approved_before(
    graph: Graph, unique: str, approved_by: str
) -> None:
    # given: two versions alike, of which one is approved, and then the other is rejected
    if approved_by == "policy":
        bad, same = await two_alike(graph, unique)
    else:
        bad, same = await doubtful(graph, unique)
        assert (await decide(graph, same))["__typename"] == "DecideApprovalSuccess"
    await rejected(graph, bad)

    # when
    tried, why_not = await tried_and_asked(graph, same)

    # then
    message = overruled("3", "2")
    for refused in tried:
        assert (refused["__typename"], refused["message"]) == ("ApprovalRequired", message)
    assert why_not == [{"message": message, "advice": SUBMIT_FIRST}]
    # That leads on: people decide.
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    assert (await decide(graph, same))["__typename"] == "DecideApprovalSuccess"
    assert (await promote(graph, same))["__typename"] == "SetStageSuccess"


async def test_what_people_have_taken_back_goes_on_as_no_other_version(
    graph: Graph, unique: str
) -> None:
    # given: what people have approved, which the policy approves as another version then
    first, second = await two_alike(graph, unique)
    assert (await decide(graph, first))["__typename"] == "DecideApprovalSuccess"

    # when
    await graph.mutate("withdrawApproval", of(first), **MALLORY)

    # then
    assert (await promote(graph, second))["__typename"] == "ApprovalRequired"


@pytest.mark.parametrize("first_approved", [0, 1])
async def test_what_people_have_taken_back_is_so_from_then_on(
    graph: Graph, unique: str, first_approved: int
) -> None:
    # given: two versions alike, of which people have approved the one before the other
    versions = await doubtful(graph, unique)
    for version in (versions[first_approved], versions[1 - first_approved]):
        assert (await decide(graph, version))["__typename"] == "DecideApprovalSuccess"

    # when
    selection = "approval { decidedAt withdrawnAt }"
    taken_back = await graph.mutate("withdrawApproval", of(versions[0]), selection, **MALLORY)

    # then
    assert taken_back["approval"]["withdrawnAt"] > taken_back["approval"]["decidedAt"]
    assert (await promote(graph, versions[1]))["__typename"] == "ApprovalRequired"
    same = await a_version(graph, unique, **alike(0.87))
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"


@pytest.mark.parametrize("no", ["rejected", "taken back"])
async def test_the_last_word_is_so_although_the_clock_of_the_database_goes_back(
    graph: Graph, sql: asyncpg.Connection, unique: str, no: str
) -> None:
    # given: two versions alike, which people have decided about an hour ahead of the clock
    bad, same = await doubtful(graph, unique)
    for version in [bad, same] if no == "taken back" else [same]:
        assert (await decide(graph, version))["__typename"] == "DecideApprovalSuccess"
    await sql.execute(
        "UPDATE approval SET submitted_at = submitted_at + interval '1 hour', "
        "decided_at = decided_at + interval '1 hour', used_at = used_at + interval '1 hour' "
        "WHERE model_version_id IN (SELECT id FROM model_version WHERE model_name = $1)",
        unique,
    )

    # when
    if no == "rejected":
        await rejected(graph, bad)
    else:
        await graph.mutate("withdrawApproval", of(bad), **MALLORY)

    # then
    refused = await promote(graph, same)
    assert (refused["__typename"], refused["message"]) == ("ApprovalRequired", overruled("3", "2"))

    # when: people approve it again
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    assert (await decide(graph, same))["__typename"] == "DecideApprovalSuccess"
    assert (await promote(graph, same))["__typename"] == "SetStageSuccess"

    # then
    query = """query ($id: ID!) { modelVersion(by: { id: $id }) {
        approval { submittedAt decidedAt usedAt } approvalHistory { submittedAt } } }"""
    found = (await graph.query(query, {"id": same["id"]}))["modelVersion"]
    approval, history = found["approval"], found["approvalHistory"]
    assert history[0]["submittedAt"] == approval["submittedAt"] > history[1]["submittedAt"]
    assert approval["usedAt"] == approval["decidedAt"] > approval["submittedAt"]


async def test_what_the_policy_approved_and_people_took_back_the_policy_does_not_approve_again(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique, **alike(0.87))
    assert (await submit(graph, version))["decidedBy"] == "system:policy"
    taken_back = of(version) | {"notes": "It has a bug."}
    await graph.mutate("withdrawApproval", taken_back, **{"Lifecycle-Actor": "admin"})

    same = await a_version(graph, unique, **alike(0.87))

    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"


async def in_production(graph: Graph, name: str, *figures: float) -> tuple[list[Json], str]:
    """Versions that were in production one after the other, and ran well there; the last is there.
    With the id of its deployment."""
    made = []
    for figure in figures:
        made.append(await a_version_in(graph, name, "PRODUCTION", **alike(figure)))
        id = await a_deployment(graph, made[-1], "PRODUCTION", "ACTIVE")
        await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    return made, id


async def test_a_rollback_leaves_what_is_bad_under_each_of_its_numbers(
    graph: Graph, unique: str
) -> None:
    # given: what is registered once more, as a pipeline does, and something else by now
    [*_, bad], id = await in_production(graph, unique, 0.77, 0.82, 0.82)
    await graph.done("updateModelVersion", of(bad) | {"metrics": accuracy(0.83)}, VERSION)
    await submit(graph, bad)

    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")

    assert back == {"version": "1"}


async def test_a_rollback_leads_to_what_the_bad_version_was_once(graph: Graph, unique: str) -> None:
    # given: what was changed in PRODUCTION, and approved as it is now
    [*_, bad], id = await in_production(graph, unique, 0.77, 0.77)
    await graph.done("updateModelVersion", of(bad) | {"metrics": accuracy(0.82)}, VERSION)
    await submit(graph, bad)
    assert (await decide(graph, bad))["__typename"] == "DecideApprovalSuccess"

    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")

    assert back == {"version": "1"}


async def test_a_rollback_leads_to_what_is_only_said_of_the_bad_version(
    graph: Graph, unique: str
) -> None:
    # given: what runs is another content than what was made of its version since
    [*_, bad], id = await in_production(graph, unique, 0.77, 0.82)
    await graph.done("updateModelVersion", of(bad) | {"metrics": accuracy(0.77)}, VERSION)
    assert (await submit(graph, bad))["status"] == "NEEDS_REVIEW"

    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")

    assert back == {"version": "1"}


async def test_a_rollback_passes_over_what_people_have_rejected_as_another_version(
    graph: Graph, unique: str
) -> None:
    _, id = await in_production(graph, unique, 0.80, 0.77, 0.82)
    same = await a_version(graph, unique, **alike(0.77))
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    await rejected(graph, same)

    back = await graph.done("rollbackDeployment", {"id": id}, "deployment { version }")

    assert back == {"version": "1"}


async def test_a_rollback_brings_nothing_back_that_people_have_rejected_as_another_version(
    graph: Graph, unique: str
) -> None:
    [former, _], id = await in_production(graph, unique, 0.77, 0.82)
    same = await a_version(graph, unique, **alike(0.77))
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    await rejected(graph, same)

    refused = await graph.mutate("rollbackDeployment", {"id": id})

    assert (refused["__typename"], refused["message"]) == ("ApprovalRequired", overruled("1", "3"))
    # An administrator may, and says why.
    bypass = of(former) | {"decision": "BYPASS", "notes": "nothing else runs"}
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})
    await promote(graph, former)
    assert (await graph.query(STAGE, {"id": former["id"]}))["node"] == {"stage": "PRODUCTION"}


STAGE = "query ($id: ID!) { node(id: $id) { ... on ModelVersion { stage } } }"


async def test_what_people_have_rejected_as_another_version_is_deployed_once_they_approve_it(
    graph: Graph, unique: str
) -> None:
    # given: what is in production, and is rejected as another version
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    version = await a_version_in(graph, unique, "PRODUCTION", **alike(0.87))
    waiting = await a_deployment(graph, version, "PRODUCTION", "VALIDATING")
    same = await a_version(graph, unique, **alike(0.87))
    assert (await submit(graph, same))["status"] == "APPROVED"
    await graph.mutate("withdrawApproval", of(same), "approval { status }")

    # when
    deployment = of(version) | {"environment": "PRODUCTION"}
    refused = [
        await graph.mutate("createDeployment", deployment),
        await graph.mutate("updateDeployment", {"id": waiting, "status": "DEPLOYING"}),
    ]

    # then
    for each in refused:
        assert (each["__typename"], each["message"]) == ("ApprovalRequired", overruled("2", "3"))
    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"
    assert (await decide(graph, version))["__typename"] == "DecideApprovalSuccess"
    assert (await graph.mutate("createDeployment", deployment))["__typename"] == (
        "CreateDeploymentSuccess"
    )


async def test_what_is_overruled_in_production_others_submit_too(graph: Graph, unique: str) -> None:
    # given: what is in production, and people have taken back as another version
    version = await a_version_in(graph, unique, "PRODUCTION", **alike(0.87))
    same = await approved(graph, await a_version(graph, unique, **alike(0.87)))
    await graph.done("withdrawApproval", of(same), "approval { status }")

    # when: whoever it was that had submitted it (elsewhere it is theirs)
    selection = "approval { status submittedBy }"
    submitted = await graph.mutate("submitForApproval", of(version), selection, **MALLORY)

    # then
    assert submitted["approval"] == {"status": "NEEDS_REVIEW", "submittedBy": "mallory"}
    assert (await decide(graph, version, "ben"))["__typename"] == "DecideApprovalSuccess"
    deployed = await graph.mutate("createDeployment", of(version) | {"environment": "PRODUCTION"})
    assert deployed["__typename"] == "CreateDeploymentSuccess"


async def test_what_is_the_same_in_figures_alone_is_taken_back_by_itself_alone(
    graph: Graph, unique: str
) -> None:
    # given: nothing but figures is known of what is in production, and of what is taken back
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.87))
    other = await a_version(graph, unique, metrics=accuracy(0.87))
    assert (await submit(graph, other))["status"] == "APPROVED"

    # when
    await graph.mutate("withdrawApproval", of(other), "approval { status }")

    # then
    deployed = await graph.mutate("createDeployment", of(version) | {"environment": "PRODUCTION"})
    assert deployed["__typename"] == "CreateDeploymentSuccess"
    assert (await submit(graph, other))["status"] == "NEEDS_REVIEW"


async def test_a_bypass_does_not_hold_against_what_people_say_later(
    graph: Graph, unique: str
) -> None:
    # given: what was let in by a BYPASS, made way, and was rejected as another version
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    version = await a_version(graph, unique, **alike(0.87))
    bypass = of(version) | {"decision": "BYPASS", "notes": "it is urgent"}
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})
    assert (await promote(graph, version))["__typename"] == "SetStageSuccess"
    good = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    await graph.done("updateDeployment", {"id": good, "health": "HEALTHY"}, "deployment { id }")
    later = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.92))
    bad = await a_deployment(graph, later, "PRODUCTION", "ACTIVE")
    same = await a_version(graph, unique, **alike(0.87))
    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    await rejected(graph, same)

    # when
    refused = await graph.mutate("rollbackDeployment", {"id": bad})

    # then
    message = overruled("2", "4").replace("APPROVED", "BYPASSED")
    assert (refused["__typename"], refused["message"]) == ("ApprovalRequired", message)
    # Who goes past it knowingly does.
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})
    back = await graph.done("rollbackDeployment", {"id": bad}, "deployment { version }")
    assert back == {"version": "2"}


async def test_a_bypass_goes_past_no_policy_that_is_set_later(graph: Graph, unique: str) -> None:
    # given: what was let in by a BYPASS, and made way
    version = await a_version(graph, unique, **alike(0.3))
    bypass = of(version) | {"decision": "BYPASS", "notes": "it is urgent"}
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})
    assert (await promote(graph, version))["__typename"] == "SetStageSuccess"
    good = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    await graph.done("updateDeployment", {"id": good, "health": "HEALTHY"}, "deployment { id }")
    later = await a_version_in(graph, unique, "PRODUCTION", **alike(0.9))
    bad = await a_deployment(graph, later, "PRODUCTION", "ACTIVE")
    await graph.done("setStage", of(version) | {"stage": "STAGING"}, VERSION)

    # when
    await guarded(graph, unique, "PRODUCTION", {"approvals": {"count": 2}})
    tried, why_not = await tried_and_asked(graph, version)

    # then
    message = (
        "Version 1 is BYPASSED, but by 0 of the 2 people who have to approve it; submit it for "
        "approval first, with submitForApproval."
    )
    for refused in tried:
        assert (refused["__typename"], refused["message"]) == ("ApprovalRequired", message)
    assert why_not == [{"message": message, "advice": SUBMIT_FIRST}]
    # It was there, and can be gone back to.
    back = await graph.done("rollbackDeployment", {"id": bad}, "deployment { version }")
    assert back == {"version": "1"}


async def test_a_bypass_lets_no_other_version_in(graph: Graph, unique: str) -> None:
    bad, same = await two_alike(graph, unique)
    await rejected(graph, bad)

    bypass = of(bad) | {"decision": "BYPASS", "notes": "it is urgent"}
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})

    assert (await promote(graph, same))["__typename"] == "ApprovalRequired"
    assert (await promote(graph, bad))["__typename"] == "SetStageSuccess"


async def test_a_bypass_that_has_become_stale_lets_no_other_version_in(
    graph: Graph, unique: str
) -> None:
    bad, same = await two_alike(graph, unique)
    await rejected(graph, bad)
    bypass = of(bad) | {"decision": "BYPASS", "notes": "it is urgent"}
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})

    await graph.done("updateModelVersion", of(bad) | {"artifactPath": "other"}, VERSION)

    assert (await promote(graph, same))["__typename"] == "ApprovalRequired"


async def test_what_was_rejected_is_in_nobodys_way_who_has_another_content_or_goes_past_it(
    graph: Graph, unique: str
) -> None:
    bad, same = await two_alike(graph, unique)
    other = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.88)))
    await rejected(graph, bad)

    assert (await promote(graph, other))["__typename"] == "SetStageSuccess"
    bypass = of(same) | {"decision": "BYPASS", "notes": "it is urgent"}
    await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})
    assert (await promote(graph, same))["__typename"] == "SetStageSuccess"


async def test_what_people_have_approved_since_is_no_way_for_what_they_have_rejected(
    graph: Graph, unique: str
) -> None:
    # given: after the one was rejected, another was approved as something else
    bad, other = await doubtful(graph, unique)
    await rejected(graph, bad)
    leader = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.93))
    await graph.done("updateModelVersion", of(other) | {"metrics": accuracy(0.89)}, VERSION)
    assert (await submit(graph, other))["status"] == "NEEDS_REVIEW"
    assert (await decide(graph, other))["__typename"] == "DecideApprovalSuccess"
    await graph.done("setStage", of(leader) | {"stage": "ARCHIVED"}, VERSION)

    # when: its author makes it what was rejected
    await graph.done("updateModelVersion", of(other) | {"metrics": accuracy(0.87)}, VERSION)

    # then
    assert (await submit(graph, other))["status"] == "NEEDS_REVIEW"


async def test_what_people_reject_after_they_have_approved_it_is_rejected(
    graph: Graph, unique: str
) -> None:
    """Whichever was submitted first."""
    first, second = await doubtful(graph, unique)
    assert (await decide(graph, second))["__typename"] == "DecideApprovalSuccess"
    await rejected(graph, first)

    assert (await submit(graph, first))["status"] == "NEEDS_REVIEW"


async def test_what_was_approved_and_taken_back_is_for_people(graph: Graph, unique: str) -> None:
    version, _ = await doubtful(graph, unique)
    assert (await decide(graph, version))["__typename"] == "DecideApprovalSuccess"
    await graph.mutate("withdrawApproval", of(version), **MALLORY)

    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"


async def test_what_drift_has_people_decide_the_policy_approves_as_no_other_version(
    graph: Graph, unique: str
) -> None:
    version = await approved(graph, await a_version(graph, unique, metrics=accuracy(0.9)))
    assert await drifts(graph, version) == OF_NOBODY

    same = await a_version(graph, unique, metrics=accuracy(0.9))
    other = await a_version(graph, unique, metrics=accuracy(0.91))

    assert (await submit(graph, same))["status"] == "NEEDS_REVIEW"
    assert (await submit(graph, other))["status"] == "APPROVED"


CHECKED: list[Json] = [
    {"checklist": {"required": True}},
    {"metric": {"key": "accuracy", "atLeast": 0.7}},
    {"automaticApproval": {"key": "accuracy", "betterBy": 0.02, "tolerance": 0.01}},
]
MARK = (
    "mutation ($input: MarkChecklistItemInput!) { markChecklistItem(input: $input) { __typename } }"
)


async def items(graph: Graph, version: Json) -> list[str]:
    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { checklist { id } } }"
    found = (await graph.query(query, {"id": version["id"]}))["modelVersion"]
    return [item["id"] for item in found["checklist"]]


async def test_nobody_confirms_the_checklist_of_what_is_their_own(
    graph: Graph, unique: str
) -> None:
    # given: somebody registers it, and somebody else submits it
    version = await a_version(graph, unique, checklist=["fair to all"])
    [item] = await items(graph, version)
    await graph.mutate("submitForApproval", of(version), **MALLORY)

    async def mark(status: str, **actor: str) -> str:
        variables = {"input": {"id": item, "status": status}}
        answer = await graph.answer(MARK, variables, **actor)
        return str(answer["errors"][0]["message"] if "errors" in answer else "done")

    # when, then
    end = "this version; somebody else has to approve items of its checklist."
    assert await mark("APPROVED") == f"tester registered {end}"
    assert await mark("APPROVED", **MALLORY) == f"mallory submitted {end}"
    # To object is everybody's.
    assert await mark("REJECTED") == "done"
    assert await mark("PENDING", **MALLORY) == "done"
    assert await mark("APPROVED", **{"Lifecycle-Actor": "approver"}) == "done"


async def refusal(graph: Graph, mutation: str, input: Json, actor: str) -> str | None:
    """Why somebody may not, None if they may."""
    query = (
        "mutation ($input: %sInput!) { %s(input: $input) { __typename ... on Error { message } } }"
    )
    answer = await graph.answer(
        query % (mutation[0].upper() + mutation[1:], mutation),
        {"input": input},
        **{"Lifecycle-Actor": actor},
    )
    if "errors" in answer:
        return str(answer["errors"][0]["message"])
    message: str | None = answer["data"][mutation].get("message")
    return message


def a_file(path: str, digit: int) -> Json:
    return {"name": path, "path": path, "digest": f"sha256:{str(digit) * 64}", "sizeBytes": 1}


@pytest.mark.parametrize("change", ["metrics", "path", "params", "facts", "artifact"])
async def test_nobody_approves_what_they_have_made_of_somebodys_version(
    graph: Graph, unique: str, change: str
) -> None:
    # given: what somebody has submitted, and then mallory has changed
    run = await a_run(graph, unique)
    version = await a_version(
        graph, unique, runId=run, artifactPath="model.bin", checklist=["fair to all"]
    )
    [item] = await items(graph, version)
    await submit(graph, version)
    changes: dict[str, tuple[str, Json]] = {
        "metrics": ("updateModelVersion", of(version) | {"metrics": [{"key": "lift", "value": 2}]}),
        "path": ("updateModelVersion", of(version) | {"artifactPath": "other.bin"}),
        "params": ("updateRun", {"id": run, "params": [{"key": "seed", "value": "1"}]}),
        "facts": ("updateRun", {"id": run, "datasetFacts": {"train_size": 5000}}),
        # Submitting names it.
        "artifact": ("updateRun", {"id": run, "artifacts": [a_file("model.bin", 1)]}),
    }
    mutation, changed = changes[change]
    await graph.mutate(mutation, changed, **MALLORY)

    # when: its author submits that, and that again, and others look at it
    for _ in range(2):
        assert (await submit(graph, version))["status"] in ("PENDING", "NEEDS_REVIEW")
    mark = {"id": item, "status": "APPROVED"}
    decision = of(version) | {"decision": "APPROVE"}
    refused = [
        await refusal(graph, "markChecklistItem", mark, "mallory"),
        await refusal(graph, "decideApproval", decision, "mallory"),
    ]
    by_another = [
        await refusal(graph, "markChecklistItem", mark, "ben"),
        await refusal(graph, "decideApproval", decision, "ben"),
    ]

    # then
    assert refused == [
        "mallory changed this version; somebody else has to approve items of its checklist.",
        "mallory changed this version; somebody else has to approve it.",
    ]
    assert by_another == [None, None]


async def test_drift_has_nobody_confirm_the_checklist_of_what_they_have_submitted(
    graph: Graph, unique: str
) -> None:
    # given: what mallory has submitted and another approved, until drift opened a review of it
    version = await a_version(graph, unique, checklist=["fair to all"])
    [item] = await items(graph, version)
    await graph.mutate("submitForApproval", of(version), **MALLORY)
    mark = {"id": item, "status": "APPROVED"}
    assert await refusal(graph, "markChecklistItem", mark, "ben") is None
    assert (await decide(graph, version, "ben"))["__typename"] == "DecideApprovalSuccess"
    assert await drifts(graph, version) == OF_NOBODY
    again = {"id": item, "status": "PENDING"}
    assert await refusal(graph, "markChecklistItem", again, "ben") is None

    # when
    refused = await refusal(graph, "markChecklistItem", mark, "mallory")

    # then
    assert refused == (
        "mallory submitted this version; somebody else has to approve items of its checklist."
    )


@pytest.mark.parametrize("change", ["params", "datasetFacts"])
async def test_who_has_looked_at_a_version_has_looked_at_what_its_run_was(
    graph: Graph, unique: str, change: str
) -> None:
    # given: a version that nobody has submitted, as somebody has seen it
    run = await a_run(graph, unique)
    version = await a_version(graph, unique, runId=run, checklist=["fair to all"])
    [item] = await items(graph, version)
    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { revision } }"
    seen = (await graph.query(query, {"id": version["id"]}))["modelVersion"]["revision"]
    same: Json = {"id": run, "name": "another name", "params": [], "datasetFacts": None}
    await graph.done("updateRun", same, "run { id }")

    # when
    changes: Json = {"params": [{"key": "seed", "value": "1"}], "datasetFacts": {"train_size": 3}}
    await graph.done("updateRun", {"id": run, change: changes[change]}, "run { id }")
    looked_at = {"expectedRevision": seen}
    item_marked = {"id": item, "status": "APPROVED"} | looked_at
    bypassed = of(version) | {"decision": "BYPASS", "notes": "it is urgent"} | looked_at
    administrator = {"Lifecycle-Actor": "admin"}
    refused = [
        await graph.mutate("markChecklistItem", item_marked, **administrator),
        await graph.mutate("decideApproval", bypassed, **administrator),
    ]

    # then
    assert [(each["__typename"], each["currentRevision"]) for each in refused] == [
        ("StaleRevision", seen + 1)
    ] * 2


async def test_facts_that_are_the_same_to_python_alone_are_others(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique, datasetFacts={"shuffled": 1})
    version = await approved(graph, await a_version(graph, unique, runId=run))

    await graph.done("updateRun", {"id": run, "datasetFacts": {"shuffled": True}}, "run { id }")

    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { approval { status } } }"
    found = (await graph.query(query, {"id": version["id"]}))["modelVersion"]
    assert found == {"approval": {"status": "STALE"}}


async def test_a_large_float_that_is_said_again_is_no_change(graph: Graph, unique: str) -> None:
    # given: a number that is to Python another than the decimal that it is written as
    large = {"ns": 1.2345678901234568e18, "of": [{"more": 1.7321987654321e18}], "huge": 1e23}
    version = await approved(graph, await a_version(graph, unique, hyperparameters=large))

    # when
    by_id = {"modelVersion": {"id": version["id"]}}
    again = {**by_id, "hyperparameters": large}
    told = "modelVersion { revision approval { status } }"
    same = await graph.done("updateModelVersion", again, told)

    # then
    assert same["approval"] == {"status": "APPROVED"}

    # when: it is another
    other = {**by_id, "hyperparameters": {**large, "ns": 1.2345678901234570e18}}
    changed = await graph.done("updateModelVersion", other, told)

    # then
    assert changed == {"revision": same["revision"] + 2, "approval": {"status": "STALE"}}


async def test_a_bypass_is_for_what_the_version_names(graph: Graph, unique: str) -> None:
    # given: a version that names a file, which mallory logs once somebody has looked at it
    run = await a_run(graph, unique)
    version = await a_version(graph, unique, runId=run, artifactPath="model.bin")
    await graph.mutate("updateRun", {"id": run, "artifacts": [a_file("model.bin", 1)]}, **MALLORY)

    # when
    bypass = of(version) | {"decision": "BYPASS", "notes": "it is urgent"}
    selection = "modelVersion { artifactDigest approval { status } }"
    done = await graph.mutate("decideApproval", bypass, selection, **{"Lifecycle-Actor": "admin"})

    # then
    assert done["modelVersion"] == {"artifactDigest": None, "approval": {"status": "BYPASSED"}}


async def test_who_changes_nothing_that_is_approved_may_approve_it(
    graph: Graph, unique: str
) -> None:
    # given: mallory has made a run, of which somebody has registered a version
    await graph.mutate("createExperiment", {"name": unique})
    begun = {"experimentName": unique, "params": [{"key": "seed", "value": "1"}]}
    made = await graph.mutate("logRun", begun, "run { id }", **MALLORY)
    run = made["run"]["id"]
    facts = {"id": run, "datasetFacts": {"train_size": 5000}, "artifacts": [a_file("model.bin", 1)]}
    await graph.mutate("updateRun", facts, **MALLORY)
    version = await a_version(graph, unique, runId=run, artifactPath="model.bin")

    # when: after that, mallory says more of both, and gives them the content that they have
    more = {
        "id": run,
        "params": begun["params"],
        "metrics": accuracy(0.9),
        "artifacts": [a_file("plot.png", 2)],
        "status": "COMPLETED",
    }
    await graph.mutate("updateRun", more, **MALLORY)
    words = {"description": "better words", "artifactPath": "model.bin"}
    await graph.mutate("updateModelVersion", of(version) | words, **MALLORY)
    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"

    # then
    assert (await decide(graph, version))["__typename"] == "DecideApprovalSuccess"


async def test_who_has_gone_through_the_checklist_does_not_have_the_policy_approve_it(
    graph: Graph, unique: str
) -> None:
    # given: a policy that approves by itself what somebody has checked
    await guarded(graph, unique, "PRODUCTION", *CHECKED)
    version = await a_version(graph, unique, metrics=accuracy(0.8), checklist=["fair to all"])
    [item] = await items(graph, version)
    await graph.mutate("markChecklistItem", {"id": item, "status": "APPROVED"}, **MALLORY)

    # when: whoever has checked it submits it, and then somebody else does
    selection = "approval { status reason }"
    alone = await graph.mutate("submitForApproval", of(version), selection, **MALLORY)
    withdrawn = await graph.mutate("withdrawApproval", of(version), "approval { status }")
    by_two = await graph.mutate("submitForApproval", of(version), selection)

    # then
    assert alone["approval"] == {
        "status": "NEEDS_REVIEW",
        "reason": "Whoever submits it has decided items of its checklist.",
    }
    assert withdrawn["approval"] == {"status": "WITHDRAWN"}
    assert by_two["approval"]["status"] == "APPROVED"


CHECKLIST = """query ($id: ID!) { modelVersion(by: { id: $id }) {
  checklist { title status note decidedBy } } }"""


async def checked(graph: Graph, name: str, **input: object) -> Json:
    """A version of a model whose policy approves by itself what somebody has checked, which
    somebody has, and found wanting."""
    await guarded(graph, name, "PRODUCTION", *CHECKED)
    version = await a_version(
        graph, name, metrics=accuracy(0.8), checklist=["fair to all", "fast"], **input
    )
    for item, status in zip(await items(graph, version), ("APPROVED", "REJECTED"), strict=True):
        mark = {"id": item, "status": status, "note": "seen"}
        await graph.mutate("markChecklistItem", mark, **{"Lifecycle-Actor": "approver"})
    return version


@pytest.mark.parametrize("change", ["version", "run", "artifact"])
async def test_what_was_checked_of_another_content_is_to_be_checked_again(
    graph: Graph, unique: str, change: str
) -> None:
    # given
    run = await a_run(graph, unique, params=[{"key": "seed", "value": "1"}])
    version = await checked(graph, unique, runId=run, artifactPath="model.bin")

    # when: its author changes what it is
    if change == "version":
        other = of(version) | {"artifactDigest": f"sha256:{'0' * 64}"}
        await graph.done("updateModelVersion", other, VERSION)
    elif change == "run":
        more = {"id": run, "params": [{"key": "shuffle", "value": "0"}]}
        await graph.done("updateRun", more, "run { id }")
    else:
        file = {
            "name": "model",
            "path": "model.bin",
            "digest": f"sha256:{'1' * 64}",
            "sizeBytes": 1,
        }
        await graph.done("updateRun", {"id": run, "artifacts": [file]}, "run { id }")
    approval = await submit(graph, version)

    # then
    found = (await graph.query(CHECKLIST, {"id": version["id"]}))["modelVersion"]["checklist"]
    assert found == [
        {"title": "fair to all", "status": "PENDING", "note": "seen", "decidedBy": None},
        {"title": "fast", "status": "REJECTED", "note": "seen", "decidedBy": "approver"},
    ]
    assert approval == {
        "status": "PENDING",
        "reason": "0 of 2 items of the checklist are APPROVED; open or rejected: "
        "“fair to all”, “fast”.",
        "decidedBy": None,
    }


async def test_what_was_checked_stays_so_while_the_content_does(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique, params=[{"key": "seed", "value": "1"}])
    version = await checked(graph, unique, runId=run)

    same = of(version) | {"description": "better words", "metrics": accuracy(0.8)}
    await graph.done("updateModelVersion", same, VERSION)
    again = {"id": run, "params": [{"key": "seed", "value": "1"}], "status": "COMPLETED"}
    await graph.done("updateRun", again, "run { id }")

    found = (await graph.query(CHECKLIST, {"id": version["id"]}))["modelVersion"]["checklist"]
    assert [item["status"] for item in found] == ["APPROVED", "REJECTED"]


async def test_what_has_changed_in_staging_passes_its_policy_again(
    graph: Graph, unique: str
) -> None:
    # given
    fast = {"metric": {"key": "latency", "atMost": 10, "required": True}}
    await guarded(graph, unique, "STAGING", fast)
    metrics = [*accuracy(0.9), {"key": "latency", "value": 9}]
    version = await a_version_in(graph, unique, "STAGING", metrics=metrics)

    # when: it has become slower than STAGING allows, and PRODUCTION does not ask
    slower = [*accuracy(0.9), {"key": "latency", "value": 11}]
    await graph.done("updateModelVersion", of(version) | {"metrics": slower}, VERSION)
    refused = await graph.mutate("submitForApproval", of(version))
    bypass = of(version) | {"decision": "BYPASS", "notes": "it is urgent"}
    passed = await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})

    # then
    assert (refused["__typename"], refused["message"]) == (
        "GateFailed",
        "STAGING is refused: latency is 11.0; at most 10 is required.",
    )
    assert passed["__typename"] == "DecideApprovalSuccess"


async def test_what_has_changed_in_production_passes_the_policy_of_staging_again(
    graph: Graph, unique: str
) -> None:
    # given
    fast = {"metric": {"key": "latency", "atMost": 10, "required": True}}
    await guarded(graph, unique, "STAGING", fast)
    metrics = [*accuracy(0.9), {"key": "latency", "value": 9}]
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=metrics)

    # when: it has become slower than STAGING allows, and PRODUCTION does not ask
    slower = [*accuracy(0.9), {"key": "latency", "value": 11}]
    await graph.done("updateModelVersion", of(version) | {"metrics": slower}, VERSION)
    assert (await submit(graph, version))["status"] == "NEEDS_REVIEW"
    refused = await decide(graph, version)

    # then
    assert (refused["__typename"], refused["message"]) == (
        "GateFailed",
        "STAGING is refused: latency is 11.0; at most 10 is required.",
    )
    bypass = of(version) | {"decision": "BYPASS", "notes": "it is urgent"}
    passed = await graph.mutate("decideApproval", bypass, **{"Lifecycle-Actor": "admin"})
    assert passed["__typename"] == "DecideApprovalSuccess"


async def test_what_the_next_is_compared_with_is_what_was_approved(
    graph: Graph, unique: str
) -> None:
    """Whoever may contribute could say that production is worse than it is."""
    # given
    old = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    version = await a_version(graph, unique, metrics=accuracy(0.8))
    selection = "modelVersion { approval { status } }"

    async def change(value: float) -> str:
        input = of(old) | {"metrics": accuracy(value)}
        changed = await graph.done("updateModelVersion", input, selection)
        return str(changed["approval"]["status"])

    async def messages() -> list[str]:
        query = """query ($id: ID!) { node(id: $id) { ... on ModelVersion {
            whyNot { message category } } } }"""
        found = (await graph.query(query, {"id": version["id"]}))["node"]["whyNot"]
        return [check["message"] for check in found if check["category"] == "baseline"]

    # when: the figures of production are worse, or gone
    assert await change(0.7) == "STALE"
    worse = await submit(graph, version)
    assert await change(0) == "STALE"
    assert await messages() == [
        "accuracy cannot be compared: version 1 in production is not what was approved any more."
    ]

    # then
    assert worse == {
        "status": "REJECTED",
        "reason": "accuracy cannot be compared: version 1 in production is not what was approved "
        "any more.",
        "decidedBy": "system:policy",
    }
    # What was approved is back, or is approved anew.
    assert await change(0.9) == "STALE"
    assert await messages() == [
        "accuracy is 0.8, 0.1 worse than that of version 1 in production; at most 0.05 worse is "
        "allowed."
    ]
    assert await change(0.79) == "STALE"
    await approved(graph, old)
    assert await messages() == []
    assert (await submit(graph, version))["status"] == "APPROVED"


async def test_nothing_is_compared_with_what_was_approved_before_the_last_time(
    graph: Graph, unique: str
) -> None:
    # given: what is in production was approved anew, with better figures
    old = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    better, former = (of(old) | {"metrics": accuracy(value)} for value in (0.95, 0.8))
    await graph.done("updateModelVersion", better, "modelVersion { id }")
    await approved(graph, old)
    version = await a_version(graph, unique, metrics=accuracy(0.79))

    # when: it is made again what it was before
    await graph.done("updateModelVersion", former, "modelVersion { id }")

    # then
    assert await submit(graph, version) == {
        "status": "REJECTED",
        "reason": "accuracy cannot be compared: version 1 in production is not what was approved "
        "any more.",
        "decidedBy": "system:policy",
    }


async def test_drift_of_production_is_not_in_the_way_of_what_replaces_it(
    graph: Graph, unique: str
) -> None:
    old = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    await graph.done("recordDriftEvent", of(old) | DRIFT, "driftEvent { id }")
    version = await a_version(graph, unique, metrics=accuracy(0.9))

    assert (await submit(graph, version))["status"] == "APPROVED"
    assert (await promote(graph, version))["__typename"] == "SetStageSuccess"


async def test_the_policy_approves_nothing_beside_what_was_changed_in_production(
    graph: Graph, unique: str
) -> None:
    rules = [{"automaticApproval": {"key": "accuracy", "betterBy": 0.02, "tolerance": 0.01}}]
    policy = {"modelName": unique, "stage": "PRODUCTION"}
    admin = {"Lifecycle-Actor": "admin"}
    old = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))
    await graph.mutate("setStagePolicy", policy | {"rules": rules}, **admin)
    change = of(old) | {"metrics": accuracy(0.1)}
    await graph.done("updateModelVersion", change, "modelVersion { id }")

    approval = await submit(graph, await a_version(graph, unique, metrics=accuracy(0.8)))

    assert approval == {
        "status": "NEEDS_REVIEW",
        "reason": "accuracy cannot be compared: version 1 in production is not what was approved "
        "any more.",
        "decidedBy": None,
    }
