"""Lists that PostgreSQL writes: the same bytes as from whoever writes them here."""

import random
import struct
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from math import inf, isfinite, nan
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, Double, Text, column, func, literal
from sqlalchemy import select as sql_select
from structlog.testing import capture_logs

from lifecycle.leaves import Leaf, Leaves, lists_by_key, written_together
from lifecycle.statements import Prepared
from schema import ids
from schema.limits import MAX_OBJECTS
from tests import statements
from tests.client import Graph
from tests.conftest import Live, serving
from tests.factories import a_deployment, a_run, a_version

COUNT = 2_000
TEXTS = ['"', "\\", "/", "\n\r\t\b\f\x01\x1f\x7f", "é€😀\u2028", "", "a" * 1_000, "null", "\ufeff"]
NUMBERS = [
    *(0.0, -0.0, 1.0, -1.0, 100.0, 0.1, 1 / 3, 1e-4, 9.99e-5, 1e-5, 1e-6, 3e-05, -2.5e-7),
    *(5e-324, 2.2250738585072014e-308, 1e14, 999999999999999.9, 1e15, 1000000000000000.5, 1e16),
    *(1e17, 123456789012345680.0, 1e21, 1e22, 1e100, 1.7976931348623157e308),
]


async def as_written(live: Live, values: Sequence[Any], type_: Any) -> str:
    """A list of objects with one field, which has these values one after the other."""
    given = func.unnest(literal(list(values), ARRAY(type_))).table_valued(
        column("value", type_), with_ordinality="place"
    )
    rows = given.render_derived().c
    leaves = Leaves([Leaf("value", "value")])
    statement = sql_select(literal(1), *written_together(rows, leaves, rows.place))
    async with live.database.read() as session:
        found = await session.fetch(Prepared(statement))
    text, number = lists_by_key(found)[1]
    assert number == len(values)
    return text


def expected(values: Sequence[Any]) -> str:
    return orjson.dumps([{"value": value} for value in values]).decode()


async def test_numbers_have_the_digits_that_they_have_elsewhere(live: Live) -> None:
    chance = random.Random(1)
    numbers = [
        *NUMBERS,
        *(struct.unpack("d", chance.randbytes(8))[0] for _ in range(COUNT)),
        *(chance.uniform(-1, 1) * 10 ** chance.randint(-6, 18) for _ in range(COUNT)),
        *(float(round(chance.uniform(-1, 1) * 10 ** chance.randint(0, 18))) for _ in range(COUNT)),
    ]
    finite = [number for number in numbers if isfinite(number)]

    assert await as_written(live, finite, Double) == expected(finite)
    # One by one, because one unusual number has all of its list written anew.
    usual = [number for number in finite if number == 0 or 1e-4 <= abs(number) < 1e15]
    assert await as_written(live, usual, Double) == expected(usual)


async def test_what_json_has_no_name_for_is_null(live: Live) -> None:
    assert await as_written(live, [nan, inf, -inf, 1.0], Double) == expected([None] * 3 + [1.0])


