"""What a query costs: as many SQL statements for many parents as for one, on every nested path."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from graphql import (
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
    is_leaf_type,
)
from graphql.pyutils import Undefined

from lifecycle.database import Database
from lifecycle.tracking.rules import SyncState
from schema.root import schema
from tests.client import Graph, Json
from tests.conftest import EXECUTION, Live, serving
from tests.factories import WAY, a_version, a_version_in, approved
from tests.mirror import MLFLOW, a_mirror
from tests.mutations import global_id
from tests.statements import read, written

Type = GraphQLObjectType | GraphQLInterfaceType

MANY = 4
DEPTH = 3

# What required arguments are filled with; an argument that is not here fails the walk.
ARGUMENTS = {
    "first": "3",
    "keys": '["accuracy"]',
    "metric": '"accuracy"',
    "stage": "PRODUCTION",
}


@contextmanager
def recorded(database: Database) -> Iterator[list[str]]:
    """The statements that are sent while the block lasts, but for those of the background."""
    statements: list[str] = []
    with read(database) as reads, written(database) as writes:
        yield statements
    statements += (each for each in writes if "journal_head" not in each)
    statements += (each for each, _ in reads if "journal_head" not in each)


def object_type(name: str) -> GraphQLObjectType:
    found = schema._schema.type_map[name]
    assert isinstance(found, GraphQLObjectType)
    return found


def arguments(field: GraphQLField) -> str:
    """The arguments without which the field cannot be asked for, and a bound of lists."""
    given = [
        f"{name}: {ARGUMENTS[name]}"
        for name, argument in field.args.items()
        if name == "first"
        or (isinstance(argument.type, GraphQLNonNull) and argument.default_value is Undefined)
    ]
    return f"({', '.join(given)})" if given else ""


def item_type(field: GraphQLField) -> tuple[Type | None, bool]:
    """The type of the objects that a field leads to, if it does, and whether by a connection."""
    named = get_named_type(field.type)
    if not isinstance(named, Type):
        return None, False
    if named.name.endswith("Connection"):
        items = get_named_type(named.fields["nodes"].type)
        assert isinstance(items, GraphQLObjectType)
        return items, True
    return named, False


def leaves(type_: Type) -> str:
    """All fields of a type that have no fields themselves."""
    chosen = [
        f"{name}{arguments(field)}"
        for name, field in type_.fields.items()
        if is_leaf_type(get_named_type(field.type))
    ]
    return " ".join(["__typename", *chosen])


def paths(type_: Type, depth: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every way down from a type, as the names of the fields and the selection that follows it."""
    for name, field in type_.fields.items():
        inner, connected = item_type(field)
        if inner is None:
            continue
        begin = f"{name}{arguments(field)} {{ {'totalCount nodes { ' if connected else ''}"
        end = " } }" if connected else " }"
        yield (name,), begin + leaves(inner) + end
        if depth > 1:
            for further, selection in paths(inner, depth - 1):
                yield (name, *further), begin + selection + end


# All that can be done about drift, the more the worse it is.
POLICY: Json = {
    "responses": [
        {"fromSeverity": "LOW", "action": "MARK_STALE"},
        {"fromSeverity": "HIGH", "action": "OPEN_REVIEW"},
        {"fromSeverity": "MEDIUM", "action": "ROLL_BACK"},
    ],
    "degradation": [
        {"figure": "ERROR_RATE", "limit": "MAX_VALUE", "value": 0.5, "severity": "LOW"}
    ],
    "reason": "For this test.",
}

