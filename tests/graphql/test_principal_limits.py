"""What one principal may have of a process: how many operations, for how long, how often; under
both executors, over each transport. What all together may have is in test_admission.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any, cast

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from schema.sockets import SocketHandler
from tests.client import PATIENCE, Graph, Json, Socket, closed, socket
from tests.conftest import Live, serving
from tests.factories import a_deployment, a_run, a_version
from tests.following import until

STREAM = "text/event-stream"
CREATE = "mutation ($name: String!) { createExperiment(input: { name: $name }) { __typename } }"
FOLLOW = 'subscription { deploymentStatus(modelName: "of-nobody") { __typename } }'


@pytest_asyncio.fixture(scope="module", params=["compiled", "stock"])
async def limited(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    """A service that lets nobody have much at a time."""
    bounds = {"max_seconds": 0, "max_operations": 2, "max_subscriptions": 2}
    async with serving(database_url, execution=request.param, **bounds) as service:
        yield service


@pytest_asyncio.fixture(scope="module", params=["compiled", "stock"])
async def hurried(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    """A service in which nothing takes long."""
    async with serving(database_url, execution=request.param, max_seconds=1) as service:
        yield service


@pytest_asyncio.fixture
async def ada(limited: Live) -> AsyncIterator[Graph]:
    async with Graph(limited.url, "ada") as client:
        yield client


@pytest_asyncio.fixture
async def eve(limited: Live) -> AsyncIterator[Graph]:
    async with Graph(limited.url, "eve") as client:
        yield client


@pytest_asyncio.fixture
async def hasty(hurried: Live) -> AsyncIterator[Graph]:
    async with Graph(hurried.url) as client:
        yield client


def counted(unique: str) -> str:
    """A query that reads experiments, of a text that nobody else sends."""
    return f'{{ experiments(filter: {{ nameContains: "{unique}" }}) {{ totalCount }} }}'


def send(
    graph: Graph, query: str, variables: Json | None = None, **headers: str
) -> "asyncio.Task[httpx.Response]":
    body = {"query": query, "variables": variables}
    return asyncio.create_task(graph.http.post("/graphql", json=body, headers=headers))


def exceeded(name: str, limit: int, message: str) -> Json:
    return {
        "message": message,
        "extensions": {
            "code": "LIMIT_EXCEEDED",
            "name": name,
            "limit": limit,
            "value": limit + 1,
            "retryAfter": 1,
        },
    }


def silent(url: str, comes_from: str | None = None) -> connect:
    """A websocket on which nothing has been said."""
    return connect(
        url.replace("http", "ws", 1) + "/graphql",
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
        additional_headers={"X-Forwarded-For": comes_from} if comes_from else None,
        proxy=None,
    )


TOO_MANY = exceeded("operations", 2, "You may have 2 operations at a time; end one first.")
TOO_MANY_FOLLOWED = exceeded(
    "subscriptions", 2, "You may have 2 subscriptions at a time; end one first."
)


@pytest.mark.parametrize("known", [False, True])
async def test_more_operations_at_a_time_than_a_principal_may_have_are_refused(
    limited: Live, ada: Graph, eve: Graph, sql: asyncpg.Connection, unique: str, known: bool
) -> None:
    query = counted(unique)
    if known:
        await ada.query(query)
    async with sql.transaction():
        # Given two that cannot go on
        await sql.execute("LOCK TABLE experiment")
        waiting = [send(ada, query), send(ada, CREATE, {"name": f"{unique}-x"})]
        # which the service has, when a third is refused.
        async with asyncio.timeout(PATIENCE):
            while (refused := await send(ada, query)).status_code != 429:
                pass
        # When more come, over whichever transport
        streamed = await send(ada, query, accept=STREAM)
        async with socket(limited.url, actor="ada") as opened:
            id = await opened.start(query)
            over_socket = await opened.receive()
        # Then they are refused, whoever asks under another name is not
        others = await send(eve, "{ __typename }")

    assert refused.json() == {"errors": [TOO_MANY]}
    assert refused.headers["retry-after"] == "1"
    assert over_socket == {"id": id, "type": "error", "payload": [TOO_MANY]}
    assert '"name":"operations"' in streamed.text
    assert others.json() == {"data": {"__typename": "Query"}}
    # and there is room again.
    await asyncio.gather(*waiting)
    assert await ada.query(query) == {"experiments": {"totalCount": 1}}


async def idle(hurried: Live) -> None:
    """Wait until no connection is used, neither here nor in the database's eyes."""
    database = hurried.database
    pool: Any = database.write_engine.pool
    await until(lambda: not database.reading and not pool.checkedout())


