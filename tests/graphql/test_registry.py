"""Models and their versions: registering, changing, finding, deleting."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from schema import ids
from tests.client import Graph, Json
from tests.factories import VERSION, a_run, a_version, a_version_in, approved

EVERYTHING = """
  id modelName version stage description framework hyperparameters artifactPath
  artifactDigest sizeBytes
  createdBy createdAt updatedAt deletedAt revision run { id }
  metrics { key value kind step } tags { key value } checklist { title status }
  deploymentCount
"""
SELECT = f"query ($by: ModelVersionSelector!) {{ modelVersion(by: $by) {{ {EVERYTHING} }} }}"
NODE = f"query ($id: ID!) {{ node(id: $id) {{ ... on ModelVersion {{ {EVERYTHING} }} }} }}"
MODEL = """
query ($name: String!) { model(name: $name) {
  id name description owner createdBy revision tags { key value } metricGoals { key goal }
  versions(first: 100) { totalCount nodes { version } }
} }"""


def nobodys_id(kind: str) -> str:
    """An id of this kind that is well-formed, but no object has it."""
    return ids.encode(kind, uuid4())


async def read(graph: Graph, id: str) -> Json:
    """A version with everything that a client can see."""
    found: Json = (await graph.query(NODE, {"id": id}))["node"]
    return found


async def versions_of(graph: Graph, name: str) -> list[str]:
    model = (await graph.query(MODEL, {"name": name}))["model"]
    return [version["version"] for version in model["versions"]["nodes"]]


async def events_about(sql: asyncpg.Connection, name: str) -> int:
    """How many events the journal has about a model's versions."""
    found = await sql.fetchval(
        "SELECT count(*) FROM event JOIN model_version ON subject_id = model_version.id "
        "WHERE model_name = $1",
        name,
    )
    return int(found)


# Registering


@pytest.mark.parametrize(
    ("mutation", "field"),
    [
        ("registerModelVersion", "modelName"),
        ("registerModelVersion", "version"),
        ("createExperiment", "name"),
        ("createApiToken", "name"),
    ],
)
async def test_two_that_look_the_same_are_not_told_apart_by_what_nobody_sees(
    graph: Graph, unique: str, mutation: str, field: str
) -> None:
    inputs: dict[str, Json] = {
        "registerModelVersion": {"modelName": unique},
        "createExperiment": {},
        "createApiToken": {"grants": [{"role": "VIEWER"}]},
    }

    refused = await graph.mutate(mutation, {**inputs[mutation], field: f"{unique}\u200b"})

    assert refused["code"] == "INVALID_INPUT"
    assert refused["path"] == [field]


async def test_a_version_is_registered_with_all_that_it_is(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)

    made = await graph.done(
        "registerModelVersion",
        {
            "modelName": unique,
            "runId": run,
            "description": "the first",
            "framework": "scikit-learn",
            "hyperparameters": {"depth": 3, "nested": {"rates": [0.1, None, True]}},
            "metrics": [
                {"key": "loss", "value": 0.25, "step": 2**40},
                {"key": "accuracy", "value": 0.75},
            ],
            "tags": [{"key": "team", "value": "vision"}, {"key": "a", "value": ""}],
            "artifactPath": "models/first.bin",
            "artifactDigest": "sha256:0a",
            "sizeBytes": 2**40,
            "checklist": ["data is balanced", "card is written"],
        },
        f"modelVersion {{ {EVERYTHING} }}",
    )

    assert made == {
        "id": made["id"],
        "modelName": unique,
        "version": "1",
        "stage": "EXPERIMENTAL",
        "description": "the first",
        "framework": "scikit-learn",
        "hyperparameters": {"depth": 3, "nested": {"rates": [0.1, None, True]}},
        "artifactPath": "models/first.bin",
        "artifactDigest": "sha256:0a",
        "sizeBytes": 2**40,
        "createdBy": "tester",
        "createdAt": made["createdAt"],
        "updatedAt": made["updatedAt"],
        "deletedAt": None,
        "revision": 1,
        "run": {"id": run},
        "metrics": [
            {"key": "accuracy", "value": 0.75, "kind": "FINITE", "step": 0},
            {"key": "loss", "value": 0.25, "kind": "FINITE", "step": 2**40},
        ],
        "tags": [{"key": "a", "value": ""}, {"key": "team", "value": "vision"}],
        "checklist": [
            {"title": "data is balanced", "status": "PENDING"},
            {"title": "card is written", "status": "PENDING"},
        ],
        "deploymentCount": 0,
    }
    assert await read(graph, made["id"]) == made
    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { modelVersions { id model { name } } } }", {"id": run}
    )
    assert found["run"]["modelVersions"] == [{"id": made["id"], "model": {"name": unique}}]


async def test_a_version_needs_no_more_than_the_name_of_its_model(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)

    assert await read(graph, made["id"]) == {
        **made,
        **dict.fromkeys(["description", "framework", "hyperparameters", "artifactPath", "run"]),
        **dict.fromkeys(["artifactDigest", "sizeBytes", "deletedAt"]),
        **{"metrics": [], "tags": [], "checklist": [], "deploymentCount": 0},
        "modelName": unique,
        "version": "1",
        "stage": "EXPERIMENTAL",
        "createdBy": "tester",
        "createdAt": (await read(graph, made["id"]))["createdAt"],
        "updatedAt": (await read(graph, made["id"]))["updatedAt"],
        "revision": 1,
    }


async def test_the_first_version_makes_the_model(graph: Graph, unique: str) -> None:
    assert (await graph.query(MODEL, {"name": unique}))["model"] is None

    await a_version(graph, unique)

    model = (await graph.query(MODEL, {"name": unique}))["model"]
    assert model == {
        "id": model["id"],
        "name": unique,
        "description": None,
        "owner": None,
        "createdBy": "tester",
        "revision": 1,
        "tags": [],
        "metricGoals": [],
        "versions": {"totalCount": 1, "nodes": [{"version": "1"}]},
    }


async def test_numbers_are_given_in_turn_and_skip_those_that_clients_took(
    graph: Graph, unique: str
) -> None:
    given = [None, "3", "v1", None, None, *[str(n) for n in range(5, 30)], None, "07", None]

    made = [
        (await a_version(graph, unique, **({"version": name} if name else {})))["version"]
        for name in given
    ]

    assert made == ["1", "3", "v1", "2", "4", *[str(n) for n in range(5, 30)], "30", "07", "31"]