async def test_texts_moments_integers_and_booleans(live: Live) -> None:
    chance = random.Random(2)
    texts = [
        *TEXTS,
        *("".join(map(chr, chance.choices(range(1, 0xD7FF), k=20))) for _ in range(500)),
    ]
    begin = datetime(1, 1, 1, tzinfo=UTC)
    moments = [
        begin,
        datetime(2026, 11, 22, 3, 14, 15, tzinfo=UTC),
        datetime(2026, 11, 22, 3, 14, 15, 120000, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        *(begin + timedelta(microseconds=chance.randrange(10**17)) for _ in range(500)),
    ]

    assert await as_written(live, [*texts, None], Text) == expected([*texts, None])
    assert await as_written(live, [*moments, None], DateTime(True)) == expected([*moments, None])
    integers = [0, -1, 2**63 - 1, -(2**63), None]
    assert await as_written(live, integers, BigInteger) == expected(integers)
    assert await as_written(live, [True, False, None], Boolean) == expected([True, False, None])


@pytest_asyncio.fixture(scope="module")
async def live(database_url: str) -> AsyncIterator[Live]:
    """Who executes by plans."""
    async with serving(database_url, execution="compiled") as service:
        yield service


@pytest_asyncio.fixture(scope="module")
async def graph(live: Live) -> AsyncIterator[Graph]:
    async with Graph(live.url) as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def stock(database_url: str) -> AsyncIterator[Graph]:
    """The same data, from who writes everything here."""
    async with serving(database_url, execution="stock") as other, Graph(other.url) as graph:
        yield graph


METRICS = [
    {"key": "one", "value": 1.0, "step": 2**62},
    {"key": "small", "value": 3e-05},
    {"key": "large", "value": 1e20},
    {"key": "none", "kind": "NAN"},
    {"key": 'quoted "é" \\', "value": -0.25},
]
LISTS = """query ($ids: [ID!]!) { nodes(ids: $ids) {
    ... on Run { a: metrics { key, v: value, step, timestamp }, metrics(keys: ["one"]) { key } }
    ... on ModelVersion {
        checklist { title status note decidedBy decidedAt }
        deployments(first: 2) { nodes { environment at: createdAt } }
        newest: deployments(first: 1) { all: nodes { status health endpoint createdAt } }
    }
} }"""


async def test_lists_are_those_that_are_written_here(
    live: Live, graph: Graph, stock: Graph, unique: str
) -> None:
    run = await a_run(graph, unique, metrics=METRICS)
    other = await a_run(graph, unique)
    versions = [await a_version(graph, f"{unique}-{n}") for n in range(2)]
    for _ in range(3):
        await a_deployment(graph, versions[0])
    every = [run, other, *(each["id"] for each in versions)]

    for some in (every, [run, versions[0]["id"]], [other], [versions[1]["id"]]):
        with statements.read(live.database) as asked:
            found = await graph.answer(LISTS, {"ids": some})
        assert "errors" not in found
        assert found == await stock.answer(LISTS, {"ids": some})
        assert any("string_agg" in sql for sql, _ in asked)


PAGE = """query ($id: ID!, $cursor: String) {{ node(id: $id) {{
    ... on ModelVersion {{ deployments({0}) {{ nodes {{ createdAt }} {1} }} }}
}} }}"""


@pytest.mark.parametrize("beyond", ["first: 2, after: $cursor", "first: 9, after: $cursor"])
async def test_pages_of_leaves_go_on_where_others_do(
    graph: Graph, stock: Graph, unique: str, beyond: str
) -> None:
    version = await a_version(graph, unique)
    for _ in range(5):
        await a_deployment(graph, version)
    begin = PAGE.format("first: 2, after: $cursor", "pageInfo { endCursor }")
    page = (await graph.query(begin, {"id": version["id"]}))["node"]["deployments"]
    given = {"id": version["id"], "cursor": page["pageInfo"]["endCursor"]}

    leaves = await graph.query(PAGE.format(beyond, ""), given)

    assert leaves == await stock.query(PAGE.format(beyond, ""), given)
    nodes = leaves["node"]["deployments"]["nodes"]
    assert len(nodes) == (2 if "2" in beyond else 3)
    assert not [node for node in nodes if node in page["nodes"]]


VERSION = "query ($by: ModelVersionSelector!) { modelVersion(by: $by) { version id %s } }"
AROUND = """
    run { id __typename name at: startedAt } model { called: name }
    metrics { key value } checklist { title }
    deployments(first: 2) { nodes { id __typename environment } }
"""


async def test_one_object_with_ids_and_its_type(graph: Graph, stock: Graph, unique: str) -> None:
    run = await a_run(graph, unique, name='quoted "é" \\')
    ask = "query ($id: ID!) { run(id: $id) { id __typename again: name name commit: gitCommit } }"

    found = await graph.answer(ask, {"id": run})

    expected = {"id": run, "__typename": "Run", "again": 'quoted "é" \\', "name": 'quoted "é" \\'}
    assert found == {"data": {"run": {**expected, "commit": None}}}
    assert found == await stock.answer(ask, {"id": run})
    missing = ids.encode("Run", uuid4())
    assert await graph.answer(ask, {"id": missing}) == {"data": {"run": None}}


async def test_one_object_of_which_only_the_type_is_asked_is_there_or_not(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    ask = "query ($id: ID!) { run(id: $id) { __typename } }"

    assert await graph.query(ask, {"id": run}) == {"run": {"__typename": "Run"}}
    assert await graph.query(ask, {"id": ids.encode("Run", uuid4())}) == {"run": None}


async def test_an_object_and_what_is_around_it_are_asked_for_at_once(
    live: Live, graph: Graph, stock: Graph, unique: str
) -> None:
    # Given a version with all of it, one with nothing, and one that does not exist
    run = await a_run(graph, unique, metrics=METRICS)
    full = await a_version(graph, f"{unique}-a", runId=run, checklist=["One", "Two"])
    await a_deployment(graph, full)
    bare = await a_version(graph, f"{unique}-b")

    for model, there in (("a", True), ("b", True), ("c", False)):
        named = {"nameVersion": {"modelName": f"{unique}-{model}", "version": "1"}}
        with statements.read(live.database) as asked:
            found = await graph.answer(VERSION % AROUND, {"by": named})

        # Then
        assert found == await stock.answer(VERSION % AROUND, {"by": named})
        assert (found["data"]["modelVersion"] is not None) is there
        assert len([sql for sql, _ in asked if "journal_head" not in sql]) == 1
    by_id = await graph.query(VERSION % AROUND, {"by": {"id": full["id"]}})
    assert by_id["modelVersion"]["run"]["id"] == run
    assert len(by_id["modelVersion"]["metrics"]) == len(METRICS)
    in_stage = {"inStage": {"modelName": f"{unique}-b", "stage": "EXPERIMENTAL"}}
    found = await graph.query(VERSION % AROUND, {"by": in_stage})
    assert found["modelVersion"]["id"] == bare["id"]
    assert found["modelVersion"]["run"] is None


@pytest.mark.parametrize("listed", ["params { key }", "metrics { key }", "metrics { key kind }"])
async def test_an_answer_does_not_show_more_objects_than_there_may_be(
    graph: Graph, stock: Graph, unique: str, listed: str
) -> None:
    # Given lists that are longer than they are thought to be
    params = [{"key": f"p{n}", "value": "1"} for n in range(MAX_OBJECTS // 100)]
    metrics = [{"key": f"m{n}", "value": 1.0} for n in range(MAX_OBJECTS // 100)]
    run = await a_run(graph, unique, params=params, metrics=metrics)

    def asked(times: int) -> str:
        fields = " ".join(f"r{n}: run(id: $id) {{ {listed} }}" for n in range(times))
        return f"query ($id: ID!) {{ {fields} }}"

    # When
    whole = await graph.answer(asked(100), {"id": run})
    more = await graph.answer(asked(101), {"id": run})

    # Then
    assert "errors" not in whole
    (error,) = more["errors"]
    assert error["extensions"] == {
        "code": "LIMIT_EXCEEDED",
        "name": "objects",
        "limit": MAX_OBJECTS,
        "value": MAX_OBJECTS + 1,
    }
    assert "data" not in more
    assert more == await stock.answer(asked(101), {"id": run})


async def test_more_lists_than_one_statement_can_give_are_shown(
    graph: Graph, stock: Graph, unique: str
) -> None:
    await a_version(graph, unique, metrics=METRICS)
    lists = " ".join(f"m{n}: metrics {{ k{n}: key }}" for n in range(900))
    named = {"nameVersion": {"modelName": unique, "version": "1"}}

    # When the text is new, and when there is a plan for it
    with capture_logs() as logged:
        answers = [await graph.answer(VERSION % lists, {"by": named}) for _ in range(2)]

    assert answers == [await stock.answer(VERSION % lists, {"by": named})] * 2
    assert len(answers[0]["data"]["modelVersion"]) == 2 + 900
    assert "execution.plan_failed" not in [line["event"] for line in logged]


async def test_several_objects_are_found_by_their_own_keys(graph: Graph, unique: str) -> None:
    runs = [await a_run(graph, unique, name=f"run {n}") for n in range(3)]
    versions = [await a_version(graph, f"{unique}-{n}", runId=run) for n, run in enumerate(runs)]
    asked = " ".join(
        f'v{n}: modelVersion(by: {{ id: "{version["id"]}" }}) {{ version run {{ name }} }}'
        for n, version in enumerate([*versions, versions[0]])
    )

    found = await graph.query(f"{{ {asked} }}")

    names = [each["run"]["name"] for each in found.values()]
    assert names == ["run 0", "run 1", "run 2", "run 0"]


async def test_what_is_shown_again_is_read_once(live: Live, graph: Graph, unique: str) -> None:
    made = {"name": unique, "description": "x"}
    await graph.done("createExperiment", made, "experiment { id }")

    async def sent(selection: str) -> int:
        query = f"query ($name: String!) {{ experiment(name: $name) {{ {selection} }} }}"
        with statements.read(live.database) as found:
            await graph.query(query, {"name": unique})
        return sum(sql.count("description") for sql, _ in found)

    assert await sent(" ".join(f"a{n}: description" for n in range(100))) <= await sent(
        "description runs { totalCount }"
    )
