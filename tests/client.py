"""A GraphQL client for tests: HTTP, and subscriptions over graphql-transport-ws and SSE."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any, Self

import httpx
import orjson
import pytest
from graphql import GraphQLUnionType
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from schema.root import schema

Json = dict[str, Any]

# Seconds for what must happen: many, because nothing is measured by them, and because others may
# be at work on the same machine.
PATIENCE = 120

REPORT = "passed stage checks { name category passed severity observed required message }"

# What failures say besides code, message and path.
_DETAILS = {
    "InvalidTransition": "... on InvalidTransition { from to allowed }",
    "StaleRevision": "... on StaleRevision { currentRevision }",
    "GateFailed": f"... on GateFailed {{ report {{ {REPORT} }} }}",
    "ApprovalRequired": f"... on ApprovalRequired {{ status report {{ {REPORT} }} }}",
}


def _members(mutation: str) -> list[str]:
    union = schema._schema.type_map[f"{mutation}Result"]
    assert isinstance(union, GraphQLUnionType)
    return [member.name for member in union.types]


class Graph:
    """The service at a URL, asked under a name, or with a token."""

    def __init__(self, url: str, actor: str = "tester", token: str | None = None) -> None:
        self.url = url
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {"Lifecycle-Actor": actor},
            timeout=PATIENCE,
            # Less than the server's five seconds, or one sends while the other hangs up.
            limits=httpx.Limits(keepalive_expiry=2),
            trust_env=False,
            # Nothing speaks TLS; reading whom the world trusts would take longer than most tests.
            verify=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def answer(self, query: str, variables: Json | None = None, **headers: str) -> Json:
        """The whole answer, errors included."""
        response = await self.http.post(
            "/graphql", json={"query": query, "variables": variables}, headers=headers
        )
        found: Json = response.json()
        return found

    async def query(self, query: str, variables: Json | None = None, **headers: str) -> Json:
        """The data of an operation that must not have errors."""
        answer = await self.answer(query, variables, **headers)
        assert "errors" not in answer, answer["errors"]
        data: Json = answer["data"]
        return data

    async def error(self, query: str, variables: Json | None = None) -> Json:
        """The only top-level error of an operation."""
        answer = await self.answer(query, variables)
        assert len(answer["errors"]) == 1, answer
        found: Json = answer["errors"][0]
        return found

    async def mutate(self, name: str, input: Json, selection: str = "", **headers: str) -> Json:
        """The result of a mutation, whichever member of its union it is. `selection` is what to
        read of the success."""
        capital = name[0].upper() + name[1:]
        document = f"""
            mutation ($input: {capital}Input!) {{
              {name}(input: $input) {{
                __typename
                ... on Error {{ code message path }}
                {" ".join(_DETAILS[kind] for kind in _members(capital) if kind in _DETAILS)}
                {f"... on {capital}Success {{ {selection} }}" if selection else ""}
              }}
            }}"""
        found: Json = (await self.query(document, {"input": input}, **headers))[name]
        return found

    async def done(self, name: str, input: Json, selection: str) -> Json:
        """The one object in the success of a mutation that must succeed."""
        result = await self.mutate(name, input, selection)
        assert result.pop("__typename").endswith("Success"), result
        found: Json = next(iter(result.values()))
        return found

    async def stream(self, query: str, variables: Json | None = None) -> AsyncIterator[Json]:
        """What a subscription sends over SSE: the payload of each `next`."""
        async with self.http.stream(
            "POST",
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"accept": "text/event-stream"},
        ) as response:
            assert response.status_code == 200
            event = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event == "next":
                    yield orjson.loads(line.removeprefix("data: "))
                elif line.startswith("data:") and event == "complete":
                    return


class Socket:
    """One websocket that carries operations."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._ids = count(1)

    async def send(self, message: Json) -> None:
        """Send a message of the protocol."""
        await self.connection.send(orjson.dumps(message).decode())

    async def receive(self) -> Json:
        """The next message of the protocol."""
        # Not wait_for: in Python 3.11 it may swallow a cancellation.
        async with asyncio.timeout(PATIENCE):
            found: Json = orjson.loads(await self.connection.recv())
        return found

    async def start(self, query: str, variables: Json | None = None) -> str:
        """Begin an operation and give its id."""
        id = str(next(self._ids))
        payload = {"query": query, "variables": variables}
        await self.send({"type": "subscribe", "id": id, "payload": payload})
        return id

    async def subscribe(self, query: str, variables: Json | None = None) -> AsyncIterator[Json]:
        """The items of a subscription with one field, as they come."""
        id = await self.start(query, variables)
        while True:
            message = await self.receive()
            assert message["id"] == id, message
            if message["type"] == "complete":
                return
            assert message["type"] == "next", message
            assert "errors" not in message["payload"], message
            yield next(iter(message["payload"]["data"].values()))


@contextmanager
def closed(code: int, reason: str) -> Iterator[None]:
    """Until the service closes the websocket so."""
    with pytest.raises(ConnectionClosed) as caught:
        yield
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)


@asynccontextmanager
async def socket(url: str, **init: str) -> AsyncIterator[Socket]:
    """An initialised websocket; `init` is the payload of connection_init."""
    address = url.replace("http", "ws", 1) + "/graphql"
    async with connect(
        address,
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
        proxy=None,
        open_timeout=PATIENCE,
        # Some do not read for a while, and then see no answer to a ping.
        ping_interval=None,
    ) as connection:
        opened = Socket(connection)
        await opened.send({"type": "connection_init", "payload": init})
        assert (await opened.receive())["type"] == "connection_ack"
        yield opened
