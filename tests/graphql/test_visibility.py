"""What a principal may not see does not exist for it, whichever way it asks.

The documents are made from the schema: each field of each type, with each of its arguments. What
they show to somebody who sees one side only is compared with what they showed to everybody before
the other side was there.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest_asyncio
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLUnionType,
    get_named_type,
    is_leaf_type,
)
from graphql.pyutils import Undefined

from lifecycle.tracking.rules import SyncState
from schema import ids
from schema.root import schema
from tests.client import Graph, Json
from tests.conftest import Live, MakeDatabase, serving
from tests.graphql.test_statements import enrich, object_type
from tests.mirror import MLFLOW, a_mirror
from tests.mutations import (
    MUTATIONS,
    World,
    a_world,
    contents,
    global_id,
    inputs,
)
from tests.restricted import seeing
from tests.statements import rows

TYPES = schema._schema.type_map
KINDS = [each.name for each in schema._schema.get_possible_types(TYPES["Node"])]  # type: ignore[arg-type]
CANARY = "canary"
ADMIN = "admin"
SEER = "seer"
# What the worlds have nothing of, and what no object says by that name.
EMPTY = {
    ("Approval", "notes"),
    ("Approval", "submissionNotes"),
    ("ApprovalDecision", "notes"),
    ("AuditEntry", "idempotencyKey"),
    ("DriftEvent", "acknowledgedAt"),
    ("DriftEvent", "acknowledgedBy"),
    ("EndpointConfig", "instanceType"),
    ("Experiment", "completedAt"),
    ("Experiment", "durationSeconds"),
    ("MlflowConflict", "reason"),
    ("MlflowLink", "lastSyncedAt"),
    ("MlflowLink", "url"),
    ("MlflowServer", "answeredAt"),
    ("MlflowServer", "behind"),
    ("MlflowServer", "error"),
    ("MlflowServer", "version"),
    ("Node", "id"),
    ("Run", "gitCommit"),
    ("Run", "source"),
    ("ValidationReport", "recommendations"),
}
# Of these it is only seen whether there is one: links are signed with the time at which they were
# asked for.
VOLATILE = {"artifactUrl", "downloadUrl"}
# Fields of the query that do not show rows of models: how far the journal goes.
OTHERS = {"auditHead"}

# What is not of rows but of who asks, and what is for those alone who administrate everything.
PRINCIPAL = {"me", "viewerCan", "roleGrants", "apiTokens"}


# Documents


@dataclass(frozen=True)
class Names:
    """What documents ask for: the names and ids of one side."""

    name: str
    run: str
    version: str
    deployment: str

    @classmethod
    def of(cls, world: World) -> "Names":
        return cls(world.name, world.run, world.version, world.deployment)

    def value(self, where: str) -> Any:
        """What an argument or a field of an input is given; one that is not here fails the test."""
        known: dict[str, Any] = {
            "Query.run.id": self.run,
            "Query.deployment.id": self.deployment,
            "Query.lineage.of": self.version,
            "Query.lineage.depth": 5,
            "Query.node.id": self.version,
            "Query.nodes.ids": [self.run, self.version, self.deployment],
            "Query.dataSet.digest": f"{self.name}-0",
            "Query.compareModelVersions.versions": ["1", "2"],
            "Query.compareModelVersions.baseline": "1",
            "ModelVersionSelector.id": self.version,
            "AuditLogFilter.subject": self.version,
            "AuditLogFilter.actors": ["tester"],
            "AuditLogFilter.subjectKinds": ["ModelVersion", "Run", "Deployment"],
            "AuditLogFilter.actions": ["model_version.registered", "run.created"],
            "TagConditionInput.key": "of",
            "TagConditionInput.equals": self.name,
            "ParamConditionInput.key": "depth",
            "ParamConditionInput.equals": "3",
            "first": 100,
            "last": 100,
            "maxPoints": 10,
            "name": self.name,
            "nameContains": self.name[-6:],
            "modelName": self.name,
            "experimentName": self.name,
            "owner": "o",
            "createdBy": "tester",
            "version": "1",
            "metric": "accuracy",
            "key": "accuracy",
            "keys": ["accuracy", "loss"],
            "value": 0.1,
            "gte": 0.1,
            "lte": 2,
            "equals": "3",
            "at": "2099-01-01T00:00:00Z",
            "activeAt": "2099-01-01T00:00:00Z",
            "from": "2020-01-01T00:00:00Z",
            "to": "2099-01-01T00:00:00Z",
        }
        return known[where] if where in known else known[where.rpartition(".")[2]]

    def values(self, where: str, type_: GraphQLInputType) -> Iterator[str]:
        """Values of an argument, as documents show them."""
        if isinstance(type_, GraphQLNonNull):
            yield from self.values(where, type_.of_type)
        elif isinstance(named := get_named_type(type_), GraphQLEnumType):
            every = list(named.values)
            yield from [f"[{' '.join(every)}]"] if isinstance(type_, GraphQLList) else every
        elif named.name == "Boolean":
            yield from ("false", "true")
        elif isinstance(named, GraphQLInputObjectType):
            for value in self.objects(named):
                yield f"[{value}]" if isinstance(type_, GraphQLList) else value
        else:
            yield json.dumps(self.value(where))

    def objects(self, type_: GraphQLInputObjectType) -> Iterator[str]:
        """An object with each field beside those that it must have."""
        of = {
            name: next(self.values(f"{type_.name}.{name}", field.type))
            for name, field in type_.fields.items()
            if isinstance(field.type, GraphQLNonNull) and field.default_value is Undefined
        }
        for name, field in type_.fields.items():
            for value in self.values(f"{type_.name}.{name}", field.type):
                yield f"{{ {' '.join(f'{k}: {v}' for k, v in {**of, name: value}.items())} }}"

    def arguments(self, type_: Any, name: str) -> Iterator[str]:
        """The arguments of a field: those that it must have and a bound, and each other beside."""
        every = type_.fields[name].args
        needed = {
            each: next(self.values(f"{type_.name}.{name}.{each}", argument.type))
            for each, argument in every.items()
            if isinstance(argument.type, GraphQLNonNull) and argument.default_value is Undefined
        }
        bound = {"first": "20"} if "first" in every else {}
        yield written({**needed, **bound})
        for each, argument in every.items():
            # Cursors are of what was shown before.
            if each not in ("first", "after", "before"):
                beside = bound if each != "last" else {}
                for value in self.values(f"{type_.name}.{name}.{each}", argument.type):
                    yield written({**needed, **beside, each: value})


def written(arguments: dict[str, str]) -> str:
    shown = " ".join(f"{name}: {value}" for name, value in arguments.items())
    return f"({shown})" if shown else ""


def asked(type_: Any) -> Iterator[tuple[str, Any]]:
    """The fields that show rows."""
    return ((name, field) for name, field in type_.fields.items() if name not in PRINCIPAL)


class Documents:
    """Documents, and which fields they ask for."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.covered: set[tuple[str, str]] = set()

    def selection(self, type_: Any, depth: int) -> str:
        """All that a type has, so many objects deep."""
        if isinstance(type_, GraphQLUnionType | GraphQLInterfaceType):
            if isinstance(type_, GraphQLInterfaceType):
                self.covered |= {(type_.name, name) for name in type_.fields}
            members = schema._schema.get_possible_types(type_)
            # Fields of one name may be of different types.
            each = (
                f"... on {member.name} {{ {self.fields(member, depth, member.name)} }}"
                for member in members
            )
            own = type_.fields if isinstance(type_, GraphQLInterfaceType) else ["__typename"]
            return " ".join([*own, *each])
        return self.fields(type_, depth)

    def fields(self, type_: GraphQLObjectType, depth: int, prefix: str = "") -> str:
        parts = ["__typename"]
        page = type_.name.endswith(("Connection", "Edge", "PageInfo"))
        for name, field in asked(type_):
            named = get_named_type(field.type)
            if page and name == "edges":
                shown = f"edges {{ {self.fields(object_type(named.name), 0)} }}"
            elif is_leaf_type(named):
                shown = name + next(self.names.arguments(type_, name))
            elif page or depth or name == "pageInfo":
                inner = self.selection(named, depth if page else depth - 1)
                shown = f"{name}{next(self.names.arguments(type_, name))} {{ {inner} }}"
            else:
                continue
            self.covered.add((type_.name, name))
            parts.append(f"{prefix}_{name}: {shown}" if prefix else shown)
        return " ".join(parts)

    def of_nodes(self, found: dict[str, set[str]]) -> Iterator[str]:
        """Each field of each kind of object that has an id, of these objects, and two objects deep
        all that it leads to; and once with each of its arguments."""
        for kind, known in found.items():
            type_ = object_type(kind)
            begin = f"{{ nodes(ids: {json.dumps(sorted(known))}) {{ ... on {kind} {{ __typename"
            yield f"{begin} {self.fields(type_, 0)} }} }} }}"
            for name, field in asked(type_):
                named = get_named_type(field.type)
                self.covered.add((kind, name))
                for n, arguments in enumerate(self.names.arguments(type_, name)):
                    if not is_leaf_type(named):
                        inner = self.selection(named, 0 if n else 1)
                        yield f"{begin} {name}{arguments} {{ {inner} }} }} }} }}"
                    elif n:
                        yield f"{begin} {name}{arguments} }} }} }}"

    def of_roots(self) -> Iterator[str]:
        """Each root field with each of its arguments, and one object deep what it leads to."""
        query = object_type("Query")
        for name, field in asked(query):
            self.covered.add(("Query", name))
            for n, arguments in enumerate(self.names.arguments(query, name)):
                inner = self.selection(get_named_type(field.type), 0 if n else 1)
                yield f"{{ {name}{arguments} {{ {inner} }} }}"


