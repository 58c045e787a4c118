"""Every list of the schema, read page by page: forward, backward, in each order, while it grows."""

import itertools
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from graphql import GraphQLEnumType, GraphQLInterfaceType, GraphQLObjectType, get_named_type
from sqlalchemy import text

from schema.root import schema
from tests.client import Graph, Json
from tests.conftest import Live
from tests.mutations import headers

SIZE = 5
FIELDS = """{
  nodes { NODE } edges { cursor node { NODE } }
  pageInfo { hasNextPage hasPreviousPage startCursor endCursor } totalCount
}"""


@dataclass(frozen=True)
class List:
    """A connection: how to ask for it (ARGS and FIELDS stand for what varies), what tells its items
    apart, how to add one, and what it can be ordered by."""

    field: str
    query: str
    node: str
    growth: str
    backward: bool = True
    orders: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.field


def orders(name: str) -> tuple[str, ...]:
    """Each order by one key of an enum, and some by two, in the same and in mixed directions."""
    enum = schema._schema.type_map[name]
    assert isinstance(enum, GraphQLEnumType)
    fields = [
        'METRIC, metric: "m"' if field == "METRIC" else field for field in sorted(enum.values)
    ]
    single = [
        f"[{{ field: {field}, direction: {direction} }}]"
        for field in fields
        for direction in ("ASC", "DESC")
    ]
    first, last = fields[0], fields[-1]
    return (
        *single,
        f"[{{ field: {first} }}, {{ field: {last}, direction: DESC }}]",
        f"[{{ field: {last}, direction: DESC }}, {{ field: {first} }}]",
        f"[{{ field: {last} }}, {{ field: {first} }}]",
    )


