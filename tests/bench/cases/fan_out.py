"""One change of a deployment to all who follow it by websocket, on one process: how long the last
of them wait, and what each costs in memory.

Beside it a bare Starlette route that sends the same bytes to as many.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle

from tests.bench import data
from tests.bench.cases import Bench
from tests.bench.contenders import Server
from tests.bench.load import Request, ask, post
from tests.bench.measure import Bound, Outcome, in_rounds
from tests.bench.sockets import Socket, connect

WANTED = ("service", "limit")
BOUNDS = (Bound("service", "limit", 3, at_most=True),)

SUBSCRIBERS = 2_000
# So many connect at a time; a server's backlog is finite.
_AT_ONCE = 50
# The one of model-001's version in production, which is ACTIVE.
_DEPLOYMENT = data.global_id("Deployment", (data.VERSIONS - 1) * 3 + 3)

_SUBSCRIBE = """subscription ($id: ID!) {
  deploymentStatus(deploymentId: $id) {
    __typename
    ... on DeploymentStatusEvent { cursor to health at deployment { id modelName version } }
  }
}"""
_EVENT = b"DeploymentStatusEvent"
_UPDATE = """mutation ($input: UpdateDeploymentInput!) {
  updateDeployment(input: $input) { __typename ... on Error { message } }
}"""


async def _subscribers(connect_one: Callable[[], Awaitable[Socket]]) -> list[Socket]:
    found: list[Socket] = []
    while len(found) < SUBSCRIBERS:
        found += await asyncio.gather(*(connect_one() for _ in range(_AT_ONCE)))
    return found


async def _follower(port: int) -> Socket:
    socket = await connect(port, "/graphql", _EVENT)
    socket.send({"type": "connection_init"})
    await socket.received(b"connection_ack")
    variables = {"id": _DEPLOYMENT}
    payload = {"query": _SUBSCRIBE, "variables": variables}
    socket.send({"type": "subscribe", "id": "1", "payload": payload})
    await socket.received(b"CaughtUp")
    return socket


async def _slowest(port: int, request: Request, sockets: Sequence[Socket]) -> float:
    """Milliseconds until 99 of 100 have what the request sends to all; all must get it."""
    had = [len(socket.times) for socket in sockets]
    began = time.perf_counter()
    await ask(port, request)
    await asyncio.gather(*(each.has(n + 1) for each, n in zip(sockets, had, strict=True)))
    waited = sorted(each.times[n] - began for each, n in zip(sockets, had, strict=True))
    return waited[len(waited) * 99 // 100] * 1000


def _per_subscriber(server: Server, before: int) -> float:
    return (server.resident() - before) / SUBSCRIBERS / 1024


async def run(bench: Bench) -> Outcome:
    """Milliseconds until 99 of 100 subscribers have it."""
    service, limit = bench.servers["service"], bench.servers["limit"]
    healths = cycle(("DEGRADED", "HEALTHY"))
    before = service.resident(), limit.resident()
    followers = await _subscribers(lambda: _follower(service.port))
    listeners = await _subscribers(lambda: connect(limit.port, "/listen", _EVENT))
    notes = {
        "service, KiB a subscriber": _per_subscriber(service, before[0]),
        "limit, KiB a subscriber": _per_subscriber(limit, before[1]),
        "subscribers": float(SUBSCRIBERS),
    }

    async def change() -> float:
        variables = {"input": {"id": _DEPLOYMENT, "health": next(healths)}}
        content = {"query": _UPDATE, "variables": variables}
        request = post(service.port, "/graphql", content, b"UpdateDeploymentSuccess")
        return await _slowest(service.port, request, followers)

    async def broadcast() -> float:
        request = post(limit.port, "/broadcast", event)
        return await _slowest(limit.port, request, listeners)

    await change()
    event = followers[0].last
    await broadcast()
    figures = await in_rounds({"service": change, "limit": broadcast}, bench.rounds, bench.random)
    for socket in (*followers, *listeners):
        socket.close()
    return Outcome("fan-out", "ms until 99 of 100 have it", figures, BOUNDS, notes)
