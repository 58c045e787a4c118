"""Deployments, over GraphQL: where a version may run, what is reported of it, how it ends."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from lifecycle.deployments.rules import STATUS, DeploymentStatus
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import WAY, a_deployment, a_version, a_version_in
from tests.following import DEPLOYMENTS, items, present, take
from tests.graphql.test_audit import entries
from tests.statements import rows

FIELDS = """
    id modelName version environment status statusMessage health endpoint
    config { instances instanceType autoScaling }
    metrics { requestCount errorRate avgLatencyMs reportedAt }
    createdBy createdAt updatedAt deployedAt terminatedAt revision
    modelVersion { id } rollbackFrom { id }
    statusHistory { from to at actor message }
    logs { totalCount nodes { line level message timestamp } }
"""
DEPLOYMENT = f"deployment {{ {FIELDS} }}"
CREATE = (
    "mutation ($input: CreateDeploymentInput!) { createDeployment(input: $input) { __typename } }"
)
UPDATE = (
    "mutation ($input: UpdateDeploymentInput!) { updateDeployment(input: $input) { __typename } }"
)
LIST = """
    query ($filter: DeploymentFilter, $orderBy: [DeploymentOrder!], $first: Int, $after: String) {
      deployments(filter: $filter, orderBy: $orderBy, first: $first, after: $after) {
        nodes { id } totalCount pageInfo { hasNextPage endCursor }
      }
    }
"""


async def read(graph: Graph, id: str) -> Json:
    """A deployment with all that there is to know about it."""
    found: Json = (
        await graph.query(f"query ($id: ID!) {{ deployment(id: $id) {{ {FIELDS} }} }}", {"id": id})
    )["deployment"]
    return found


async def report(graph: Graph, id: str, **changes: object) -> Json:
    """The deployment after a report that must be taken."""
    return await graph.done("updateDeployment", {"id": id, **changes}, DEPLOYMENT)


async def listed(graph: Graph, model: str, **arguments: object) -> list[str]:
    """The ids of a model's deployments that a list shows."""
    filter = {"modelName": model, **arguments.pop("filter", {})}  # type: ignore[dict-item]
    answer = await graph.query(LIST, {"filter": filter, **arguments})
    return [node["id"] for node in answer["deployments"]["nodes"]]


async def live_deployments(live: Live, version: Json) -> int:
    """What the version's row counts, and the deletion of versions relies on."""
    id = ids.decode("ModelVersion", version["id"])
    statement = "SELECT live_deployments FROM model_version WHERE id = :id"
    ((counted,),) = await rows(live.database, statement, id=id)
    return int(counted)


def moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


# Creation.


async def test_a_new_deployment_is_pending_and_has_what_it_was_given(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "STAGING")
    before = datetime.now(UTC)

    made = await graph.done(
        "createDeployment",
        {
            "modelVersion": {"id": version["id"]},
            "environment": "STAGING",
            "endpoint": "https://models.example/a",
            "config": {"instances": 3, "instanceType": "gpu.small", "autoScaling": True},
        },
        DEPLOYMENT,
    )

    created = made["createdAt"]
    assert (
        before - timedelta(seconds=1) < moment(created) < datetime.now(UTC) + timedelta(seconds=1)
    )
    assert made == {
        "id": made["id"],
        "modelName": unique,
        "version": "1",
        "environment": "STAGING",
        "status": "PENDING",
        "statusMessage": None,
        "health": "UNKNOWN",
        "endpoint": "https://models.example/a",
        "config": {"instances": 3, "instanceType": "gpu.small", "autoScaling": True},
        "metrics": {"requestCount": 0, "errorRate": 0.0, "avgLatencyMs": 0.0, "reportedAt": None},
        "createdBy": "tester",
        "createdAt": created,
        "updatedAt": made["updatedAt"],
        "deployedAt": None,
        "terminatedAt": None,
        "revision": 1,
        "modelVersion": {"id": version["id"]},
        "rollbackFrom": None,
        "statusHistory": [
            {"from": None, "to": "PENDING", "at": created, "actor": "tester", "message": None}
        ],
        "logs": {"totalCount": 0, "nodes": []},
    }
    assert await read(graph, made["id"]) == made