async def test_a_new_version_is_no_change_of_its_model(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    query = "query ($name: String!) { model(name: $name) { revision updatedAt } }"
    before = await graph.query(query, {"name": unique})
    for version in range(2, 25):
        await a_version(graph, unique, version=str(version))

    assert (await a_version(graph, unique))["version"] == "25"

    assert await graph.query(query, {"name": unique}) == before


async def test_each_model_counts_for_itself(graph: Graph, unique: str) -> None:
    assert (await a_version(graph, unique))["version"] == "1"
    assert (await a_version(graph, f"{unique}-other"))["version"] == "1"


async def test_a_version_string_must_be_new_for_its_model(graph: Graph, unique: str) -> None:
    await a_version(graph, unique, version="1.0.0")
    await a_version(graph, f"{unique}-other", version="1.0.0")

    again = await graph.mutate("registerModelVersion", {"modelName": unique, "version": "1.0.0"})

    assert again == {
        "__typename": "AlreadyExists",
        "code": "ALREADY_EXISTS",
        "message": f"There is version 1.0.0 of model {unique}.",
        "path": ["version"],
    }
    assert await versions_of(graph, unique) == ["1.0.0"]
    # What is spelt differently is another version.
    assert (await a_version(graph, unique, version="1.0.0-RC"))["version"] == "1.0.0-RC"
    assert (await a_version(graph, unique, version="1.0.0-rc"))["version"] == "1.0.0-rc"


async def test_a_refused_registration_leaves_no_gap_in_the_numbers(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    missing = nobodys_id("Run")
    await graph.mutate("registerModelVersion", {"modelName": unique, "runId": missing})

    assert (await a_version(graph, unique))["version"] == "2"


async def test_metrics_are_the_runs_latest_unless_given(graph: Graph, unique: str) -> None:
    run = await a_run(
        graph,
        unique,
        metrics=[
            {"key": "loss", "value": 0.5, "step": 2},
            {"key": "loss", "value": 0.75, "step": 1},
            {"key": "grad", "kind": "NAN", "step": 2},
        ],
    )

    taken = await a_version(graph, unique, runId=run)
    none = await a_version(graph, unique, runId=run, metrics=[])
    own = await a_version(graph, unique, runId=run, metrics=[{"key": "loss", "value": 0.125}])
    await graph.done(
        "updateRun",
        {"id": run, "metrics": [{"key": "loss", "value": 0.1, "step": 3}]},
        "run { id }",
    )

    assert (await read(graph, taken["id"]))["metrics"] == [
        {"key": "grad", "value": None, "kind": "NAN", "step": 2},
        {"key": "loss", "value": 0.5, "kind": "FINITE", "step": 2},
    ]
    assert (await read(graph, none["id"]))["metrics"] == []
    assert (await read(graph, own["id"]))["metrics"] == [
        {"key": "loss", "value": 0.125, "kind": "FINITE", "step": 0}
    ]


async def test_numbers_that_are_not_finite_are_kept(graph: Graph, unique: str) -> None:
    made = await a_version(
        graph,
        unique,
        metrics=[
            {"key": "a", "kind": "NAN"},
            {"key": "b", "kind": "POSITIVE_INFINITY"},
            {"key": "c", "kind": "NEGATIVE_INFINITY"},
            {"key": "d", "kind": "FINITE", "value": -0.5},
        ],
    )

    metrics = (await read(graph, made["id"]))["metrics"]
    assert [(metric["key"], metric["value"], metric["kind"]) for metric in metrics] == [
        ("a", None, "NAN"),
        ("b", None, "POSITIVE_INFINITY"),
        ("c", None, "NEGATIVE_INFINITY"),
        ("d", -0.5, "FINITE"),
    ]


@pytest.mark.parametrize(
    ("given", "digest", "size"),
    [
        ({"artifactPath": "a/model.bin"}, "sha256:0a", 7),
        ({"artifactPath": "a/model.bin", "sizeBytes": 7}, "sha256:0a", 7),
        ({"artifactPath": "a/model.bin", "artifactDigest": "sha256:0a"}, "sha256:0a", 7),
        # What contradicts what the run has logged is another file.
        ({"artifactPath": "a/model.bin", "sizeBytes": 8}, None, 8),
        ({"artifactPath": "a/model.bin", "artifactDigest": "sha256:0b"}, "sha256:0b", None),
        ({"artifactPath": "A/model.bin"}, None, None),
        ({"artifactPath": "model.bin"}, None, None),
        ({}, None, None),
    ],
)
async def test_digest_and_size_are_those_of_the_runs_artifact_at_exactly_the_path(
    graph: Graph, unique: str, given: Json, digest: str | None, size: int | None
) -> None:
    artifact = {"name": "m", "path": "a/model.bin", "digest": "sha256:0a", "sizeBytes": 7}
    other = {"name": "n", "path": "a/other.bin", "digest": "sha256:0c", "sizeBytes": 9}
    run = await a_run(graph, unique, artifacts=[artifact, other])

    made = await a_version(graph, unique, runId=run, **given)

    found = await read(graph, made["id"])
    assert (found["artifactDigest"], found["sizeBytes"]) == (digest, size)


async def test_the_digest_stays_whatever_the_run_logs_later(graph: Graph, unique: str) -> None:
    artifact = {"name": "m", "path": "model.bin", "digest": "sha256:0a", "sizeBytes": 7}
    run = await a_run(graph, unique, artifacts=[artifact])
    made = await a_version(graph, unique, runId=run, artifactPath="model.bin")

    later = [{**artifact, "digest": "sha256:0b", "sizeBytes": 8}]
    await graph.done("updateRun", {"id": run, "artifacts": later}, "run { id }")

    found = await read(graph, made["id"])
    assert (found["artifactDigest"], found["sizeBytes"]) == ("sha256:0a", 7)


BAD: list[tuple[Json, list[str]]] = [
    ({"version": ""}, ["version"]),
    ({"version": " 1"}, ["version"]),
    ({"version": "1\n2"}, ["version"]),
    ({"version": "1\x00"}, ["version"]),
    ({"version": "v" * 251}, ["version"]),
    ({"runId": "nonsense"}, ["runId"]),
    ({"description": "\x00"}, ["description"]),
    ({"hyperparameters": [1]}, ["hyperparameters"]),
    ({"hyperparameters": "text"}, ["hyperparameters"]),
    ({"hyperparameters": 7}, ["hyperparameters"]),
    ({"hyperparameters": {"a": "\x00"}}, ["hyperparameters"]),
    ({"hyperparameters": {"a": "x" * 300_000}}, ["hyperparameters"]),
    ({"metrics": [{"key": "a"}]}, ["metrics", "0"]),
    ({"metrics": [{"key": "a", "kind": "NAN", "value": 1}]}, ["metrics", "0"]),
    ({"metrics": [{"key": "a", "kind": "FINITE"}]}, ["metrics", "0"]),
    ({"metrics": [{"key": "b", "value": 1}, {"key": "", "value": 1}]}, ["metrics", "1", "key"]),
    ({"metrics": [{"key": "a", "value": 1}, {"key": "a", "value": 2}]}, ["metrics"]),
    ({"metrics": [{"key": f"{n}", "value": 1} for n in range(1_001)]}, ["metrics"]),
    ({"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}, ["tags"]),
    ({"tags": [{"key": "", "value": "1"}]}, ["tags", "0", "key"]),
    ({"artifactPath": "x" * 1_001}, ["artifactPath"]),
    ({"artifactDigest": ""}, ["artifactDigest"]),
    ({"artifactDigest": "sha256:\n"}, ["artifactDigest"]),
    ({"artifactDigest": "x" * 1_001}, ["artifactDigest"]),
    ({"sizeBytes": -1}, ["sizeBytes"]),
    ({"checklist": ["fine", ""]}, ["checklist", "1"]),
    ({"checklist": ["item"] * 201}, ["checklist"]),
    ({"idempotencyKey": ""}, ["idempotencyKey"]),
]


@pytest.mark.parametrize(
    ("input", "path"), BAD, ids=[f"{n}-{next(iter(given))}" for n, (given, _) in enumerate(BAD)]
)
async def test_a_registration_with_an_unacceptable_value_makes_nothing(
    graph: Graph, unique: str, input: Json, path: list[str]
) -> None:
    refused = await graph.mutate("registerModelVersion", {"modelName": unique, **input})

    assert (refused["__typename"], refused["code"]) == ("InvalidInput", "INVALID_INPUT"), refused
    assert refused["path"] == path
    assert len(refused["message"]) < 500
    assert (await graph.query(MODEL, {"name": unique}))["model"] is None


@pytest.mark.parametrize("name", ["", " x", "x\ny", "x" * 251, "x" * 5_000_000])
async def test_a_model_needs_a_name_of_one_line(graph: Graph, name: str) -> None:
    refused = await graph.mutate("registerModelVersion", {"modelName": name})

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", ["modelName"])
    assert len(refused["message"]) < 500


@pytest.mark.parametrize(
    "literal", ["{n: 1000000000000000000000000}", "{x: 1e999}", "{deep: [{n: -1e400}]}"]
)
async def test_a_number_that_json_cannot_carry_back_is_refused_as_a_hyperparameter(
    graph: Graph, unique: str, literal: str
) -> None:
    data = await graph.query(
        f'mutation {{ registerModelVersion(input: {{modelName: "{unique}", '
        f"hyperparameters: {literal}}}) {{ __typename ... on Error {{ path }} }} }}"
    )

    assert data["registerModelVersion"] == {
        "__typename": "InvalidInput",
        "path": ["hyperparameters"],
    }
    assert (await graph.query(MODEL, {"name": unique}))["model"] is None


async def test_a_version_of_an_unknown_run_is_refused_and_makes_no_model(
    graph: Graph, unique: str
) -> None:
    missing = nobodys_id("Run")

    refused = await graph.mutate("registerModelVersion", {"modelName": unique, "runId": missing})

    assert refused == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no run with this id.",
        "path": ["runId"],
    }
    assert (await graph.query(MODEL, {"name": unique}))["model"] is None


async def test_the_id_of_something_else_is_no_run(graph: Graph, unique: str) -> None:
    other = await a_version(graph, f"{unique}-other")

    refused = await graph.mutate(
        "registerModelVersion", {"modelName": unique, "runId": other["id"]}
    )

    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "This is the id of a ModelVersion; that of a Run is needed.",
        "path": ["runId"],
    }
    assert (await graph.query(MODEL, {"name": unique}))["model"] is None


async def test_a_registration_repeated_under_its_key_is_the_same_version(
    graph: Graph, unique: str
) -> None:
    input = {"modelName": unique, "idempotencyKey": unique}

    first = await a_version(graph, **{"model": unique, "idempotencyKey": unique})
    again = await graph.done("registerModelVersion", input, VERSION)
    other = await graph.mutate("registerModelVersion", {**input, "version": "2"})

    assert again == first
    assert other["__typename"] == "IdempotencyConflict"
    assert other["path"] == ["idempotencyKey"]
    assert await versions_of(graph, unique) == ["1"]


# Changing a version


FULL: Json = {
    "description": "d",
    "framework": "f",
    "hyperparameters": {"a": 1},
    "metrics": [{"key": "m", "value": 1}],
    "tags": [{"key": "t", "value": "v"}],
    "artifactPath": "p",
    "artifactDigest": "sha256:0",
    "sizeBytes": 9,
}


async def change(graph: Graph, id: str, **input: object) -> Json:
    return await graph.mutate(
        "updateModelVersion",
        {"modelVersion": {"id": id}, **input},
        f"modelVersion {{ {EVERYTHING} }}",
    )


async def test_what_is_left_out_of_an_update_stays(graph: Graph, unique: str) -> None:
    made = await a_version(graph, unique, **FULL)
    before = await read(graph, made["id"])

    result = await change(graph, made["id"], description="other")

    after = result["modelVersion"]
    assert after == {
        **before,
        "description": "other",
        "revision": 2,
        "updatedAt": after["updatedAt"],
    }
    assert datetime.fromisoformat(after["updatedAt"]) > datetime.fromisoformat(before["updatedAt"])
    assert await read(graph, made["id"]) == after


@pytest.mark.parametrize(
    "field",
    [
        "description",
        "framework",
        "hyperparameters",
        "artifactPath",
        "artifactDigest",
        "sizeBytes",
    ],
)
async def test_null_in_an_update_empties_the_field(graph: Graph, unique: str, field: str) -> None:
    made = await a_version(graph, unique, **FULL)
    before = await read(graph, made["id"])

    after = (await change(graph, made["id"], **{field: None}))["modelVersion"]

    assert after == {**before, field: None, "revision": 2, "updatedAt": after["updatedAt"]}


async def test_metrics_and_tags_are_replaced_as_wholes(graph: Graph, unique: str) -> None:
    made = await a_version(
        graph,
        unique,
        metrics=[{"key": "loss", "value": 1}, {"key": "accuracy", "value": 0.5}],
        tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}],
    )

    changed = await change(
        graph,
        made["id"],
        metrics=[{"key": "loss", "kind": "NAN", "step": 7}],
        tags=[{"key": "b", "value": "3"}],
    )
    emptied = await change(graph, made["id"], metrics=[], tags=[])

    assert changed["modelVersion"]["metrics"] == [
        {"key": "loss", "value": None, "kind": "NAN", "step": 7}
    ]
    assert changed["modelVersion"]["tags"] == [{"key": "b", "value": "3"}]
    assert changed["modelVersion"]["revision"] == 2
    assert emptied["modelVersion"]["metrics"] == emptied["modelVersion"]["tags"] == []
    assert emptied["modelVersion"]["revision"] == 3
    assert emptied["modelVersion"]["updatedAt"] > changed["modelVersion"]["updatedAt"]


