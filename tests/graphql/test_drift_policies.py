"""What is done about drift, as the policy says: policies, dedup keys, responses, degradation."""

from typing import Any

import pytest

from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_version, a_version_in
from tests.statements import rows

POLICY = """driftPolicy {
    id modelName version responses { fromSeverity action }
    degradation { figure metric limit value severity } reason createdBy createdAt
}"""
EVENT = """
    id severity status metric baselineValue observedValue threshold method description createdBy
    dedupKey revision modelVersion { version } deployment { id } policy { id version }
    responses { action outcome message deployment { id version status } }
"""
RECORDED = f"driftEvent {{ {EVENT} }} duplicate"

ROLL_BACK = {"fromSeverity": "HIGH", "action": "ROLL_BACK"}
LATENCY = {
    "figure": "AVG_LATENCY_MS",
    "metric": "inference_time_ms",
    "limit": "MAX_RATIO",
    "value": 1.5,
    "severity": "MEDIUM",
}
ACCURACY = {
    "figure": "OBSERVED",
    "metric": "accuracy",
    "limit": "MAX_DECREASE",
    "value": 0.05,
    "severity": "HIGH",
}


ADMINISTRATOR = {"Lifecycle-Actor": "admin"}


async def set_policy(graph: Graph, model: str | None, **input: object) -> Json:
    """A new version of a policy, by default one that does nothing."""
    given = {"responses": [], "degradation": [], "reason": "Because.", **input}
    given = {key: value for key, value in given.items() if value is not None}
    result = await graph.mutate(
        "setDriftPolicy", {"modelName": model, **given}, POLICY, **ADMINISTRATOR
    )
    assert result["__typename"] == "SetDriftPolicySuccess", result
    made: Json = result["driftPolicy"]
    return made


async def policy_of(graph: Graph, model: str | None) -> Json:
    """The policy that holds."""
    query = f"query ($name: String) {{ driftPolicy(modelName: $name) {POLICY[11:]} }}"
    found: Json = (await graph.query(query, {"name": model}))["driftPolicy"]
    return found


async def drift(graph: Graph, version: Json | None, **input: object) -> Json:
    """What came of recording an event, which must be taken: the event, and whether it was known."""
    given: Json = {"severity": "HIGH", "metric": "psi", **input}
    if version is not None:
        given["modelVersion"] = {"id": version["id"]}
    result = await graph.mutate("recordDriftEvent", given, RECORDED)
    assert result["__typename"] == "RecordDriftEventSuccess", result
    return result


async def event(graph: Graph, version: Json | None, **input: object) -> Json:
    """The event of that."""
    found: Json = (await drift(graph, version, **input))["driftEvent"]
    return found


async def events(graph: Graph, model: str) -> list[Json]:
    """All events of a model, oldest first."""
    found = await graph.query(
        f"""query ($name: String!) {{
          driftEvents(filter: {{ modelName: $name }}, first: 100) {{ nodes {{ {EVENT} }} }} }}""",
        {"name": model},
    )
    nodes: list[Json] = found["driftEvents"]["nodes"]
    return nodes[::-1]


async def deployments(graph: Graph, model: str) -> list[tuple[str, str]]:
    """Version and status of a model's deployments, oldest first."""
    found = await graph.query(
        """query ($name: String!) {
          deployments(filter: { modelName: $name }, first: 100) { nodes { version status } } }""",
        {"name": model},
    )
    return [(node["version"], node["status"]) for node in found["deployments"]["nodes"][::-1]]


async def report(graph: Graph, id: str, **figures: object) -> Json:
    """The deployment after a report of figures."""
    observed = figures.pop("observed", None)
    metrics = {"requestCount": 100, "errorRate": 0.0, "avgLatencyMs": 1.0, **figures}
    if observed is not None:
        assert isinstance(observed, dict)
        metrics["observed"] = [{"key": key, "value": observed[key]} for key in observed]
    return await graph.done(
        "updateDeployment",
        {"id": id, "metrics": metrics},
        "deployment { id status revision metrics { errorRate observed { key value } } }",
    )


async def a_good_deployment(graph: Graph, version: Json, environment: str = "DEVELOPMENT") -> str:
    """The id of a deployment that is ACTIVE and HEALTHY."""
    id = await a_deployment(graph, version, environment, "ACTIVE")
    await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    return id


async def journal(live: Live, where: str, **arguments: object) -> list[Any]:
    """Entries of the journal, in order."""
    statement = f"SELECT * FROM event WHERE {where} ORDER BY id"
    return await rows(live.database, statement, **arguments)


# Policies.