async def test_a_deployment_without_a_configuration_gets_one_instance(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)

    made = await graph.done(
        "createDeployment",
        {"modelVersion": {"id": version["id"]}, "environment": "DEVELOPMENT"},
        DEPLOYMENT,
    )

    assert made["config"] == {"instances": 1, "instanceType": None, "autoScaling": False}
    assert made["endpoint"] is None


@pytest.mark.parametrize(
    "selector",
    [
        {"nameVersion": {"modelName": "{}", "version": "1"}},
        {"inStage": {"modelName": "{}", "stage": "STAGING"}},
    ],
    ids=["by name", "by stage"],
)
async def test_the_version_can_be_named(graph: Graph, unique: str, selector: Json) -> None:
    version = await a_version_in(graph, unique, "STAGING")
    await a_version(graph, unique)
    kind, value = next(iter(selector.items()))

    made = await graph.done(
        "createDeployment",
        {"modelVersion": {kind: {**value, "modelName": unique}}, "environment": "STAGING"},
        DEPLOYMENT,
    )

    assert made["modelVersion"] == {"id": version["id"]}


WANTED = {
    "DEVELOPMENT": ["EXPERIMENTAL", "STAGING", "PRODUCTION", "ARCHIVED"],
    "STAGING": ["PRODUCTION", "STAGING"],
    "PRODUCTION": ["PRODUCTION"],
}


@pytest.mark.parametrize("environment", WANTED)
@pytest.mark.parametrize("stage", WANTED["DEVELOPMENT"])
async def test_an_environment_takes_only_versions_of_its_stages(
    graph: Graph, live: Live, unique: str, environment: str, stage: str
) -> None:
    version = await a_version_in(graph, unique, stage)

    result = await graph.mutate(
        "createDeployment",
        {"modelVersion": {"id": version["id"]}, "environment": environment},
        "deployment { status environment }",
    )

    if stage in WANTED[environment]:
        assert result == {
            "__typename": "CreateDeploymentSuccess",
            "deployment": {"status": "PENDING", "environment": environment},
        }
        assert await live_deployments(live, version) == 1
        return
    assert result == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": f"Version 1 is in stage {stage}; to run in {environment} it must be in "
        f"{' or '.join(WANTED[environment])}. Move it there with setStage first.",
        "path": ["modelVersion"],
    }
    assert await listed(graph, unique) == []
    assert await live_deployments(live, version) == 0


async def test_a_version_that_does_not_exist_cannot_be_deployed(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    missing = {
        f"There is no version 2 of model {unique}.": {
            "nameVersion": {"modelName": unique, "version": "2"}
        },
        f"There is no version in stage PRODUCTION of model {unique}.": {
            "inStage": {"modelName": unique, "stage": "PRODUCTION"}
        },
        "There is no version with this id.": {"id": ids.encode("ModelVersion", uuid4())},
    }

    for message, selector in missing.items():
        result = await graph.mutate(
            "createDeployment", {"modelVersion": selector, "environment": "DEVELOPMENT"}
        )
        assert result == {
            "__typename": "NotFound",
            "code": "NOT_FOUND",
            "message": message,
            "path": ["modelVersion"],
        }
    assert await listed(graph, unique) == []


async def test_a_deleted_version_cannot_be_deployed(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    selector = {"id": version["id"]}
    await graph.done("deleteModelVersion", {"modelVersion": selector}, "modelVersion { id }")

    for wanted in (selector, {"nameVersion": {"modelName": unique, "version": "1"}}):
        result = await graph.mutate(
            "createDeployment", {"modelVersion": wanted, "environment": "DEVELOPMENT"}
        )
        assert (result["__typename"], result["path"]) == ("NotFound", ["modelVersion"])
    assert await listed(graph, unique) == []


async def test_there_is_no_latest_version_to_deploy_by_default(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    named = {"modelName": unique, "version": "1"}
    inputs: list[Json] = [
        {},
        {"modelVersion": None},
        {"modelVersion": {}},
        {"modelVersion": {"id": None}},
        {"modelVersion": {"nameVersion": {"modelName": unique}}},
        {"modelVersion": {"id": version["id"], "nameVersion": named}},
    ]

    for input in inputs:
        error = await graph.error(CREATE, {"input": {"environment": "DEVELOPMENT", **input}})
        assert error["extensions"]["code"] == "INVALID_INPUT", (input, error)
    assert await listed(graph, unique) == []


async def test_the_id_of_something_else_is_no_version(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    deployment = await a_deployment(graph, version)

    for id, message in (
        (deployment, "This is the id of a Deployment; that of a ModelVersion is needed."),
        ("nonsense", "This is not an id that this service gave."),
        ("", "This is not an id that this service gave."),
    ):
        result = await graph.mutate(
            "createDeployment", {"modelVersion": {"id": id}, "environment": "DEVELOPMENT"}
        )
        assert result == {
            "__typename": "InvalidInput",
            "code": "INVALID_INPUT",
            "message": message,
            "path": ["modelVersion", "id"],
        }
    assert await listed(graph, unique) == [deployment]


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"config": {"instances": 0}}, ["config", "instances"]),
        ({"config": {"instances": -1}}, ["config", "instances"]),
        ({"config": {"instances": 10_001}}, ["config", "instances"]),
        ({"config": {"instances": 2**31 - 1}}, ["config", "instances"]),
        ({"config": {"instanceType": ""}}, ["config", "instanceType"]),
        ({"config": {"instanceType": "x" * 251}}, ["config", "instanceType"]),
        ({"endpoint": ""}, ["endpoint"]),
        ({"endpoint": "two\nlines"}, ["endpoint"]),
        ({"endpoint": "nul\x00"}, ["endpoint"]),
        ({"endpoint": "x" * 1_001}, ["endpoint"]),
        ({"idempotencyKey": ""}, ["idempotencyKey"]),
    ],
    ids=str,
)
async def test_an_unacceptable_configuration_is_refused(
    graph: Graph, live: Live, unique: str, input: Json, path: list[str]
) -> None:
    version = await a_version(graph, unique)

    result = await graph.mutate(
        "createDeployment",
        {"modelVersion": {"id": version["id"]}, "environment": "DEVELOPMENT", **input},
    )

    assert (result["__typename"], result["code"], result["path"]) == (
        "InvalidInput",
        "INVALID_INPUT",
        path,
    )
    assert await listed(graph, unique) == []
    assert await live_deployments(live, version) == 0