async def test_the_time_of_a_metric_can_be_corrected_alone(graph: Graph, unique: str) -> None:
    made = await a_version(graph, unique, metrics=[{"key": "loss", "value": 1}])
    right = "2024-02-29T12:00:00+00:00"
    metrics = [{"key": "loss", "value": 1, "timestamp": right}]

    changed = await graph.done(
        "updateModelVersion",
        {"modelVersion": {"id": made["id"]}, "metrics": metrics},
        "modelVersion { revision metrics { timestamp } }",
    )

    assert changed == {"revision": 2, "metrics": [{"timestamp": right}]}


async def test_a_new_figure_without_a_time_was_measured_now_and_one_that_stays_then(
    graph: Graph, unique: str
) -> None:
    then = "2024-02-29T12:00:00+00:00"
    old = [{"key": key, "value": 1, "timestamp": then} for key in ("corrected", "kept", "later")]
    made = await a_version(graph, unique, metrics=old)

    changed = await graph.done(
        "updateModelVersion",
        {
            "modelVersion": {"id": made["id"]},
            "metrics": [
                {"key": "corrected", "value": 2},
                {"key": "kept", "value": 1},
                {"key": "later", "value": 1, "step": 1},
            ],
        },
        "modelVersion { metrics { key timestamp } }",
    )

    times = {metric["key"]: metric["timestamp"] for metric in changed["metrics"]}
    assert times["kept"] == then
    assert then < times["corrected"] == times["later"]