DEPLOY = 'createDeployment(input: { modelVersion: { id: "VERSION" }, environment: DEVELOPMENT })'
DRIFT = (
    'recordDriftEvent(input: { modelVersion: { id: "VERSION" }, deploymentId: "DEPLOYMENT", '
    'severity: LOW, metric: "psi" })'
)
POLICY = (
    'setDriftPolicy(input: { modelName: "NAME", responses: [], reason: "r", degradation: '
    '[{ figure: OBSERVED, metric: "UNIQUE", limit: MAX_DECREASE, value: 1, severity: LOW }] })'
)
STAGE_POLICY = (
    'setStagePolicy(input: { stage: STAGING, modelName: "NAME", rules: '
    '[{ metric: { key: "UNIQUE", atLeast: 0, severity: INFO } }] })'
)
REGISTER = 'registerModelVersion(input: { modelName: "NAME" })'
LOG_RUN = (
    'logRun(input: { experimentName: "NAME", metrics: [{ key: "m", value: VALUE }, '
    '{ key: "n", kind: NAN }] })'
)
LOG_RUN_ON = (
    'logRun(input: { experimentName: "NAME", datasetFacts: { name: "NAME"%s }, '
    'metrics: [{ key: "m", value: VALUE }] })'
)
VERSION = 'modelVersion(by: { id: "VERSION" })'
LISTS = [
    List(
        "Query.experiments",
        'experiments(filter: { nameContains: "NAME" } ARGS) FIELDS',
        "id name createdAt updatedAt",
        'createExperiment(input: { name: "NAME-UNIQUE" })',
        orders=orders("ExperimentOrderField"),
    ),
    List(
        "Query.runs",
        'runs(filter: { experimentName: "NAME" } ARGS) FIELDS',
        'id createdAt metrics(keys: ["m"]) { value }',
        LOG_RUN,
        orders=(
            *orders("RunOrderField"),
            '[{ field: METRIC, metric: "n", direction: DESC }]',
            '[{ field: METRIC, metric: "unknown" }]',
        ),
    ),
    List(
        "Query.models",
        'models(filter: { nameContains: "NAME" } ARGS) FIELDS',
        "id name",
        'registerModelVersion(input: { modelName: "NAME-UNIQUE" })',
    ),
    List(
        "Query.modelVersions",
        'modelVersions(filter: { modelName: "NAME" } ARGS) FIELDS',
        "id createdAt updatedAt",
        REGISTER,
        orders=orders("ModelVersionOrderField"),
    ),
    List(
        "Query.deployments",
        'deployments(filter: { modelName: "NAME" } ARGS) FIELDS',
        "id createdAt updatedAt",
        DEPLOY,
        orders=orders("DeploymentOrderField"),
    ),
    List(
        "Query.driftEvents",
        'driftEvents(filter: { modelName: "NAME" } ARGS) FIELDS',
        "id createdAt",
        DRIFT,
    ),
    List(
        "Query.driftPolicies",
        'driftPolicies(modelName: "NAME" ARGS) FIELDS',
        "id version createdAt",
        POLICY,
    ),
    List(
        "Query.stagePolicies",
        'stagePolicies(stage: STAGING, modelName: "NAME" ARGS) FIELDS',
        "id version createdAt",
        STAGE_POLICY,
    ),
    List(
        "Experiment.runs",
        'experiment(name: "NAME") { runs(ARGS) FIELDS }',
        "id createdAt",
        LOG_RUN,
        orders=("[{ field: CREATED_AT }]", "[{ field: CREATED_AT, direction: DESC }]"),
    ),
    List(
        "Query.dataSets",
        'dataSets(filter: { name: "NAME" } ARGS) FIELDS',
        "id createdAt",
        LOG_RUN_ON % ', digest: "UNIQUE"',
    ),
    List(
        "DataSet.runs",
        'dataSet(name: "NAME") { runs(ARGS) FIELDS }',
        "id createdAt",
        LOG_RUN_ON % "",
        orders=("[{ field: CREATED_AT }]", "[{ field: CREATED_AT, direction: DESC }]"),
    ),
    List(
        "DataSet.affectedDeployments",
        'dataSet(name: "NAME") { affectedDeployments(ARGS) FIELDS }',
        "id",
        DEPLOY,
        backward=False,
    ),
    List(
        "Run.affectedDeployments",
        'run(id: "RUN") { affectedDeployments(ARGS) FIELDS }',
        "id",
        DEPLOY,
        backward=False,
    ),
    List("Model.versions", 'model(name: "NAME") { versions(ARGS) FIELDS }', "id", REGISTER),
    List(
        "Model.stageHistory",
        'model(name: "NAME") { stageHistory(ARGS) FIELDS }',
        "stage validFrom modelVersion { id }",
        REGISTER,
        backward=False,
    ),
    List(
        "ModelVersion.deployments",
        f"{VERSION} {{ deployments(ARGS) FIELDS }}",
        "id",
        DEPLOY,
        backward=False,
    ),
    List(
        "ModelVersion.driftEvents",
        f"{VERSION} {{ driftEvents(ARGS) FIELDS }}",
        "id",
        DRIFT,
        backward=False,
    ),
    List(
        "Deployment.driftEvents",
        'deployment(id: "DEPLOYMENT") { driftEvents(ARGS) FIELDS }',
        "id",
        DRIFT,
        backward=False,
    ),
    List(
        "Deployment.logs",
        'deployment(id: "DEPLOYMENT") { logs(ARGS) FIELDS }',
        "line message",
        'updateDeployment(input: { id: "DEPLOYMENT", logLines: [{ message: "m" }] })',
    ),
    List(
        "Run.logs",
        'run(id: "RUN") { logs(ARGS) FIELDS }',
        "line message",
        'logRunOutput(input: { runId: "RUN", lines: [{ message: "m" }] })',
    ),
]
BOUNDS = {"first": "Int", "last": "Int", "after": "String", "before": "String"}
by_field = pytest.mark.parametrize("listed", LISTS, ids=str)


def test_no_list_is_forgotten_here() -> None:
    connections = {
        f"{name}.{field_name}"
        for name, type_ in schema._schema.type_map.items()
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
        for field_name, field in type_.fields.items()
        if get_named_type(field.type).name.endswith("Connection")
    }

    # The audit log shows what was done some milliseconds later; its pages are in test_audit.py.
    # What waits for approval is one list for all tests; its pages are in test_approvals.py.
    # What is to be in MLflow needs a service that knows of one; its pages are in test_tracking.py.
    # What was granted is for administrators alone; its pages are in test_access.py.
    elsewhere = {
        *("Query.auditLog", "Query.pendingApprovals", "Query.mlflowItems"),
        *("Query.roleGrants", "Query.apiTokens"),
    }
    assert {listed.field for listed in LISTS} | elsewhere == connections


