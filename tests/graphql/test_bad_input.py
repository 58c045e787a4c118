"""What clients must not send: each mistake is named, none is a crash, and nothing changes.

The mistakes are made by walking the schema: every leaf of every mutation's input is replaced by
every value that its type makes unacceptable.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from uuid import uuid4

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    Undefined,
    get_named_type,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schema.root import schema
from tests.client import Graph, Json
from tests.conftest import Live
from tests.mutations import (
    MUTATIONS,
    NOW,
    World,
    a_world,
    capital,
    contents,
    document,
    global_id,
    headers,
    input_type,
    inputs,
)

Path = tuple[str | int, ...]

# Stands for JSON that Python's own encoder does not follow so far down.
DEEP = "<1,000 levels>"

# Text of several lines that may also be empty; every other text is a name, or like one.
PROSE = {"description", "statusMessage", "reason", "note", "notes", "message", "value"} | {
    "resolution"
}
# Names may have 250 characters, these 1,000.
LINES = {
    "source",
    "endpoint",
    "artifactPath",
    "artifactDigest",
    "path",
    "digest",
    "title",
    "checklist",
    "fields",
}
# Numbers out of bounds; those that are not here have none.
BEYOND: dict[str, list[float]] = {
    "sizeBytes": [-1],
    "requestCount": [-1],
    "instances": [-1, 0, 10_001],
    "leaseSeconds": [-1, 0, 7 * 86_400 + 1],
    "errorRate": [-0.1, 1.1],
    "avgLatencyMs": [-0.1],
    "count": [-1, 0, 21],
    "maxDays": [-1, 0, 36_500.1],
}

# What says when something may happen, not what.
WHEN = {"idempotencyKey", "expectedRevision", "expectedVersion"}


@pytest.fixture(scope="module")
async def world(quiet: Live, quiet_graph: Graph) -> World:
    return await a_world(quiet, quiet_graph, "bad-input")


def is_choice(type_: GraphQLInputType) -> bool:
    """Whether an input is exactly one of its fields."""
    named = get_named_type(type_)
    found = isinstance(named, GraphQLInputObjectType) and named.extensions["strawberry-definition"]
    return bool(found and found.is_one_of)


def leaves(type_: GraphQLInputType, value: Any, path: Path) -> Iterator[tuple[Path, str, bool]]:
    """Path, type and whether it may be null of each scalar in an input."""
    required = isinstance(type_, GraphQLNonNull)
    inner = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
    if isinstance(inner, GraphQLList):
        for n, item in enumerate(value if is_choice(inner.of_type) else value[:1]):
            yield from leaves(inner.of_type, item, (*path, n))
    elif isinstance(inner, GraphQLInputObjectType):
        for name in value:
            yield from leaves(inner.fields[name].type, value[name], (*path, name))
    else:
        named = get_named_type(inner)
        assert isinstance(named, GraphQLNamedType)
        yield path, "ENUM" if isinstance(named, GraphQLEnumType) else named.name, not required


def mistakes(path: Path, kind: str, nullable: bool) -> Iterator[tuple[Any, str]]:
    """Unacceptable values for a leaf, and what must come of each: a typed error, or "request" for
    one that GraphQL itself refuses."""
    name = next(part for part in reversed(path) if isinstance(part, str))
    if not nullable:
        yield None, "request"
    yield from ((value, "request") for value in _WRONG_TYPE[kind])
    if kind == "String":
        yield from ((text, "InvalidInput") for text in ("a\x00b", "a\x1bb", "x" * 20_001))
        if name not in PROSE:
            bound = 1_000 if name in LINES else 20 if name == "level" else 250
            texts = ("", "  ", " a", "a\n", "a\nb", "a\tb", "x" * (bound + 1))
            yield from ((text, "InvalidInput") for text in texts)
    elif kind == "ID":
        wanted = "ModelVersion" if name == "id" and "modelVersion" in path else None
        other = global_id("Experiment" if wanted else "ModelVersion")
        texts = ("", "garbage", "ünïcode", "a\x00b", "x" * 20_001, other, global_id("Nothing"))
        yield from ((text, "InvalidInput") for text in texts)
    elif name in BEYOND:
        yield from ((number, "InvalidInput") for number in BEYOND[name])
    elif kind == "JSON":
        for value in ([], [1], "text", 3, True, DEEP, {"a": "\x00"}, {"\x00": 1}):
            yield value, "InvalidInput"
        yield {"a": "x" * (256 * 1024)}, "InvalidInput"


_WRONG_TYPE: dict[str, list[Any]] = {
    "String": [5, 1.5, True, ["a"], {"a": 1}],
    "ID": [1.5, True, ["a"], {"a": 1}],
    "Int": [2**31, -(2**31) - 1, 1.5, "1", True, [1], 1e300],
    "BigInt": [2**63, -(2**63) - 1, 1.5, "1", True, [1], {}],
    "Float": ["1", True, [1.0], {}],
    "Boolean": [1, "true", [True]],
    "ENUM": ["NOPE", "", 1, True, ["A"], {}],
    "DateTime": ["yesterday", "", 5, True, "99999-01-01T00:00:00Z", "2026-02-30T00:00:00Z"],
    "JSON": [],
}


def absent(type_: GraphQLInputType, value: Any, path: Path) -> Iterator[Path]:
    """The fields that an input could have but has not."""
    named = get_named_type(type_)
    if isinstance(named, GraphQLInputObjectType) and isinstance(value, list):
        for item in value if is_choice(named) else value[:1]:
            yield from absent(named, item, path)
    elif isinstance(named, GraphQLInputObjectType):
        for name, field in named.fields.items():
            if name in value:
                yield from absent(field.type, value[name], (*path, name))
            elif not is_choice(named) and name not in WHEN:
                yield (*path, name)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_no_field_is_forgotten_here(world: World, mutation: str) -> None:
    assert list(absent(input_type(mutation), inputs(world)[mutation], ())) == []


def replaced(input: Json, path: Path, value: Any) -> Json:
    """A copy of an input with one leaf replaced."""
    changed: Any = deepcopy(input)
    inside = changed
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = value
    return dict(changed)


async def outcomes(graph: Graph, mutation: str, given_: list[Any]) -> list[tuple[str, Json]]:
    """What came of a mutation with each of these inputs, all in one request: "request" and the
    first top-level error about it, or the member of its union and that."""
    name, numbers = capital(mutation), range(len(given_))
    variables = " ".join(f"$i{n}: {name}Input!" for n in numbers)
    fields = " ".join(f"m{n}: {mutation}(input: $i{n}) {{ ...result }}" for n in numbers)
    query = f"""
        mutation ({variables}) {{ {fields} }}
        fragment result on {name}Result {{ __typename ... on Error {{ code message path }} }}"""
    body = json.dumps({"query": query, "variables": {f"i{n}": given_[n] for n in numbers}})
    response = await graph.http.post(
        "/graphql",
        content=body.replace(f'"{DEEP}"', '{"a":' * 1_000 + "1" + "}" * 1_000),
        headers={"content-type": "application/json", **headers(mutation)},
    )
    answer = response.json()
    assert "Traceback" not in response.text
    if "errors" not in answer:
        assert response.status_code == 200
        return [(answer["data"][f"m{n}"]["__typename"], answer["data"][f"m{n}"]) for n in numbers]
    assert "data" not in answer, answer
    assert response.status_code == 422, answer
    found = []
    for n in numbers:
        errors = [error for error in answer["errors"] if f"'$i{n}'" in error["message"]]
        found.append(("request", errors[0]) if errors else ("nothing", answer["errors"][-1]))
    return found


async def outcome(graph: Graph, mutation: str, input: Any) -> tuple[str, Json]:
    """What came of a mutation with one input."""
    return (await outcomes(graph, mutation, [input]))[0]


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_every_unacceptable_value_is_refused_by_name_and_changes_nothing(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str
) -> None:
    input = {**inputs(world)[mutation], "idempotencyKey": "a key"}
    if "expectedRevision" in input_type(mutation).fields:
        input["expectedRevision"] = 1
    before = await contents(quiet.database)
    tried = [
        (path, value, wanted)
        for path, kind, nullable in leaves(input_type(mutation), input, ())
        for value, wanted in mistakes(path, kind, nullable)
    ]

    wrong = []
    for kind in ("request", "InvalidInput"):
        chosen = [case for case in tried if case[2] == kind]
        # GraphQL names at most 50 mistakes, and one in a rule is up to three.
        for some in (chosen[n : n + 16] for n in range(0, len(chosen), 16)):
            sent = [replaced(input, path, value) for path, value, _ in some]
            results = await outcomes(quiet_graph, mutation, sent)
            for (path, value, _), (found, what) in zip(some, results, strict=True):
                said = what.get("path") or what.get("message", "")
                if found == kind == "request":
                    right = what["extensions"] == {"code": "INVALID_INPUT"}
                else:
                    right = found == kind and said[: len(path)] == [str(part) for part in path]
                if not right:
                    wrong.append(f"{path} = {str(value)[:50]!r}: {found}: {str(what)[:300]}")

    assert wrong == []
    assert await contents(quiet.database) == before


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_what_is_missing_unknown_or_no_input_at_all_is_refused(
    quiet_graph: Graph, world: World, mutation: str
) -> None:
    input = inputs(world)[mutation]
    required = [
        name
        for name, field in input_type(mutation).fields.items()
        if isinstance(field.type, GraphQLNonNull) and field.default_value is None
    ]
    tried: list[Any] = [None, [], [input, input], "text", 3, {**input, "unknown": 1}]
    tried += [{}] if required else []
    tried += [{key: input[key] for key in input if key != name} for name in required]

    for bad, (found, error) in zip(
        tried, await outcomes(quiet_graph, mutation, tried), strict=True
    ):
        assert (found, error["extensions"]["code"]) == ("request", "INVALID_INPUT"), bad


# Which field of each mutation names the object that it is about, and an id that does not exist.
UNKNOWN: dict[str, Json] = {
    "updateExperiment": {"name": "nothing"},
    "logRun": {"experimentName": "nothing"},
    "updateRun": {"id": global_id("Run")},
    "logMetrics": {"runId": global_id("Run")},
    "logRunOutput": {"runId": global_id("Run")},
    "beginArtifactUpload": {"runId": global_id("Run")},
    "completeArtifactUpload": {"id": global_id("ArtifactUpload")},
    "registerModelVersion": {"runId": global_id("Run")},
    "updateModelVersion": {"modelVersion": {"id": global_id("ModelVersion")}},
    "deleteModelVersion": {
        "modelVersion": {"nameVersion": {"modelName": "nothing", "version": "1"}}
    },
    "updateModel": {"name": "nothing"},
    "setStage": {"modelVersion": {"inStage": {"modelName": "nothing", "stage": "STAGING"}}},
    "validateModelVersion": {"modelVersion": {"id": global_id("ModelVersion")}},
    "submitForApproval": {"modelVersion": {"id": global_id("ModelVersion")}},
    "decideApproval": {"modelVersion": {"id": global_id("ModelVersion")}},
    "withdrawApproval": {"modelVersion": {"id": global_id("ModelVersion")}},
    "setStagePolicy": {"modelName": "nothing"},
    "appendChecklistItem": {"modelVersion": {"id": global_id("ModelVersion")}},
    "markChecklistItem": {"id": global_id("ChecklistItem")},
    "createDeployment": {"modelVersion": {"id": global_id("ModelVersion")}},
    "updateDeployment": {"id": global_id("Deployment")},
    "rollbackDeployment": {"id": global_id("Deployment")},
    "terminateDeployment": {"id": global_id("Deployment")},
    "recordDriftEvent": {"deploymentId": global_id("Deployment")},
    "updateDriftEvent": {"id": global_id("DriftEvent")},
    "setDriftPolicy": {"modelName": "nothing"},
    "retryMlflowSync": {"ids": [global_id("MlflowItem")]},
    "resolveMlflowConflict": {"id": global_id("MlflowItem")},
    "grantRole": {"grant": {"role": "VIEWER", "modelName": "nothing"}},
    "revokeRole": {"id": global_id("RoleGrant")},
    "createApiToken": {"grants": [{"role": "VIEWER", "modelName": "nothing"}]},
    "revokeApiToken": {"id": global_id("ApiToken")},
}


def test_every_mutation_that_speaks_of_an_object_is_tried_with_an_unknown_one() -> None:
    assert set(UNKNOWN) == set(MUTATIONS) - {"createExperiment"}


@pytest.mark.parametrize("mutation", UNKNOWN)
async def test_an_unknown_object_is_not_found_and_nothing_changes(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str
) -> None:
    before = await contents(quiet.database)
    input = {**inputs(world)[mutation], **UNKNOWN[mutation], "idempotencyKey": "a key"}

    found, error = await outcome(quiet_graph, mutation, input)

    assert (found, error["code"]) == ("NotFound", "NOT_FOUND")
    assert error["path"][0] == next(iter(UNKNOWN[mutation]))
    assert await contents(quiet.database) == before


REVISED = [name for name in MUTATIONS if "expectedRevision" in input_type(name).fields]


@pytest.mark.parametrize("mutation", REVISED)
async def test_a_revision_that_never_was_is_stale(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str
) -> None:
    before = await contents(quiet.database)

    for revision in (-1, 0, 2**31 - 1):
        input = {**inputs(world)[mutation], "expectedRevision": revision}
        found, error = await outcome(quiet_graph, mutation, input)
        assert (found, error["code"]) == ("StaleRevision", "STALE_REVISION")
        assert error["path"] == ["expectedRevision"]
    assert await contents(quiet.database) == before


OF_VERSION = [name for name in REVISED if "modelVersion" in input_type(name).fields]


def test_there_are_mutations_of_a_revision_of_a_version() -> None:
    assert {"decideApproval", "setStage", "updateModelVersion"} < set(OF_VERSION)


@pytest.mark.parametrize("mutation", OF_VERSION)
async def test_a_revision_is_not_of_whichever_version_is_in_a_stage(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str
) -> None:
    before = await contents(quiet.database)
    staged = {"inStage": {"modelName": world.name, "stage": "EXPERIMENTAL"}}
    input = {**inputs(world)[mutation], "modelVersion": staged, "expectedRevision": 1}

    found, error = await outcome(quiet_graph, mutation, input)

    assert (found, error["code"]) == ("InvalidInput", "INVALID_INPUT")
    assert error["path"] == ["modelVersion"]
    assert error["message"] == (
        "modelVersion: must name the version by id, or by model and version, where "
        "expectedRevision is given: a revision is of one version"
    )
    assert await contents(quiet.database) == before


@pytest.mark.parametrize(
    ("mutation", "field"),
    [
        ("createExperiment", "name"),
        ("createExperiment", "description"),
        ("updateRun", "id"),
        ("registerModelVersion", "modelName"),
        ("setStage", "reason"),
        ("recordDriftEvent", "details"),
        ("logRun", "idempotencyKey"),
    ],
)
async def test_five_megabytes_are_refused_like_anything_too_long(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str, field: str
) -> None:
    before = await contents(quiet.database)
    huge: Any = "x" * 5_000_000

    found, error = await outcome(
        quiet_graph,
        mutation,
        {**inputs(world)[mutation], field: {"a": huge} if field == "details" else huge},
    )

    assert (found, error["path"]) == ("InvalidInput", [field])
    assert len(error["message"]) < 200
    assert await contents(quiet.database) == before


POINT = {"key": "loss", "value": 1.0}
# As much as one object may have.
LABELS = [{"key": f"{n:05}", "value": "v" * 19_995} for n in range(12)] + [
    {"key": "rest", "value": "v" * 9_996}
]


@pytest.mark.parametrize(
    ("mutation", "change", "path"),
    [
        (
            "logMetrics",
            {"series": [{"key": "a", "steps": [1] * 10_001, "values": [1.0] * 10_001}]},
            [],
        ),
        (
            "logMetrics",
            {
                "series": [
                    {"key": f"k{n}", "steps": [1] * 5_001, "values": [1.0] * 5_001} for n in (1, 2)
                ]
            },
            [],
        ),
        (
            "logMetrics",
            {"series": [{"key": "a", "steps": [1, 2], "values": [1.0]}]},
            ["series", "0"],
        ),
        ("logMetrics", {"series": [{"key": "a", "steps": [], "values": [1.0]}]}, ["series", "0"]),
        (
            "logMetrics",
            {"series": [{"key": "a", "steps": [1], "values": [1.0], "kinds": []}]},
            ["series", "0"],
        ),
        (
            "logMetrics",
            {"series": [{"key": "a", "steps": [1], "values": [1.0], "timestamps": [NOW, NOW]}]},
            ["series", "0"],
        ),
        ("logMetrics", {"series": [{"key": "a", "steps": [1], "values": [None]}]}, ["series", "0"]),
        (
            "logMetrics",
            {"series": [{"key": "a", "steps": [1], "values": [1.0], "kinds": ["NAN"]}]},
            ["series", "0"],
        ),
        ("logRun", {"metrics": [POINT] * 1_001}, ["metrics"]),
        ("logRun", {"metrics": [{"key": "a"}]}, ["metrics", "0"]),
        ("logRun", {"metrics": [{"key": "a", "value": 1.0, "kind": "NAN"}]}, ["metrics", "0"]),
        ("logRun", {"metrics": [{"key": "a", "kind": "FINITE"}]}, ["metrics", "0"]),
        ("logRun", {"params": [{"key": "a", "value": "1"}] * 2}, ["params"]),
        ("logRun", {"tags": [{"key": f"{n}", "value": ""} for n in range(1_001)]}, ["tags"]),
        *(
            (mutation, {"tags": [*LABELS, {"key": "z", "value": ""}]}, ["tags"])
            for mutation in (
                "createExperiment",
                "updateExperiment",
                "logRun",
                "updateRun",
                "updateModel",
                "registerModelVersion",
                "updateModelVersion",
            )
        ),
        (
            "logRun",
            {"artifacts": [{"name": "a", "path": f"{n}"} for n in range(1_001)]},
            ["artifacts"],
        ),
        ("logRun", {"status": "LOST"}, ["status"]),
        ("logRun", {"status": "RUNNING"}, ["endedAt"]),
        ("logRun", {"endedAt": "2020-01-01T00:00:00Z"}, ["endedAt"]),
        ("updateRun", {"endedAt": "2020-01-01T00:00:00Z"}, ["endedAt"]),
        ("updateRun", {"metrics": [POINT] * 1_001}, ["metrics"]),
        ("logRunOutput", {"lines": [{"message": ""}] * 1_001}, ["lines"]),
        ("logRunOutput", {"lines": []}, ["lines"]),
        ("updateDeployment", {"logLines": [{"message": ""}] * 1_001}, ["logLines"]),
        ("registerModelVersion", {"checklist": ["a"] * 201}, ["checklist"]),
        ("registerModelVersion", {"metrics": [POINT, POINT]}, ["metrics"]),
        ("registerModelVersion", {"metrics": [POINT] * 1_001}, ["metrics"]),
        ("updateModelVersion", {"metrics": [POINT, POINT]}, ["metrics"]),
        (
            "recordDriftEvent",
            {"modelVersion": {"nameVersion": {"modelName": "bad-input", "version": "2"}}},
            ["deploymentId"],
        ),
    ],
)
async def test_what_does_not_fit_together_or_is_too_much_is_refused(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str, change: Json, path: list[str]
) -> None:
    before = await contents(quiet.database)

    found, error = await outcome(quiet_graph, mutation, {**inputs(world)[mutation], **change})

    assert (found, error["path"]) == ("InvalidInput", path), error
    assert await contents(quiet.database) == before


async def test_as_many_tags_as_an_object_may_have_are_taken(
    quiet_graph: Graph, unique: str
) -> None:
    selection = "experiment { tags { key value } }"
    made = await quiet_graph.done("createExperiment", {"name": unique, "tags": LABELS}, selection)
    assert made["tags"] == LABELS

    more = {"name": unique, "tags": [*LABELS, {"key": "z", "value": ""}]}
    assert await quiet_graph.mutate("updateExperiment", more) == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "tags: must not have more than 250,000 characters in all",
        "path": ["tags"],
    }


TIMES = [
    (mutation, path)
    for mutation, path in (
        ("logRun", ("startedAt",)),
        ("logRun", ("metrics", 0, "timestamp")),
        ("updateRun", ("endedAt",)),
        ("logMetrics", ("series", 0, "timestamps", 0)),
        ("logRunOutput", ("lines", 0, "timestamp")),
        ("updateDeployment", ("logLines", 0, "timestamp")),
        ("recordDriftEvent", ("detectedAt",)),
    )
]


@pytest.mark.parametrize(("mutation", "path"), TIMES)
@pytest.mark.parametrize(
    "time", ["2026-01-02T03:04:05", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
async def test_a_time_needs_a_zone_and_must_exist_in_utc(
    quiet: Live, quiet_graph: Graph, world: World, mutation: str, path: Path, time: str
) -> None:
    before = await contents(quiet.database)

    found, error = await outcome(
        quiet_graph, mutation, replaced(inputs(world)[mutation], path, time)
    )

    assert (found, error["path"]) == ("InvalidInput", [str(part) for part in path]), error
    assert await contents(quiet.database) == before


@pytest.mark.parametrize(
    "literal",
    [
        "{ a: 1e400 }",
        "{ a: -1e400 }",
        "{ a: [{ b: 99999999999999999999999999999999 }] }",
        f"{{ a: {'9' * 5_000} }}",
        f"{{ a: {'9' * 5_000}.0 }}",
        '{ a: "\\u0000" }',
        "[1]",
        '"text"',
        f"{'{ a: ' * 40}1{'}' * 40}",
    ],
)
async def test_json_in_the_document_itself_is_checked_like_json_in_variables(
    quiet: Live, quiet_graph: Graph, world: World, literal: str
) -> None:
    before = await contents(quiet.database)

    data = await quiet_graph.query(
        f'mutation {{ recordDriftEvent(input: {{ modelVersion: {{ id: "{world.version}" }}, '
        f'severity: LOW, metric: "psi", details: {literal} }}) {{ __typename ... on Error '
        "{ code path } } }"
    )

    assert data["recordDriftEvent"] == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "path": ["details"],
    }
    assert await contents(quiet.database) == before


@pytest.mark.parametrize(
    "field", [f"{sign}1e400" for sign in ("", "-")] + ["9" * 400, f"{'9' * 5_000}", "1e99999"]
)
async def test_a_float_in_the_document_must_be_finite(
    quiet_graph: Graph, world: World, field: str
) -> None:
    answer = await quiet_graph.answer(
        f'mutation {{ recordDriftEvent(input: {{ modelVersion: {{ id: "{world.version}" }}, '
        f'severity: LOW, metric: "psi", observedValue: {field} }}) {{ __typename ... on Error '
        "{ code path } } }"
    )

    assert answer == {
        "data": {
            "recordDriftEvent": {
                "__typename": "InvalidInput",
                "code": "INVALID_INPUT",
                "path": ["observedValue"],
            }
        }
    }


@pytest.mark.parametrize("digits", [11, 25, 400, 5_000])
@pytest.mark.parametrize(
    "field",
    [
        "experiments(first: %s) { nodes { id } }",
        "model(name: %s) { id }",
        'run(id: "x") { metricHistory(keys: [], maxPoints: %s) { key } }',
    ],
)
async def test_an_endless_number_in_the_document_is_a_mistake_in_the_document(
    quiet_graph: Graph, digits: int, field: str
) -> None:
    error = await quiet_graph.error(f"{{ {field % ('9' * digits)} }}")

    assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert "4300" not in error["message"]


GARBAGE_IDS = ["", "garbage", "ünïcode", "a\x00b", "x" * 100_000, global_id("Run", "0"), "Og=="]


@pytest.mark.parametrize("field", ["run", "deployment", "node"])
async def test_an_id_that_was_never_given_is_refused_and_one_of_nothing_gives_null(
    quiet_graph: Graph, world: World, field: str
) -> None:
    document = f"query ($id: ID!) {{ found: {field}(id: $id) {{ id }} }}"

    for id in GARBAGE_IDS:
        error = await quiet_graph.error(document, {"id": id})
        assert error["path"] == ["found"]
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["id"]}
        assert len(error["message"]) < 200
    unknown = global_id("Deployment" if field == "deployment" else "Run")
    assert await quiet_graph.query(document, {"id": unknown}) == {"found": None}


@pytest.mark.parametrize(("field", "kind"), [("run", "Deployment"), ("deployment", "Run")])
async def test_the_id_of_another_kind_is_refused(quiet_graph: Graph, field: str, kind: str) -> None:
    id = global_id(kind)
    error = await quiet_graph.error(f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}", {"id": id})

    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["id"]}


# Every place in a query where text goes to the database.
TEXTS = [
    "experiment(name: $text) { id }",
    "experiments(filter: { owner: $text }) { nodes { id } }",
    "experiments(filter: { nameContains: $text }) { totalCount }",
    "runs(filter: { experimentName: $text }) { nodes { id } }",
    "runs(filter: { createdBy: $text }) { nodes { id } }",
    'runs(filter: { param: { key: $text, equals: "a" } }) { nodes { id } }',
    'runs(filter: { param: { key: "a", equals: $text } }) { totalCount }',
    'runs(filter: { tag: { key: $text, equals: "a" } }) { nodes { id } }',
    'runs(filter: { tag: { key: "a", equals: $text } }) { nodes { id } }',
    "runs(filter: { metric: { key: $text, gte: 1 } }) { nodes { id } }",
    "runs(orderBy: [{ field: METRIC, metric: $text }]) { nodes { id } }",
    "model(name: $text) { id }",
    "models(filter: { owner: $text }) { nodes { id } }",
    "models(filter: { nameContains: $text }) { nodes { id } }",
    'modelVersion(by: { nameVersion: { modelName: $text, version: "1" } }) { id }',
    'modelVersion(by: { nameVersion: { modelName: "a", version: $text } }) { id }',
    "modelVersion(by: { inStage: { modelName: $text, stage: STAGING } }) { id }",
    "modelVersions(filter: { modelName: $text }) { nodes { id } }",
    'compareModelVersions(modelName: $text, versions: ["1"]) { versions { id } }',
    'compareModelVersions(modelName: "bad-input", versions: [$text]) { versions { id } }',
    'compareModelVersions(modelName: "a", versions: ["1"], baseline: $text) { versions { id } }',
    "deployments(filter: { modelName: $text }) { nodes { id } }",
    "driftEvents(filter: { modelName: $text }) { nodes { id } }",
    "dataSet(name: $text) { id }",
    'dataSet(name: "a", digest: $text) { id }',
    "dataSets(filter: { name: $text }) { nodes { id } }",
    'experiment(name: "bad-input") { bestRun(metric: $text) { id } }',
    'experiment(name: "bad-input") { runs { nodes { metrics(keys: [$text]) { key } } } }',
    'experiment(name: "bad-input") { runs { nodes { metricHistory(keys: [$text]) { key } } } }',
    'experiment(name: "bad-input") { runs(filter: { tag: { key: $text, equals: "" } }) '
    "{ nodes { id } } }",
    'model(name: "bad-input") { versions(filter: { modelName: $text }) { nodes { id } } }',
]


@pytest.mark.parametrize("field", TEXTS)
async def test_text_in_queries_may_be_anything_but_u0000(
    quiet_graph: Graph, world: World, field: str
) -> None:
    document = f"query ($text: String!) {{ {field} }}"

    answer = await quiet_graph.answer(document, {"text": "a\x00b"})
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"INVALID_INPUT"}, answer
    for text in ("", "%_\\'\";-- \x01\x7f\u2028\ufffe\U0001f600", "x" * 30_000):
        answer = await quiet_graph.answer(document, {"text": text})
        codes = [error["extensions"]["code"] for error in answer.get("errors", ())]
        assert set(codes) <= {"NOT_FOUND", "INVALID_INPUT"}, (text[:10], answer)


async def test_a_lone_surrogate_is_not_text(quiet_graph: Graph) -> None:
    in_json = await quiet_graph.http.post(
        "/graphql",
        content=b'{"query":"query($n:String!){experiment(name:$n){id}}",'
        b'"variables":{"n":"\\ud800"}}',
        headers={"content-type": "application/json"},
    )
    in_document = await quiet_graph.error('{ experiment(name: "\\uD800") { id } }')

    assert in_json.status_code == 400
    assert in_json.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
    assert in_document["extensions"]["code"] == "GRAPHQL_PARSE_FAILED"


@pytest.mark.parametrize(
    ("field", "argument"),
    [
        ('experiment(name: "bad-input") { logs(last: 0) { line } }', "last"),
        ('experiment(name: "bad-input") { logs(last: 1001) { line } }', "last"),
        ("run(id: $run) { metricHistory(keys: [], maxPoints: 1) { key } }", "maxPoints"),
        ("run(id: $run) { metricHistory(keys: [], maxPoints: 10001) { key } }", "maxPoints"),
        (f"run(id: $run) {{ metricHistory(keys: {['k'] * 101}) {{ key }} }}", "keys"),
        (f"nodes(ids: {['x'] * 101}) {{ id }}", "ids"),
        ('nodes(ids: [$run, "garbage"]) { id }', "id"),
        ('compareModelVersions(modelName: "a", versions: []) { params { key } }', "versions"),
        (
            'compareModelVersions(modelName: "a", versions: ["1", "1"]) { params { key } }',
            "versions",
        ),
        (
            f'compareModelVersions(modelName: "a", versions: {[str(n) for n in range(51)]}) '
            "{ params { key } }",
            "versions",
        ),
        (
            'compareModelVersions(modelName: "a", versions: ["1"], baseline: "2") '
            "{ params { key } }",
            "baseline",
        ),
        ("runs(orderBy: [{ field: METRIC }]) { nodes { id } }", "orderBy"),
        ('runs(orderBy: [{ field: CREATED_AT, metric: "a" }]) { nodes { id } }', "orderBy"),
        (
            'model(name: "bad-input") '
            '{ versionInStage(stage: STAGING, at: "2026-01-01T00:00:00") { id } }',
            "at",
        ),
        (
            'model(name: "bad-input") '
            '{ versionInStage(stage: STAGING, at: "0001-01-01T00:00:00+14:00") { id } }',
            "at",
        ),
    ],
)
async def test_arguments_out_of_bounds_are_named(
    quiet_graph: Graph, world: World, field: str, argument: str
) -> None:
    query = field.replace("'", '"').replace("$run", f'"{world.run}"')

    error = await quiet_graph.error(f"{{ {query} }}")

    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": [argument]}


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"id": "x", "inStage": {"modelName": "a", "stage": "STAGING"}},
        {"id": None},
        {"inStage": None, "id": "x"},
        {"nothing": 1},
    ],
)
async def test_a_selector_says_exactly_one_thing(quiet_graph: Graph, selector: Json) -> None:
    answer = await quiet_graph.answer(
        "query ($by: ModelVersionSelector!) { modelVersion(by: $by) { id } }", {"by": selector}
    )

    assert "data" not in answer
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"INVALID_INPUT"}


def texts_in(type_: GraphQLInputType, path: Path) -> Iterator[Path]:
    """The path of each text that an argument of this type may hold."""
    inner = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
    if isinstance(inner, GraphQLList):
        yield from texts_in(inner.of_type, (*path, 0))
    elif isinstance(inner, GraphQLInputObjectType):
        for name, field in inner.fields.items():
            yield from texts_in(field.type, (*path, name))
    elif get_named_type(inner).name in ("String", "ID"):
        yield path


def holding(type_: GraphQLInputType, path: Path, text: str) -> Any:
    """A value of this type with a text at this path, and nothing else but what it needs."""
    inner = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
    if isinstance(inner, GraphQLList):
        return [holding(inner.of_type, path[1:], text)]
    if isinstance(inner, GraphQLInputObjectType):
        needed = {
            name: "x" if get_named_type(field.type).name == "String" else "METRIC"
            for name, field in inner.fields.items()
            if isinstance(field.type, GraphQLNonNull) and field.default_value is Undefined
        }
        name = str(path[0])
        return needed | {name: holding(inner.fields[name].type, path[1:], text)}
    return text


def lists() -> Iterator[tuple[str, str, Path]]:
    """Each list that a query begins with, and each text in its arguments."""
    query = schema._schema.query_type
    assert query is not None
    for name, field in query.fields.items():
        if get_named_type(field.type).name.endswith("Connection"):
            for argument, given_ in field.args.items():
                for path in texts_in(given_.type, ()):
                    yield name, argument, path


LONG_IN_LISTS = sorted(lists(), key=str)


def test_there_are_texts_by_which_lists_are_filtered_and_ordered() -> None:
    found = {(name, argument, *path) for name, argument, path in LONG_IN_LISTS}

    assert {
        ("runs", "filter", "createdBy"),
        ("runs", "filter", "tag", "equals"),
        ("runs", "orderBy", 0, "metric"),
        ("auditLog", "filter", "actors", 0),
        ("driftPolicies", "modelName"),
    } <= found


@pytest.mark.parametrize(("name", "argument", "path"), LONG_IN_LISTS, ids=str)
async def test_a_list_is_filtered_by_no_text_that_is_longer_than_any(
    quiet_graph: Graph, name: str, argument: str, path: Path
) -> None:
    query_type = schema._schema.query_type
    assert query_type is not None
    type_ = query_type.fields[name].args[argument].type
    needed = ", stage: STAGING" if name == "stagePolicies" else ""
    query = f"query ($given: {type_}) {{ {name}({argument}: $given{needed}) {{ totalCount }} }}"

    # By a model's name it is looked for first.
    code = "NOT_FOUND" if name == "stagePolicies" and argument == "modelName" else "INVALID_INPUT"

    for length in (25_001, 1_000_000):
        given_ = {"given": holding(type_, path, "x" * length)}
        answer = await quiet_graph.answer(query, given_, **{"Lifecycle-Actor": "admin"})

        assert [error["extensions"]["code"] for error in answer["errors"]] == [code]


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=8,
)


def values_of(type_: GraphQLInputType, known: Any) -> st.SearchStrategy[Any]:
    """Values of an input's type, some of which are good, some almost, and some junk."""
    required = isinstance(type_, GraphQLNonNull)
    inner = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
    good: st.SearchStrategy[Any]
    if isinstance(inner, GraphQLList):
        item = known[0] if isinstance(known, list) and known else None
        good = st.lists(values_of(inner.of_type, item), max_size=3)
    elif isinstance(inner, GraphQLInputObjectType):
        given_ = known if isinstance(known, dict) else {}
        if is_choice(inner):
            good = st.sampled_from(sorted(inner.fields)).flatmap(
                lambda name: st.fixed_dictionaries(
                    {name: values_of(inner.fields[name].type, given_.get(name))}
                )
            )
        else:
            fields = {
                name: values_of(field.type, given_.get(name))
                for name, field in inner.fields.items()
                if name != "idempotencyKey"
            }
            needed = {
                name: fields.pop(name)
                for name, field in inner.fields.items()
                if isinstance(field.type, GraphQLNonNull) and name in fields
            }
            good = st.fixed_dictionaries(needed, optional=fields)
    else:
        good = st.just(known) if known is not None else _scalars(get_named_type(inner))
        return st.integers(0, 19).flatmap(
            lambda n: JUNK if n == 0 else _scalars(get_named_type(inner)) if n < 7 else good
        )
    return good if required else good | st.none()