async def test_the_journal_has_the_metrics_that_changed_before_and_after(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    at, later = "2024-02-29T12:00:00+00:00", "2024-03-01T12:00:00+00:00"

    def point(key: str, value: float | str, step: int = 0, timestamp: str = at) -> Json:
        number = {"kind": value} if isinstance(value, str) else {"value": value}
        return {"key": key, **number, "step": step, "timestamp": timestamp}

    def noted(value: float | str, step: int = 0, timestamp: str = at) -> Json:
        return {"value": value, "step": step, "timestamp": timestamp}

    first = [point("dropped", 1), point("kept", 2), point("moved", 3), point("nan", "NAN")]
    made = await a_version(
        graph, unique, metrics=[*first, point("odd", "NAN"), point("same", "POSITIVE_INFINITY")]
    )
    await change(
        graph,
        made["id"],
        description="d",
        metrics=[
            point("kept", 2),
            point("moved", 3, 1, later),
            point("nan", "NEGATIVE_INFINITY"),
            point("new", 0.5),
            point("odd", "NAN"),
            point("same", "POSITIVE_INFINITY"),
        ],
    )
    await change(graph, made["id"], metrics=[])

    registered, changed, emptied = (
        (
            orjson.loads(event["before"] or "null"),
            orjson.loads(event["after"]),
        )
        for event in await sql.fetch(
            "SELECT before, after FROM event JOIN model_version ON subject_id = model_version.id "
            "WHERE model_name = $1 ORDER BY event.id",
            unique,
        )
    )
    assert registered[0] is None
    assert registered[1]["metrics"] == {
        "dropped": noted(1),
        "kept": noted(2),
        "moved": noted(3),
        "nan": noted("NaN"),
        "odd": noted("NaN"),
        "same": noted("Infinity"),
    }
    assert changed[0]["metrics"] == {
        "dropped": noted(1),
        "moved": noted(3),
        "nan": noted("NaN"),
    }
    assert changed[1]["metrics"] == {
        "moved": noted(3, 1, later),
        "nan": noted("-Infinity"),
        "new": noted(0.5),
    }
    assert (changed[0]["description"], changed[1]["description"]) == (None, "d")
    assert sorted(emptied[0]["metrics"]) == ["kept", "moved", "nan", "new", "odd", "same"]
    assert emptied[1]["metrics"] == {}


async def test_another_digest_is_another_file_than_the_one_that_was_approved(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique, artifactPath="p", artifactDigest="sha256:0a")
    await approved(graph, made)

    async def status_with(digest: str) -> str:
        changed = await graph.done(
            "updateModelVersion",
            {"modelVersion": {"id": made["id"]}, "artifactDigest": digest},
            "modelVersion { approval { status } }",
        )
        return str(changed["approval"]["status"])

    assert await status_with("sha256:0a") == "APPROVED"
    assert await status_with("sha256:0b") == "STALE"
    # What was approved is not put in force again by undoing the change.
    assert await status_with("sha256:0a") == "STALE"


async def test_an_update_that_changes_nothing_leaves_no_trace(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    full = {**FULL, "metrics": [{"key": "m", "value": 1, "step": 3}, {"key": "n", "kind": "NAN"}]}
    made = await a_version(graph, unique, **full)
    before, events = await read(graph, made["id"]), await events_about(sql, unique)

    same = await change(graph, made["id"], **full)
    empty = await change(graph, made["id"])
    # For lists null means: not given.
    absent = await change(graph, made["id"], metrics=None, tags=None)

    assert same["modelVersion"] == empty["modelVersion"] == absent["modelVersion"] == before
    assert await events_about(sql, unique) == events


@pytest.mark.parametrize(
    ("before", "after", "another"),
    [
        *[(1, True, True), (True, 1, True), (0, False, True), (False, 0.0, True), (1, "1", True)],
        *[({"b": [0, {"c": 1}]}, {"b": [0, {"c": True}]}, True), ([], {}, True), (0, None, True)],
        *[(1, 1.0, False), ({"b": 1, "c": True}, {"c": True, "b": 1}, False), (1e22, 1e22, False)],
    ],
)
async def test_what_json_tells_apart_is_a_change(
    graph: Graph, sql: asyncpg.Connection, unique: str, before: Any, after: Any, another: bool
) -> None:
    made = await a_version(graph, unique, hyperparameters={"a": before})
    events = await events_about(sql, unique)

    result = await change(graph, made["id"], hyperparameters={"a": after})

    shown = (result["modelVersion"]["hyperparameters"], result["modelVersion"]["revision"])
    assert repr(shown) == repr(({"a": after if another else before}, 2 if another else 1))
    assert await events_about(sql, unique) == events + another


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"hyperparameters": [1]}, ["hyperparameters"]),
        ({"sizeBytes": -1}, ["sizeBytes"]),
        ({"metrics": [{"key": "a", "value": 1}] * 2}, ["metrics"]),
        ({"metrics": [{"key": "a"}]}, ["metrics", "0"]),
        ({"framework": ""}, ["framework"]),
        ({"modelVersion": {"id": "x"}}, ["modelVersion", "id"]),
        (
            {"modelVersion": {"nameVersion": {"modelName": "", "version": "1"}}},
            ["modelVersion", "nameVersion", "modelName"],
        ),
    ],
)
async def test_an_unacceptable_update_changes_nothing(
    graph: Graph, unique: str, input: Json, path: list[str]
) -> None:
    made = await a_version(graph, unique, **FULL)
    before = await read(graph, made["id"])

    refused = await graph.mutate(
        "updateModelVersion",
        {"modelVersion": {"id": made["id"]}, "description": "other", **input},
    )

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", path)
    assert await read(graph, made["id"]) == before