def outputs() -> set[tuple[str, str]]:
    """Every field of every type that a query can lead to."""
    found: set[tuple[str, str]] = set()
    todo: list[Any] = [TYPES["Query"]]
    seen = set()
    while todo:
        type_ = todo.pop()
        if type_.name in seen or is_leaf_type(type_):
            continue
        seen.add(type_.name)
        if isinstance(type_, GraphQLUnionType | GraphQLInterfaceType):
            todo += schema._schema.get_possible_types(type_)
        if not isinstance(type_, GraphQLUnionType):
            for name, field in asked(type_):
                found.add((type_.name, name))
                todo.append(get_named_type(field.type))
    return found


# Two sides


@dataclass(frozen=True)
class Scene:
    """A service with two models that may be seen and with hidden ones, which share an experiment,
    runs and a data set with them. `before` is what documents showed to everybody before there was
    anything hidden; `hidden_ids` are the ids of all that came afterwards."""

    live: Live
    graph: Graph
    seer: Graph
    seen: World
    hidden: World
    models: frozenset[UUID]
    documents: Documents
    before: dict[str, Json]
    hidden_ids: frozenset[str]


@pytest_asyncio.fixture(scope="module")
async def scene(migrated: MakeDatabase) -> AsyncIterator[Scene]:
    with migrated() as url:
        async with (
            serving(url, mlflow_uri=MLFLOW, administrators=frozenset({ADMIN, SEER})) as live,
            Graph(live.url) as graph,
            Graph(live.url, SEER) as seer,
        ):
            seen = await a_side(live, graph, "seen")
            await register_all(graph, seen.name)
            await numbered(live)
            documents = Documents(Names.of(seen))
            every = await nodes(graph, seen.name)
            known = {
                kind: {*of[:: max(1, len(of) // 3)]} | {*of}.intersection(asdict(seen).values())
                for kind, of in every.items()
            }
            asked = [*documents.of_nodes(known), *documents.of_roots()]
            # By the same principal, who sees everything as yet.
            before = {each: await answer(seer, each) for each in asked}
            there = await uuids(live)
            models = frozenset(row.id for row in await rows(live.database, "SELECT id FROM model"))
            hidden = await a_side(live, graph, CANARY)
            await entangle(graph, seen, hidden)
            await numbered(live)
            with seeing(seer=models):
                yield Scene(
                    live,
                    graph,
                    seer,
                    seen,
                    hidden,
                    models,
                    documents,
                    before,
                    frozenset(await uuids(live) - there),
                )


async def a_side(live: Live, graph: Graph, name: str) -> World:
    """A world, in which each mutation has been sent once, and one more model with much around
    it."""
    world = await a_world(live, graph, name)
    await enrich(graph, name, f"{name}-0", 1)
    for mutation, input in inputs(world).items():
        if mutation in ("createExperiment", "logRun", "resolveMlflowConflict"):
            continue
        given = marked({**input, "status": None} if mutation == "updateExperiment" else input, name)
        await graph.mutate(mutation, given, **{"Lifecycle-Actor": ADMIN})
    mirror = await a_mirror(live.database)
    found = await graph.query(
        "query ($name: String!, $id: ID!) { model(name: $name) { id } "
        "node(id: $id) { ... on ModelVersion { id run { experiment { id } } } } }",
        {"name": name, "id": world.version},
    )
    version = found["node"]
    for object in (found["model"]["id"], version["id"], version["run"]["experiment"]["id"]):
        await mirror.item(object, SyncState.FAILED, error=name, mlflow_id=f"{name}-{object}")
    return world


def marked(value: Any, name: str) -> Any:
    """An input in which each text that is only there to be there says whose it is."""
    if isinstance(value, dict):
        return {key: marked(each, name) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [marked(each, name) for each in value]
    return f"{name}-{value}" if isinstance(value, str) and value in set("cdefmnorst") else value


async def register_all(graph: Graph, model: str) -> None:
    """Have a version come out of every run."""
    found = await graph.query("{ runs(first: 100) { nodes { id modelVersions { id } } } }")
    for run in found["runs"]["nodes"]:
        if not run["modelVersions"]:
            input = {"modelName": model, "runId": run["id"]}
            await graph.done("registerModelVersion", input, "modelVersion { id }")


async def entangle(graph: Graph, seen: World, hidden: World) -> None:
    """Have hidden versions come out of a run that may be seen, and of one that is part of it and
    lies in its experiment, on its data; and have both of them deployed."""
    child = await graph.done(
        "logRun",
        {
            "experimentName": f"{seen.name}-0",
            "name": CANARY,
            "parentId": seen.run,
            "datasetFacts": {"name": seen.name, "digest": f"{seen.name}-0"},
            "metrics": [{"key": "accuracy", "value": 0.999}],
            "tags": [{"key": "of", "value": seen.name}, {"key": CANARY, "value": CANARY}],
            "params": [{"key": "depth", "value": "3"}],
        },
        "run { id }",
    )
    for run in (seen.run, child["id"]):
        made = await graph.done(
            "registerModelVersion",
            {"modelName": hidden.name, "runId": run, "description": CANARY},
            "modelVersion { id }",
        )
        deployed = {"modelVersion": made, "environment": "DEVELOPMENT", "endpoint": CANARY}
        await graph.done("createDeployment", deployed, "deployment { id }")


async def nodes(graph: Graph, model: str) -> dict[str, list[str]]:
    """Some objects of each kind that has ids, by kind."""
    lists = {
        "Experiment": "experiments",
        "Run": "runs",
        "DataSet": "dataSets",
        "Model": "models",
        "ModelVersion": "modelVersions",
        "Deployment": "deployments",
        "DriftEvent": "driftEvents",
        "StagePolicy": "stagePolicies",
        "DriftPolicy": "driftPolicies",
        "MlflowItem": "mlflowItems",
    }
    assert lists.keys() == set(KINDS), "a kind of object with ids must be walked, too"
    found = {}
    for kind, name in lists.items():
        chosen = f'modelName: "{model}"' if kind.endswith("Policy") else ""
        data = await graph.query(f"{{ {name}({chosen} first: 100) {{ nodes {{ id }} }} }}")
        found[kind] = [node["id"] for node in data[name]["nodes"]]
    return found


async def numbered(live: Live) -> None:
    """Wait until each event has its position."""
    while await rows(live.database, "SELECT 1 FROM event WHERE position IS NULL"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def uuids(live: Live) -> set[str]:
    """All ids in the database, in each form that an answer may have them in."""
    found: set[str] = set()
    columns = await rows(
        live.database,
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'uuid'",
    )
    for table, column in columns:
        for (id,) in await rows(live.database, f"SELECT DISTINCT {column} FROM {table}"):
            if id is not None:
                found.update((str(id), id.hex, *(ids.encode(each, id) for each in KINDS)))
    return found


async def answer(graph: Graph, query: str) -> Json:
    """The whole answer, without what changes by itself."""
    found: Json = without_what_changes(await graph.answer(query))
    return found


def without_what_changes(value: Any) -> Any:
    if isinstance(value, list):
        return [without_what_changes(each) for each in value]
    if isinstance(value, dict):
        return {
            name: each is not None
            if name.rpartition("_")[2] in VOLATILE
            else without_what_changes(each)
            for name, each in value.items()
        }
    return value


async def test_the_documents_ask_for_every_field(scene: Scene) -> None:
    assert scene.documents.covered == outputs()


async def test_the_documents_find_something_of_every_field(scene: Scene) -> None:
    found: set[tuple[str, str]] = set()
    for answer in scene.before.values():
        note(answer["data"], found)

    assert outputs() - found == EMPTY, outputs() - found ^ EMPTY


def note(value: Any, found: set[tuple[str, str]]) -> None:
    """Add the fields that are not empty, by the types that they are of."""
    if isinstance(value, list):
        for each in value:
            note(each, found)
    elif isinstance(value, dict):
        for name, each in value.items():
            if each not in (None, [], {}):
                found.add(
                    (
                        value.get("__typename", "Query"),
                        name.removeprefix(f"{value.get('__typename')}_"),
                    )
                )
                note(each, found)


async def test_who_sees_one_side_is_shown_what_all_were_shown_before_there_was_another(
    scene: Scene,
) -> None:
    for query, before in scene.before.items():
        if query.strip("{ ").startswith(tuple(OTHERS)):
            continue
        found = await answer(scene.seer, query)

        text = orjson.dumps(found).decode()
        assert CANARY not in text, query
        assert not [id for id in scene.hidden_ids if id in text], query
        assert found == before, query


async def test_who_asks_for_what_is_hidden_is_answered_as_if_it_were_not_there(
    scene: Scene,
) -> None:
    hidden, ghost = Names.of(scene.hidden), Names.of(a_ghost(scene.hidden))
    asked = zip(Documents(hidden).of_roots(), Documents(ghost).of_roots(), strict=True)
    shown = set()
    for about_hidden, about_nothing in asked:
        if about_hidden.strip("{ ").startswith(tuple(OTHERS)):
            continue
        found = await answer(scene.seer, about_hidden)
        assert disguised(found, hidden, ghost) == await answer(scene.seer, about_nothing), (
            about_hidden
        )
        if CANARY in str((await answer(scene.graph, about_hidden))["data"]):
            shown.add(about_hidden.strip("{ ").partition("(")[0].partition(" ")[0])

    # Everybody else is shown it by the very same documents.
    assert object_type("Query").fields.keys() - PRINCIPAL - shown == OTHERS | {"serverInfo"}


async def test_what_is_hidden_is_not_found_by_an_argument_of_what_is_seen(scene: Scene) -> None:
    hidden, ghost = Names.of(scene.hidden), Names.of(a_ghost(scene.hidden))
    of = {
        kind: set(sorted(found)[:3])
        for kind, found in (await nodes(scene.seer, scene.seen.name)).items()
    }
    asked = zip(Documents(hidden).of_nodes(of), Documents(ghost).of_nodes(of), strict=True)
    by_arguments = [pair for pair in asked if pair[0] != pair[1]]
    assert by_arguments

    for about_hidden, about_nothing in by_arguments:
        found = await answer(scene.seer, about_hidden)
        assert disguised(found, hidden, ghost) == await answer(scene.seer, about_nothing), (
            about_hidden
        )


async def test_no_id_of_what_is_hidden_leads_to_it(scene: Scene) -> None:
    seen = await nodes(scene.seer, scene.seen.name)
    every = await nodes(scene.graph, scene.hidden.name)
    hidden = {id for kind in every for id in {*every[kind]} - {*seen[kind]}}
    assert {ids.split(id)[0] for id in hidden} == set(KINDS)

    for id in hidden:
        query = "query ($id: ID!) { node(id: $id) { __typename } lineage(of: $id) { truncated } }"
        found = await scene.seer.answer(query, {"id": id})
        assert found["data"] == {"node": None, "lineage": None}


def a_ghost(world: World) -> World:
    """The names and ids of a world that is nowhere."""

    def other(value: str) -> str:
        return f"ghost-{uuid4().hex[:8]}" if value == world.name else global_id(ids.split(value)[0])

    return World(**{name: other(value) for name, value in asdict(world).items()})


def disguised(value: Any, *pair: Any) -> Any:
    """The value with one world's names and ids replaced by those of the other."""
    text = json.dumps(value)
    of, to = map(asdict, pair)
    for name in sorted(of, key=lambda name: -len(of[name])):
        text = text.replace(of[name], to[name])
    return json.loads(text)


# Mutations


def references(value: Any, world: World, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where an input names an object of the world."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from references(each, world, (*path, key))
    elif isinstance(value, list):
        for n, each in enumerate(value):
            yield from references(each, world, (*path, n))
    elif value in asdict(world).values():
        yield path


def replaced(value: Any, path: tuple[Any, ...], of: World, to: World) -> Any:
    """The input with another world's object in one place."""
    if not path:
        return getattr(to, next(name for name, each in asdict(of).items() if each == value))
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], of, to)
    return changed


# Whoever makes something is told that its name is taken.
TELLS = {"createExperiment"}


async def test_mutations_are_answered_as_if_what_is_hidden_were_not_there(scene: Scene) -> None:
    hidden, ghost = scene.hidden, a_ghost(scene.hidden)
    before = await contents(scene.live.database)

    for mutation in MUTATIONS.keys() - TELLS:
        for one, other in pairs(mutation, scene.seen, hidden, ghost):
            found = await scene.seer.mutate(mutation, one)
            assert found.get("code") == "NOT_FOUND", (mutation, one, found)
            assert disguised(found, hidden, ghost) == await scene.seer.mutate(mutation, other)

    assert await contents(scene.live.database) == before


async def test_what_failed_of_what_is_hidden_is_not_tried_again(scene: Scene) -> None:
    async def failed() -> list[str]:
        query = "{ mlflowItems(filter: { states: [FAILED] }) { nodes { id } } }"
        found = await scene.graph.query(query)
        return [node["id"] for node in found["mlflowItems"]["nodes"]]

    seen = (await nodes(scene.seer, scene.seen.name))["MlflowItem"]
    hidden = [id for id in await failed() if id not in seen]
    assert hidden

    await scene.seer.done("retryMlflowSync", {}, "mlflowServer { __typename }")

    assert await failed() == hidden


def pairs(mutation: str, seen: World, hidden: World, ghost: World) -> Iterator[tuple[Json, Json]]:
    """Inputs that name something hidden, each beside the same that names what is not there: all of
    another world, and all of this one but for one place."""
    yield inputs(hidden)[mutation], inputs(ghost)[mutation]
    given = inputs(seen)[mutation]
    # With this it would be found again.
    given.pop("dedupKey", None)
    there = list(references(given, seen))
    assert there, f"{mutation} names nothing"
    for path in there:
        yield replaced(given, path, seen, hidden), replaced(given, path, seen, ghost)
    if "modelVersion" in given:
        for selector in SELECTORS:
            yield (
                {**given, "modelVersion": selector(hidden)},
                {**given, "modelVersion": selector(ghost)},
            )


SELECTORS = (
    lambda world: {"id": world.version},
    lambda world: {"nameVersion": {"modelName": world.name, "version": "1"}},
    lambda world: {"inStage": {"modelName": world.name, "stage": "PRODUCTION"}},
)
