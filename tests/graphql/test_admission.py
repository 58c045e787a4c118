"""A burst: how many operations are executed at a time, how many wait, and what the rest is told."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import pytest
from graphql import DocumentNode, GraphQLError, GraphQLSchema, validate

from lifecycle.database import READERS
from schema import admission, ids
from schema.admission import MAX_ITEMS, MAX_MUTATIONS, MAX_QUERIES, Gate
from schema.subscriptions import Answer, Asked
from tests.client import PATIENCE, Graph, Json, socket
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version
from tests.following import until

WAITING = 2
FULL = "Too many operations wait already; try again."
CREATE = "mutation ($name: String!) { createExperiment(input: { name: $name }) { __typename } }"
REGISTER = (
    "mutation ($name: String!) { registerModelVersion(input: { modelName: $name }) { __typename } }"
)
UPDATE = 'mutation { updateDriftEvent(input: { id: "?" }) { __typename } }'


@pytest.fixture(autouse=True)
def few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING", WAITING)


def send(graph: Graph, query: str, **variables: Any) -> "asyncio.Task[httpx.Response]":
    body = {"query": query, "variables": variables}
    return asyncio.create_task(graph.http.post("/graphql", json=body))


def refused(message: str) -> Json:
    return {"errors": [{"message": message, "extensions": {"code": "UNAVAILABLE"}}]}


def counted(unique: str) -> str:
    """A query that reads experiments, of a text that nobody else sends."""
    return f'{{ experiments(filter: {{ nameContains: "{unique}" }}) {{ totalCount }} }}'


@pytest.mark.parametrize("known", [False, True])
async def test_of_a_burst_as_many_wait_as_may_and_the_rest_is_refused_at_once(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, known: bool
) -> None:
    # Given queries that cannot go on, whose text the service has or has not seen before
    query, gate = counted(unique), live.app.state.admission.queries
    await graph.query(query)
    async with sql.transaction():
        await sql.execute("LOCK TABLE experiment")

        # When more come than may be executed and wait
        burst: list[asyncio.Task[httpx.Response]] = []
        for n in range(MAX_QUERIES + WAITING + 3):
            burst.append(send(graph, query if known else f"{query} # {n}"))
            come = min(n + 1, MAX_QUERIES + WAITING)
            await until(lambda come=come: gate.running + gate.waiting == come)  # type: ignore[misc]
        await until(lambda: sum(task.done() for task in burst) >= 3)
        others = [await send(graph, query), await send(graph, "{ __typename }")]
        async with socket(live.url, actor="tester") as opened:
            id = await opened.start(query)
            over_socket = await opened.receive()
        changed = await send(graph, UPDATE)

    # Then the rest is refused, over whichever transport it comes
    answers = await asyncio.gather(*burst)
    told = [answer for answer in answers if answer.status_code != 200]
    assert len(told) == 3
    for answer in [*told, *others]:
        assert (answer.status_code, answer.json()) == (503, refused(FULL))
    assert over_socket == {"id": id, "type": "error", "payload": refused(FULL)["errors"]}
    # changes are made meanwhile
    assert changed.json() == {"data": {"updateDriftEvent": {"__typename": "InvalidInput"}}}
    # and those that have waited are answered.
    counts = [answer.json() for answer in answers if answer.status_code == 200]
    assert counts == [{"data": {"experiments": {"totalCount": 0}}}] * (MAX_QUERIES + WAITING)
    assert await graph.query(query) == {"experiments": {"totalCount": 0}}


async def test_who_has_waited_too_long_is_refused(
    graph: Graph, sql: asyncpg.Connection, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await graph.query(counted(unique))
    monkeypatch.setattr(admission, "MAX_SECONDS", 0.1)
    async with sql.transaction():
        await sql.execute("LOCK TABLE experiment")

        burst = [send(graph, counted(unique)) for _ in range(MAX_QUERIES + WAITING)]
        await until(lambda: sum(task.done() for task in burst) >= WAITING)

    answers = await asyncio.gather(*burst)
    told = [answer.json() for answer in answers if answer.status_code == 503]
    assert told == [refused("Too many operations were before this one; try again.")] * WAITING
    assert sum(answer.status_code == 200 for answer in answers) == MAX_QUERIES


async def test_whom_a_flood_is_not_from_is_answered_before_any_of_it_is_done(
    live: Live, graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    changing = live.app.state.admission.mutations
    await graph.query(counted(unique))
    await graph.query(CREATE, {"name": f"{unique} before"})
    async with sql.transaction(), Graph(live.url, "eve") as eve:
        # Given a principal who has all places, and all in line
        await sql.execute("LOCK TABLE experiment")
        flood = [send(graph, counted(unique)) for _ in range(MAX_QUERIES + WAITING)]
        names = [f"{unique}-{n}" for n in range(MAX_MUTATIONS + WAITING)]
        flood += [send(graph, CREATE, name=name) for name in names]
        await until(lambda: changing.waiting == WAITING)
        assert (await send(graph, UPDATE)).json() == refused(FULL)

        # When another asks, and changes something
        asked = await send(eve, f'{{ model(name: "{unique}") {{ id }} }}')
        changed = await send(eve, REGISTER, name=unique)

        # Then that is done first, with connections that the flood does not get.
        assert asked.json() == {"data": {"model": None}}
        done = {"__typename": "RegisterModelVersionSuccess"}
        assert changed.json() == {"data": {"registerModelVersion": done}}
        assert not any(task.done() for task in flood)
    assert {answer.status_code for answer in await asyncio.gather(*flood)} == {200}


class Reader:
    """Notes the documents that are validated, and waits with the first until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.go_on = threading.Event()
        monkeypatch.setattr("schema.documents.validate", self)

    def __call__(self, schema: GraphQLSchema, document: DocumentNode) -> list[GraphQLError]:
        assert document.loc is not None
        self.texts.append(document.loc.source.body)
        assert len(self.texts) > 1 or self.go_on.wait(30)
        return validate(schema, document)