# A root field, its arguments for $n parents, and the type that the paths begin at.
ROOTS = {
    "experiments": ('experiments(filter: {{ nameContains: "{name}" }}, first: $n)', "Experiment"),
    "runs": ('runs(filter: {{ tag: {{ key: "of", equals: "{name}" }} }}, first: $n)', "Run"),
    "models": ('models(filter: {{ nameContains: "{name}" }}, first: $n)', "Model"),
    "modelVersions": (
        'modelVersions(filter: {{ modelName: "{name}-0" }}, first: $n)',
        "ModelVersion",
    ),
    "deployments": ('deployments(filter: {{ modelName: "{name}-0" }}, first: $n)', "Deployment"),
    "dataSets": ('dataSets(filter: {{ name: "{name}" }}, first: $n)', "DataSet"),
    "driftEvents": (
        'driftEvents(filter: {{ modelName: "{name}-0", severities: [HIGH] }}, first: $n)',
        "DriftEvent",
    ),
    "mlflowItems": ("mlflowItems(filter: {{ kinds: [RUN] }}, first: $n)", "MlflowItem"),
    "stagePolicies": (
        'stagePolicies(stage: STAGING, modelName: "{name}-0", first: $n)',
        "StagePolicy",
    ),
}
# What has no list of its own.
BETWEEN = (
    "MlflowLink",
    "Approval",
    "DeploymentMetrics",
    "DriftPolicy",
    "DriftResponse",
    "StageAssignment",
    "ValidationCheck",
    "ValidationReport",
)
# What it takes to find the model that an argument names.
FIND = {"stagePolicies": 1}
# Versions, policies, and all that rules look at, for all versions at once.
WHY_NOT = 3
# What is in production is looked at, too, where its approval is not in force, all at once.
IN_DOUBT = 3
WAYS = [
    (root, path, selection)
    for root, (_, name) in ROOTS.items()
    for path, selection in paths(object_type(name), DEPTH - 1)
]


@pytest_asyncio.fixture(scope="module")
async def live(database_url: str) -> AsyncIterator[Live]:
    """A service with an MLflow server that is not there."""
    async with serving(database_url, mlflow_uri=MLFLOW) as service:
        yield service


@pytest_asyncio.fixture(scope="module")
async def graph(live: Live) -> AsyncIterator[Graph]:
    async with Graph(live.url) as client:
        yield client


@pytest.fixture(scope="module")
async def rich(live: Live, graph: Graph) -> str:
    """The beginning of the names of experiments and models that have, one like the other, some of
    everything, each with everything that it can have; the newest, -0, has the most."""
    name = f"s{uuid4().hex[:10]}"
    for n in reversed(range(MANY)):
        await enrich(graph, name, f"{name}-{n}", 1 if n else MANY)
    mirror = await a_mirror(live.database)
    found = await graph.query(
        f'{{ experiments(filter: {{ nameContains: "{name}" }}) {{ nodes {{ id runs {{ nodes '
        "{ id modelVersions { id model { id } } } } } } }"
    )
    for id in sorted(set(_ids(found))):
        await mirror.item(id, SyncState.CONFLICT, conflicts=[("description", "a", "b")])
    return name


async def enrich(graph: Graph, common: str, name: str, runs: int) -> None:
    tags = [{"key": "of", "value": common}]
    await graph.done("createExperiment", {"name": name, "tags": tags}, "experiment { id }")
    # Even the best run has a parent.
    begun = await graph.done("logRun", {"experimentName": name}, "run { id }")
    parent = begun["id"]
    # What can be gone back to is of another version.
    selection = "modelVersion { id }"
    former = await graph.done("registerModelVersion", {"modelName": name}, selection)
    deployed: Json = {"modelVersion": former, "environment": "DEVELOPMENT"}
    good = await graph.done("createDeployment", deployed, "deployment { id }")
    await activate(graph, good["id"])
    for number in range(runs):
        run = await graph.done(
            "logRun",
            {
                "experimentName": name,
                "parentId": parent,
                "datasetFacts": {"name": common, "digest": name},
                "params": [{"key": "depth", "value": "3"}],
                "tags": tags,
                # Somewhat worse each time, so that people decide.
                "metrics": [{"key": "accuracy", "value": 0.9 - number / 50}],
                "artifacts": [{"name": "model", "path": "model.pkl"}],
            },
            "run { id }",
        )
        parent = run["id"]
        lines = [{"message": "hello"}]
        await graph.done("logRunOutput", {"runId": run["id"], "lines": lines}, "run { id }")
        version = await graph.done(
            "registerModelVersion",
            {"modelName": name, "runId": run["id"], "checklist": ["Read it"], "tags": tags},
            "modelVersion { id }",
        )
        of_version: Json = {"modelVersion": version}
        if not number:
            policy = {**POLICY, "modelName": name}
            await graph.mutate("setDriftPolicy", policy, **{"Lifecycle-Actor": "admin"})
        for mutation in ("submitForApproval", "withdrawApproval"):
            await graph.done(mutation, of_version, "approval { status }")
        await approved(graph, version)
        production = {**of_version, "stage": "PRODUCTION"}
        await graph.done("setStage", production, "modelVersion { id }")
        deployed = {**of_version, "environment": "DEVELOPMENT"}
        good = await graph.done("createDeployment", deployed, "deployment { id }")
        bad = await graph.done("createDeployment", deployed, "deployment { id }")
        await activate(graph, good["id"])
        bad |= of_version
        # Drift twice: the second event is of a deployment that the first one has made.
        for severity in ("MEDIUM", "HIGH"):
            await activate(graph, bad["id"])
            drift = {"modelVersion": bad["modelVersion"], "severity": severity, "metric": "psi"}
            drift |= {"deploymentId": bad["id"]}
            selection = "driftEvent { responses { deployment { id modelVersion { id } } } }"
            event = await graph.done("recordDriftEvent", drift, selection)
            bad = event["responses"][-1]["deployment"]
        # The last one stays live, and is what runs and data sets affect.
        await activate(graph, bad["id"])
        decision = {**of_version, "decision": "APPROVE"}
        await graph.mutate("decideApproval", decision, **{"Lifecycle-Actor": "approver"})
        # By now the version has been gone back to itself.
        drift = {**of_version, "severity": "LOW", "metric": "psi", "deploymentId": bad["id"]}
        await graph.done("recordDriftEvent", drift, "driftEvent { id }")
    goals = [{"key": "accuracy", "goal": "MAXIMIZE"}]
    input = {"name": name, "tags": tags, "metricGoals": goals}
    await graph.done("updateModel", input, "model { id }")
    admin = {"Lifecycle-Actor": "admin"}
    for n in range(runs):
        rule = {"metric": {"key": "accuracy", "atLeast": n, "severity": "INFO"}}
        policy = {"stage": "STAGING", "modelName": name, "rules": [rule]}
        await graph.mutate("setStagePolicy", policy, **admin)