async def until_nobody_reads(hurried: Live, sql: asyncpg.Connection) -> None:
    """Wait until no connection is used to read, neither here nor in the database's eyes. In the
    background somebody may want to write."""
    await until(lambda: not hurried.database.reading)
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if not await sql.fetchval(
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE NOT granted AND application_name = 'lifecycle-read'"
            ):
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("known", [False, True])
async def test_a_query_that_takes_too_long_is_ended_and_lets_go_of_its_connections(
    hurried: Live, hasty: Graph, sql: asyncpg.Connection, unique: str, known: bool
) -> None:
    # Given a query by batches, whose text the service has or has not seen before
    await hasty.done("createExperiment", {"name": unique}, "experiment { id }")
    query = f'{{ a: experiment(name: "{unique}") {{ name runs {{ totalCount }} }} }}'
    if known:
        await hasty.query(query)
    async with sql.transaction():
        await sql.execute("LOCK TABLE experiment, run")

        # When it cannot go on
        response = await send(hasty, query)
        async with socket(hurried.url) as opened:
            await opened.start(query)
            over_socket = await opened.receive()
        streamed = await send(hasty, query, accept=STREAM)

        # Then it is ended, while what it waits for is still not there
        await until_nobody_reads(hurried, sql)

    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["message"].startswith(
        "The operation was ended after 1 seconds, which is as long as one may take."
    )
    told = error["extensions"]
    assert (told["code"], told["name"], told["limit"]) == ("LIMIT_EXCEEDED", "seconds", 1)
    assert told["value"] >= 1
    assert "data" not in response.json()
    assert '"name":"seconds"' in streamed.text
    assert "seconds" in str(over_socket)
    assert (await hasty.query(query))["a"] == {"name": unique, "runs": {"totalCount": 0}}


