"""Following subscriptions in tests, over either transport."""

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from schema import ids
from tests.client import PATIENCE, Graph, Json, socket

TRANSPORTS = ("socket", "sse")

DEPLOYMENTS = """
subscription ($id: ID, $model: String, $environment: Environment, $after: String) {
  deploymentStatus(
    deploymentId: $id, modelName: $model, environment: $environment, after: $after
  ) {
    __typename
    ... on DeploymentStatusEvent { cursor deployment { id } from to health message at actor }
    ... on CaughtUp { cursor }
    ... on Heartbeat { cursor at }
    ... on CursorExpired { oldest }
  }
}"""

RUN = """
subscription ($id: ID!, $after: String) {
  runProgress(runId: $id, after: $after) {
    __typename
    ... on RunStatusEvent { cursor runId from to }
    ... on RunMetricsEvent { cursor runId metrics { key value kind step } }
    ... on RunOutputEvent { cursor runId lines { line level message } }
    ... on CaughtUp { cursor }
    ... on Heartbeat { cursor at }
    ... on CursorExpired { oldest }
  }
}"""


# How a client notices that a service has gone.
GONE = (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    EOFError,
    OSError,
    httpx.TransportError,
)


async def items(transport: str, url: str, query: str, **variables: object) -> AsyncIterator[Json]:
    """What a subscription sends, until it completes."""
    if transport == "socket":
        async with socket(url) as opened, aclosing(opened.subscribe(query, variables)) as sent:  # type: ignore[type-var]
            async for item in sent:
                yield item
    else:
        async with Graph(url) as graph, aclosing(graph.stream(query, variables)) as streamed:  # type: ignore[type-var]
            async for payload in streamed:
                assert "errors" not in payload, payload
                yield next(iter(payload["data"].values()))


async def take(stream: AsyncIterator[Json], number: int) -> list[Json]:
    """The next items, heartbeats left out."""
    taken: list[Json] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < number:
            item = await anext(stream)
            if item["__typename"] != "Heartbeat":
                taken.append(item)
    return taken


async def present(stream: AsyncIterator[Json]) -> list[Json]:
    """The items up to CaughtUp, which is the last of them."""
    taken = await take(stream, 1)
    while taken[-1]["__typename"] != "CaughtUp":
        taken += await take(stream, 1)
    return taken


async def write_line(graph: Graph, run: str, message: str, **headers: str) -> None:
    """One line of output, which is one event."""
    input = {"runId": run, "lines": [{"message": message}]}
    result = await graph.mutate("logRunOutput", input, **headers)
    assert result["__typename"] == "LogRunOutputSuccess", result


def said(items: list[Json]) -> list[str]:
    """The lines in these items."""
    return [line["message"] for item in items for line in item.get("lines", ())]


def place(cursor: str) -> int:
    """The position in a cursor, which clients have no business to know."""
    return int(urlsafe_b64decode(cursor).decode().rpartition(":")[2])


def key_of(global_id: str) -> UUID:
    """The database's id of an object."""
    return ids.split(global_id)[1]


async def connect(database_url: str) -> asyncpg.Connection:
    """A connection past the service."""
    return await asyncpg.connect(database_url.replace("+asyncpg", ""))


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that must happen."""
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if condition():
                return
            await asyncio.sleep(0.01)


async def waiting(sql: asyncpg.Connection, number: int) -> None:
    """Return when so many transactions of other connections wait for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(PATIENCE):
        while await sql.fetchval(query) < number:
            # Activity is seen as it was when the transaction first looked.
            await sql.execute("SELECT pg_sleep(0.01), pg_stat_clear_snapshot()")


async def insist(graph: Graph, run: str, message: str) -> None:
    """Write a line as a careful client does: again, under one key, until it is acknowledged."""
    input = {"runId": run, "lines": [{"message": message}], "idempotencyKey": f"{run} {message}"}
    while True:
        with suppress(*GONE):
            result = await graph.mutate("logRunOutput", input)
            if result["__typename"] == "LogRunOutputSuccess":
                return
            assert result["code"] == "UNAVAILABLE", result
        await asyncio.sleep(0.02)


async def follow(
    transport: str, url: str, run: str, cursor: str, seen: list[Json], enough: Callable[[], bool]
) -> None:
    """Collect a run's events, coming back with the last cursor as often as needed."""
    while not enough():
        with suppress(*GONE):
            async with aclosing(items(transport, url, RUN, id=run, after=cursor)) as stream:  # type: ignore[type-var]
                async for item in stream:
                    cursor = item["cursor"]
                    if item["__typename"] == "RunOutputEvent":
                        seen.append(item)
                    if enough():
                        return
        await asyncio.sleep(0.02)