async def test_an_update_decided_on_an_old_revision_is_refused(graph: Graph, unique: str) -> None:
    made = await a_version(graph, unique)
    await change(graph, made["id"], description="second", expectedRevision=1)
    before = await read(graph, made["id"])

    refused = await change(graph, made["id"], description="third", expectedRevision=1)

    assert refused == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": "Revision 1 was expected, but it is 2 now.",
        "path": ["expectedRevision"],
        "currentRevision": 2,
    }
    assert await read(graph, made["id"]) == before


# Changing a model


async def test_a_model_is_changed_field_by_field(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    selection = (
        "model { name description owner revision tags { key value } metricGoals { key goal } }"
    )

    async def change_model(**input: object) -> Json:
        return await graph.done("updateModel", {"name": unique, **input}, selection)

    full = {
        "description": "for dogs",
        "owner": "ada",
        "tags": [{"key": "a", "value": "1"}],
        "metricGoals": [{"key": "a", "goal": "MINIMIZE"}, {"key": "b", "goal": "MAXIMIZE"}],
    }
    made = await change_model(**full)
    same = await change_model(**full, expectedRevision=2)
    absent = await change_model(tags=None, metricGoals=None)
    other = [{"key": "c", "goal": "MINIMIZE"}]
    replaced = await change_model(metricGoals=other)
    less = await change_model(owner=None, tags=[], metricGoals=[], expectedRevision=3)

    assert made == {"name": unique, **full, "revision": 2}
    assert made == same == absent
    assert replaced == {**made, "metricGoals": other, "revision": 3}
    empty: Json = {"owner": None, "tags": [], "metricGoals": []}
    assert less == {**made, **empty, "revision": 4}


@pytest.mark.parametrize(
    ("goals", "path"),
    [
        ([("a", "MINIMIZE"), ("a", "MINIMIZE")], ["metricGoals"]),
        ([("a", "MINIMIZE"), ("a", "MAXIMIZE")], ["metricGoals"]),
        ([("a", "MINIMIZE"), ("", "MINIMIZE")], ["metricGoals", "1", "key"]),
        ([("a\x00", "MINIMIZE")], ["metricGoals", "0", "key"]),
        ([("x" * 251, "MINIMIZE")], ["metricGoals", "0", "key"]),
        ([(f"{n}", "MINIMIZE") for n in range(1_001)], ["metricGoals"]),
    ],
)
async def test_unacceptable_goals_change_nothing(
    graph: Graph, unique: str, goals: list[tuple[str, str]], path: list[str]
) -> None:
    await a_version(graph, unique)
    before = (await graph.query(MODEL, {"name": unique}))["model"]

    given = [{"key": key, "goal": goal} for key, goal in goals]
    refused = await graph.mutate(
        "updateModel", {"name": unique, "owner": "eve", "metricGoals": given}
    )

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", path)
    assert len(refused["message"]) < 500
    assert (await graph.query(MODEL, {"name": unique}))["model"] == before


async def test_a_change_of_a_model_is_refused_when_stale_unknown_or_unacceptable(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    before = (await graph.query(MODEL, {"name": unique}))["model"]

    stale = await graph.mutate(
        "updateModel", {"name": unique, "owner": "eve", "expectedRevision": 9}
    )
    unknown = await graph.mutate("updateModel", {"name": f"{unique}-x", "owner": "eve"})
    bad = await graph.mutate("updateModel", {"name": unique, "owner": ""})

    assert (stale["__typename"], stale["currentRevision"]) == ("StaleRevision", 1)
    assert unknown == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": f"There is no model {unique}-x.",
        "path": ["name"],
    }
    assert (bad["__typename"], bad["path"]) == ("InvalidInput", ["owner"])
    assert (await graph.query(MODEL, {"name": unique}))["model"] == before


# Lists


async def pages(graph: Graph, query: str, variables: Json, size: int) -> list[Json]:
    """All nodes of a connection that is the only field, read page by page."""
    nodes: list[Json] = []
    after = None
    while True:
        data = await graph.query(query, {**variables, "first": size, "after": after})
        (found,) = data.values()
        nodes += found["nodes"]
        if not found["pageInfo"]["hasNextPage"]:
            return nodes
        assert len(found["nodes"]) == size
        after = found["pageInfo"]["endCursor"]


VERSIONS = """
query ($filter: ModelVersionFilter, $orderBy: [ModelVersionOrder!], $first: Int, $after: String) {
  modelVersions(filter: $filter, orderBy: $orderBy, first: $first, after: $after) {
    totalCount nodes { version stage } pageInfo { hasNextPage endCursor }
  }
}"""


async def test_versions_are_listed_newest_first_or_as_ordered(graph: Graph, unique: str) -> None:
    made = [await a_version(graph, unique) for _ in range(5)]
    await change(graph, made[1]["id"], description="touched last")
    filter = {"modelName": unique}

    async def listed(order: list[Json] | None) -> list[str]:
        variables = {"filter": filter, "orderBy": order}
        return [node["version"] for node in await pages(graph, VERSIONS, variables, 2)]

    assert await listed(None) == ["5", "4", "3", "2", "1"]
    assert await listed([{"field": "CREATED_AT"}]) == ["1", "2", "3", "4", "5"]
    assert await listed([{"field": "UPDATED_AT", "direction": "DESC"}]) == ["2", "5", "4", "3", "1"]
    assert await listed(
        [{"field": "CREATED_AT", "direction": "ASC"}, {"field": "UPDATED_AT", "direction": "DESC"}]
    ) == ["1", "2", "3", "4", "5"]


async def test_versions_are_filtered_by_model_and_stage(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    for stage in ("STAGING", "PRODUCTION", "ARCHIVED"):
        await a_version_in(graph, unique, stage)
    await a_version(graph, f"{unique}-other")

    async def listed(**filter: object) -> list[str]:
        variables = {"filter": {"modelName": unique, **filter}}
        data = (await graph.query(VERSIONS, variables))["modelVersions"]
        assert data["totalCount"] == len(data["nodes"])
        return [node["version"] for node in data["nodes"]]

    assert await listed() == ["4", "3", "2", "1"]
    assert await listed(stages=[]) == ["4", "3", "2", "1"]
    assert await listed(stages=["PRODUCTION"]) == ["3"]
    assert await listed(stages=["EXPERIMENTAL", "ARCHIVED"]) == ["4", "1"]
    assert await listed(modelName=f"{unique}-none") == []
    nested = await graph.query(
        "query ($name: String!) { model(name: $name) { "
        "versions(filter: {stages: [STAGING]}) { totalCount nodes { version } } } }",
        {"name": unique},
    )
    assert nested["model"]["versions"] == {"totalCount": 1, "nodes": [{"version": "2"}]}


async def test_models_are_listed_by_name_and_filtered(graph: Graph, unique: str) -> None:
    for suffix in ("-b", "-A", "_50%"):
        await a_version(graph, unique + suffix)
    await graph.done("updateModel", {"name": f"{unique}-b", "owner": unique}, "model { id }")
    query = """
      query ($filter: ModelFilter, $first: Int, $after: String) {
        models(filter: $filter, first: $first, after: $after) {
          totalCount nodes { name } pageInfo { hasNextPage endCursor } } }"""

    async def listed(**filter: object) -> list[str]:
        nodes = await pages(graph, query, {"filter": filter}, 1)
        return [node["name"].removeprefix(unique) for node in nodes]

    assert await listed(nameContains=unique) == ["-A", "-b", "_50%"]
    assert await listed(nameContains=f"{unique.upper()}-a") == ["-A"]
    assert await listed(nameContains=f"{unique}_50%") == ["_50%"]
    assert await listed(nameContains=f"{unique}%") == []
    assert await listed(owner=unique) == ["-b"]
    assert await listed(owner=unique, nameContains=f"{unique}-A") == []


async def test_a_cursor_of_another_list_is_refused(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    await a_version(graph, unique)
    filter = {"modelName": unique}
    data = await graph.query(VERSIONS, {"filter": filter, "first": 1})
    cursor = data["modelVersions"]["pageInfo"]["endCursor"]

    for variables in (
        {"filter": {**filter, "stages": ["STAGING"]}},
        {"filter": filter, "orderBy": [{"field": "UPDATED_AT"}]},
        {},
    ):
        error = await graph.error(VERSIONS, {**variables, "after": cursor})
        assert error["message"] == "This cursor belongs to another ordering or filter."
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


# Which version is meant


async def test_each_selector_finds_its_version(graph: Graph, unique: str) -> None:
    first = await a_version_in(graph, unique, "PRODUCTION")
    second = await a_version(graph, unique, version="two")

    async def found(**by: object) -> object:
        version = (await graph.query(SELECT, {"by": by}))["modelVersion"]
        return version["id"] if version else None

    assert await found(id=second["id"]) == second["id"]
    assert await found(nameVersion={"modelName": unique, "version": "two"}) == second["id"]
    assert await found(inStage={"modelName": unique, "stage": "PRODUCTION"}) == first["id"]
    assert await found(inStage={"modelName": unique, "stage": "EXPERIMENTAL"}) == second["id"]
    assert await found(inStage={"modelName": unique, "stage": "STAGING"}) is None
    assert await found(nameVersion={"modelName": unique, "version": "TWO"}) is None
    assert await found(nameVersion={"modelName": f"{unique}-x", "version": "two"}) is None
    assert await found(id=nobodys_id("ModelVersion")) is None


async def test_of_several_in_a_stage_the_last_to_enter_is_meant(graph: Graph, unique: str) -> None:
    for _ in range(3):
        await a_version_in(graph, unique, "STAGING")
    by = {"nameVersion": {"modelName": unique, "version": "2"}}
    for stage in ("EXPERIMENTAL", "STAGING"):
        await graph.done("setStage", {"modelVersion": by, "stage": stage}, VERSION)
    in_stage = {"inStage": {"modelName": unique, "stage": "STAGING"}}

    found = (await graph.query(SELECT, {"by": in_stage}))["modelVersion"]
    changed = await graph.done(
        "updateModelVersion",
        {"modelVersion": in_stage, "description": "the one"},
        "modelVersion { version description }",
    )

    assert found["version"] == "2"
    assert changed == {"version": "2", "description": "the one"}


_SET_STAGE = "mutation ($input: SetStageInput!) { setStage(input: $input) { __typename } }"
_ONE = (
    "Within OneOf Input Object type 'ModelVersionSelector', exactly one field must be specified, "
    "and the value for that field must be non-null."
)


@pytest.mark.parametrize(
    ("by", "place"),
    [
        ({}, ""),
        ({"id": "x", "nameVersion": {"modelName": "a", "version": "b"}}, ""),
        (
            {
                "nameVersion": {"modelName": "a", "version": "b"},
                "inStage": {"modelName": "a", "stage": "STAGING"},
            },
            "",
        ),
        ({"id": None}, ".id"),
    ],
)
async def test_a_selector_is_exactly_one_of_its_forms(graph: Graph, by: Json, place: str) -> None:
    at = f" at .modelVersion{place}"
    set_stage = {"input": {"modelVersion": by, "stage": "STAGING"}}

    read = await graph.error(SELECT, {"by": by})
    written = await graph.error(_SET_STAGE, set_stage)

    assert read["message"] == f"Variable '$by' has invalid value{place and f' at {place}'}: {_ONE}"
    assert written["message"] == f"Variable '$input' has invalid value{at}: {_ONE}"
    assert read["extensions"] == written["extensions"] == {"code": "INVALID_INPUT"}


async def test_a_selector_may_stand_in_a_fragment_before_its_operation(
    graph: Graph, unique: str
) -> None:
    # given
    id = (await a_version(graph, unique))["id"]
    fragment = "fragment F on Query { modelVersion(by: { id: $id }) { version } }"
    operation = "query ($id: ID!) { ...F }"

    # when
    answers = [
        await graph.answer(text, {"id": id})
        for text in (f"{fragment} {operation}", f"{operation} {fragment}")
    ]

    # then
    assert answers == [{"data": {"modelVersion": {"version": "1"}}}] * 2


async def test_the_id_of_something_else_selects_nothing(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    model = (await graph.query(MODEL, {"name": unique}))["model"]["id"]

    read = await graph.error(SELECT, {"by": {"id": model}})
    written = await graph.mutate(
        "deleteModelVersion", {"modelVersion": {"id": model}}, "modelVersion { id }"
    )

    message = "This is the id of a Model; that of a ModelVersion is needed."
    assert read["message"] == message
    assert read["extensions"] == {"code": "INVALID_INPUT", "argument": ["by", "id"]}
    assert written == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": message,
        "path": ["modelVersion", "id"],
    }


async def test_each_change_of_an_unknown_version_is_not_found(graph: Graph, unique: str) -> None:
    missing = nobodys_id("ModelVersion")
    selectors = {
        "with this id": {"id": missing},
        f"7 of model {unique}": {"nameVersion": {"modelName": unique, "version": "7"}},
        f"in stage STAGING of model {unique}": {
            "inStage": {"modelName": unique, "stage": "STAGING"}
        },
    }
    inputs: dict[str, Json] = {
        "updateModelVersion": {"description": "x"},
        "deleteModelVersion": {},
        "setStage": {"stage": "STAGING"},
        "appendChecklistItem": {"title": "x"},
        "createDeployment": {"environment": "DEVELOPMENT"},
    }
    for words, selector in selectors.items():
        for name, input in inputs.items():
            assert await graph.mutate(name, {"modelVersion": selector, **input}) == {
                "__typename": "NotFound",
                "code": "NOT_FOUND",
                "message": f"There is no version {words}.",
                "path": ["modelVersion"],
            }


# Deleting


async def delete(graph: Graph, id: str, **input: object) -> Json:
    return await graph.mutate(
        "deleteModelVersion",
        {"modelVersion": {"id": id}, **input},
        f"modelVersion {{ {EVERYTHING} }}",
    )


async def test_a_deleted_version_is_in_no_list_but_is_found_by_its_id(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    kept = await a_version(graph, unique)
    gone = await a_version_in(graph, unique, "STAGING", runId=run, checklist=["look"])
    before = await read(graph, gone["id"])

    deleted = (await delete(graph, gone["id"], reason="too old"))["modelVersion"]

    assert deleted == {
        **before,
        "stage": "ARCHIVED",
        "revision": 4,
        "updatedAt": deleted["updatedAt"],
        "deletedAt": deleted["deletedAt"],
    }
    assert deleted["deletedAt"] is not None
    assert await read(graph, gone["id"]) == deleted
    for by in (
        {"id": gone["id"]},
        {"nameVersion": {"modelName": unique, "version": gone["version"]}},
        {"inStage": {"modelName": unique, "stage": "ARCHIVED"}},
    ):
        assert (await graph.query(SELECT, {"by": by}))["modelVersion"] is None
    assert await versions_of(graph, unique) == [kept["version"]]
    data = (await graph.query(VERSIONS, {"filter": {"modelName": unique}}))["modelVersions"]
    assert [node["version"] for node in data["nodes"]] == [kept["version"]]
    assert data["totalCount"] == 1
    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { modelVersions { id } } }", {"id": run}
    )
    assert found["run"]["modelVersions"] == []


async def test_history_and_lineage_of_a_deleted_version_stay(graph: Graph, unique: str) -> None:
    made = await a_version(graph, unique)
    deployment = await graph.done(
        "createDeployment",
        {"modelVersion": {"id": made["id"]}, "environment": "DEVELOPMENT"},
        "deployment { id }",
    )
    await graph.done("terminateDeployment", {"id": deployment["id"]}, "deployment { id }")
    drift = await graph.done(
        "recordDriftEvent",
        {"modelVersion": {"id": made["id"]}, "severity": "LOW", "metric": "accuracy"},
        "driftEvent { id }",
    )

    deleted = (await delete(graph, made["id"], reason="too old"))["modelVersion"]

    found = await graph.query(
        """
        query ($deployment: ID!, $drift: ID!, $version: ID!, $name: String!) {
          deployment(id: $deployment) { modelVersion { id deletedAt } }
          drift: node(id: $drift) { ... on DriftEvent { modelVersion { id } } }
          version: node(id: $version) { ... on ModelVersion {
            deploymentCount deployments { nodes { id } } driftEvents { nodes { id } } } }
          model(name: $name) { stageHistory { nodes {
            stage reason validTo modelVersion { id } } } }
        }""",
        {
            "deployment": deployment["id"],
            "drift": drift["id"],
            "version": made["id"],
            "name": unique,
        },
    )
    history = found["model"].pop("stageHistory")["nodes"]
    assert found == {
        "deployment": {"modelVersion": {"id": made["id"], "deletedAt": deleted["deletedAt"]}},
        "drift": {"modelVersion": {"id": made["id"]}},
        "version": {
            "deploymentCount": 1,
            "deployments": {"nodes": [{"id": deployment["id"]}]},
            "driftEvents": {"nodes": [{"id": drift["id"]}]},
        },
        "model": {},
    }
    assert [
        (entry["stage"], entry["reason"], entry["modelVersion"]["id"]) for entry in history
    ] == [
        ("ARCHIVED", "too old", made["id"]),
        ("EXPERIMENTAL", None, made["id"]),
    ]
    # A deleted version is in no stage any more.
    assert history[0]["validTo"] == deleted["deletedAt"]


async def test_the_name_of_a_deleted_version_is_never_given_again(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    last = await a_version(graph, unique)
    await delete(graph, last["id"])

    again = await graph.mutate("registerModelVersion", {"modelName": unique, "version": "2"})

    assert (again["__typename"], again["path"]) == ("AlreadyExists", ["version"])
    assert (await a_version(graph, unique))["version"] == "3"


async def test_every_change_of_a_deleted_version_is_not_found(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    made = await a_version(graph, unique, checklist=["look"])
    item = (
        await graph.query(
            "query ($id: ID!) { node(id: $id) { ... on ModelVersion { checklist { id } } } }",
            {"id": made["id"]},
        )
    )["node"]["checklist"][0]["id"]
    await delete(graph, made["id"])
    before, events = await read(graph, made["id"]), await events_about(sql, unique)
    inputs: dict[str, Json] = {
        "updateModelVersion": {"description": "x"},
        "deleteModelVersion": {},
        "setStage": {"stage": "STAGING"},
        "appendChecklistItem": {"title": "x"},
        "createDeployment": {"environment": "DEVELOPMENT"},
    }

    for name, input in inputs.items():
        refused = await graph.mutate(name, {"modelVersion": {"id": made["id"]}, **input})
        assert (refused["__typename"], refused["path"]) == ("NotFound", ["modelVersion"]), name
    marked = await graph.mutate("markChecklistItem", {"id": item, "status": "APPROVED"})
    assert (marked["__typename"], marked["path"]) == ("NotFound", ["id"])

    assert await read(graph, made["id"]) == before
    assert await events_about(sql, unique) == events


async def test_a_version_is_not_deleted_while_a_deployment_is_live(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)
    deployments = [
        (
            await graph.done(
                "createDeployment",
                {"modelVersion": {"id": made["id"]}, "environment": "DEVELOPMENT"},
                "deployment { id }",
            )
        )["id"]
        for _ in range(2)
    ]
    before = await read(graph, made["id"])

    async def report(id: str, *statuses: str) -> None:
        for status in statuses:
            await graph.done("updateDeployment", {"id": id, "status": status}, "deployment { id }")

    refusal = {
        "__typename": "InUse",
        "code": "IN_USE",
        "message": "Version 1 is deployed; terminate its deployments first.",
        "path": ["modelVersion"],
    }
    assert await delete(graph, made["id"]) == refusal
    await report(deployments[0], "VALIDATING", "DEPLOYING", "ACTIVE")
    await graph.done("terminateDeployment", {"id": deployments[1]}, "deployment { id }")
    assert await delete(graph, made["id"]) == refusal
    assert await read(graph, made["id"]) == before

    # One that has failed serves nothing.
    await report(deployments[0], "FAILED")
    assert (await delete(graph, made["id"]))["__typename"] == "DeleteModelVersionSuccess"


async def test_the_version_in_production_is_not_deleted(graph: Graph, unique: str) -> None:
    made = await a_version_in(graph, unique, "PRODUCTION")
    before = await read(graph, made["id"])

    refused = await delete(graph, made["id"])

    assert refused == {
        "__typename": "InUse",
        "code": "IN_USE",
        "message": "Version 1 is in PRODUCTION; move it to ARCHIVED first.",
        "path": ["modelVersion"],
    }
    assert await read(graph, made["id"]) == before
    input = {"modelVersion": {"id": made["id"]}, "stage": "ARCHIVED"}
    await graph.done("setStage", input, VERSION)
    assert (await delete(graph, made["id"]))["__typename"] == "DeleteModelVersionSuccess"


async def test_a_deletion_decided_on_an_old_revision_is_refused(graph: Graph, unique: str) -> None:
    made = await a_version(graph, unique)
    await change(graph, made["id"], description="still wanted")
    before = await read(graph, made["id"])

    refused = await delete(graph, made["id"], expectedRevision=1)

    assert (refused["__typename"], refused["currentRevision"]) == ("StaleRevision", 2)
    assert await read(graph, made["id"]) == before
    deleted = await delete(graph, made["id"], expectedRevision=2)
    assert deleted["__typename"] == "DeleteModelVersionSuccess"


async def test_a_deletion_repeated_under_its_key_is_no_second_one(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)

    first = await delete(graph, made["id"], idempotencyKey=unique)
    again = await delete(graph, made["id"], idempotencyKey=unique)

    assert first["__typename"] == "DeleteModelVersionSuccess"
    assert again == first


# What the database refuses by itself


async def test_the_database_keeps_no_deleted_version_that_is_deployed_or_not_archived(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await a_version(graph, unique)
    archived = await a_version_in(graph, unique, "ARCHIVED")
    await graph.done(
        "createDeployment",
        {"modelVersion": {"id": archived["id"]}, "environment": "DEVELOPMENT"},
        "deployment { id }",
    )
    for statement, constraint in (
        ("SET deleted_at = now() WHERE model_name = $1 AND version = '1'", "deleted"),
        ("SET deleted_at = now() WHERE model_name = $1 AND version = '2'", "deleted"),
        ("SET live_deployments = -1 WHERE model_name = $1", "live_deployments"),
        ("SET size_bytes = -1 WHERE model_name = $1", "size_bytes"),
    ):
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await sql.execute(f"UPDATE model_version {statement}", unique)
        assert refused.value.constraint_name == f"ck_model_version_{constraint}"
    with pytest.raises(asyncpg.UniqueViolationError) as twice:
        await sql.execute("UPDATE model_version SET version = '1' WHERE model_name = $1", unique)
    assert twice.value.constraint_name == "uq_model_version_model_name_version"


async def test_reading_many_versions_at_once_gives_each_its_own(graph: Graph, unique: str) -> None:
    made = await asyncio.gather(
        *(
            a_version(graph, unique, version=f"v{n}", metrics=[{"key": "n", "value": n}])
            for n in range(8)
        )
    )

    found = await graph.query(
        "query ($ids: [ID!]!) { nodes(ids: $ids) { "
        "... on ModelVersion { version metrics { value } } } }",
        {"ids": [version["id"] for version in made]},
    )

    assert found["nodes"] == [{"version": f"v{n}", "metrics": [{"value": n}]} for n in range(8)]
