"""Whatever is asked, plans give the same bytes as graphql-core.

Hypothesis makes documents from the schema: each kind of selection, directive and argument that it
has, good and bad. LIFECYCLE_TEST_DOCUMENTS says how many the slow test tries.
"""

import asyncio
import gc
import json
import os
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import orjson
import pytest
import pytest_asyncio
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLUnionType,
    get_named_type,
    is_leaf_type,
)
from graphql.execution import Executor as GraphQLCore
from graphql.execution.values import get_variable_values
from graphql.pyutils import Undefined
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from structlog.testing import capture_logs

from lifecycle.access.origin import Origin
from lifecycle.access.rules import EVERYTHING
from lifecycle.database import READERS, SPARE, Database, connections
from lifecycle.database.connections import MOST_AT_ONCE
from schema import executor
from schema.admission import Admission, Bounds
from schema.context import Context
from schema.execution import run as execution
from schema.execution.columns import Rest, Unusual
from schema.execution.schema import CompiledSchema
from schema.limits import MAX_ERRORS
from schema.root import Schema, schema
from schema.runs import Run
from tests import statements
from tests.client import Graph, Json
from tests.conftest import Live, MakeDatabase, serving
from tests.factories import a_run, a_version
from tests.following import until
from tests.graphql.test_statements import MANY, _ids, enrich
from tests.mirror import MLFLOW

TYPES = schema._schema.type_map
DEPTH = 4
# Links are signed with the time at which they were asked for.
VOLATILE = {"artifactUrl", "downloadUrl"}
# Bytes for one document: enough for all but the largest. They are drawn at once, because a draw of
# hypothesis takes as long as the execution of a field, and there are hundreds of choices.
CHANCE = 1024

T = TypeVar("T")

# Where a field fails at once, graphql-core does not wait for those beside it.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:coroutine '(GraphQLCoreConverter|Executor)\..* was never awaited:RuntimeWarning"
)


@dataclass(frozen=True)
class World:
    """A service with something of everything, and what in it can be asked for."""

    live: Live
    names: list[str]
    ids: list[str]


@dataclass
class Writing:
    """A document while it is written: its variables with their types and values, its fragments.

    `chance` decides all, two bytes at a time; when it has come to its end, the first of what can
    be chosen is.
    """

    chance: Iterator[tuple[int, int]]
    world: World
    variables: dict[str, tuple[str, Any]] = field(default_factory=dict)
    fragments: list[str] = field(default_factory=list)

    def below(self, number: int) -> int:
        high, low = next(self.chance, (0, 0))
        return (high * 256 + low) % number

    def one_in(self, number: int) -> bool:
        return self.below(number) == number - 1

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def variable(self, type_: str, value: Any) -> str:
        name = f"v{len(self.variables)}"
        self.variables[name] = (type_, value)
        return f"${name}"

    def directives(self) -> str:
        if not self.one_in(8):
            return ""
        chosen = []
        for name in self.one_of([["skip"], ["include"], ["skip", "include"]]):
            value = self.one_in(2)
            shown = self.variable("Boolean!", value) if self.one_in(2) else json.dumps(value)
            chosen.append(f" @{name}(if: {shown})")
        return "".join(chosen)


# Arguments


def an_argument(writing: Writing, name: str, type_: GraphQLInputType) -> str:
    """A value for an argument, written into the document or given as a variable."""
    value = an_input(writing, name, type_)
    if writing.one_in(4):
        return writing.variable(str(type_), plain(value))
    return literal(value)


class _Name(str):
    """The name of a member of an enum."""


def an_input(writing: Writing, name: str, type_: GraphQLInputType) -> Any:
    if isinstance(type_, GraphQLNonNull):
        return some_input(writing, name, type_.of_type)
    return None if writing.one_in(6) else some_input(writing, name, type_)