async def test_a_change_that_takes_too_long_is_ended_and_has_not_happened(
    hurried: Live, hasty: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    async with sql.transaction():
        await sql.execute("LOCK TABLE experiment")

        response = await send(hasty, CREATE, {"name": unique})
        await idle(hurried)

    assert response.json()["errors"][0]["extensions"]["name"] == "seconds"
    assert await hasty.query(counted(unique)) == {"experiments": {"totalCount": 0}}
    # The pool has lost nothing.
    for n in range(10):
        await hasty.done("createExperiment", {"name": f"{unique}-{n}"}, "experiment { id }")


async def test_an_item_of_a_subscription_that_takes_too_long_is_answered_with_the_limit(
    hurried: Live, hasty: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # Given a subscription whose items need what nobody can read
    version = await a_version(hasty, unique, runId=await a_run(hasty, unique))
    query = (
        "subscription ($model: String!) { deploymentStatus(modelName: $model) { __typename "
        "... on DeploymentStatusEvent "
        "{ deployment { modelVersion { run { experiment { name } } } } } } }"
    )
    async with socket(hurried.url) as opened:
        await opened.start(query, {"model": unique})
        caught_up = await opened.receive()
        async with sql.transaction():
            await sql.execute("LOCK TABLE experiment")

            # When there is one
            deployment = await a_deployment(hasty, version)
            item = await opened.receive()

        # Then it is ended, and the next one comes.
        await hasty.done(
            "updateDeployment", {"id": deployment, "health": "HEALTHY"}, "deployment { id }"
        )
        following = await opened.receive()

    assert caught_up["payload"]["data"]["deploymentStatus"] == {"__typename": "CaughtUp"}
    [error] = item["payload"]["errors"]
    assert error["extensions"]["name"] == "seconds"
    assert "errors" not in following["payload"]
    await idle(hurried)


async def test_more_subscriptions_than_a_principal_may_have_are_refused_until_one_ends(
    limited: Live, ada: Graph, eve: Graph
) -> None:
    async def over_stream(graph: Graph) -> str:
        async with graph.http.stream(
            "POST", "/graphql", json={"query": FOLLOW}, headers={"accept": STREAM}
        ) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    return line
        return ""

    async with socket(limited.url, actor="ada") as first, socket(limited.url, actor="ada") as other:
        # Given two, on two sockets
        id = await first.start(FOLLOW)
        await first.receive()
        await other.start(FOLLOW)
        await other.receive()

        # When a third is asked for, over either transport
        refused_id = await other.start(FOLLOW)
        refused = await other.receive()
        streamed = await over_stream(ada)

        # Then it is refused, but not to another
        assert refused == {"id": refused_id, "type": "error", "payload": [TOO_MANY_FOLLOWED]}
        assert '"name":"subscriptions"' in streamed
        assert "CaughtUp" in await over_stream(eve)

        # until one ends.
        await first.send({"type": "complete", "id": id})
        await until(lambda: limited.app.state.admission.subscriptions.taken == 1)
        await other.start(FOLLOW)
        assert (await other.receive())["type"] == "next"

    # Nothing is counted that is over, however it ended.
    await until(lambda: limited.app.state.admission.subscriptions.taken == 0)


TOO_MANY_OPEN = "You may have 2 websockets at a time; end one first."
TOO_MANY_NEW = "You may have 2 websockets before connection_init at a time; end one first."


async def test_more_websockets_than_a_principal_may_have_are_closed_until_one_ends(
    database_url: str,
) -> None:
    async with serving(database_url, max_websockets=2) as service:
        open_now = service.app.state.admission.websockets
        async with socket(service.url, actor="ada"), socket(service.url, actor="ada") as last:
            # Given as many as one may have, When another is opened
            for _ in range(2):
                with closed(4429, TOO_MANY_OPEN):
                    async with socket(service.url, actor="ada"):
                        pass

            # Then it is closed, but not to another,
            async with socket(service.url, actor="eve") as other:
                await other.start("{ __typename }")
                assert (await other.receive())["payload"] == {"data": {"__typename": "Query"}}
            await until(lambda: open_now.taken == 2)
            # until one ends.
            await last.connection.close()
            await until(lambda: open_now.taken == 1)
            async with socket(service.url, actor="ada"):
                pass
        await until(lambda: open_now.taken == 0)


async def test_from_one_address_only_so_many_websockets_say_nothing(database_url: str) -> None:
    async with serving(database_url, max_websockets=2) as service:
        admission = service.app.state.admission
        async with silent(service.url) as first, silent(service.url):
            with closed(1013, TOO_MANY_NEW):
                async with socket(service.url):
                    pass

            # Who has said who it is does not count any more.
            await Socket(first).send({"type": "connection_init"})
            await until(lambda: (admission.newcomers.taken, admission.websockets.taken) == (1, 1))
            async with socket(service.url, actor="ada"):
                assert admission.websockets.taken == 2
        await until(lambda: (admission.newcomers.taken, admission.websockets.taken) == (0, 0))


@pytest.mark.parametrize("let_in", [True, False])
@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.close(),
        lambda connection: asyncio.sleep(0, connection.transport.abort()),
        lambda connection: connection.send("{"),
        lambda connection: connection.send(b"\xff", text=True),
        lambda connection: connection.send('{"type": "subscribe"}'),
        lambda connection: connection.send('{"type": "connection_init", "payload": {"actor": 1}}'),
        lambda connection: connection.send('{"type": "connection_init", "payload": 1}'),
    ],
)
async def test_a_websocket_does_not_count_once_it_has_ended_however_that_was(
    database_url: str, end: Callable[[ClientConnection], Awaitable[None]], let_in: bool
) -> None:
    async with serving(database_url, max_websockets=2) as service:
        admission = service.app.state.admission
        async with silent(service.url) as connection:
            if let_in:
                await connection.send('{"type": "connection_init"}')
                await until(lambda: admission.websockets.taken == 1)
            else:
                await until(lambda: admission.newcomers.taken == 1)

            await end(connection)

            await until(lambda: admission.websockets.taken + admission.newcomers.taken == 0)