async def test_from_high_on_drift_has_a_version_reviewed_until_somebody_decides_otherwise(
    quiet_graph: Graph,
) -> None:
    found = await quiet_graph.query(
        "{ driftPolicies(last: 1) { nodes { modelName version createdBy reason "
        "responses { fromSeverity action } degradation { figure metric limit value severity } } } }"
    )

    assert found["driftPolicies"]["nodes"] == [
        {
            "modelName": None,
            "version": 1,
            "createdBy": "system:setup",
            "reason": "What the service begins with.",
            "responses": [
                {"fromSeverity": "HIGH", "action": "MARK_STALE"},
                {"fromSeverity": "HIGH", "action": "OPEN_REVIEW"},
            ],
            "degradation": [LATENCY, ACCURACY],
        }
    ]


async def test_a_policy_of_its_own_replaces_the_general_one_for_a_model(
    quiet_graph: Graph, unique: str
) -> None:
    await a_version(quiet_graph, unique)
    await a_version(quiet_graph, f"{unique}-b")
    general = await set_policy(quiet_graph, None, degradation=[ACCURACY])
    before = await policy_of(quiet_graph, unique)

    own = await set_policy(quiet_graph, unique, responses=[ROLL_BACK])
    later = await set_policy(quiet_graph, None, degradation=[LATENCY])

    assert before == general
    assert (own["modelName"], own["version"], own["createdBy"]) == (unique, 1, "admin")
    assert (own["responses"], own["degradation"], own["reason"]) == ([ROLL_BACK], [], "Because.")
    assert (later["modelName"], later["version"]) == (None, general["version"] + 1)
    assert await policy_of(quiet_graph, unique) == own
    assert await policy_of(quiet_graph, f"{unique}-b") == later
    assert await policy_of(quiet_graph, None) == later