async def activate(graph: Graph, id: str) -> None:
    """Bring a deployment up, with something of all that is reported."""
    metrics = {"requestCount": 1, "errorRate": 0.0, "avgLatencyMs": 1.0}
    report = {
        "id": id,
        "metrics": {**metrics, "observed": [{"key": "accuracy", "value": 0.9}]},
        "logLines": [{"message": "hello"}],
    }
    for status in WAY["ACTIVE"]:
        await graph.done("updateDeployment", {**report, "status": status}, "deployment { id }")
    await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")


async def cost(
    live: Live, graph: Graph, query: str, variables: Json | None = None
) -> tuple[int, Any]:
    """How many statements a query takes, and its data."""
    with recorded(live.database) as statements:
        data = await graph.query(query, variables)
    return len(statements), data


def reached(data: Any, path: tuple[str, ...]) -> int:
    """How many objects there are at the end of a path."""
    if data is None:
        return 0
    if isinstance(data, list):
        return sum(reached(item, path) for item in data)
    if "nodes" in data:
        return reached(data["nodes"], path)
    return reached(data[path[0]], path[1:]) if path else 1


@pytest.mark.parametrize("root", ROOTS)
async def test_many_parents_take_no_more_statements_than_one_on_every_path(
    live: Live, graph: Graph, rich: str, root: str
) -> None:
    begin, _ = ROOTS[root]
    wrong = []
    for of, path, selection in WAYS:
        if of != root:
            continue
        query = f"{begin.format(name=rich)} {{ nodes {{ {selection} }} }}"
        (one, few), (many, all_) = [
            await cost(live, graph, f"query ($n: Int!) {{ {query} }}", {"n": n}) for n in (1, MANY)
        ]
        where = ".".join((root, *path))
        # The one may be what is in production itself, which is compared with nothing.
        if many > one + IN_DOUBT * path.count("whyNot"):
            wrong.append(f"{where}: {one} for one parent, {many} for {MANY}")
        # Each step of the path is one statement, or two where it finds an id first; a leaf may be
        # a count or two.
        why_not = WHY_NOT * path.count("whyNot")
        if one > 1 + FIND.get(root, 0) + 2 * len(path) + 2 + why_not:
            wrong.append(f"{where}: {one} statements")
        # Without this the counts would say nothing.
        before, after = (reached(data[root], path[:-1]) for data in (few, all_))
        if before >= after or not reached(few[root], path):
            wrong.append(f"{where}: leads nowhere")

    assert wrong == []