def some_input(writing: Writing, name: str, type_: GraphQLInputType) -> Any:
    if isinstance(type_, GraphQLList):
        return [an_input(writing, name, type_.of_type) for _ in range(writing.below(3))]
    if isinstance(type_, GraphQLEnumType):
        return _Name(writing.one_of(sorted(type_.values)))
    if isinstance(type_, GraphQLInputObjectType):
        if type_.extensions["strawberry-definition"].is_one_of:
            chosen = [writing.one_of(sorted(type_.fields))]
            of = {each: some_input(writing, each, type_.fields[each].type) for each in chosen}
            return of
        return {
            each: an_input(writing, each, input_.type)
            for each, input_ in type_.fields.items()
            if isinstance(input_.type, GraphQLNonNull) or writing.one_in(5)
        }
    bad = writing.one_in(30)
    match get_named_type(type_).name:
        case "Boolean":
            return writing.one_in(2)
        case "Int" | "BigInt":
            return writing.one_of([-1, 0, 101, 2**31] if bad else [1, 2, 3])
        case "Float":
            return writing.one_of([0.5, 1])
        case "ID":
            return writing.one_of(["garbage", ""] if bad else writing.world.ids)
        case "DateTime":
            return "2030-01-01T00:00:00+00:00"
        case _ if name in ("after", "before"):
            return "garbage" if bad else None
        case _:
            return writing.one_of([*writing.world.names, "accuracy", "1", "nowhere"])