async def test_former_versions_of_a_policy_are_kept_and_what_was_done_under_them_names_them(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    made = [
        await set_policy(graph, unique, degradation=[{**LATENCY, "value": n}]) for n in range(3)
    ]
    first = await event(graph, version)
    made.append(await set_policy(graph, unique))
    same = await set_policy(graph, unique, reason="It says the same.")
    second = await event(graph, version)

    found = await graph.query(
        "query ($name: String!) { driftPolicies(modelName: $name) { totalCount nodes "
        f"{POLICY[11:]} }} }}",
        {"name": unique},
    )

    assert found["driftPolicies"] == {"totalCount": 4, "nodes": made[::-1]}
    assert [policy["version"] for policy in made] == [1, 2, 3, 4]
    assert same == made[3]
    assert first["policy"] == {"id": made[2]["id"], "version": 3}
    assert second["policy"] == {"id": made[3]["id"], "version": 4}


async def test_a_change_of_policy_is_in_the_journal_before_and_after(
    graph: Graph, live: Live, unique: str
) -> None:
    await a_version(graph, unique)
    await set_policy(graph, unique, responses=[ROLL_BACK])
    await set_policy(graph, unique, degradation=[LATENCY], reason="Too eager.")

    first, second = await journal(
        live,
        "after->>'model_name' = :name AND type = :type",
        **{"name": unique, "type": "drift_policy.set"},
    )

    responses = [{"from_severity": "HIGH", "action": "ROLL_BACK"}]
    one = {"model_name": unique, "version": 1, "responses": responses, "degradation": []}
    two = {"model_name": unique, "version": 2, "responses": [], "degradation": [LATENCY]}
    assert (first.before, first.after) == (None, {**one, "policy_version": 1})
    assert (second.before, second.after) == (one, {**two, "policy_version": 2})
    assert (second.actor, second.reason) == ("admin", "Too eager.")


async def test_who_decided_on_another_version_of_the_policy_is_told_so(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    input = {"modelName": unique, "responses": [], "degradation": [], "reason": "r"}

    none = await set_policy(graph, unique, expectedVersion=0)
    wrong = {**input, "expectedVersion": 0}
    stale = await graph.mutate("setDriftPolicy", wrong, **ADMINISTRATOR)
    right = await set_policy(graph, unique, expectedVersion=1, degradation=[LATENCY])

    assert (none["version"], right["version"]) == (1, 2)
    assert stale == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": "Version 0 was expected, but it is 1 now.",
        "path": ["expectedVersion"],
        "currentRevision": 1,
    }


@pytest.mark.parametrize(
    ("input", "path", "message"),
    [
        (
            {"responses": [ROLL_BACK, {"fromSeverity": "LOW", "action": "ROLL_BACK"}]},
            ["responses"],
            "responses: each action can be named once",
        ),
        (
            {"degradation": [ACCURACY, {**LATENCY, "metric": None}]},
            ["degradation", "1"],
            "degradation.1: MAX_RATIO needs the version's metric to compare with",
        ),
        (
            {"degradation": [{**ACCURACY, "limit": "MAX_VALUE", "metric": None}]},
            ["degradation", "0"],
            "degradation.0: an OBSERVED figure needs its name as metric",
        ),
        (
            {"degradation": [{**ACCURACY, "value": -0.01}]},
            ["degradation", "0", "value"],
            "degradation.0.value: Input should be greater than or equal to 0",
        ),
        (
            {"degradation": [ACCURACY] * 101},
            ["degradation"],
            "degradation: List should have at most 100 items after validation, not 101",
        ),
        (
            {"responses": None},
            ["responses"],
            "Give responses and degradation, or neither: a policy is set as a whole.",
        ),
        (
            {"modelName": None, "responses": None, "degradation": None},
            ["responses"],
            "The general policy needs rules; none is [].",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
async def test_a_policy_that_makes_no_sense_is_refused(
    graph: Graph, unique: str, input: Json, path: list[str], message: str
) -> None:
    await a_version(graph, unique)
    before = await policy_of(graph, unique)

    given = {"modelName": unique, "responses": [], "degradation": [], "reason": "r", **input}
    result = await graph.mutate("setDriftPolicy", given, **ADMINISTRATOR)

    assert result == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": message,
        "path": path,
    }
    assert await policy_of(graph, unique) == before


async def test_a_model_follows_the_general_policy_again(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    general = await policy_of(graph, unique)
    await set_policy(graph, unique, responses=[ROLL_BACK])

    last = await set_policy(graph, unique, responses=None, degradation=None)

    assert (last["version"], last["responses"], last["degradation"]) == (2, None, None)
    assert await policy_of(graph, unique) == general


async def test_only_administrators_set_policies(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    before = await policy_of(graph, unique)
    query = (
        "mutation ($input: SetDriftPolicyInput!) { setDriftPolicy(input: $input) { __typename } }"
    )

    error = await graph.error(query, {"input": {"modelName": unique, "reason": "r"}})

    assert error["extensions"]["code"] == "FORBIDDEN"
    assert error["message"] == ("tester may not set a drift policy: that takes the role ADMIN.")
    assert await policy_of(graph, unique) == before


async def test_there_is_no_policy_of_a_model_that_does_not_exist(graph: Graph, unique: str) -> None:
    error = await graph.error(f'{{ driftPolicy(modelName: "{unique}") {{ version }} }}')

    assert error["extensions"] == {"code": "NOT_FOUND", "argument": ["modelName"]}
    found = await graph.query(
        f'{{ driftPolicies(modelName: "{unique}") {{ totalCount nodes {{ id }} }} }}'
    )
    assert found["driftPolicies"] == {"totalCount": 0, "nodes": []}


# Double reports.


async def test_a_second_report_with_the_same_dedup_key_is_the_same_event(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    await set_policy(graph, unique, responses=[ROLL_BACK])

    first = await drift(graph, version, dedupKey="k", severity="LOW")
    before = (await journal(live, "true"))[-1].id
    again = [
        await drift(graph, version, dedupKey="k", severity="LOW"),
        # Whatever else it says.
        await drift(graph, version, dedupKey="k", severity="CRITICAL", metric="accuracy"),
        await drift(
            graph,
            version,
            dedupKey="k",
            deploymentId=await a_deployment(graph, await a_version(graph, f"{unique}-other")),
        ),
        await drift(graph, version, dedupKey="k", idempotencyKey=unique),
        await drift(graph, version, dedupKey="k", idempotencyKey=unique),
        await drift(
            graph,
            None,
            modelVersion={"nameVersion": {"modelName": unique, "version": "1"}},
            dedupKey="k",
        ),
    ]

    assert (first["duplicate"], first["driftEvent"]["dedupKey"]) == (False, "k")
    assert again == [{**first, "duplicate": True}] * 6
    assert await events(graph, unique) == [first["driftEvent"]]
    assert await journal(live, "id > :id AND type LIKE 'drift_event.%'", id=before) == []


async def test_a_report_about_another_environment_does_not_keep_productions_unheard(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    elsewhere = await a_deployment(graph, version)
    first = await drift(graph, version, dedupKey="k", deploymentId=elsewhere)

    report = {"modelVersion": {"id": version["id"]}, "severity": "HIGH", "dedupKey": "k"}
    result = await graph.mutate("recordDriftEvent", {**report, "metric": "psi"})
    again = await drift(graph, version, dedupKey="k", deploymentId=elsewhere)
    other = await drift(graph, version, dedupKey="production k")

    assert result == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "A report about another environment has this name; give another.",
        "path": ["dedupKey"],
    }
    assert again == {**first, "duplicate": True}
    assert other["duplicate"] is False


async def test_a_dedup_key_is_its_versions_own_and_without_one_every_report_counts(
    graph: Graph, unique: str
) -> None:
    one, two = await a_version(graph, unique), await a_version(graph, unique)

    made = [
        await drift(graph, one, dedupKey="k"),
        await drift(graph, two, dedupKey="k"),
        await drift(graph, one, dedupKey="K"),
        await drift(graph, one),
        await drift(graph, one),
    ]

    assert [result["duplicate"] for result in made] == [False] * 5
    assert len({result["driftEvent"]["id"] for result in made}) == 5


async def test_a_double_report_about_what_is_in_production_does_not_roll_back_twice(
    graph: Graph, unique: str
) -> None:
    one = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, one, "PRODUCTION")
    two = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, two, "PRODUCTION")
    await set_policy(graph, unique, responses=[ROLL_BACK])
    meant = {"inStage": {"modelName": unique, "stage": "PRODUCTION"}}

    first = await drift(graph, None, modelVersion=meant, dedupKey="k")
    again = await drift(graph, None, modelVersion=meant, dedupKey="k")
    archived = {"modelVersion": {"id": one["id"]}, "stage": "ARCHIVED"}
    await graph.done("setStage", archived, "modelVersion { id }")
    nothing_there = await drift(graph, None, modelVersion=meant, dedupKey="k")

    assert first["driftEvent"]["modelVersion"] == {"version": "2"}
    assert (
        again
        == nothing_there
        == {**first, "duplicate": True}
        | {
            "driftEvent": {
                **first["driftEvent"],
                "responses": again["driftEvent"]["responses"],
            }
        }
    )
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("2", "ROLLBACK"),
        ("1", "PENDING"),
    ]


async def test_a_double_report_finds_the_event_of_a_version_that_was_deleted(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    first = await drift(graph, version, dedupKey="k", severity="LOW")
    selector = {"modelVersion": {"id": version["id"]}}
    await graph.done("deleteModelVersion", selector, "modelVersion { id }")

    again = await drift(graph, version, dedupKey="k")
    other = await graph.mutate(
        "recordDriftEvent", {**selector, "severity": "LOW", "metric": "psi", "dedupKey": "other"}
    )

    assert again == {**first, "duplicate": True}
    assert (other["__typename"], other["path"]) == ("NotFound", ["modelVersion"])


# Rolling back.


async def test_drift_rolls_back_the_deployment_that_it_was_seen_on(
    graph: Graph, live: Live, unique: str
) -> None:
    one, two = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, one)
    bad = await a_good_deployment(graph, two)
    policy = await set_policy(graph, unique, responses=[ROLL_BACK])

    async with Graph(live.url, "monitor") as monitor:
        found = await event(monitor, two, deploymentId=bad, feature="age")

    [response] = found["responses"]
    new = response["deployment"]["id"]
    assert found == {
        **found,
        "status": "MITIGATED",
        "revision": 2,
        "createdBy": "monitor",
        "deployment": {"id": bad},
        "policy": {"id": policy["id"], "version": 1},
        "responses": [
            {
                "action": "ROLL_BACK",
                "outcome": "DONE",
                "message": "In DEVELOPMENT version 2 makes way for version 1.",
                "deployment": {"id": new, "version": "1", "status": "PENDING"},
            }
        ],
    }
    chain = await graph.query(
        """query ($new: ID!) { deployment(id: $new) {
          createdBy rollbackFrom { id status statusMessage cause { id } }
          cause { id policy { reason } modelVersion { version } }
        } }""",
        {"new": new},
    )
    assert chain["deployment"] == {
        "createdBy": "system:drift",
        "rollbackFrom": {
            "id": bad,
            "status": "ROLLBACK",
            "statusMessage": "Drift of psi of age, HIGH.",
            "cause": None,
        },
        "cause": {
            "id": found["id"],
            "policy": {"reason": "Because."},
            "modelVersion": {"version": "2"},
        },
    }


async def test_everything_that_an_event_brought_about_names_it_in_the_journal(
    graph: Graph, live: Live, unique: str
) -> None:
    one = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, one, "PRODUCTION")
    two = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, two, "PRODUCTION")
    await set_policy(graph, unique, responses=[ROLL_BACK])

    found = await event(graph, two, idempotencyKey=unique)

    [recorded] = await journal(
        live, "idempotency_key = :key AND type = 'drift_event.recorded'", key=unique
    )
    caused = await journal(live, "after->>'cause_id' = :id", id=str(recorded.subject_id))
    assert [entry.type for entry in caused] == [
        "model_version.stage_changed",
        "model_version.stage_changed",
        "deployment.status_changed",
        "deployment.created",
        "drift_event.responded",
        "drift_event.updated",
    ]
    assert {entry.actor for entry in caused} == {"system:drift"}
    assert {(entry.request_id, entry.idempotency_key) for entry in caused} == {
        (recorded.request_id, unique)
    }
    assert recorded.actor == "tester"
    assert "cause_id" not in recorded.after
    assert caused[-2].after == {
        "action": "ROLL_BACK",
        "outcome": "DONE",
        "message": found["responses"][0]["message"],
        "approval_id": None,
        "deployment_id": str(caused[3].subject_id),
        "cause_id": str(recorded.subject_id),
    }


async def test_drift_that_was_seen_on_no_deployment_in_particular_rolls_back_production(
    graph: Graph, unique: str
) -> None:
    one = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, one, "PRODUCTION")
    two = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, two, "DEVELOPMENT")
    await a_good_deployment(graph, two, "PRODUCTION")
    await set_policy(graph, unique, responses=[ROLL_BACK])

    found = await event(graph, two, severity="CRITICAL")
    late = await event(graph, two)

    assert found["status"] == "MITIGATED"
    assert found["responses"][0]["message"] == "In PRODUCTION version 2 makes way for version 1."
    assert (late["status"], late["responses"]) == (
        "OPEN",
        [
            {
                "action": "ROLL_BACK",
                "outcome": "NOTHING_TO_DO",
                "message": "Version 2 has no live deployment in PRODUCTION.",
                "deployment": None,
            }
        ],
    )
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("2", "ACTIVE"),
        ("2", "ROLLBACK"),
        ("1", "PENDING"),
    ]
    stages = await graph.query(
        "query ($name: String!) { model(name: $name) { versionInStage(stage: PRODUCTION) "
        "{ version } } }",
        {"name": unique},
    )
    assert stages["model"]["versionInStage"] == {"version": "1"}