@pytest.mark.parametrize("wrong", ["", "zzz"])
async def test_while_a_new_document_is_read_others_are_executed_and_the_next_is_whose_turn_it_is(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    known = counted(unique)
    await graph.query(known)
    gate = live.app.state.admission.readings
    async with Graph(live.url, "eve") as eve, socket(live.url, actor="tester") as opened:
        reader = Reader(monkeypatch)
        try:
            # Given a principal whose documents are all new, the first of which takes long
            texts = [f"{{ __typename {wrong} }} # {unique} {n}" for n in range(3)]
            flood = [send(graph, texts[0])]
            await until(lambda: reader.texts)
            flood.append(send(graph, texts[1]))
            await until(lambda: gate.waiting == 1)
            id = await opened.start(texts[2])
            await until(lambda: gate.waiting == 2)
            # and another, whose document is new, too
            new = send(eve, f"{{ __typename }} # {unique}")
            await until(lambda: gate.waiting + gate.running == 4)

            # When somebody asks what is known, then that is answered
            assert await eve.query(known) == {"experiments": {"totalCount": 0}}
            assert not any(task.done() for task in (*flood, new))
        finally:
            reader.go_on.set()

        # and principals take turns with what is read.
        answers = [await task for task in (new, *flood)]
        over_socket = await opened.receive()
    assert reader.texts == [texts[0], f"{{ __typename }} # {unique}", *texts[1:]]
    assert answers[0].json() == {"data": {"__typename": "Query"}}
    if wrong:
        told = [each.json()["errors"][0]["message"] for each in answers[1:]]
        told.append(over_socket["payload"][0]["message"])
        assert set(told) == {"Cannot query field 'zzz' on type 'Query'."}
        assert (over_socket["id"], over_socket["type"]) == (id, "error")
    else:
        shown = [each.json() for each in answers[1:]] + [over_socket["payload"]]
        assert shown == [{"data": {"__typename": "Query"}}] * 3


async def test_a_long_document_is_measured_when_it_is_its_principals_turn(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one that is known, and small enough with some variables only
    lists = " ".join(
        f"a{n}: runs(first: $n) {{ nodes {{ modelVersions {{ id }} }} }}" for n in range(40)
    )
    text = f"query ($n: Int) {{ {lists} }} # {unique} {'long' * 2_500}"
    found = await graph.query(text, {"n": 1})
    gate = live.app.state.admission.readings
    async with Graph(live.url, "eve") as eve:
        reader = Reader(monkeypatch)
        try:
            # When another is read
            new = send(graph, f"{{ __typename }} # {unique}")
            await until(lambda: reader.texts)
            known = [send(eve, text, n=n) for n in (1, 100)]

            # Then it waits
            await until(lambda: gate.waiting + gate.running == 3)
        finally:
            reader.go_on.set()
        small, large = [await task for task in known]
    assert (await new).status_code == 200
    # and is executed as it would be otherwise.
    assert small.json() == {"data": found}
    [error] = large.json()["errors"]
    assert error["extensions"]["name"] == "cost"


async def test_whoever_has_kept_the_loop_for_long_rests(
    graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given that all which waits for nothing takes long
    monkeypatch.setattr(admission, "_LONG_SECONDS", -1)
    rested: list[str] = []
    monkeypatch.setattr(Gate, "rest", lambda _, principal, seconds: rested.append(principal))

    # When something waits for the database, and something for nothing
    await graph.query(counted(unique))
    assert rested == []
    await graph.query(f"{{ __schema {{ queryType {{ name }} }} }} # {unique}")

    assert rested == ["tester"]


async def test_changes_that_wait_for_a_lock_keep_no_query_waiting(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await graph.query(CREATE, {"name": unique})
    async with sql.transaction():
        await sql.execute("LOCK TABLE experiment IN SHARE MODE")

        names = [f"{unique}-{n}" for n in range(MAX_MUTATIONS + WAITING + 3)]
        changes = [send(graph, CREATE, name=name) for name in names]
        await until(lambda: sum(task.done() for task in changes) >= 3)
        assert await graph.query(counted(unique)) == {"experiments": {"totalCount": 1}}

    answers = await asyncio.gather(*changes)
    assert sum(answer.status_code == 503 for answer in answers) == 3
    made = 1 + MAX_MUTATIONS + WAITING
    assert await graph.query(counted(unique)) == {"experiments": {"totalCount": made}}


async def test_between_the_fields_of_one_mutation_others_are_answered(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a mutation whose fields wait for nothing
    fields = 500
    aliases = UPDATE.removeprefix("mutation { ").removesuffix(" }")
    document = f"mutation {{ {' '.join(f'a{n}: {aliases}' for n in range(fields))} }}"
    another = "{ __typename }"
    await graph.query(another)
    order: list[str] = []
    asked: list[asyncio.Task[httpx.Response]] = []
    decode = ids.decode

    def decodes(*given: Any) -> Any:
        order.append("field")
        if not asked:
            asked.append(send(graph, another))
            asked[0].add_done_callback(lambda _: order.append("another"))
        return decode(*given)

    # When somebody asks while the first of them is executed
    monkeypatch.setattr(ids, "decode", decodes)
    answer = await graph.query(document)

    # Then that is answered before the last.
    assert list(answer.values()) == [{"__typename": "InvalidInput"}] * fields
    assert (await asked[0]).json() == {"data": {"__typename": "Query"}}
    assert order.count("field") == fields
    assert "another" in order[:fields]


FOLLOWING = 8


def followed(model: str, n: int | str) -> str:
    """A subscription that nobody else has, whose items read experiments."""
    return (
        f'subscription {{ deploymentStatus(modelName: "{model}") {{ ... on DeploymentStatusEvent '
        f"{{ d{n}: deployment {{ modelVersion {{ run {{ experiment {{ name }} }} }} }} }} }} }}"
    )


async def test_items_of_subscriptions_are_executed_when_it_is_their_principals_turn(
    live: Live,
    graph: Graph,
    sql: asyncpg.Connection,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given: one who follows the same in many ways, and another
    gate = live.app.state.admission.items
    executed: list[str] = []
    execute = Asked.execute

    async def counted(asked: Asked, item: object, whose: Callable[[], str]) -> Answer:
        executed.append(whose())
        return await execute(asked, item, whose)

    version = await a_version(graph, unique, runId=await a_run(graph, unique))
    async with socket(live.url, actor="ada") as ada, socket(live.url, actor="eve") as eve:
        async with socket(live.url, actor="ada") as leaving:
            for n in range(FOLLOWING):
                for opened in (ada, leaving):
                    await opened.start(followed(unique, f"{n}{'x' * (opened is leaving)}"))
                    assert (await opened.receive())["payload"] == {"data": {"deploymentStatus": {}}}
            # What both ask for alike is executed for who has less in line.
            for opened in (ada, eve):
                await opened.start(followed(unique, "_both"))
                await opened.receive()

            # when: something happens that takes long to tell
            monkeypatch.setattr(Asked, "execute", counted)
            async with sql.transaction():
                await sql.execute("LOCK TABLE experiment")
                await a_deployment(graph, version)
                await until(lambda: gate.running + gate.waiting == 2 * FOLLOWING + 1)

                # then: only so many are begun, the other's among them
                assert gate.running == MAX_ITEMS + 1
                assert sorted(executed) == [*["ada"] * MAX_ITEMS, "eve"]
                # others are answered meanwhile
                assert await graph.query("{ __typename }") == {"__typename": "Query"}
                await leaving.connection.close()
                await until(lambda: live.app.state.admission.subscriptions.taken == FOLLOWING + 2)

        # all who are still there get it, and for the others nothing more is executed.
        answers = [await ada.receive() for _ in range(FOLLOWING + 1)] + [await eve.receive()]
        await until(lambda: gate.running + gate.waiting == 0)
    names = [
        next(iter(answer["payload"]["data"]["deploymentStatus"].values()))["modelVersion"]["run"]
        for answer in answers
    ]
    assert names == [{"experiment": {"name": unique}}] * (FOLLOWING + 2)
    assert len(executed) <= FOLLOWING + 1 + MAX_ITEMS


async def test_subscriptions_begin_when_it_is_their_principals_turn(
    live: Live, graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # given: a document that has been read
    gate = live.app.state.admission.items
    run = await a_run(graph, unique)
    query = "subscription ($id: ID!) { runProgress(runId: $id) { __typename } }"
    async with socket(live.url, actor="ada") as ada, socket(live.url, actor="eve") as eve:
        await eve.start(query, {"id": run})
        first = [(await eve.receive())["payload"] for _ in range(2)]

        # when: one begins many, and another one, where what they begin with takes long
        async with sql.transaction():
            await sql.execute("LOCK TABLE run")
            for _ in range(FOLLOWING):
                await ada.start(query, {"id": run})
            waiting = FOLLOWING - MAX_ITEMS
            await until(lambda: (gate.running, gate.waiting) == (MAX_ITEMS, waiting))
            await eve.start(query, {"id": run})

            # then: the other's begins all the same
            await until(lambda: (gate.running, gate.waiting) == (MAX_ITEMS + 1, waiting))
            assert await graph.query("{ __typename }") == {"__typename": "Query"}

        # and all have begun in the end.
        begun = Counter[str]()
        for answer in [await ada.receive() for _ in range(len(first) * FOLLOWING)]:
            assert answer["payload"] in first
            begun[answer["id"]] += 1
        assert list(begun.values()) == [len(first)] * FOLLOWING
        assert [(await eve.receive())["payload"] for _ in range(2)] == first
    await until(lambda: gate.running + gate.waiting == 0)


async def who_waits(sql: asyncpg.Connection) -> int:
    """The process of the connection on which the service reads what is locked, once it waits."""
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND application_name = 'lifecycle-read'"
    )
    async with asyncio.timeout(PATIENCE):
        while (pid := await sql.fetchval(waiting)) is None:
            await asyncio.sleep(0.01)
            # Within a transaction the first look at who is connected is kept.
            await sql.execute("SELECT pg_stat_clear_snapshot()")
    return int(pid)


async def test_what_is_read_for_an_item_is_in_the_line_of_who_has_least_in_line_by_then(
    live: Live, graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # given: two who follow the same, and an item of which a part is being read
    run = await a_run(graph, unique)
    version = await a_version(graph, unique, runId=run)
    query = followed(unique, "_both").replace("{ name }", "{ runs { nodes { id } } }")
    async with socket(live.url, actor="ada") as ada, socket(live.url, actor="eve") as eve:
        for opened in (ada, eve):
            await opened.start(query)
            await opened.receive()
        async with AsyncExitStack() as asked:
            asking = []
            async with sql.transaction():
                await sql.execute("LOCK TABLE experiment")
                await a_deployment(graph, version)
                await who_waits(sql)

                # when: whose connection it is read with asks for much
                mine = max(("ada", "eve"), key=live.database.load)
                for _ in range(READERS):
                    much = asked.enter_async_context(live.database.shared(lambda: mine).read())
                    asking.append(asyncio.create_task(much))
                await until(lambda: live.database.load(mine) > READERS)

            # then: neither waits for it
            answers = [await ada.receive(), await eve.receive()]
            await asyncio.gather(*asking)
    for answer in answers:
        assert list(answer["payload"]["data"]["deploymentStatus"].values()) == [
            {"modelVersion": {"run": {"experiment": {"runs": {"nodes": [{"id": run}]}}}}}
        ]


async def test_an_item_that_cannot_be_looked_up_ends_the_subscription_and_comes_when_it_resumes(
    live: Live, graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # given
    version = await a_version(graph, unique, runId=await a_run(graph, unique))
    query = (
        "subscription ($model: String!, $after: String) { "
        "deploymentStatus(modelName: $model, after: $after) { "
        "... on CaughtUp { cursor } ... on DeploymentStatusEvent { cursor "
        "deployment { modelVersion { run { experiment { name } } } } } } }"
    )
    async with socket(live.url) as opened:
        id = await opened.start(query, {"model": unique})
        caught_up = (await opened.receive())["payload"]["data"]["deploymentStatus"]

        # when: the database is gone while an item is looked up
        async with sql.transaction():
            await sql.execute("LOCK TABLE experiment")
            await a_deployment(graph, version)
            await sql.execute("SELECT pg_terminate_backend($1)", await who_waits(sql))
            failed, ended = await opened.receive(), await opened.receive()

        # then
        assert failed["payload"]["data"] is None
        assert [each["extensions"]["code"] for each in failed["payload"]["errors"]] == [
            "UNAVAILABLE"
        ]
        assert ended == {"id": id, "type": "complete"}
        await opened.start(query, {"model": unique, "after": caught_up["cursor"]})
        resumed = (await opened.receive())["payload"]["data"]["deploymentStatus"]
        assert resumed["deployment"] == {"modelVersion": {"run": {"experiment": {"name": unique}}}}


async def test_a_subscription_that_cannot_begin_is_told_so_and_not_begun_otherwise(
    live: Live, graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # given
    run = await a_run(graph, unique)
    query = "subscription ($id: ID!) { runProgress(runId: $id) { __typename } }"
    async with socket(live.url) as opened:
        # when: the database is gone while it begins, and is there again
        async with sql.transaction():
            await sql.execute("LOCK TABLE run")
            id = await opened.start(query, {"id": run})
            await sql.execute("SELECT pg_terminate_backend($1)", await who_waits(sql))
        refused = await opened.receive()

        # then
        assert (refused["type"], refused["id"]) == ("error", id)
        assert [each["extensions"]["code"] for each in refused["payload"]] == ["UNAVAILABLE"]
        assert live.feed.subscribers == 0
        await opened.start(query, {"id": run})
        assert (await opened.receive())["type"] == "next"