@pytest.mark.parametrize("root", ROOTS)
async def test_everything_at_once_takes_at_most_two_statements_for_each_field(
    live: Live, graph: Graph, rich: str, root: str
) -> None:
    begin, name = ROOTS[root]
    type_ = object_type(name)
    fields = [selection for _, selection in paths(type_, 1)]
    selection = " ".join([leaves(type_), *fields])

    query = f"{begin.format(name=rich)} {{ nodes {{ {selection} }} }}"
    for n in (1, MANY):
        number, _ = await cost(live, graph, f"query ($n: Int!) {{ {query} }}", {"n": n})
        # Those of fields that lead to the same kind of object may be one, if they meet in time:
        # the number may vary, but not grow with the parents. Totals come on top.
        totals = selection.count("totalCount") + selection.count("Count ")
        why_not = WHY_NOT * selection.count("whyNot")
        assert number <= 1 + FIND.get(root, 0) + 2 * len(fields) + totals + why_not


async def test_objects_by_id_are_fetched_together_by_kind(
    live: Live, graph: Graph, rich: str
) -> None:
    found = await graph.query(
        f'{{ experiments(filter: {{ nameContains: "{rich}" }}, first: 5) {{ nodes {{ id '
        "runs(first: 5) { nodes { id modelVersions { id deployments(first: 5) { nodes { id "
        "driftEvents(first: 5) { nodes { id } } } } } } } } } }"
    )
    ids = sorted(set(_ids(found)))
    assert len(ids) > 50

    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    with recorded(live.database) as statements:
        data = await graph.query(query, {"ids": ids[:90]})

    assert [node["id"] for node in data["nodes"]] == ids[:90]
    assert len(statements) == 5


def _ids(data: Any) -> Iterator[str]:
    if isinstance(data, list):
        for item in data:
            yield from _ids(item)
    elif isinstance(data, dict):
        for name, value in data.items():
            if name == "id":
                yield value
            else:
                yield from _ids(value)


VERSION = 'modelVersion(by: { nameVersion: { modelName: "NAME", version: "2" } })'
CONNECTIONS = [
    "experiments FIELDS",
    "runs FIELDS",
    "models FIELDS",
    "modelVersions FIELDS",
    "deployments FIELDS",
    "driftEvents FIELDS",
    "auditLog FIELDS",
    "mlflowItems FIELDS",
    "dataSets FIELDS",
    "pendingApprovals FIELDS",
    "stagePolicies FIELDS",
    'experiment(name: "NAME") { runs FIELDS }',
    'model(name: "NAME") { versions FIELDS }',
    'model(name: "NAME") { stageHistory FIELDS }',
    f"{VERSION} {{ deployments FIELDS }}",
    f"{VERSION} {{ driftEvents FIELDS }}",
    'deployments(filter: { modelName: "NAME" }) { nodes { driftEvents FIELDS } }',
    'deployments(filter: { modelName: "NAME" }) { nodes { logs FIELDS } }',
    'runs(filter: { experimentName: "NAME" }) { nodes { logs FIELDS } }',
    'runs(filter: { experimentName: "NAME" }) { nodes { affectedDeployments FIELDS } }',
    "dataSets(first: 3) { nodes { runs FIELDS } }",
    "dataSets(first: 3) { nodes { affectedDeployments FIELDS } }",
]


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_total_is_counted_only_if_it_is_selected(
    live: Live, graph: Graph, rich: str, connection: str
) -> None:
    plain = "nodes { __typename } edges { cursor } pageInfo { hasNextPage endCursor }"
    begin = connection.replace("NAME", f"{rich}-0")

    without, _ = await cost(live, graph, f"{{ {begin.replace('FIELDS', f'{{ {plain} }}')} }}")
    counted, _ = await cost(
        live, graph, f"{{ {begin.replace('FIELDS', f'{{ {plain} totalCount }}')} }}"
    )

    # A log's length is kept with what it is the log of.
    assert counted - without == (0 if "logs" in connection else 1)


async def test_the_subjects_of_an_audit_log_take_one_statement_for_all_kinds(
    live: Live, graph: Graph, rich: str
) -> None:
    kinds = '["Model", "ModelVersion", "Deployment"]'
    selection = "nodes { action before after hash subject { __typename id } }"
    log = f"auditLog(filter: {{ subjectKinds: {kinds} }}, first: 100) {{ {selection} }}"

    number, data = await cost(live, graph, f"{{ {log} }}")

    found = {node["subject"]["__typename"] for node in data["auditLog"]["nodes"]}
    assert found == {"Model", "ModelVersion", "Deployment"}
    assert number == {"compiled": 1 + 1, "stock": 1 + len(found)}[EXECUTION]