@dataclass(frozen=True)
class Grown:
    """Objects that have some of everything, and the words that stand for them."""

    graph: Graph
    words: dict[str, str]

    def filled(self, document: str, **words: str) -> str:
        for word, value in {**self.words, **words}.items():
            document = document.replace(word, value)
        return document

    async def page(self, listed: List, order: str = "", /, **bounds: int | str) -> Json:
        """One page of a list."""
        declared = " ".join(f"${name}: {BOUNDS[name]}" for name in bounds)
        args = "".join(f", {name}: ${name}" for name in bounds)
        args = f"{', orderBy: ' + order if order else ''}{args}"
        query = listed.query.replace("FIELDS", FIELDS.replace("NODE", listed.node))
        query = f"query ({declared}) {{ {self.filled(query, ARGS=args)} }}"
        found: Any = await self.graph.query(query, bounds)
        while "pageInfo" not in found:
            found = next(iter(found.values()))
        check(found)
        return dict(found)

    async def everything(self, listed: List, order: str = "") -> list[Json]:
        """The items of a list in one page."""
        found = await self.page(listed, order, first=100)
        items: list[Json] = found["nodes"]
        assert SIZE <= len(items) == found["totalCount"] < 100
        return items

    async def error(self, listed: List, args: str, order: str = "") -> Json:
        """The error that a page with these bounds gives."""
        args = f"{', orderBy: ' + order if order else ''}, {args}"
        query = self.filled(listed.query, ARGS=args, FIELDS="{ totalCount }")
        return await self.graph.error(f"{{ {query} }}")

    async def grow(self, listed: List) -> None:
        """Add one to a list."""
        values = {"UNIQUE": uuid4().hex, "VALUE": str(uuid4().int % 5)}
        growth = self.filled(listed.growth, **values)
        name = growth.partition("(")[0]
        query = f"mutation {{ {growth} {{ __typename }} }}"
        answer = await self.graph.query(query, None, **headers(name))
        assert answer[name]["__typename"].endswith("Success")


def check(page: Json) -> None:
    """The ways to read one page agree."""
    assert [edge["node"] for edge in page["edges"]] == page["nodes"]
    cursors = [edge["cursor"] for edge in page["edges"]]
    assert len(set(cursors)) == len(cursors)
    assert page["pageInfo"]["startCursor"] == (cursors[0] if cursors else None)
    assert page["pageInfo"]["endCursor"] == (cursors[-1] if cursors else None)


@pytest.fixture(scope="module")
async def grown(live: Live, graph: Graph) -> Grown:
    """Some of everything, many of which have the same times and values."""
    name = f"p{uuid4().hex[:10]}"
    await graph.done("createExperiment", {"name": name}, "experiment { id }")
    on = {"datasetFacts": {"name": name}}
    run = await graph.done("logRun", {"experimentName": name, **on}, "run { id }")
    out_of = {"modelName": name, "runId": run["id"]}
    version = await graph.done("registerModelVersion", out_of, "modelVersion { id }")
    of_version = {"modelVersion": version, "environment": "DEVELOPMENT"}
    deployment = await graph.done("createDeployment", of_version, "deployment { id }")
    words = {
        "NAME": name,
        "VERSION": version["id"],
        "RUN": run["id"],
        "DEPLOYMENT": deployment["id"],
    }
    grown = Grown(graph, words)
    growths = {listed.growth: listed for listed in LISTS}
    for listed in growths.values():
        for _ in range(SIZE):
            await grown.grow(listed)
    await tie(live, name)
    return grown