def literal(value: Any) -> str:
    """A value as documents show it."""
    if isinstance(value, _Name):
        return str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {literal(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return json.dumps(value)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, str) else value


# Selections


def a_selection(writing: Writing, type_: Any, depth: int, apart: bool = False) -> str:
    """Something of a type. `apart`: beside it there may be something of another type, so that
    fields of one name need another alias in each."""
    if isinstance(type_, GraphQLUnionType):
        chosen = []
    else:
        chosen = [name for name in type_.fields if name not in VOLATILE]
    parts = ["__typename"] if not chosen or writing.one_in(4) else []
    for _ in range(1 + writing.below(3)):
        if writing.below(10) < 7 and chosen:
            parts.append(a_field(writing, type_, chosen, depth, apart))
        else:
            parts.append(a_fragment(writing, type_, depth, apart))
    return f"{{ {' '.join(part for part in parts if part) or '__typename'} }}"


def a_field(writing: Writing, type_: Any, names: list[str], depth: int, apart: bool) -> str:
    name = writing.one_of(names)
    definition = type_.fields[name]
    named = get_named_type(definition.type)
    leaf = is_leaf_type(named)
    if not leaf and depth == 0:
        return ""
    given = {
        each: an_argument(writing, each, argument.type)
        for each, argument in definition.args.items()
        if writing.one_in(4)
        or each == "first"
        or (isinstance(argument.type, GraphQLNonNull) and argument.default_value is Undefined)
    }
    if "last" in given and not writing.one_in(6):
        given.pop("first", None)
    arguments = f"({', '.join(f'{each}: {value}' for each, value in given.items())})"
    # The same again may be asked for twice, and is merged then; something else needs another name.
    alias = ""
    if given or apart or writing.one_in(6):
        mark = sum(map(ord, arguments)) if given else 0
        alias = f"{type_.name}_{name}_{mark}: "
    selection = "" if leaf else f" {a_selection(writing, named, depth - 1, is_abstract(named))}"
    return f"{alias}{name}{arguments if given else ''}{writing.directives()}{selection}"


def is_abstract(type_: Any) -> bool:
    return isinstance(type_, GraphQLInterfaceType | GraphQLUnionType)


def a_fragment(writing: Writing, type_: Any, depth: int, apart: bool) -> str:
    on = type_
    if is_abstract(type_):
        possible = schema._schema.get_possible_types(type_)
        on = writing.one_of([*possible, type_])
    elif type_.interfaces and writing.one_in(3):
        on = writing.one_of(type_.interfaces)
    if depth == 0:
        return f"... on {on.name} {{ __typename }}"
    selection = a_selection(writing, on, depth - 1, apart or on is not type_)
    match writing.below(3):
        case 0:
            name = f"f{len(writing.fragments)}"
            writing.fragments.append(f"fragment {name} on {on.name} {selection}")
            return f"...{name}{writing.directives()}"
        case 1 if on is type_:
            return f"...{writing.directives()} {selection}"
        case _:
            return f"... on {on.name}{writing.directives()} {selection}"


@dataclass(frozen=True)
class Request:
    """A document and the values of its variables."""

    text: str
    variables: dict[str, Any]


def a_request(chance: bytes, world: World) -> Request:
    writing = Writing(zip(chance[::2], chance[1::2], strict=True), world)
    selection = a_selection(writing, TYPES["Query"], 2 + writing.below(DEPTH - 1))
    declared = ", ".join(f"${name}: {type_}" for name, (type_, _) in writing.variables.items())
    text = " ".join(
        [f"query a{f'({declared})' if declared else ''}", selection, *writing.fragments]
    )
    return Request(text, {name: value for name, (_, value) in writing.variables.items()})


# Both executions


class _Counted(Schema):
    """Stock execution that counts how often it is asked."""

    def __init__(self, stock: Schema) -> None:
        self.__dict__.update(stock.__dict__)
        self.asked = 0

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return await super().execute(*args, **kwargs)


@dataclass
class Tally:
    """What came of the documents: all, those without errors, those answered by plans, and the
    objects in their answers."""

    all: int = 0
    good: int = 0
    compiled: int = 0
    objects: int = 0


HERE = HTTPConnection({"type": "http", "path": "/", "headers": [(b"host", b"here")]})


def a_context(live: Live, database: Database | None = None) -> Context:
    """That of a request."""
    origin, state = Origin("tester", "the-id", rights=EVERYTHING), live.app.state
    return Context(
        database or state.database,
        state.feed,
        state.storage,
        origin,
        HERE,
        MLFLOW,
        Admission(Bounds()),
    )


def agree(one: bytes, other: bytes) -> bool:
    """Whether two answers with errors differ in which error came first: of several that end the
    same object graphql-core shows that one, and it may be another each time."""
    mine, theirs = orjson.loads(one), orjson.loads(other)
    there = {tuple(error["path"]): error for error in theirs["errors"]}
    same = all(there.get(tuple(error["path"]), error) == error for error in mine["errors"])
    return bool(there) and mine["data"] == theirs["data"] and same


class Comparison:
    """Has requests executed in both ways."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stock = _Counted(schema)
        self._compiled = CompiledSchema(self._stock)
        self.tally = Tally()

    async def _answer(self, by: Schema, request: Request) -> tuple[bytes, Any]:
        result = await by.execute(request.text, request.variables, a_context(self._live))
        errors = [error.formatted for error in result.errors or ()]
        return orjson.dumps({"data": result.data, "errors": errors}), result

    async def check(self, request: Request) -> None:
        """The answers are the same, however the document is executed; only one with errors is left
        to graphql-core."""
        new, _ = await self._answer(self._compiled, request)
        stock, result = await self._answer(schema, request)
        before = self._stock.asked
        known, _ = await self._answer(self._compiled, request)
        fell_back = self._stock.asked > before

        for answer in (new, known):
            assert answer == stock or (result.errors and agree(answer, stock))
        tally = self.tally
        tally.all += 1
        if tally.all % 500 == 0:
            gc.collect()
        if not result.errors:
            assert not fell_back
            tally.good += 1
            tally.compiled += 1
            tally.objects += stock.count(b"{") - 1


@pytest_asyncio.fixture(scope="module")
async def world(migrated: MakeDatabase) -> AsyncIterator[World]:
    """On a database that nobody else writes to."""
    with migrated() as url:
        async with serving(url, mlflow_uri=MLFLOW) as live, Graph(live.url) as graph:
            names = [f"e-{number}" for number in range(MANY)]
            for number, name in enumerate(names):
                await enrich(graph, "e", name, 2 if number else MANY)
            found = await graph.query(
                "{ experiments { nodes { id runs(first: 5) { nodes { id modelVersions { id "
                "model { id } deployments(first: 2) { nodes { id driftEvents(first: 2) "
                "{ nodes { id } } } } } } } } } dataSets { nodes { id } } }"
            )
            yield World(live, names, sorted(set(_ids(found))))


async def compare(world: World, documents: int, **profile: Any) -> Tally:
    """Let hypothesis run in a thread of its own, because it waits for what the event loop does."""
    loop = asyncio.get_running_loop()
    comparison = Comparison(world.live)

    @settings(
        max_examples=documents,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        **profile,
    )
    @given(st.binary(min_size=CHANCE, max_size=CHANCE))
    def same(chance: bytes) -> None:
        request = a_request(chance, world)
        note(repr(request))
        asyncio.run_coroutine_threadsafe(comparison.check(request), loop).result()

    # Only here and there, where the warnings about what graphql-core leaves behind are expected:
    # in the midst of other code they cannot even be made.
    gc.disable()
    try:
        await asyncio.to_thread(same)
    finally:
        gc.enable()
        gc.collect()
    return comparison.tally


def check(tally: Tally, documents: int) -> None:
    """Nothing was shown if most documents failed or found nothing."""
    assert tally.all >= documents
    assert tally.good > tally.all * 0.5
    assert tally.objects > 2 * tally.all


async def test_plans_give_the_bytes_that_graphql_core_gives(world: World) -> None:
    check(await compare(world, 150, derandomize=True), 150)


async def test_what_is_wrong_below_what_is_not_there_is_nothing_unusual(world: World) -> None:
    runs = 'runs(orderBy: [{field: CREATED_AT, metric: "m"}]) { nodes { id } }'

    await Comparison(world.live).check(
        Request(f'{{ experiment(name: "nothing") {{ {runs} }} }}', {})
    )


@pytest.mark.slow
async def test_they_do_so_for_many_documents(world: World) -> None:
    documents = int(os.environ.get("LIFECYCLE_TEST_DOCUMENTS", "2500"))

    check(await compare(world, documents), documents)


@pytest.mark.parametrize("by", [schema, CompiledSchema(schema)], ids=["stock", "compiled"])
async def test_few_reads_of_one_operation_stand_in_line_with_those_of_others(
    world: World, by: Schema
) -> None:
    database = Database(world.live.database.url)
    # Given that all connections are taken
    async with AsyncExitStack() as taken:
        for n in range(READERS + SPARE):
            await taken.enter_async_context(
                database.shared(partial("principal {}".format, n)).read()
            )

        # When one operation asks for much
        lists = " ".join(f"a{n}: experiments(first: 1) {{ totalCount }}" for n in range(50))
        asked = asyncio.create_task(
            by.execute(f"{{ {lists} }}", None, a_context(world.live, database))
        )
        await until(lambda: database.waiting_to_read >= MOST_AT_ONCE)
        await asyncio.sleep(0.1)

        # Then others come soon after it
        assert database.waiting_to_read == MOST_AT_ONCE
    result = await asked
    assert (result.errors, len(result.data or ())) == (None, 50)
    await database.close()


async def test_where_the_database_is_gone_it_is_asked_once_and_both_say_the_same(
    world: World,
) -> None:
    # Given what accepts connections, and says nothing
    tried: list[object] = []

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.append(writer)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gone = Database(f"postgresql+asyncpg://me@127.0.0.1:{port}/gone?sslmode=disable")

        async def answer(by: Schema, text: str) -> tuple[Any, Any, int]:
            before = len(tried)
            result = await by.execute(text, None, a_context(world.live, gone))
            errors = sorted((error.formatted for error in result.errors or ()), key=str)
            return result.data, errors, len(tried) - before

        for text in (
            "query A { experiments(first: 1) { nodes { id } } }",
            'query B { a: experiment(name: "a") { id } b: model(name: "b") { name tags { key } } }',
            "query C { dataSets(first: 1) { totalCount } }",
        ):
            compiled = CompiledSchema(schema)
            # When it is asked for by a text that is new, and by one that is known
            new, known = await answer(compiled, text), await answer(compiled, text)
            data, errors, _ = await answer(schema, text)

            # Then
            assert new == known == (data, errors, 1)
            assert {error["extensions"]["code"] for error in errors} == {"UNAVAILABLE"}


LONG = {
    "columns of numbers": '{ runs(first: 5) { nodes { metricHistory(keys: ["accuracy"]) '
    "{ key steps values kinds timestamps a: steps b: values } } } }",
    "numbers and times": "{ experiments { edges { node { __typename status createdAt revision "
    "runs(first: 2) { totalCount } } } } }",
    "names": f"{{ runs {{ nodes {{ {'x' * 900}: status }} pageInfo {{ hasNextPage }} }} }}",
    "JSON": "{ experiments { nodes { models: runs { nodes { modelVersions { hyperparameters "
    "model { name } } } } } } }",
    "what PostgreSQL writes": "{ runs { nodes { metrics { key value step } } } }",
}


@pytest.mark.parametrize("what", LONG)
async def test_both_find_an_answer_as_long_as_the_other_does(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    stock, compiled = schema, CompiledSchema(_Counted(schema))

    async def answer(by: Schema, limit: int) -> tuple[Any, Any]:
        monkeypatch.setattr(executor, "MAX_SHOWN", limit)
        result = await by.execute(LONG[what], None, a_context(world.live))
        errors = [error.formatted for error in result.errors or ()]
        return orjson.dumps(result.data), errors

    # Given the lowest limit under which it is shown
    refused, shown = 0, 1_000_000
    while shown - refused > 1:
        limit = (refused + shown) // 2
        if (await answer(stock, limit))[1]:
            refused = limit
        else:
            shown = limit

    # Then a plan, made now or before, shows it under the same, and none of it under any other
    for _ in range(2):
        assert await answer(compiled, shown) == await answer(stock, shown)
        data, errors = await answer(compiled, refused)
        assert (data, errors) == await answer(stock, refused)
        assert data == b"null"
        assert errors[0]["extensions"] == {
            "code": "LIMIT_EXCEEDED",
            "name": "text",
            "limit": refused,
            "value": shown,
        }


async def test_a_plan_looks_for_one_mistake_in_variables_and_graphql_core_tells_of_all(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def noted(*given: Any, **more: Any) -> Any:
        found.append(get_variable_values(*given, **more))
        return found[-1]

    monkeypatch.setattr("schema.execution.schema.get_variable_values", noted)
    text = "query ($filter: RunFilter) { runs(filter: $filter) { totalCount } }"
    compiled = CompiledSchema(schema)
    for _ in range(2):
        unknown = {"filter": {f"k{n}": 1 for n in range(20)}}
        result = await compiled.execute(text, unknown, a_context(live))
        assert len(result.errors or ()) == 20

    assert [len(errors) for errors in found] == [1, 1]


MUCH = {
    "JSON of lists": "versions(first: 3) { nodes { hyperparameters } } "
    "b: versions(first: 2) { nodes { hyperparameters } }",
    "JSON that is not shown": "versions { nodes { whyNot { name } } }",
    "JSON of each": "versions { nodes { run { params { value } } } }",
    "what PostgreSQL writes": "versions { nodes { metrics { key value } } }",
}


@pytest.mark.parametrize("by", [schema, CompiledSchema(schema)], ids=["stock", "compiled"])
@pytest.mark.parametrize("what", MUCH)
async def test_an_operation_does_not_read_more_than_it_may_whatever_it_shows(
    graph: Graph, live: Live, unique: str, monkeypatch: pytest.MonkeyPatch, what: str, by: Schema
) -> None:
    # Given versions with 3,000 characters of each
    for n in range(3):
        run = await a_run(graph, unique, params=[{"key": f"{n}", "value": "x" * 3_000}])
        metrics = [{"key": f"{m:0250}", "value": 1.0} for m in range(12)]
        given = {"a": "x" * 3_000}
        await a_version(graph, unique, runId=run, metrics=metrics, hyperparameters=given)
    text = f'{{ model(name: "{unique}") {{ {MUCH[what]} }} }}'
    shown = await by.execute(text, None, a_context(live))

    # When no more than two may be read
    monkeypatch.setattr(connections, "MAX_READ", 8_000)
    results = [await by.execute(text, None, a_context(live)) for _ in range(2)]
    monkeypatch.undo()

    # Then
    for result in results:
        assert result.data is None
        [error] = result.errors or []
        assert (error.extensions or {}) == {
            "code": "LIMIT_EXCEEDED",
            "name": "read",
            "limit": 8_000,
            "value": 8_001,
        }
    # and the connections on which it was read go on.
    again = await by.execute(text, None, a_context(live))
    assert (shown.errors, orjson.dumps(shown.data)) == (None, orjson.dumps(again.data))


async def test_what_a_plan_has_read_before_it_gave_up_does_not_count(
    graph: Graph, live: Live, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a version, and what is wrong below it
    await a_version(
        graph, unique, runId=await a_run(graph, unique), hyperparameters={"a": "x" * 3_000}
    )
    wrong = "run { metricHistory(keys: [], maxPoints: 1) { key } }"
    text = f'{{ model(name: "{unique}") {{ versions {{ nodes {{ hyperparameters {wrong} }} }} }} }}'

    # When there is room for once
    monkeypatch.setattr(connections, "MAX_READ", 5_000)
    results = [await CompiledSchema(schema).execute(text, None, a_context(live)) for _ in range(2)]

    # Then, whether the text is new or known, that alone is said.
    told = [[error.message for error in result.errors or ()] for result in results]
    assert told == [["Ask for 2 to 10,000 points."]] * 2


async def test_what_is_large_is_not_read_in_one_statement(
    graph: Graph, live: Live, unique: str
) -> None:
    await a_version(graph, unique)
    lists = " ".join(
        f"l{n}: versions(first: {n}) {{ nodes {{ hyperparameters }} }}" for n in range(1, 10)
    )

    with statements.read(live.database) as asked:
        await graph.query(f'{{ model(name: "{unique}") {{ {lists} }} }}')

    most = [sql.count("model_version.hyperparameters") for sql, _ in asked]
    assert (sum(most), max(most)) == (9, 4)


@pytest.mark.parametrize("by", [schema, CompiledSchema(schema)], ids=["stock", "compiled"])
async def test_of_many_errors_the_first_are_told_alone(
    graph: Graph, live: Live, unique: str, monkeypatch: pytest.MonkeyPatch, by: Schema
) -> None:
    # Given what is wrong for each of many objects
    for _ in range(4):
        await a_run(graph, unique)
    wrong = " ".join(f"h{n}: metricHistory(keys: [], maxPoints: 1) {{ key }}" for n in range(30))
    which = f'filter: {{ experimentName: "{unique}" }}'
    located: list[object] = []
    of_field = GraphQLCore.handle_field_error

    def noted(executor: GraphQLCore[Any], *args: Any) -> None:
        located.append(args)
        of_field(executor, *args)

    monkeypatch.setattr(GraphQLCore, "handle_field_error", noted)

    # When
    result = await by.execute(
        f"{{ runs({which}) {{ nodes {{ {wrong} }} }} }}", None, a_context(live)
    )

    # Then no more are looked into than are told
    errors = result.errors or []
    assert result.data is None
    assert {error.message for error in errors} == {"Ask for 2 to 10,000 points."}
    assert 1 <= len(errors) <= len(located) == MAX_ERRORS


async def test_what_a_plan_has_read_is_not_held_while_it_is_read_once_more(
    graph: Graph, live: Live, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a query that is not for a plan, as is found when it has read
    def unusual(rest: Rest, objects: int) -> None:
        raise Unusual("as it happens")

    run = await a_run(graph, unique, params=[{"key": "a", "value": "1"}])
    monkeypatch.setattr(Rest, "take", unusual)
    plans: weakref.WeakSet[Any] = weakref.WeakSet()
    answer = execution.Run.answer

    async def noted(plan: execution.Run) -> Json:
        plans.add(plan)
        return await answer(plan)

    monkeypatch.setattr(execution.Run, "answer", noted)
    held: list[int] = []

    class Looking(Schema):
        async def execute(self, *args: Any, **kwargs: Any) -> Any:
            gc.collect()
            held.append(len(plans))
            return await super().execute(*args, **kwargs)

    stock = Looking.__new__(Looking)
    stock.__dict__.update(schema.__dict__)
    text = f'query T{unique[2:]} {{ run(id: "{run}") {{ params {{ value }} }} }}'
    await schema.execute(text, None, a_context(live))

    # When
    result = await CompiledSchema(stock).execute(text, None, a_context(live))

    # Then
    assert result.data == {"run": {"params": [{"value": "1"}]}}
    assert held == [0]


async def test_who_says_too_little_of_what_it_looks_at_is_answered_and_logged(
    graph: Graph, live: Live, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a resolver that looks at a column of which its type says nothing
    await a_run(graph, unique)
    monkeypatch.setattr(Run, "keys", ())

    # When it is asked for by a text that is known, but has no plan yet
    text = (
        f'query T{unique[2:]} {{ runs(filter: {{ experimentName: "{unique}" }}) '
        "{ nodes { name logs { totalCount } } } }"
    )
    await schema.execute(text, None, a_context(live))
    with capture_logs() as logged:
        result = await CompiledSchema(schema).execute(text, None, a_context(live))

    # Then
    assert (result.data, result.errors) == (
        {"runs": {"nodes": [{"name": None, "logs": {"totalCount": 0}}]}},
        None,
    )
    assert [line["event"] for line in logged] == ["execution.plan_failed"]
