"""Drift events, over GraphQL: recorded, found again, acknowledged and closed."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from lifecycle.drift.rules import STATUS, DriftStatus
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_version

FIELDS = """
    id severity status metric feature baselineValue observedValue threshold method description
    details detectedAt createdBy createdAt updatedAt revision
    acknowledgedBy acknowledgedAt resolvedBy resolvedAt resolution
    modelVersion { id version } deployment { id }
"""
EVENT = f"driftEvent {{ {FIELDS} }}"
RECORD = (
    "mutation ($input: RecordDriftEventInput!) { recordDriftEvent(input: $input) { __typename } }"
)
UPDATE = (
    "mutation ($input: UpdateDriftEventInput!) { updateDriftEvent(input: $input) { __typename } }"
)
LIST = """
    query ($filter: DriftEventFilter, $first: Int, $after: String, $last: Int, $before: String) {
      driftEvents(filter: $filter, first: $first, after: $after, last: $last, before: $before) {
        nodes { id } totalCount
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
      }
    }
"""

# The shortest way of a new event to each status.
WAY = {
    "OPEN": [],
    "ACKNOWLEDGED": ["ACKNOWLEDGED"],
    "MITIGATED": ["MITIGATED"],
    "RESOLVED": ["RESOLVED"],
    "FALSE_POSITIVE": ["FALSE_POSITIVE"],
}


async def read(graph: Graph, id: str) -> Json:
    query = f"query ($id: ID!) {{ node(id: $id) {{ ... on DriftEvent {{ {FIELDS} }} }} }}"
    found: Json = (await graph.query(query, {"id": id}))["node"]
    return found


async def an_event(graph: Graph, version: Json, status: str = "OPEN", **input: object) -> str:
    """The id of a new event of a version, brought to a status."""
    given = {"modelVersion": {"id": version["id"]}, "severity": "HIGH", "metric": "psi", **input}
    made = await graph.done("recordDriftEvent", given, EVENT)
    for step in WAY[status]:
        await change(graph, made["id"], status=step)
    return str(made["id"])


async def change(graph: Graph, id: str, **changes: object) -> Json:
    """The event after a change that must be made."""
    return await graph.done("updateDriftEvent", {"id": id, **changes}, EVENT)


async def listed(graph: Graph, model: str, **filter: object) -> list[str]:
    answer = await graph.query(LIST, {"filter": {"modelName": model, **filter}})
    return [node["id"] for node in answer["driftEvents"]["nodes"]]


# Recording.


async def test_an_event_keeps_all_that_was_observed(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    deployment = await a_deployment(graph, version)

    made = await graph.done(
        "recordDriftEvent",
        {
            "modelVersion": {"nameVersion": {"modelName": unique, "version": "1"}},
            "deploymentId": deployment,
            "severity": "CRITICAL",
            "metric": "accuracy",
            "feature": "age",
            "baselineValue": 0.94,
            "observedValue": -1e300,
            "threshold": 0.05,
            "method": "PSI",
            "description": "Fewer young people\nthan in training.",
            "details": {"bins": [1, 2.5, None], "by": {"region": "north"}, "empty": {}},
            "detectedAt": "2026-02-03T04:05:06.789+02:00",
        },
        EVENT,
    )

    assert made == {
        "id": made["id"],
        "severity": "CRITICAL",
        "status": "OPEN",
        "metric": "accuracy",
        "feature": "age",
        "baselineValue": 0.94,
        "observedValue": -1e300,
        "threshold": 0.05,
        "method": "PSI",
        "description": "Fewer young people\nthan in training.",
        "details": {"bins": [1, 2.5, None], "by": {"region": "north"}, "empty": {}},
        "detectedAt": "2026-02-03T02:05:06.789000+00:00",
        "createdBy": "tester",
        "createdAt": made["createdAt"],
        "updatedAt": made["updatedAt"],
        "revision": 1,
        "acknowledgedBy": None,
        "acknowledgedAt": None,
        "resolvedBy": None,
        "resolvedAt": None,
        "resolution": None,
        "modelVersion": {"id": version["id"], "version": "1"},
        "deployment": {"id": deployment},
    }
    assert await read(graph, made["id"]) == made


async def test_an_event_needs_no_more_than_version_severity_and_metric(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    before = datetime.now(UTC)

    made = await read(graph, await an_event(graph, version))

    absent = "feature baselineValue observedValue threshold method description details deployment"
    assert {name: made[name] for name in absent.split()} == dict.fromkeys(absent.split())
    detected = datetime.fromisoformat(made["detectedAt"])
    assert before - timedelta(seconds=1) < detected < datetime.now(UTC) + timedelta(seconds=1)


async def test_a_warning_is_logged_for_each_event(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    input = {
        "modelVersion": {"id": version["id"]},
        "severity": "LOW",
        "metric": "recall",
        "feature": "income",
        "idempotencyKey": unique,
    }

    with capture_logs([merge_contextvars]) as entries:
        await graph.done("recordDriftEvent", input, EVENT)
        await graph.done("recordDriftEvent", input, EVENT)
        await graph.mutate(
            "recordDriftEvent", {**input, "deploymentId": "?", "idempotencyKey": "x"}
        )

    [said] = [entry for entry in entries if entry["event"] == "drift.recorded"]
    expected = {
        "log_level": "warning",
        "model_name": unique,
        "version": "1",
        "severity": "LOW",
        "metric": "recall",
        "feature": "income",
    }
    assert said.items() >= expected.items()
    assert said["request_id"]


async def test_drift_of_a_version_that_does_not_exist_is_refused(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    deleted = {"modelVersion": {"id": version["id"]}}
    await graph.done("deleteModelVersion", deleted, "modelVersion { id }")

    for selector in (
        {"id": ids.encode("ModelVersion", uuid4())},
        {"id": version["id"]},
        {"nameVersion": {"modelName": unique, "version": "1"}},
        {"inStage": {"modelName": unique, "stage": "PRODUCTION"}},
    ):
        result = await graph.mutate(
            "recordDriftEvent", {"modelVersion": selector, "severity": "LOW", "metric": "psi"}
        )
        assert (result["__typename"], result["path"]) == ("NotFound", ["modelVersion"])
    assert await listed(graph, unique) == []


async def test_the_deployment_must_be_one_of_the_version(graph: Graph, unique: str) -> None:
    version, other = await a_version(graph, unique), await a_version(graph, unique)
    elsewhere = await a_deployment(graph, other)
    refused = {
        elsewhere: ("InvalidInput", "The deployment runs another version."),
        ids.encode("Deployment", uuid4()): ("NotFound", "There is no deployment with this id."),
        version["id"]: (
            "InvalidInput",
            "This is the id of a ModelVersion; that of a Deployment is needed.",
        ),
        "": ("InvalidInput", "This is not an id that this service gave."),
    }

    for id, (kind, message) in refused.items():
        result = await graph.mutate(
            "recordDriftEvent",
            {
                "modelVersion": {"id": version["id"]},
                "deploymentId": id,
                "severity": "LOW",
                "metric": "psi",
            },
        )
        assert (result["__typename"], result["message"], result["path"]) == (
            kind,
            message,
            ["deploymentId"],
        )
    assert await listed(graph, unique) == []


def nested(depth: int) -> Json:
    value: Json = {}
    for _ in range(depth):
        value = {"in": value}
    return value


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"details": []}, ["details"]),
        ({"details": "text"}, ["details"]),
        ({"details": 1}, ["details"]),
        ({"details": {"nul": "\x00"}}, ["details"]),
        ({"details": {"\x00": 1}}, ["details"]),
        ({"details": nested(40)}, ["details"]),
        ({"details": {"big": "x" * 300_000}}, ["details"]),
        ({"metric": ""}, ["metric"]),
        ({"metric": "two\nlines"}, ["metric"]),
        ({"metric": "x" * 251}, ["metric"]),
        ({"feature": " padded"}, ["feature"]),
        ({"method": "\x1b"}, ["method"]),
        ({"description": "x" * 20_001}, ["description"]),
        ({"detectedAt": "2026-02-03T04:05:06"}, ["detectedAt"]),
        ({"detectedAt": "0001-01-01T00:00:00+02:00"}, ["detectedAt"]),
        ({"detectedAt": "9999-12-31T23:59:59-02:00"}, ["detectedAt"]),
    ],
    ids=lambda value: str(value)[:40].replace("\x00", "NUL"),
)
async def test_an_unacceptable_observation_is_refused(
    graph: Graph, unique: str, input: Json, path: list[str]
) -> None:
    version = await a_version(graph, unique)

    result = await graph.mutate(
        "recordDriftEvent",
        {"modelVersion": {"id": version["id"]}, "severity": "LOW", "metric": "psi", **input},
    )

    assert (result["__typename"], result["code"], result["path"]) == (
        "InvalidInput",
        "INVALID_INPUT",
        path,
    )
    assert await listed(graph, unique) == []


async def test_an_observation_of_the_wrong_type_does_not_pass_the_schema(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    good = {"modelVersion": {"id": version["id"]}, "severity": "LOW", "metric": "psi"}
    inputs: list[Json] = [
        {"severity": "BAD"},
        {"severity": None},
        {"metric": None},
        {"modelVersion": {}},
        {"observedValue": "much"},
        {"threshold": True},
        {"detectedAt": "yesterday"},
        {"status": "RESOLVED"},
    ]

    for input in inputs:
        error = await graph.error(RECORD, {"input": {**good, **input}})
        assert error["extensions"]["code"] == "INVALID_INPUT", (input, error)
    assert await listed(graph, unique) == []


async def test_the_same_idempotency_key_records_one_event(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    input = {
        "modelVersion": {"id": version["id"]},
        "severity": "LOW",
        "metric": "psi",
        "idempotencyKey": unique,
    }

    first = await graph.done("recordDriftEvent", input, EVENT)
    again = await graph.done("recordDriftEvent", input, EVENT)
    other = await graph.mutate("recordDriftEvent", {**input, "severity": "HIGH"})

    assert again == first
    assert other["__typename"] == "IdempotencyConflict"
    assert await listed(graph, unique) == [first["id"]]


# What becomes of it.


def following(status: str) -> list[str]:
    return sorted(STATUS.following[DriftStatus(status)])


@pytest.mark.parametrize(
    ("current", "wanted"), [(current, wanted) for current in WAY for wanted in following(current)]
)
async def test_a_legal_change_of_status_is_made(
    graph: Graph, live: Live, unique: str, current: str, wanted: str
) -> None:
    version = await a_version(graph, unique)
    id = await an_event(graph, version, current)
    before = await read(graph, id)

    async with Graph(live.url, "ada") as ada:
        after = await change(ada, id, status=wanted, resolution="retrained")

    expected = {
        **before,
        "status": wanted,
        "resolution": "retrained",
        "revision": before["revision"] + 1,
        "updatedAt": after["updatedAt"],
    }
    if wanted == "ACKNOWLEDGED":
        expected |= {"acknowledgedBy": "ada", "acknowledgedAt": after["acknowledgedAt"]}
    if wanted in ("RESOLVED", "FALSE_POSITIVE"):
        expected |= {"resolvedBy": "ada", "resolvedAt": after["resolvedAt"]}
    assert after == expected
    for who in ("acknowledged", "resolved"):
        assert (after[f"{who}By"] is None) == (after[f"{who}At"] is None)
    assert after["updatedAt"] > before["updatedAt"]
    assert before["acknowledgedBy"] == ("tester" if current == "ACKNOWLEDGED" else None)
    assert await read(graph, id) == after


@pytest.mark.parametrize("current", WAY)
async def test_any_other_change_of_status_is_refused_and_changes_nothing(
    graph: Graph, unique: str, current: str
) -> None:
    version = await a_version(graph, unique)
    id = await an_event(graph, version, current)
    before = await read(graph, id)
    allowed = following(current)

    for wanted in set(WAY) - set(allowed):
        result = await graph.mutate(
            "updateDriftEvent", {"id": id, "status": wanted, "resolution": "no"}
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


async def test_who_took_notice_stays_when_another_closes_the_event(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await an_event(graph, version)

    async with Graph(live.url, "ada") as ada, Graph(live.url, "bob") as bob:
        await change(ada, id, status="ACKNOWLEDGED")
        await change(bob, id, status="MITIGATED")
        after = await change(bob, id, status="RESOLVED", resolution="New training data.")

    assert (after["createdBy"], after["acknowledgedBy"], after["resolvedBy"]) == (
        "tester",
        "ada",
        "bob",
    )
    assert (after["resolution"], after["revision"]) == ("New training data.", 4)


async def test_a_resolution_is_kept_replaced_and_taken_away(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await an_event(graph, version)

    given = await change(graph, id, resolution="first guess")
    kept = await change(graph, id, status="RESOLVED")
    same = await change(graph, id, resolution="first guess")
    replaced = await change(graph, id, resolution="what it really was")
    gone = await change(graph, id, resolution=None)
    nothing = await change(graph, id)

    assert [
        (state["status"], state["resolution"], state["revision"])
        for state in (given, kept, same, replaced, gone, nothing)
    ] == [
        ("OPEN", "first guess", 2),
        ("RESOLVED", "first guess", 3),
        ("RESOLVED", "first guess", 3),
        ("RESOLVED", "what it really was", 4),
        ("RESOLVED", None, 5),
        ("RESOLVED", None, 5),
    ]


async def test_a_change_that_cannot_be_made_is_refused(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    id = await an_event(graph, version)
    before = await read(graph, id)
    refused: list[tuple[Json, str, list[str]]] = [
        ({"status": "RESOLVED", "expectedRevision": 2}, "StaleRevision", ["expectedRevision"]),
        ({"status": "RESOLVED", "resolution": "x" * 20_001}, "InvalidInput", ["resolution"]),
        ({"id": ids.encode("DriftEvent", uuid4())}, "NotFound", ["id"]),
        ({"id": version["id"]}, "InvalidInput", ["id"]),
        ({"id": "?"}, "InvalidInput", ["id"]),
    ]

    for input, kind, path in refused:
        result = await graph.mutate("updateDriftEvent", {"id": id, **input})
        assert (result["__typename"], result["path"]) == (kind, path)
        assert kind != "StaleRevision" or result["currentRevision"] == 1
    error = await graph.error(UPDATE, {"input": {"id": id, "status": "CLOSED"}})
    assert error["extensions"]["code"] == "INVALID_INPUT"
    assert await read(graph, id) == before


# Lists.


async def test_a_list_is_filtered_by_model_severity_and_status(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    other = await a_version(graph, f"{unique}-b")
    a = await an_event(graph, version, severity="LOW")
    b = await an_event(graph, version, severity="MEDIUM", status="ACKNOWLEDGED")
    c = await an_event(graph, version, severity="CRITICAL", status="RESOLVED")
    d = await an_event(graph, other, severity="LOW")

    wanted: list[tuple[Json, list[str]]] = [
        ({}, [c, b, a]),
        ({"severities": ["LOW"]}, [a]),
        ({"severities": ["LOW", "CRITICAL"]}, [c, a]),
        ({"statuses": ["OPEN", "ACKNOWLEDGED"]}, [b, a]),
        ({"statuses": ["RESOLVED"], "severities": ["CRITICAL"]}, [c]),
        ({"statuses": ["RESOLVED"], "severities": ["LOW"]}, []),
        ({"statuses": [], "severities": []}, [c, b, a]),
        ({"modelName": f"{unique}-b"}, [d]),
        ({"modelName": f"{unique}-c"}, []),
    ]
    for filter, expected in wanted:
        answer = await graph.query(LIST, {"filter": {"modelName": unique, **filter}})
        found = answer["driftEvents"]
        assert [node["id"] for node in found["nodes"]] == expected, filter
        assert found["totalCount"] == len(expected)


async def test_the_pages_of_a_list_make_up_the_list_from_either_end(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    made = [await an_event(graph, version) for _ in range(5)]
    wanted = {"filter": {"modelName": unique}}

    async def page(**arguments: object) -> tuple[list[str], Json]:
        found = (await graph.query(LIST, {**wanted, **arguments}))["driftEvents"]
        return [node["id"] for node in found["nodes"]], found["pageInfo"]

    first, info = await page(first=3)
    second, rest = await page(first=3, after=info["endCursor"])
    last, end = await page(last=2)
    earlier, begin = await page(last=3, before=end["startCursor"])

    assert first + second == made[::-1]
    assert earlier + last == made[::-1]
    assert (info["hasNextPage"], rest["hasNextPage"]) == (True, False)
    assert (end["hasPreviousPage"], begin["hasPreviousPage"]) == (True, False)
    error = await graph.error(
        LIST, {"filter": {"modelName": f"{unique}-b"}, "after": info["endCursor"]}
    )
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


async def test_versions_and_deployments_list_their_own_drift_newest_first(
    graph: Graph, unique: str
) -> None:
    version, other = await a_version(graph, unique), await a_version(graph, unique)
    deployment, quiet = [await a_deployment(graph, version) for _ in range(2)]
    a = await an_event(graph, version, deploymentId=deployment)
    b = await an_event(graph, version)
    c = await an_event(graph, version, deploymentId=deployment)
    d = await an_event(graph, other)

    found = await graph.query(
        """query ($version: ID!, $other: ID!, $deployment: ID!, $quiet: ID!) {
          version: node(id: $version) { ... on ModelVersion { driftEvents { ...found } } }
          other: node(id: $other) { ... on ModelVersion { driftEvents { ...found } } }
          deployment: deployment(id: $deployment) { driftEvents { ...found } }
          quiet: deployment(id: $quiet) { driftEvents { ...found } }
          paged: node(id: $version) { ... on ModelVersion { driftEvents(first: 2) {
            ...found pageInfo { hasNextPage } } } }
        }
        fragment found on DriftEventConnection { totalCount nodes { id } }""",
        {"version": version["id"], "other": other["id"], "deployment": deployment, "quiet": quiet},
    )

    def page(*expected: str, of: int | None = None) -> Json:
        nodes = [{"id": id} for id in expected]
        return {"totalCount": len(expected) if of is None else of, "nodes": nodes}

    assert found == {
        "version": {"driftEvents": page(c, b, a)},
        "other": {"driftEvents": page(d)},
        "deployment": {"driftEvents": page(c, a)},
        "quiet": {"driftEvents": page()},
        "paged": {"driftEvents": {**page(c, b, of=3), "pageInfo": {"hasNextPage": True}}},
    }


async def test_drift_outlives_the_deployment_and_the_version_that_it_was_seen_on(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    deployment = await a_deployment(graph, version, status="ACTIVE")
    id = await an_event(graph, version, deploymentId=deployment)
    before = await read(graph, id)

    await graph.done("terminateDeployment", {"id": deployment}, "deployment { id }")
    late = await an_event(graph, version, deploymentId=deployment)
    input = {"modelVersion": {"id": version["id"]}}
    await graph.done("deleteModelVersion", input, "modelVersion { id }")

    assert await read(graph, id) == before
    assert await listed(graph, unique) == [late, id]
    assert (await change(graph, id, status="RESOLVED"))["status"] == "RESOLVED"