async def tie(live: Live, name: str) -> None:
    """Let three of each kind of object have the same times, and the three after them too."""
    tied = "date_trunc('day', {0}) + (n % 3) * interval '1 microsecond'"
    tables = {
        "experiment": ("created_at", "updated_at", "name LIKE :name || '%'"),
        "run": (
            "created_at",
            "updated_at",
            "experiment_id = (SELECT id FROM experiment WHERE name = :name)",
        ),
        "model_version": ("created_at", "updated_at", "model_name = :name"),
        "data_set": ("created_at", "created_at", "name = :name"),
        "deployment": ("created_at", "updated_at", "model_name = :name"),
        "drift_event": ("created_at", "updated_at", "model_name = :name"),
        "stage_assignment": (
            "valid_from",
            "valid_from",
            "model_id = (SELECT id FROM model WHERE name = :name)",
        ),
    }
    async with live.database.write_engine.begin() as connection:
        for table, (first, second, chosen) in tables.items():
            changes = ", ".join(
                f"{column} = {tied.format(column).replace('n % 3', remainder)}"
                for column, remainder in {first: "n % 3", second: "(n + 1) % 3"}.items()
            )
            await connection.execute(
                text(
                    f"WITH chosen AS (SELECT id, row_number() OVER (ORDER BY id) AS n FROM {table}"
                    f" WHERE {chosen}) UPDATE {table} SET {changes} FROM chosen"
                    f" WHERE {table}.id = chosen.id"
                ),
                {"name": name},
            )


async def forward(grown: Grown, listed: List, order: str = "", *, growing: bool) -> list[Json]:
    """All items, two at a time, from the start."""
    found: list[Json] = []
    after: dict[str, str] = {}
    for number in itertools.count():
        page = await grown.page(listed, order, first=2, **after)
        found += page["nodes"]
        assert page["pageInfo"]["hasPreviousPage"] == (number > 0)
        if not page["pageInfo"]["hasNextPage"]:
            return found
        assert len(page["nodes"]) == 2
        after = {"after": page["pageInfo"]["endCursor"]}
        if growing and number < 2:
            await grown.grow(listed)
    raise AssertionError


async def backward(grown: Grown, listed: List, order: str = "", *, growing: bool) -> list[Json]:
    """All items, two at a time, from the end."""
    found: list[Json] = []
    before: dict[str, str] = {}
    for number in itertools.count():
        page = await grown.page(listed, order, last=2, **before)
        found = page["nodes"] + found
        assert page["pageInfo"]["hasNextPage"] == (number > 0)
        if not page["pageInfo"]["hasPreviousPage"]:
            return found
        assert len(page["nodes"]) == 2
        before = {"before": page["pageInfo"]["startCursor"]}
        if growing and number < 2:
            await grown.grow(listed)
    raise AssertionError


def key(item: Json) -> str:
    return json.dumps(item, sort_keys=True)


@by_field
async def test_pages_put_together_are_the_whole_list(grown: Grown, listed: List) -> None:
    whole = await grown.everything(listed)

    assert await forward(grown, listed, growing=False) == whole
    if listed.backward:
        assert await backward(grown, listed, growing=False) == whole


@by_field
async def test_a_page_says_exactly_whether_there_is_more(grown: Grown, listed: List) -> None:
    whole = await grown.everything(listed)
    size = len(whole)

    async def borders(**bounds: int | str) -> tuple[int, bool, bool]:
        page = await grown.page(listed, **bounds)
        info = page["pageInfo"]
        assert page["totalCount"] == size
        return len(page["nodes"]), info["hasPreviousPage"], info["hasNextPage"]

    every = (await grown.page(listed, first=100))["edges"]
    first, second, last = every[0]["cursor"], every[1]["cursor"], every[-1]["cursor"]
    assert await borders(first=size) == (size, False, False)
    assert await borders(first=size - 1) == (size - 1, False, True)
    assert await borders(first=size - 1, after=first) == (size - 1, True, False)
    assert await borders(first=size - 2, after=first) == (size - 2, True, True)
    assert await borders(first=1, after=last) == (0, True, False)
    assert await borders(after=last) == (0, True, False)
    if not listed.backward:
        return
    assert await borders(last=size) == (size, False, False)
    assert await borders(last=size - 1) == (size - 1, True, False)
    assert await borders(last=size - 1, before=last) == (size - 1, False, True)
    assert await borders(last=size - 2, before=last) == (size - 2, True, True)
    assert await borders(last=1, before=first) == (0, False, True)
    assert await borders(before=second) == (1, False, True)