@pytest.mark.parametrize("seen_on", [None, 0, 1])
async def test_drift_rolls_back_to_another_version_where_its_own_was_deployed_twice(
    graph: Graph, unique: str, seen_on: int | None
) -> None:
    # given: nothing but the rollback answers, so the approval of what has drifted stays in force
    one = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, one, "PRODUCTION")
    two = await a_version_in(graph, unique, "PRODUCTION")
    bad = [await a_good_deployment(graph, two, "PRODUCTION") for _ in range(2)]
    await set_policy(graph, unique, responses=[ROLL_BACK])

    where = {} if seen_on is None else {"deploymentId": bad[seen_on]}
    found = await event(graph, two, severity="CRITICAL", **where)

    assert found["responses"][0]["message"] == "In PRODUCTION version 2 makes way for version 1."
    stages = await graph.query(
        "query ($name: String!) { model(name: $name) { versionInStage(stage: PRODUCTION) "
        "{ version } } }",
        {"name": unique},
    )
    assert stages["model"]["versionInStage"] == {"version": "1"}


async def test_drift_twice_in_a_row_goes_back_to_the_last_that_was_healthy(
    graph: Graph, unique: str
) -> None:
    one, two, three = [await a_version(graph, unique) for _ in range(3)]
    await set_policy(graph, unique, responses=[ROLL_BACK])
    await a_good_deployment(graph, one)
    first = await event(graph, two, deploymentId=await a_good_deployment(graph, two))
    # The canary after it never became healthy; nor has what was brought back, so far.
    second = await event(
        graph, three, deploymentId=await a_deployment(graph, three, status="ACTIVE")
    )

    assert [each["responses"][0]["deployment"]["version"] for each in (first, second)] == ["1", "1"]
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("2", "ROLLBACK"),
        ("1", "PENDING"),
        ("3", "ROLLBACK"),
        ("1", "PENDING"),
    ]


