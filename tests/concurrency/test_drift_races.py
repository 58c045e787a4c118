"""Drift under concurrency: what is reported twice happens once, and the versions count right."""

import asyncio
from collections import Counter

import pytest

from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_version, a_version_in
from tests.statements import rows

RESPONSES = "responses { action outcome message deployment { id } }"
EVENT = f"driftEvent {{ id status createdAt {RESPONSES} }} duplicate"

# A race is not lost the same way every time.
ROUNDS = 3


async def set_policy(graph: Graph, model: str, *actions: str, **input: object) -> None:
    """From LOW on, do this."""
    responses = [{"fromSeverity": "LOW", "action": action} for action in actions]
    given = {"modelName": model, "responses": responses, "degradation": [], "reason": "r", **input}
    result = await graph.mutate("setDriftPolicy", given, **{"Lifecycle-Actor": "admin"})
    assert result["__typename"] == "SetDriftPolicySuccess", result


async def drift(graph: Graph, version: Json, **input: object) -> Json:
    given = {"modelVersion": {"id": version["id"]}, "severity": "HIGH", "metric": "psi", **input}
    result = await graph.mutate("recordDriftEvent", given, EVENT)
    assert result["__typename"] == "RecordDriftEventSuccess", result
    return result


async def a_good_deployment(graph: Graph, version: Json, environment: str = "DEVELOPMENT") -> str:
    """The id of a deployment that is ACTIVE and HEALTHY."""
    id = await a_deployment(graph, version, environment, "ACTIVE")
    await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    return id


async def deployments(graph: Graph, model: str) -> list[tuple[str, str]]:
    """Version and status of each, oldest first."""
    query = """query ($name: String!) {
      deployments(filter: { modelName: $name }, first: 100) { nodes { version status } } }"""
    nodes = (await graph.query(query, {"name": model}))["deployments"]["nodes"]
    return [(node["version"], node["status"]) for node in nodes[::-1]]


async def check_counts(live: Live, model: str) -> None:
    """The versions count the events that nobody closed."""
    found = await rows(
        live.database,
        """SELECT open_drift, (
             SELECT coalesce(jsonb_object_agg(severity, number), '{}') FROM (
               SELECT severity, count(*) AS number FROM drift_event
               WHERE model_version_id = model_version.id
                 AND status NOT IN ('RESOLVED', 'FALSE_POSITIVE')
               GROUP BY severity) AS open) AS counted
           FROM model_version WHERE model_name = :model""",
        model=model,
    )
    for row in found:
        assert row.open_drift == row.counted


async def test_twenty_reports_at_once_with_one_dedup_key_are_one_event(
    graph: Graph, live: Live, unique: str
) -> None:
    one, two = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, one)
    bad = await a_good_deployment(graph, two)
    await set_policy(graph, unique, "ROLL_BACK")

    results = await asyncio.gather(
        *(drift(graph, two, deploymentId=bad, dedupKey="k") for _ in range(20))
    )

    assert Counter(result["duplicate"] for result in results) == {False: 1, True: 19}
    assert len({result["driftEvent"]["id"] for result in results}) == 1
    assert {result["driftEvent"]["status"] for result in results} == {"MITIGATED"}
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("2", "ROLLBACK"),
        ("1", "PENDING"),
    ]
    await check_counts(live, unique)


@pytest.mark.parametrize("environment", ["DEVELOPMENT", "PRODUCTION"])
async def test_of_several_events_at_once_that_roll_back_one_does(
    graph: Graph, live: Live, unique: str, environment: str
) -> None:
    one = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, one, environment)
    two = await a_version_in(graph, unique, "PRODUCTION")
    bad = await a_good_deployment(graph, two, environment)
    await set_policy(graph, unique, "ROLL_BACK")

    results = await asyncio.gather(
        *(drift(graph, two, deploymentId=bad, feature=f"f{n}") for n in range(4)),
        graph.mutate("rollbackDeployment", {"id": bad}),
    )

    events = [result["driftEvent"] for result in results[:4]]
    outcomes = Counter(event["responses"][0]["outcome"] for event in events)
    by_hand = results[4]["__typename"]
    if by_hand == "RollbackDeploymentSuccess":
        assert outcomes == {"NOTHING_TO_DO": 4}
    else:
        assert (by_hand, results[4]["from"]) == ("InvalidTransition", "ROLLBACK")
        assert outcomes == {"DONE": 1, "NOTHING_TO_DO": 3}
    late = [e for e in events if e["responses"][0]["outcome"] == "NOTHING_TO_DO"]
    assert {e["responses"][0]["message"] for e in late} == {"The deployment is ROLLBACK."}
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("2", "ROLLBACK"),
        ("1", "PENDING"),
    ]
    await check_counts(live, unique)