def _scalars(type_: Any) -> st.SearchStrategy[Any]:
    if isinstance(type_, GraphQLEnumType):
        return st.sampled_from(sorted(type_.values))
    by_name: dict[str, st.SearchStrategy[Any]] = {
        "String": st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        "ID": st.sampled_from(["Run", "ModelVersion", "Deployment"]).map(global_id),
        "Int": st.integers(-(2**31), 2**31 - 1),
        "BigInt": st.integers(-(2**63), 2**63 - 1),
        "Float": st.floats(allow_nan=False, allow_infinity=False),
        "Boolean": st.booleans(),
        "DateTime": st.datetimes().map(lambda at: at.isoformat() + "Z"),
        "JSON": st.dictionaries(st.text(max_size=3), JUNK, max_size=3),
    }
    return by_name[type_.name]


@pytest.fixture(scope="module")
async def fuzzed(live: Live, graph: Graph) -> World:
    return await a_world(live, graph, f"fuzzed-{uuid4().hex}")


@pytest.mark.parametrize("mutation", MUTATIONS)
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_whatever_a_client_sends_is_taken_or_refused_in_a_known_way(
    graph: Graph, fuzzed: World, mutation: str, data: st.DataObject
) -> None:
    input = data.draw(values_of(input_type(mutation), inputs(fuzzed)[mutation]) | JUNK)

    if mutation == "setStagePolicy" and isinstance(input, dict):
        # The general policy holds for all tests.
        input["modelName"] = fuzzed.name

    response = await graph.http.post(
        "/graphql",
        json={"query": document(mutation), "variables": {"input": input}},
        headers=headers(mutation),
    )

    answer = response.json()
    if "errors" in answer:
        assert response.status_code == 422, answer
        assert {error["extensions"]["code"] for error in answer["errors"]} == {"INVALID_INPUT"}
    else:
        assert response.status_code == 200
        union: Any = schema._schema.type_map[f"{capital(mutation)}Result"]
        assert answer["data"][mutation]["__typename"] in {member.name for member in union.types}