async def test_a_response_that_cannot_be_made_fails_alone_and_says_why(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    only = await a_good_deployment(graph, version)
    pending = await a_deployment(graph, version)
    ended = await a_deployment(graph, version, status="TERMINATED")
    await set_policy(graph, unique, responses=[ROLL_BACK])

    def outcome(kind: str, message: str) -> list[Json]:
        return [{"action": "ROLL_BACK", "outcome": kind, "message": message, "deployment": None}]

    expected = {
        only: outcome(
            "FAILED",
            f"A later deployment of {unique} in DEVELOPMENT is PENDING, with version 1; terminate "
            "it first.",
        ),
        pending: outcome(
            "FAILED",
            "PENDING cannot become ROLLBACK; allowed next: FAILED, TERMINATED, VALIDATING.",
        ),
        ended: outcome("NOTHING_TO_DO", "The deployment is TERMINATED."),
    }
    for id, responses in expected.items():
        found = await event(graph, version, deploymentId=id)
        assert (found["status"], found["responses"]) == ("OPEN", responses)
    await graph.done("terminateDeployment", {"id": pending}, "deployment { id }")
    found = await event(graph, version, deploymentId=only)
    assert found["responses"] == outcome(
        "FAILED",
        f"No earlier deployment of another version of {unique} in DEVELOPMENT was ACTIVE and "
        "HEALTHY and can be gone back to. Another configuration of version 1 is deployed with "
        "createDeployment.",
    )

    assert len(await events(graph, unique)) == 4
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("1", "TERMINATED"),
        ("1", "TERMINATED"),
    ]