async def test_no_field_of_a_plain_object_takes_a_statement(
    live: Live, graph: Graph, rich: str
) -> None:
    for root, (begin, name) in ROOTS.items():
        plain = [
            field_name
            for field_name, field in object_type(name).fields.items()
            if is_leaf_type(get_named_type(field.type))
            and field_name not in ("runCount", "deploymentCount", "artifactUrl")
        ]
        query = (
            f"query ($n: Int!) {{ {begin.format(name=rich)} {{ nodes {{ {' '.join(plain)} }} }} }}"
        )
        assert (await cost(live, graph, query, {"n": MANY}))[0] == 1 + FIND.get(root, 0), root


async def test_what_is_not_there_is_not_looked_for_again(live: Live, graph: Graph) -> None:
    unknown = global_id("Run")
    query = (
        "query ($id: ID!) { a: run(id: $id) { id } b: run(id: $id) { id } c: node(id: $id) { id } }"
    )

    with recorded(live.database) as statements:
        data = await graph.query(query, {"id": unknown})

    assert data == {"a": None, "b": None, "c": None}
    assert len(statements) == 1


async def test_how_everything_stands_with_mlflow_is_found_by_one_statement(
    live: Live, graph: Graph, rich: str
) -> None:
    link = "id mlflow { state }"
    version = f"{link} deployments {{ nodes {{ {link} }} }}"
    deep = {"compiled": 2, "stock": 3}[EXECUTION]
    for asked, statements in (
        (f'experiments(filter: {{ nameContains: "{rich}" }}) {{ nodes {{ {link} }} }}', 2),
        (f'modelVersions(filter: {{ modelName: "{rich}-0" }}) {{ nodes {{ {version} }} }}', deep),
        ("serverInfo { mlflow { uri } }", 1),
        ("serverInfo { mlflow { pending failed conflicts } }", 2),
    ):
        assert (await cost(live, graph, f"{{ {asked} }}"))[0] == statements, asked


async def test_without_an_mlflow_server_nothing_is_looked_up(live: Live, rich: str) -> None:
    query = (
        f'{{ experiments(filter: {{ nameContains: "{rich}" }}) '
        "{ nodes { mlflow { state } } } serverInfo { mlflow { pending } } }"
    )

    async with serving(live.database.url) as without, Graph(without.url) as graph:
        number, data = await cost(without, graph, query)

    assert number == 1
    assert data["serverInfo"] == {"mlflow": None}
    states = [each["mlflow"]["state"] for each in data["experiments"]["nodes"]]
    assert states == ["NOT_CONFIGURED"] * MANY


async def test_a_move_takes_as_few_statements_as_locks_and_rows_allow(
    live: Live, graph: Graph, unique: str
) -> None:
    """Locks on policies, model and versions, all that is read, a change for each version, the
    history; a key is held, looked up and kept."""
    await a_version_in(graph, unique, "PRODUCTION")
    version = await approved(graph, await a_version(graph, unique))

    async def statements(**input: str) -> int:
        asked = {"modelVersion": {"id": version["id"]}, **input}
        with recorded(live.database) as found:
            await graph.done("setStage", asked, "dryRun")
        return len(found)

    assert await statements(stage="PRODUCTION") == 5 + 2
    assert await statements(stage="ARCHIVED") == 5 + 1
    assert await statements(stage="EXPERIMENTAL", idempotencyKey=unique) == 5 + 1 + 3
    assert await statements(stage="EXPERIMENTAL", idempotencyKey=unique) == 3


async def test_a_refused_operation_takes_no_statement(live: Live, graph: Graph) -> None:
    with recorded(live.database) as statements:
        await graph.answer("{ experiments { nodes { nope } } }")
        await graph.answer("{ experiments(first: 101) { nodes { id } } }")
        await graph.answer('{ runs(after: "garbage") { nodes { id } } }')
        await graph.answer('{ run(id: "garbage") { id } }')
        await graph.mutate("createExperiment", {"name": ""})
        await graph.mutate("updateRun", {"id": "garbage"})

    assert statements == []


def test_the_walk_goes_everywhere() -> None:
    walked = {name for _, path, _ in WAYS for name in path}

    assert walked == {
        field_name
        for name in (*(name for _, name in ROOTS.values()), *BETWEEN)
        for field_name, field in object_type(name).fields.items()
        if item_type(field)[0]
    }
    assert len(WAYS) > 100