async def test_the_same_degradation_in_reports_at_once_is_one_event(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status="ACTIVE")
    rule = {"figure": "ERROR_RATE", "limit": "MAX_VALUE", "value": 0.1, "severity": "LOW"}
    await set_policy(graph, unique, degradation=[rule])
    metrics = {"requestCount": 1, "errorRate": 0.5, "avgLatencyMs": 1}

    await asyncio.gather(
        *(
            graph.done("updateDeployment", {"id": id, "metrics": metrics}, "deployment { id }")
            for _ in range(10)
        )
    )

    query = """query ($name: String!) {
      driftEvents(filter: { modelName: $name }) { nodes { metric } } }"""
    found = await graph.query(query, {"name": unique})
    assert found["driftEvents"]["nodes"] == [{"metric": "error_rate"}]
    await check_counts(live, unique)


async def test_drift_and_an_approval_at_once_leave_the_decision_to_people_who_know_of_it(
    graph: Graph, live: Live, unique: str
) -> None:
    for n in range(ROUNDS):
        model = f"{unique}-{n}"
        version = await a_version(graph, model)
        await set_policy(graph, model, "MARK_STALE", "OPEN_REVIEW")
        selector = {"modelVersion": {"id": version["id"]}}
        selection = "modelVersion { revision } approval { status }"
        submitted = await graph.mutate("submitForApproval", selector, selection)
        assert submitted["approval"]["status"] == "NEEDS_REVIEW"
        decision = {
            **selector,
            "decision": "APPROVE",
            "expectedRevision": submitted["modelVersion"]["revision"],
        }

        event, decided = await asyncio.gather(
            drift(graph, version),
            graph.mutate("decideApproval", decision, **{"Lifecycle-Actor": "approver"}),
        )

        stale = event["driftEvent"]["responses"][0]["message"]
        if decided["__typename"] == "DecideApprovalSuccess":
            assert stale == "Version 1 was APPROVED, and is STALE."
        else:
            assert decided["__typename"] == "StaleRevision"
            assert stale == "Version 1 was NEEDS_REVIEW, and is STALE."
        found = await graph.query(
            "query ($id: ID!) { modelVersion(by: { id: $id }) "
            "{ approval { status submittedBy cause { id } } } }",
            {"id": version["id"]},
        )
        assert found["modelVersion"]["approval"] == {
            "status": "NEEDS_REVIEW",
            "submittedBy": "system:drift",
            "cause": {"id": event["driftEvent"]["id"]},
        }
        await check_counts(live, model)


async def test_drift_and_a_promotion_at_once_are_ordered_somehow(
    graph: Graph, live: Live, unique: str
) -> None:
    rule = {"noOpenDrift": {"fromSeverity": "HIGH"}}
    for n in range(ROUNDS):
        model = f"{unique}-{n}"
        version = await a_version(graph, model)
        policy = {"modelName": model, "stage": "STAGING", "rules": [rule]}
        await graph.mutate("setStagePolicy", policy, **{"Lifecycle-Actor": "admin"})
        await set_policy(graph, model)
        move = {"modelVersion": {"id": version["id"]}, "stage": "STAGING"}

        event, moved = await asyncio.gather(
            drift(graph, version),
            graph.mutate("setStage", move, "modelVersion { stageHistory { stage validFrom } }"),
        )

        if moved["__typename"] == "SetStageSuccess":
            entry = moved["modelVersion"]["stageHistory"][-1]
            assert entry["validFrom"] < event["driftEvent"]["createdAt"]
        else:
            assert moved["__typename"] == "GateFailed"
        await check_counts(live, model)


async def test_events_that_are_recorded_and_closed_at_once_are_counted_right(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    await set_policy(graph, unique)
    known = [await drift(graph, version) for _ in range(4)]
    closing = [
        {"id": event["driftEvent"]["id"], "status": status}
        for event in known
        for status in ("RESOLVED", "FALSE_POSITIVE")
    ]

    results = await asyncio.gather(
        *(graph.mutate("updateDriftEvent", input) for input in closing),
        *(drift(graph, version, severity=severity) for severity in ("LOW", "HIGH", "HIGH")),
    )

    assert Counter(result["__typename"] for result in results[:8]) == {
        "UpdateDriftEventSuccess": 4,
        "InvalidTransition": 4,
    }
    await check_counts(live, unique)


async def test_of_several_policies_set_on_one_version_at_once_one_is(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    given = {"modelName": unique, "responses": [], "reason": "r", "expectedVersion": 0}

    results = await asyncio.gather(
        *(
            graph.mutate(
                "setDriftPolicy",
                {
                    **given,
                    "degradation": [
                        {
                            "figure": "ERROR_RATE",
                            "limit": "MAX_VALUE",
                            "value": n,
                            "severity": "LOW",
                        }
                    ],
                },
                **{"Lifecycle-Actor": "admin"},
            )
            for n in range(6)
        )
    )

    kinds = Counter(result["__typename"] for result in results)
    assert kinds == {"SetDriftPolicySuccess": 1, "StaleRevision": 5}