async def test_drift_that_is_not_severe_enough_is_only_recorded(graph: Graph, unique: str) -> None:
    one, two = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, one)
    bad = await a_good_deployment(graph, two)
    await set_policy(graph, unique, responses=[{"fromSeverity": "CRITICAL", "action": "ROLL_BACK"}])

    found = await event(graph, two, deploymentId=bad)

    assert (found["status"], found["responses"]) == ("OPEN", [])
    assert await deployments(graph, unique) == [("1", "ACTIVE"), ("2", "ACTIVE")]


# Approvals.

STALE = {"fromSeverity": "HIGH", "action": "MARK_STALE"}
REVIEW = {"fromSeverity": "HIGH", "action": "OPEN_REVIEW"}
DONE = """responses {
    action outcome message approval { status submittedBy staleReason reason cause { id } }
}"""


async def approval(graph: Graph, version: Json) -> Json:
    """Where a version's approval stands, and why."""
    found = await graph.query(
        """query ($id: ID!) { modelVersion(by: { id: $id }) {
          stage approval { status submittedBy reason staleReason cause { id } }
        } }""",
        {"id": version["id"]},
    )
    made: Json = found["modelVersion"]
    return made


async def test_drift_makes_an_approval_stale_and_has_people_decide_anew(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    input = {
        "modelVersion": {"id": version["id"]},
        "severity": "HIGH",
        "metric": "psi",
        "feature": "age",
    }

    # Nobody has set a policy: this is the one that the service begins with.
    found = await graph.done("recordDriftEvent", input, f"driftEvent {{ id status {DONE} }}")

    why = "Drift of psi of age, HIGH."
    cause = {"id": found["id"]}
    assert found["status"] == "OPEN"
    stale, review = found["responses"]
    assert stale == {
        "action": "MARK_STALE",
        "outcome": "DONE",
        "message": "Version 1 was APPROVED, and is STALE.",
        "approval": {
            "status": "STALE",
            "submittedBy": "tester",
            "staleReason": why,
            "reason": stale["approval"]["reason"],
            "cause": cause,
        },
    }
    assert review == {
        "action": "OPEN_REVIEW",
        "outcome": "DONE",
        "message": "Version 1 waits for people to decide, in NEEDS_REVIEW.",
        "approval": {
            "status": "NEEDS_REVIEW",
            "submittedBy": "system:drift",
            "staleReason": None,
            "reason": why,
            "cause": cause,
        },
    }
    # It stays where it is, but it is deployed no more until somebody decides.
    after = await approval(graph, version)
    assert (after["stage"], after["approval"]["status"]) == ("PRODUCTION", "NEEDS_REVIEW")
    deploy = {"modelVersion": {"id": version["id"]}, "environment": "PRODUCTION"}
    refused = await graph.mutate("createDeployment", deploy)
    assert refused["__typename"] == "ApprovalRequired"
    async with Graph(live.url, "reviewer") as reviewer:
        decision = {"modelVersion": {"id": version["id"]}, "decision": "APPROVE"}
        decided = await reviewer.done("decideApproval", decision, "modelVersion { stage }")
    assert decided == {"stage": "PRODUCTION"}
    made = await graph.mutate("createDeployment", deploy)
    assert made["__typename"] == "CreateDeploymentSuccess"


async def test_where_nothing_is_approved_nor_at_work_there_is_nothing_to_do(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    await set_policy(graph, unique, responses=[STALE, REVIEW])

    found = await event(graph, version)

    assert [(r["outcome"], r["message"]) for r in found["responses"]] == [
        ("NOTHING_TO_DO", "Version 1 is NOT_SUBMITTED."),
        ("NOTHING_TO_DO", "Version 1 is EXPERIMENTAL and NOT_SUBMITTED."),
    ]
    assert (await approval(graph, version))["approval"]["status"] == "NOT_SUBMITTED"


async def test_a_review_that_is_open_goes_on_unless_it_is_made_stale_first(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    await set_policy(graph, unique, responses=[REVIEW])

    first, second = [await event(graph, version) for _ in range(2)]
    await set_policy(graph, unique, responses=[STALE, REVIEW])
    third = await event(graph, version)

    assert [r["outcome"] for e in (first, second) for r in e["responses"]] == [
        "DONE",
        "NOTHING_TO_DO",
    ]
    assert [(r["outcome"], r["message"]) for r in third["responses"]] == [
        ("DONE", "Version 1 was NEEDS_REVIEW, and is STALE."),
        ("DONE", "Version 1 waits for people to decide, in NEEDS_REVIEW."),
    ]
    after = await approval(graph, version)
    assert after["approval"]["cause"] == {"id": third["id"]}


async def test_what_has_drifted_is_not_gone_back_to_until_people_approve_it_again(
    graph: Graph, unique: str
) -> None:
    one = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, one, "PRODUCTION")
    two = await a_version_in(graph, unique, "PRODUCTION")
    bad = await a_good_deployment(graph, two, "PRODUCTION")
    await set_policy(graph, unique, responses=[STALE, ROLL_BACK])
    await event(graph, one)

    found = await event(graph, two, deploymentId=bad)

    assert [(r["action"], r["outcome"]) for r in found["responses"]] == [
        ("MARK_STALE", "DONE"),
        ("ROLL_BACK", "FAILED"),
    ]
    assert found["status"] == "OPEN"
    assert found["responses"][1]["message"] == (
        "Version 1 is STALE; submit it for approval first, with submitForApproval."
    )
    assert await deployments(graph, unique) == [("1", "ACTIVE"), ("2", "ACTIVE")]
    stages = [(await approval(graph, version))["stage"] for version in (one, two)]
    assert stages == ["ARCHIVED", "PRODUCTION"]


async def test_open_drift_keeps_a_version_out_where_the_stage_policy_says_so(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    await set_policy(graph, unique)
    rule = {"noOpenDrift": {"fromSeverity": "HIGH"}}
    policy = {"modelName": unique, "stage": "STAGING", "rules": [rule]}
    await graph.mutate("setStagePolicy", policy, **ADMINISTRATOR)
    move = {"modelVersion": {"id": version["id"]}, "stage": "STAGING"}

    async def counted() -> Json:
        statement = "SELECT open_drift FROM model_version WHERE model_name = :name"
        ((found,),) = await rows(live.database, statement, name=unique)
        return dict(found)

    made = [
        (await event(graph, version, severity=severity))["id"]
        for severity in ("LOW", "HIGH", "HIGH", "CRITICAL")
    ]
    assert await counted() == {"LOW": 1, "HIGH": 2, "CRITICAL": 1}
    for id, status in zip(made[1:], ("RESOLVED", "FALSE_POSITIVE", "ACKNOWLEDGED"), strict=True):
        refused = await graph.mutate("setStage", move)
        assert refused["__typename"] == "GateFailed"
        closing = {"id": id, "status": status}
        await graph.done("updateDriftEvent", closing, "driftEvent { id }")
    assert await counted() == {"LOW": 1, "CRITICAL": 1}
    for status in ("MITIGATED", "RESOLVED"):
        assert (await graph.mutate("setStage", move))["__typename"] == "GateFailed"
        closing = {"id": made[3], "status": status}
        await graph.done("updateDriftEvent", closing, "driftEvent { id }")
    assert await counted() == {"LOW": 1}
    assert (await graph.mutate("setStage", move))["__typename"] == "SetStageSuccess"


# Degradation.


async def a_deployed_version(graph: Graph, model: str, **metrics: float) -> tuple[Json, str]:
    """A version with these metrics, and its deployment."""
    given = [{"key": key, "value": value} for key, value in metrics.items()]
    version = await a_version(graph, model, metrics=given)
    return version, await a_deployment(graph, version, status="ACTIVE")


async def test_figures_that_are_worse_than_the_versions_own_are_drift(
    graph: Graph, unique: str
) -> None:
    _, id = await a_deployed_version(graph, unique, inference_time_ms=100, accuracy=0.8)
    policy = await set_policy(graph, unique, degradation=[LATENCY, ACCURACY])

    # Exactly at the limits is not beyond them.
    await report(graph, id, avgLatencyMs=150, observed={"accuracy": 0.75, "other": 0})
    assert await events(graph, unique) == []
    taken = await report(graph, id, avgLatencyMs=150.5, observed={"accuracy": 0.7499})

    # The worst comes first.
    accuracy, latency = await events(graph, unique)
    assert latency == {
        **latency,
        "severity": "MEDIUM",
        "status": "OPEN",
        "metric": "avg_latency_ms",
        "baselineValue": 100,
        "observedValue": 150.5,
        "threshold": 150,
        "method": "degradation",
        "description": "avg_latency_ms is 150.5: more than 1.5 times the version's own "
        "inference_time_ms of 100.0.",
        "createdBy": "system:drift",
        "dedupKey": None,
        "deployment": {"id": id},
        "policy": {"id": policy["id"], "version": 1},
        "responses": [],
    }
    assert (accuracy["severity"], accuracy["metric"]) == ("HIGH", "accuracy")
    assert (accuracy["baselineValue"], accuracy["observedValue"]) == (0.8, 0.7499)
    assert accuracy["threshold"] == 0.75
    assert taken["metrics"]["observed"] == [{"key": "accuracy", "value": 0.7499}]


async def test_what_is_known_and_not_closed_is_not_recorded_again_unless_it_is_worse(
    graph: Graph, unique: str
) -> None:
    version, id = await a_deployed_version(graph, unique, inference_time_ms=100)
    other = await a_deployment(graph, version, status="ACTIVE")
    much = {**LATENCY, "value": 3, "severity": "CRITICAL"}
    await set_policy(graph, unique, degradation=[LATENCY, much])

    async def known() -> list[tuple[str, str]]:
        return [(e["severity"], e["deployment"]["id"]) for e in await events(graph, unique)]

    for _ in range(2):
        await report(graph, id, avgLatencyMs=200)
    assert await known() == [("MEDIUM", id)]
    await report(graph, other, avgLatencyMs=200)
    await report(graph, id, avgLatencyMs=400)
    await report(graph, id, avgLatencyMs=200)
    assert await known() == [("MEDIUM", id), ("MEDIUM", other), ("CRITICAL", id)]
    for found in await events(graph, unique):
        input = {"id": found["id"], "status": "RESOLVED"}
        await graph.done("updateDriftEvent", input, "driftEvent { id }")
    await report(graph, id, avgLatencyMs=200)
    assert (await known())[3:] == [("MEDIUM", id)]


async def test_degradation_is_responded_to_like_any_drift(
    graph: Graph, live: Live, unique: str
) -> None:
    one = await a_version(graph, unique)
    await a_good_deployment(graph, one)
    _, bad = await a_deployed_version(graph, unique, accuracy=0.9)
    error = {"figure": "ERROR_RATE", "limit": "MAX_VALUE", "value": 0.1, "severity": "CRITICAL"}
    await set_policy(graph, unique, responses=[ROLL_BACK], degradation=[ACCURACY, error])

    async with Graph(live.url, "gateway") as gateway:
        taken = await report(gateway, bad, errorRate=0.2, observed={"accuracy": 0.1})

    assert taken["status"] == "ROLLBACK"
    first, second = await events(graph, unique)
    assert (first["metric"], first["status"]) == ("error_rate", "MITIGATED")
    assert (first["baselineValue"], first["threshold"]) == (None, 0.1)
    assert (second["metric"], second["status"]) == ("accuracy", "OPEN")
    [answer] = second["responses"]
    assert (answer["action"], answer["outcome"], answer["message"]) == (
        "ROLL_BACK",
        "NOTHING_TO_DO",
        "See error_rate, which the same report has found, too.",
    )
    assert await deployments(graph, unique) == [
        ("1", "ACTIVE"),
        ("2", "ROLLBACK"),
        ("1", "PENDING"),
    ]
    [reported] = await journal(
        live,
        "type = 'deployment.metrics_reported' AND actor = 'gateway' "
        "AND after->'observed'->>'accuracy' = '0.1' AND request_id IN "
        "(SELECT request_id FROM event WHERE after->>'model_name' = :name)",
        name=unique,
    )
    caused = await journal(live, "request_id = :id", id=reported.request_id)
    assert {entry.actor for entry in caused if entry is not reported} == {"gateway", "system:drift"}


async def test_a_version_without_figures_of_its_own_and_an_ended_deployment_are_not_judged(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique, metrics=[{"key": "inference_time_ms", "kind": "NAN"}])
    id = await a_deployment(graph, version, status="ACTIVE")
    _, failed = await a_deployed_version(graph, unique, inference_time_ms=1)
    await set_policy(graph, unique, degradation=[LATENCY, ACCURACY])

    await report(graph, id, avgLatencyMs=1e9, observed={"accuracy": 0})
    metrics = {"requestCount": 1, "errorRate": 1, "avgLatencyMs": 100}
    input = {"id": failed, "status": "FAILED", "metrics": metrics}
    await graph.done("updateDeployment", input, "deployment { id }")
    await report(graph, failed, avgLatencyMs=1e9)

    assert await events(graph, unique) == []


async def test_observed_figures_stay_until_others_are_reported(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status="ACTIVE")

    reported: list[Json] = [
        {},
        {"observed": {"recall": 0.5, "accuracy": -1.5}},
        {},
        {"observed": {"f1": 0.25}},
        {"observed": {}},
    ]
    shown = [(await report(graph, id, **figures))["metrics"]["observed"] for figures in reported]

    assert [{figure["key"]: figure["value"] for figure in each} for each in shown] == [
        {},
        {"accuracy": -1.5, "recall": 0.5},
        {"accuracy": -1.5, "recall": 0.5},
        {"f1": 0.25},
        {},
    ]
    twice = [{"key": "a", "value": 1.0}] * 2
    metrics = {"requestCount": 1, "errorRate": 0, "avgLatencyMs": 1, "observed": twice}
    result = await graph.mutate("updateDeployment", {"id": id, "metrics": metrics})
    assert (result["__typename"], result["path"]) == ("InvalidInput", ["metrics", "observed"])
    assert result["message"] == "metrics.observed: must not name a key twice"