ORDERED = [(listed, order) for listed in LISTS for order in listed.orders]


def sort_key(item: Json, field: str, *, descending: bool, metric: str | None) -> Any:
    """What an item is ordered by; a run without the metric comes last either way."""
    if field == "METRIC":
        values = [m["value"] for m in item["metrics"] if metric == "m"]
        return values[0] if values else float("-inf") if descending else float("inf")
    name = {"CREATED_AT": "createdAt", "UPDATED_AT": "updatedAt", "NAME": "name"}[field]
    return item[name] if field == "NAME" else datetime.fromisoformat(item[name])


@pytest.mark.parametrize(("listed", "order"), ORDERED, ids=str)
async def test_each_order_is_kept_by_pages_in_both_directions(
    grown: Grown, listed: List, order: str
) -> None:
    whole = await grown.everything(listed, order)

    assert await forward(grown, listed, order, growing=False) == whole
    assert await backward(grown, listed, order, growing=False) == whole
    keys = [part.strip("[{ }]") for part in order.split("}, {")]
    parsed = [dict(pair.split(": ") for pair in part.split(", ")) for part in keys]
    expected = whole
    for given in reversed(parsed):
        down = given.get("direction") == "DESC"
        metric = given.get("metric", "").strip('"')
        expected = sorted(
            expected,
            key=lambda item, given=given, down=down, metric=metric: sort_key(  # type: ignore[misc]
                item, given["field"], descending=down, metric=metric
            ),
            reverse=down,
        )
    assert expected == whole


@pytest.mark.parametrize(
    ("args", "argument"),
    [
        ("first: 0", "first"),
        ("first: 101", "first"),
        ('after: "garbage"', "after"),
        ('after: "a\\u0000b"', "after"),
        ("last: 0", "last"),
        ("first: 1, last: 1", "last"),
        ('last: 1, after: "x"', "after"),
        ('after: "x", before: "x"', "before"),
    ],
)
@pytest.mark.parametrize("listed", [LISTS[0], LISTS[6], LISTS[8], LISTS[13]], ids=str)
async def test_bounds_that_make_no_sense_are_refused(
    grown: Grown, listed: List, args: str, argument: str
) -> None:
    error = await grown.error(listed, args)

    if not listed.backward and ("last" in args or "before" in args):
        assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    else:
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": [argument]}


# Lists of the same things in the same order share their cursors: whether one comes from all runs or
# from those of an experiment, it says after which run to go on.
SAME = [
    {"Query.runs", "Experiment.runs", "DataSet.runs"},
    {"Run.affectedDeployments", "DataSet.affectedDeployments"},
    {"Query.modelVersions", "Model.versions"},
    {"Query.deployments", "ModelVersion.deployments"},
    {"Query.driftEvents", "ModelVersion.driftEvents", "Deployment.driftEvents"},
    {"Run.logs", "Deployment.logs"},
]


async def test_a_cursor_of_another_list_is_refused(grown: Grown) -> None:
    cursors = [(await grown.page(listed, first=1))["pageInfo"]["endCursor"] for listed in LISTS]

    for (n, listed), distance in itertools.product(enumerate(LISTS), (1, 4, 9)):
        other = (n + distance) % len(LISTS)
        if not any({listed.field, LISTS[other].field} <= same for same in SAME):
            error = await grown.error(listed, f'after: "{cursors[other]}"')
            assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