async def test_values_of_the_wrong_type_do_not_pass_the_schema(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)

    for input in (
        {"environment": "MOON"},
        {"environment": "development"},
        {"environment": None},
        {"config": {"instances": 2**31}},
        {"config": {"instances": 1.5}},
        {"config": {"instances": None}},
        {"config": {"instances": "1"}},
        {"config": {"autoScaling": "yes"}},
        {"config": {"replicas": 1}},
    ):
        given = {"modelVersion": {"id": version["id"]}, "environment": "DEVELOPMENT", **input}
        error = await graph.error(CREATE, {"input": given})
        assert error["extensions"]["code"] == "INVALID_INPUT", (input, error)
    assert await listed(graph, unique) == []


async def test_the_same_idempotency_key_makes_one_deployment(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    input = {
        "modelVersion": {"id": version["id"]},
        "environment": "DEVELOPMENT",
        "idempotencyKey": unique,
    }

    first = await graph.done("createDeployment", input, DEPLOYMENT)
    again = await graph.done("createDeployment", input, DEPLOYMENT)
    other = await graph.mutate("createDeployment", {**input, "endpoint": "https://other"})

    assert again == first
    assert other["__typename"] == "IdempotencyConflict"
    assert await listed(graph, unique) == [first["id"]]
    assert await live_deployments(live, version) == 1


# Status.


def following(status: str) -> list[str]:
    return sorted(STATUS.following[DeploymentStatus(status)])


@pytest.mark.parametrize(
    ("current", "wanted"), [(current, wanted) for current in WAY for wanted in following(current)]
)
async def test_a_legal_change_of_status_is_made_and_kept_in_the_history(
    graph: Graph, unique: str, current: str, wanted: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status=current)
    before = await read(graph, id)

    after = await report(graph, id, status=wanted, statusMessage="why")

    assert (after["status"], after["statusMessage"]) == (wanted, "why")
    assert after["revision"] == before["revision"] + 1
    *former, last = after["statusHistory"]
    assert former == before["statusHistory"]
    assert last == {
        "from": current,
        "to": wanted,
        "at": last["at"],
        "actor": "tester",
        "message": "why",
    }
    assert await read(graph, id) == after


@pytest.mark.parametrize("current", WAY)
async def test_any_other_change_of_status_is_refused_and_changes_nothing(
    graph: Graph, unique: str, current: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status=current)
    before = await read(graph, id)
    allowed = following(current)

    for wanted in set(WAY) - set(allowed):
        result = await graph.mutate(
            "updateDeployment",
            {
                "id": id,
                "status": wanted,
                "statusMessage": "why",
                "health": "DEGRADED",
                "endpoint": "https://new",
                "metrics": {"requestCount": 1, "errorRate": 0.0, "avgLatencyMs": 0.0},
                "logLines": [{"message": "lost"}],
            },
        )
        assert result == {
            "__typename": "InvalidTransition",
            "code": "INVALID_TRANSITION",
            "message": f"{current} cannot become {wanted}; allowed next: "
            f"{', '.join(allowed) or 'nothing: it is final'}.",
            "path": ["status"],
            "from": current,
            "to": wanted,
            "allowed": allowed,
        }
    assert await read(graph, id) == before


async def test_the_history_names_who_changed_what_and_when(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    async with Graph(live.url, "deployer") as deployer:
        for status in ("VALIDATING", "DEPLOYING", "ACTIVE"):
            await report(deployer, id, status=status, statusMessage=f"now {status}")
    await report(graph, id, status="FAILED")

    found = await read(graph, id)

    history = found["statusHistory"]
    assert [(e["from"], e["to"], e["actor"], e["message"]) for e in history] == [
        (None, "PENDING", "tester", None),
        ("PENDING", "VALIDATING", "deployer", "now VALIDATING"),
        ("VALIDATING", "DEPLOYING", "deployer", "now DEPLOYING"),
        ("DEPLOYING", "ACTIVE", "deployer", "now ACTIVE"),
        ("ACTIVE", "FAILED", "tester", None),
    ]
    times = [moment(entry["at"]) for entry in history]
    assert times == sorted(times)
    assert found["revision"] == 5
    assert found["createdBy"] == "tester"


async def test_deployed_and_terminated_are_the_moments_of_those_changes(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status="DEPLOYING")
    assert (await read(graph, id))["deployedAt"] is None

    active = await report(graph, id, status="ACTIVE")
    ended = await report(graph, id, status="TERMINATED")

    assert active["deployedAt"] == active["statusHistory"][-1]["at"]
    assert active["terminatedAt"] is None
    assert ended["deployedAt"] == active["deployedAt"]
    assert ended["terminatedAt"] == ended["statusHistory"][-1]["at"]


async def test_a_deployment_that_never_became_active_was_never_deployed(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status="DEPLOYING")

    failed = await report(graph, id, status="FAILED")
    ended = await report(graph, id, status="TERMINATED")

    assert (failed["deployedAt"], failed["terminatedAt"]) == (None, None)
    assert ended["deployedAt"] is None
    assert ended["terminatedAt"] is not None


async def test_a_status_message_belongs_to_its_status(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    said = await report(graph, id, status="VALIDATING", statusMessage="checking the digest")
    left_out = await report(graph, id, health="UNHEALTHY")
    changed = await report(graph, id, statusMessage="still checking")
    same = await report(graph, id, statusMessage="still checking")
    emptied = await report(graph, id, statusMessage=None)
    again = await report(graph, id, statusMessage="almost there")
    cleared = await report(graph, id, status="DEPLOYING")
    null = await report(graph, id, status="ACTIVE", statusMessage=None)

    assert [
        (state["statusMessage"], state["revision"])
        for state in (said, left_out, changed, same, emptied, again, cleared, null)
    ] == [
        ("checking the digest", 2),
        ("checking the digest", 3),
        ("still checking", 4),
        ("still checking", 4),
        (None, 5),
        ("almost there", 6),
        (None, 7),
        (None, 8),
    ]
    assert [(entry["to"], entry["message"]) for entry in null["statusHistory"]] == [
        ("PENDING", None),
        ("VALIDATING", "checking the digest"),
        ("DEPLOYING", None),
        ("ACTIVE", None),
    ]


# Endpoint, health, figures, log lines.


async def test_an_endpoint_is_kept_replaced_and_taken_away(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    given = await report(graph, id, endpoint="https://a")
    kept = await report(graph, id, status="VALIDATING")
    replaced = await report(graph, id, endpoint="https://b", status="DEPLOYING")
    gone = await report(graph, id, endpoint=None)

    assert [(state["endpoint"], state["revision"]) for state in (given, kept, replaced, gone)] == [
        ("https://a", 2),
        ("https://a", 3),
        ("https://b", 4),
        (None, 5),
    ]
    assert [entry["to"] for entry in gone["statusHistory"]] == [
        "PENDING",
        "VALIDATING",
        "DEPLOYING",
    ]


async def test_health_is_what_was_last_reported(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    states = [
        await report(graph, id, health=health)
        for health in ("HEALTHY", "HEALTHY", "DEGRADED", "UNHEALTHY", "UNKNOWN")
    ]
    kept = await report(graph, id, status="VALIDATING")

    assert [(state["health"], state["revision"]) for state in states] == [
        ("HEALTHY", 2),
        ("HEALTHY", 2),
        ("DEGRADED", 3),
        ("UNHEALTHY", 4),
        ("UNKNOWN", 5),
    ]
    assert (kept["health"], len(kept["statusHistory"])) == ("UNKNOWN", 2)


async def test_figures_and_log_lines_do_not_count_as_a_revision(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    before = await read(graph, id)

    after = await report(
        graph,
        id,
        metrics={"requestCount": 2**40, "errorRate": 0.25, "avgLatencyMs": 12.5},
        logLines=[{"message": "up"}],
    )

    reported = after["metrics"]["reportedAt"]
    line = after["logs"]["nodes"][0]
    assert moment(reported) >= moment(before["createdAt"])
    assert after == {
        **before,
        "updatedAt": after["updatedAt"],
        "metrics": {
            "requestCount": 2**40,
            "errorRate": 0.25,
            "avgLatencyMs": 12.5,
            "reportedAt": reported,
        },
        "logs": {
            "totalCount": 1,
            "nodes": [
                {"line": 1, "level": "INFO", "message": "up", "timestamp": line["timestamp"]}
            ],
        },
    }
    taken = await report(graph, id, status="VALIDATING", expectedRevision=1)
    assert (taken["revision"], taken["metrics"]) == (2, after["metrics"])


@pytest.mark.parametrize(
    "metrics",
    [
        {"requestCount": 0, "errorRate": 0.0, "avgLatencyMs": 0.0},
        {"requestCount": 2**63 - 1, "errorRate": 1.0, "avgLatencyMs": 1e300},
    ],
    ids=["smallest", "biggest"],
)
async def test_figures_at_their_limits_are_taken(graph: Graph, unique: str, metrics: Json) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    after = await report(graph, id, metrics=metrics)

    assert after["metrics"] == {**metrics, "reportedAt": after["metrics"]["reportedAt"]}


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"metrics": {"requestCount": -1}}, ["metrics", "requestCount"]),
        ({"metrics": {"errorRate": -0.01}}, ["metrics", "errorRate"]),
        ({"metrics": {"errorRate": 1.01}}, ["metrics", "errorRate"]),
        ({"metrics": {"avgLatencyMs": -1}}, ["metrics", "avgLatencyMs"]),
        ({"logLines": [{"message": "a"}, {"message": "\x00"}]}, ["logLines", "1", "message"]),
        ({"logLines": [{"message": "x" * 20_001}]}, ["logLines", "0", "message"]),
        ({"logLines": [{"message": "a", "level": ""}]}, ["logLines", "0", "level"]),
        ({"logLines": [{"message": "a", "level": "x" * 21}]}, ["logLines", "0", "level"]),
        ({"logLines": [{"message": "a"}] * 1_001}, ["logLines"]),
        ({"statusMessage": "x" * 20_001}, ["statusMessage"]),
        ({"statusMessage": "\x07"}, ["statusMessage"]),
        ({"endpoint": " "}, ["endpoint"]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_report_with_one_mistake_is_refused_as_a_whole(
    graph: Graph, unique: str, input: Json, path: list[str]
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    before = await read(graph, id)
    if "metrics" in input:
        good = {"requestCount": 1, "errorRate": 0.5, "avgLatencyMs": 1.0}
        input = {"metrics": {**good, **input["metrics"]}}

    result = await graph.mutate(
        "updateDeployment", {"id": id, "status": "VALIDATING", "health": "HEALTHY", **input}
    )

    assert (result["__typename"], result["path"]) == ("InvalidInput", path)
    assert await read(graph, id) == before


async def test_a_report_of_the_wrong_type_does_not_pass_the_schema(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    before = await read(graph, id)

    for input in (
        {"status": "RUNNING"},
        {"health": "FINE"},
        {"metrics": {"requestCount": 1, "errorRate": 0.0}},
        {"metrics": {"requestCount": 2**63, "errorRate": 0.0, "avgLatencyMs": 0.0}},
        {"metrics": {"requestCount": 1.5, "errorRate": 0.0, "avgLatencyMs": 0.0}},
        {"metrics": {"requestCount": 1, "errorRate": "none", "avgLatencyMs": 0.0}},
        {"logLines": [{"level": "INFO"}]},
        {"expectedRevision": "1"},
        {"environment": "STAGING"},
    ):
        error = await graph.error(UPDATE, {"input": {"id": id, **input}})
        assert error["extensions"]["code"] == "INVALID_INPUT", (input, error)
    assert await read(graph, id) == before


async def test_log_lines_are_numbered_in_the_order_of_their_arrival(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    at = "2026-01-02T03:04:05.000006+00:00"

    await report(
        graph,
        id,
        logLines=[
            {"message": "pulling", "level": "debug", "timestamp": at},
            {"message": "line\twith a tab", "level": "Warning"},
        ],
    )
    await report(graph, id, status="TERMINATED")
    after = await report(graph, id, logLines=[{"message": "stopped late"}])

    nodes = after["logs"]["nodes"]
    assert [(n["line"], n["level"], n["message"]) for n in nodes] == [
        (1, "DEBUG", "pulling"),
        (2, "WARNING", "line\twith a tab"),
        (3, "INFO", "stopped late"),
    ]
    assert moment(nodes[0]["timestamp"]) == moment(at)


async def test_who_added_which_lines_to_a_log_is_in_the_audit_log_and_told_to_no_follower(
    live: Live, graph: Graph, unique: str
) -> None:
    # given
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    async with aclosing(items("socket", live.url, DEPLOYMENTS, id=id)) as followed:  # type: ignore[type-var]
        await present(followed)

        # when
        for said in (["pulling", "up"], ["done"]):
            lines = [{"message": message} for message in said]
            input = {"id": id, "logLines": lines}
            await graph.mutate("updateDeployment", input, **{"Lifecycle-Actor": unique})
        await report(graph, id, status="TERMINATED")

        # then
        assert (await take(followed, 1))[0]["to"] == "TERMINATED"
    added = await entries(graph, 2, subject=id, actions=["deployment.output_logged"])
    assert [(entry["actor"], entry["before"], entry["after"]) for entry in added] == [
        (unique, None, {"first_line": 3, "last_line": 3}),
        (unique, None, {"first_line": 1, "last_line": 2}),
    ]


async def test_a_log_is_read_in_pages_from_either_end(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    await report(graph, id, logLines=[{"message": str(n)} for n in range(1, 6)])
    query = """query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {
        deployment(id: $id) { logs(first: $first, after: $after, last: $last, before: $before) {
          totalCount nodes { line }
          pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }"""

    async def page(**arguments: object) -> Json:
        found: Json = (await graph.query(query, {"id": id, **arguments}))["deployment"]["logs"]
        return found

    begin = await page(first=3)
    rest = await page(first=3, after=begin["pageInfo"]["endCursor"])
    end = await page(last=2)
    earlier = await page(last=2, before=end["pageInfo"]["startCursor"])

    assert [[node["line"] for node in p["nodes"]] for p in (begin, rest, end, earlier)] == [
        [1, 2, 3],
        [4, 5],
        [4, 5],
        [2, 3],
    ]
    assert [p["pageInfo"]["hasNextPage"] for p in (begin, rest)] == [True, False]
    assert [p["pageInfo"]["hasPreviousPage"] for p in (end, earlier)] == [True, True]
    assert begin["totalCount"] == 5


# Revisions and ids.


@pytest.mark.parametrize(
    ("mutation", "input"),
    [
        ("updateDeployment", {"status": "FAILED", "logLines": [{"message": "no"}]}),
        ("updateDeployment", {"metrics": {"requestCount": 1, "errorRate": 0, "avgLatencyMs": 0}}),
        ("terminateDeployment", {}),
        ("rollbackDeployment", {}),
    ],
    ids=["status", "figures", "terminate", "rollback"],
)
async def test_a_change_decided_on_an_old_revision_is_refused(
    graph: Graph, unique: str, mutation: str, input: Json
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status="ACTIVE")
    before = await read(graph, id)

    result = await graph.mutate(mutation, {"id": id, **input, "expectedRevision": 3})

    assert result == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": "Revision 3 was expected, but it is 4 now.",
        "path": ["expectedRevision"],
        "currentRevision": 4,
    }
    assert await read(graph, id) == before


@pytest.mark.parametrize(
    "mutation", ["updateDeployment", "terminateDeployment", "rollbackDeployment"]
)
async def test_ids_that_mean_no_deployment_are_told_apart(
    graph: Graph, unique: str, mutation: str
) -> None:
    version = await a_version(graph, unique)
    kinds = {
        ids.encode("Deployment", uuid4()): ("NotFound", "There is no deployment with this id."),
        version["id"]: (
            "InvalidInput",
            "This is the id of a ModelVersion; that of a Deployment is needed.",
        ),
        "?": ("InvalidInput", "This is not an id that this service gave."),
        str(UUID(int=1)): ("InvalidInput", "This is not an id that this service gave."),
    }

    for id, (kind, message) in kinds.items():
        result = await graph.mutate(mutation, {"id": id})
        assert (result["__typename"], result["message"], result["path"]) == (kind, message, ["id"])


async def test_a_deployment_that_does_not_exist_is_null(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    query = "query ($id: ID!) { deployment(id: $id) { id } }"

    assert await graph.query(query, {"id": ids.encode("Deployment", uuid4())}) == {
        "deployment": None
    }
    error = await graph.error(query, {"id": version["id"]})
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["id"]}


# The end.


@pytest.mark.parametrize("status", [status for status in WAY if status != "TERMINATED"])
async def test_a_terminated_deployment_ends_and_its_record_stays(
    graph: Graph, live: Live, unique: str, status: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status=status)
    before = await read(graph, id)

    ended = await graph.done(
        "terminateDeployment", {"id": id, "reason": "no longer needed"}, DEPLOYMENT
    )

    last = ended["statusHistory"][-1]
    assert ended == {
        **before,
        "status": "TERMINATED",
        "statusMessage": "no longer needed",
        "revision": before["revision"] + 1,
        "updatedAt": ended["updatedAt"],
        "terminatedAt": last["at"],
        "statusHistory": [
            *before["statusHistory"],
            {
                "from": status,
                "to": "TERMINATED",
                "at": last["at"],
                "actor": "tester",
                "message": "no longer needed",
            },
        ],
    }
    assert await read(graph, id) == ended
    assert await listed(graph, unique) == [id]
    assert await live_deployments(live, version) == 0


async def test_what_has_ended_cannot_end_again(graph: Graph, live: Live, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)
    ended = await graph.done("terminateDeployment", {"id": id}, DEPLOYMENT)

    again = await graph.mutate("terminateDeployment", {"id": id, "reason": "once more"})

    assert again == {
        "__typename": "InvalidTransition",
        "code": "INVALID_TRANSITION",
        "message": "TERMINATED cannot become TERMINATED; allowed next: nothing: it is final.",
        "path": ["id"],
        "from": "TERMINATED",
        "to": "TERMINATED",
        "allowed": [],
    }
    assert await read(graph, id) == ended
    assert await live_deployments(live, version) == 0


@pytest.mark.parametrize(
    "input",
    [
        {"health": "UNHEALTHY"},
        {"endpoint": "https://new"},
        {"statusMessage": None},
        {"metrics": {"requestCount": 1, "errorRate": 0.0, "avgLatencyMs": 0.0}},
    ],
    ids=["health", "endpoint", "message", "figures"],
)
async def test_only_the_log_of_what_has_ended_may_grow(
    graph: Graph, unique: str, input: Json
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status="TERMINATED")
    before = await read(graph, id)

    result = await graph.mutate(
        "updateDeployment", {"id": id, "logLines": [{"message": "lost"}], **input}
    )

    assert result == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "The deployment is TERMINATED; only its log may grow.",
        "path": ["id"],
    }
    assert await read(graph, id) == before


async def test_a_version_counts_its_live_deployments_on_every_path(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    paths = [
        ["VALIDATING", "DEPLOYING", "ACTIVE", "ROLLBACK", "TERMINATED"],
        ["VALIDATING", "DEPLOYING", "ACTIVE", "FAILED", "ROLLBACK", "TERMINATED"],
        ["VALIDATING", "DEPLOYING", "ACTIVE", "TERMINATED"],
        ["VALIDATING", "DEPLOYING", "FAILED", "TERMINATED"],
        ["VALIDATING", "FAILED", "ROLLBACK", "TERMINATED"],
        ["FAILED", "TERMINATED"],
        ["TERMINATED"],
    ]
    standing = await a_deployment(graph, version)

    for path in paths:
        id = await a_deployment(graph, version)
        assert await live_deployments(live, version) == 2
        for status in path:
            await report(graph, id, status=status)
            up = status in ("VALIDATING", "DEPLOYING", "ACTIVE")
            assert await live_deployments(live, version) == 1 + up, (path, status)
    await report(graph, standing, status="FAILED")

    assert await live_deployments(live, version) == 0
    counted = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { deploymentCount "
        "deployments(first: 2) { totalCount nodes { version status } } } } }",
        {"id": version["id"]},
    )
    assert counted["node"] == {
        "deploymentCount": 8,
        "deployments": {
            "totalCount": 8,
            "nodes": [{"version": "1", "status": "TERMINATED"}] * 2,
        },
    }


@pytest.mark.parametrize("status", WAY)
async def test_a_version_can_be_deleted_when_none_of_its_deployments_is_live(
    graph: Graph, unique: str, status: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version, status=status)

    result = await graph.mutate("deleteModelVersion", {"modelVersion": {"id": version["id"]}})

    if status in ("PENDING", "VALIDATING", "DEPLOYING", "ACTIVE"):
        assert result == {
            "__typename": "InUse",
            "code": "IN_USE",
            "message": "Version 1 is deployed; terminate its deployments first.",
            "path": ["modelVersion"],
        }
    else:
        assert result["__typename"] == "DeleteModelVersionSuccess"
    found = await read(graph, id)
    assert (found["status"], found["modelVersion"]) == (status, {"id": version["id"]})


# Lists.


async def test_a_list_is_filtered_by_model_environment_and_status(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    other = await a_version(graph, f"{unique}-b")
    a = await a_deployment(graph, version, "DEVELOPMENT", "ACTIVE")
    b = await a_deployment(graph, version, "STAGING", "FAILED")
    c = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    await a_deployment(graph, other, "DEVELOPMENT", "ACTIVE")

    wanted: list[tuple[Json, list[str]]] = [
        ({}, [c, b, a]),
        ({"environments": ["STAGING"]}, [b]),
        ({"environments": ["STAGING", "PRODUCTION"]}, [c, b]),
        ({"statuses": ["ACTIVE"]}, [c, a]),
        ({"statuses": ["ACTIVE", "FAILED"], "environments": ["DEVELOPMENT"]}, [a]),
        ({"statuses": ["TERMINATED"]}, []),
        ({"environments": [], "statuses": []}, [c, b, a]),
    ]
    for filter, expected in wanted:
        answer = await graph.query(LIST, {"filter": {"modelName": unique, **filter}})
        found = answer["deployments"]
        assert [node["id"] for node in found["nodes"]] == expected, filter
        assert found["totalCount"] == len(expected)
    assert await listed(graph, f"{unique}-c") == []


async def test_a_list_is_ordered_by_creation_or_by_the_last_change(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    a, b, c = [await a_deployment(graph, version) for _ in range(3)]
    await report(graph, a, status="VALIDATING")

    async def order(*keys: tuple[str, str]) -> list[str]:
        order_by = [{"field": field, "direction": direction} for field, direction in keys]
        return await listed(graph, unique, orderBy=order_by)

    assert await order(("CREATED_AT", "ASC")) == [a, b, c]
    assert await order(("CREATED_AT", "DESC")) == [c, b, a]
    assert await order(("UPDATED_AT", "DESC")) == [a, c, b]
    assert await order(("UPDATED_AT", "ASC"), ("CREATED_AT", "DESC")) == [b, c, a]


async def test_the_pages_of_a_list_make_up_the_list(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    made = [await a_deployment(graph, version) for _ in range(5)]
    filter = {"modelName": unique, "statuses": ["PENDING"]}
    seen: list[str] = []
    after, more = None, True

    while more:
        page = (await graph.query(LIST, {"filter": filter, "first": 2, "after": after}))[
            "deployments"
        ]
        seen += [node["id"] for node in page["nodes"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]

    assert seen == made[::-1]
    error = await graph.error(LIST, {"filter": {"modelName": unique}, "after": after})
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}