async def test_a_subscription_is_short_because_it_is_held_as_long_as_it_lasts(
    limited: Live, ada: Graph
) -> None:
    variables = {"of": "x" * 20_000}
    length = len(FOLLOW) + len(orjson.dumps(variables))
    error = {
        "message": "A subscription and its variables may have 10,000 characters.",
        "extensions": {
            "code": "LIMIT_EXCEEDED",
            "name": "subscription",
            "limit": 10_000,
            "value": length,
        },
    }

    async with socket(limited.url, actor="ada") as opened:
        for query, given in (
            (FOLLOW, variables),
            (f"{FOLLOW}{' ' * (length - len(FOLLOW) - 2)}", {}),
        ):
            id = await opened.start(query, given)
            assert await opened.receive() == {"id": id, "type": "error", "payload": [error]}
        streamed = [each async for each in ada.stream(FOLLOW, variables)]
        assert streamed == [{"errors": [error]}]

        # A query is over soon.
        await opened.start("{ __typename }", variables)
        assert (await opened.receive())["payload"] == {"data": {"__typename": "Query"}}
    await until(lambda: limited.app.state.admission.subscriptions.taken == 0)


async def test_of_what_a_websocket_is_sent_only_what_is_needed_is_held(
    limited: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    junk = "x" * 50_000
    handlers = []
    began = SocketHandler.handle_connection_init

    async def begin(self: SocketHandler, message: Any) -> None:
        handlers.append(self)
        await began(self, message)

    monkeypatch.setattr(SocketHandler, "handle_connection_init", begin)
    async with socket(limited.url, actor="ada", junk=junk) as opened:
        payload = {"query": FOLLOW, "extensions": {"junk": junk}, "junk": junk}
        await opened.send({"type": "subscribe", "id": "1", "payload": payload})
        await opened.receive()
        [handler] = handlers
        [operation] = cast("dict[str, Any]", handler.operations).values()
        assert junk not in repr(handler.context.connection_params)
        assert junk not in repr(operation.asked)

        with closed(4400, "Malformed message"):
            await opened.send({"type": "subscribe", "id": junk, "payload": {"query": FOLLOW}})
            await opened.receive()


@pytest.mark.parametrize("execution", ["compiled", "stock"])
async def test_who_asks_too_often_is_told_when_to_come_back(
    database_url: str, execution: str
) -> None:
    message = "You may ask for 1 operations a second; wait a little."
    told = {"errors": [exceeded("rate", 1, message)]}
    async with (
        serving(database_url, execution=execution, max_rate=1) as service,
        Graph(service.url, "ada") as ada,
        Graph(service.url, "eve") as eve,
    ):
        # Given ten seconds' worth, of which it does not matter what they are
        answers = [await send(ada, query) for query in ("{ __typename }", "{ nope }", "{") * 4]

        # When there are more, over whichever transport
        refused = [answer for answer in answers if answer.status_code == 429]
        refused.append(await send(ada, "{ __typename }", accept="application/json"))
        refused.append(await send(ada, FOLLOW, accept=STREAM))
        async with socket(service.url, actor="ada") as opened:
            received = []
            for _ in range(3):
                await opened.start("{ __typename }")
                received.append(await opened.receive())

        # Then they are refused, but not to another.
        for response in refused:
            assert (response.status_code, response.json()) == (429, told)
            assert response.headers["retry-after"] == "1"
        assert {"id": received[-1]["id"], "type": "error", "payload": told["errors"]} in received
        assert await eve.query("{ __typename }") == {"__typename": "Query"}


SIZE = 'query ($n: Int) { experiments(first: $n, filter: { nameContains: "%s" }) { nodes { id } } }'
ASKED = {"cost": True}
COST = {"cost": {"value": 7 * 2, "limit": 50_000, "depth": 3, "fields": 3}}


@pytest.mark.parametrize("known", [False, True])
async def test_an_answer_says_the_cost_if_it_is_asked_to(
    limited: Live, ada: Graph, unique: str, known: bool
) -> None:
    query = SIZE % unique
    if known:
        await ada.query(query)
    payload: Json = {"query": query, "variables": {"n": 7}, "extensions": ASKED}

    answer = await ada.http.post("/graphql", json=payload)
    streamed = await ada.http.post("/graphql", json=payload, headers={"accept": STREAM})
    by_get = await ada.http.get(
        "/graphql", params={"query": "{ __typename }", "extensions": '{"cost": true}'}
    )
    async with socket(limited.url, actor="ada") as opened:
        await opened.send({"type": "subscribe", "id": "1", "payload": payload})
        over_socket = await opened.receive()

    expected = {"data": {"experiments": {"nodes": []}}, "extensions": COST}
    assert answer.json() == expected
    assert over_socket["payload"] == expected
    assert '"extensions":{"cost":{"value":14,"limit":50000,"depth":3,"fields":3}}' in streamed.text
    assert by_get.json()["extensions"] == {
        "cost": {"value": 0, "limit": 50_000, "depth": 1, "fields": 1}
    }


async def test_what_is_refused_says_its_cost_too_unless_it_is_no_operation(ada: Graph) -> None:
    large = "{ experiments(first: 100) { nodes { runs(first: 100) { nodes { logs(first: 100) "
    large += "{ nodes { line } } } } } } }"

    refused = await ada.http.post("/graphql", json={"query": large, "extensions": ASKED})
    unreadable = await ada.http.post("/graphql", json={"query": "{", "extensions": ASKED})

    assert refused.status_code == 422
    assert refused.json()["extensions"]["cost"]["value"] == 2_020_200
    assert "extensions" not in unreadable.json()


@pytest.mark.parametrize("extensions", [None, {}, {"cost": False}, {"cost": 1}, {"other": True}])
async def test_nobody_else_is_told_the_cost(ada: Graph, extensions: Json | None) -> None:
    body = {"query": "{ __typename }", "extensions": extensions}

    assert (await ada.http.post("/graphql", json=body)).json() == {"data": {"__typename": "Query"}}


async def test_a_subscription_says_its_cost_with_each_item(limited: Live) -> None:
    async with socket(limited.url, actor="ada") as opened:
        payload = {"query": FOLLOW, "extensions": ASKED}
        await opened.send({"type": "subscribe", "id": "1", "payload": payload})
        item = await opened.receive()

    assert item["payload"] == {
        "data": {"deploymentStatus": {"__typename": "CaughtUp"}},
        "extensions": {"cost": {"value": 1, "limit": 50_000, "depth": 2, "fields": 2}},
    }


# Names that are anybody's to choose


@pytest.mark.parametrize("execution", ["compiled", "stock"])
async def test_where_anybody_may_say_any_name_an_address_has_what_a_principal_may_have(
    database_url: str, unique: str, execution: str
) -> None:
    bounds: Json = {"max_rate": 1, "max_operations": 1, "max_subscriptions": 1, "max_websockets": 1}
    query = {"query": "{ me { name } }"}
    async with (
        serving(database_url, insecure=True, execution=execution, **bounds) as service,
        Graph(service.url) as client,
    ):

        async def ask(address: str) -> int:
            headers = {"Lifecycle-Actor": f"{unique}-{next(names)}", "X-Forwarded-For": address}
            return (await client.http.post("/graphql", json=query, headers=headers)).status_code

        async def close(address: str) -> int | None:
            async with silent(service.url, address) as connection:
                payload = {"actor": f"{unique}-{next(names)}"}
                await Socket(connection).send({"type": "connection_init", "payload": payload})
                await Socket(connection).receive()
            return connection.close_code

        names = count()
        async with asyncio.timeout(PATIENCE):
            # Given one address that asks under a new name each time
            while await ask("192.0.2.1") != 429:
                pass
        # then it has asked too often, and another has not.
        assert await ask("192.0.2.2") == 200
        async with silent(service.url, "192.0.2.3") as connection:
            await Socket(connection).send({"type": "connection_init", "payload": {}})
            await Socket(connection).receive()
            with pytest.raises(ConnectionClosed) as error:
                await close("192.0.2.3")
            assert error.value.rcvd is not None
            assert error.value.rcvd.code == 4429
            assert await close("192.0.2.4") == 1000