@pytest.mark.parametrize("listed", [listed for listed in LISTS if listed.orders], ids=str)
async def test_a_cursor_of_another_ordering_is_refused(grown: Grown, listed: List) -> None:
    cursors = {
        order: (await grown.page(listed, order, first=1))["pageInfo"]["endCursor"]
        for order in listed.orders
    }

    assert len(set(cursors.values())) == len(cursors)
    for made, asked in itertools.product(listed.orders, listed.orders[:3]):
        if made != asked:
            error = await grown.error(listed, f'after: "{cursors[made]}"', asked)
            assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ('experiments(filter: { owner: "a" } ARGS)', "experiments(ARGS)"),
        ("experiments(ARGS)", "experiments(filter: { statuses: [ACTIVE] } ARGS)"),
        (
            "experiments(filter: { statuses: [ACTIVE] } ARGS)",
            "experiments(filter: { statuses: [COMPLETED] } ARGS)",
        ),
        ('runs(filter: { experimentName: "NAME" } ARGS)', "runs(ARGS)"),
        (
            'runs(filter: { metric: { key: "m", gte: 0 } } ARGS)',
            'runs(filter: { metric: { key: "m", gte: 1 } } ARGS)',
        ),
        ("models(ARGS)", 'models(filter: { nameContains: "NAME" } ARGS)'),
        ("modelVersions(ARGS)", "modelVersions(filter: { stages: [EXPERIMENTAL] } ARGS)"),
        ("deployments(ARGS)", "deployments(filter: { statuses: [PENDING] } ARGS)"),
        (
            'deployments(filter: { activeAt: "2999-01-01T00:00:00Z" } ARGS)',
            'deployments(filter: { activeAt: "2999-01-01T00:00:01Z" } ARGS)',
        ),
        ("dataSets(ARGS)", 'dataSets(filter: { name: "NAME" } ARGS)'),
        ("driftEvents(ARGS)", "driftEvents(filter: { severities: [LOW] } ARGS)"),
    ],
)
async def test_a_cursor_of_another_filter_is_refused(
    grown: Grown, graph: Graph, one: str, another: str
) -> None:
    async def cursor(field: str) -> Any:
        query = grown.filled(field, ARGS=", first: 1")
        data = await graph.query(f"{{ found: {query} {{ pageInfo {{ endCursor }} }} }}")
        return data["found"]["pageInfo"]["endCursor"]

    for given, asked in ((one, another), (another, one)):
        made = await cursor(given)
        if made is None:
            continue
        query = grown.filled(asked, ARGS=f', first: 1, after: "{made}"')
        error = await graph.error(f"{{ {query} {{ totalCount }} }}")
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}
        assert error["message"] == "This cursor belongs to another ordering or filter."


async def test_a_list_without_items_is_one_empty_page(graph: Graph, unique: str) -> None:
    await graph.done("createExperiment", {"name": unique}, "experiment { id }")
    empty = {
        "nodes": [],
        "edges": [],
        "pageInfo": {
            "hasNextPage": False,
            "hasPreviousPage": False,
            "startCursor": None,
            "endCursor": None,
        },
        "totalCount": 0,
    }

    fields = FIELDS.replace("NODE", "id")
    data = await graph.query(
        f'{{ runs(filter: {{ experimentName: "{unique}" }}) {fields} '
        f'experiment(name: "{unique}") {{ first: runs {fields} last: runs(last: 5) {fields} }} }}'
    )

    assert data == {"runs": empty, "experiment": {"first": empty, "last": empty}}


async def test_a_cursor_of_an_item_that_left_the_list_still_shows_the_way(
    graph: Graph, unique: str
) -> None:
    names = [f"{unique}-{n}" for n in range(4)]
    for name in names:
        await graph.done("createExperiment", {"name": name}, "experiment { id }")
    query = (
        f'query ($after: String) {{ experiments(filter: {{ nameContains: "{unique}", '
        "statuses: [ACTIVE] }, orderBy: [{ field: NAME }], first: 2, after: $after) "
        "{ nodes { name } pageInfo { endCursor } } }"
    )
    page = (await graph.query(query))["experiments"]
    await graph.done(
        "updateExperiment", {"name": names[1], "status": "ARCHIVED"}, "experiment { id }"
    )

    rest = (await graph.query(query, {"after": page["pageInfo"]["endCursor"]}))["experiments"]

    assert [node["name"] for node in page["nodes"] + rest["nodes"]] == names


@by_field
async def test_pages_miss_and_repeat_nothing_while_the_list_grows(
    grown: Grown, listed: List
) -> None:
    whole = await grown.everything(listed)
    known = {key(item) for item in whole}

    walks = [forward, backward] if listed.backward else [forward]
    for walk in walks:
        found = await walk(grown, listed, growing=True)
        assert [item for item in found if key(item) in known] == whole
        assert len({key(item) for item in found}) == len(found)
