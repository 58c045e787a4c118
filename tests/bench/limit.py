"""How fast it can be on this machine: one SQL statement by hand that builds the JSON, passed
through a bare Starlette route, under the settings with which `lifecycle serve` runs uvicorn.

Run as a process: `python -m tests.bench.limit PORT`, with DATABASE_URL in the environment.
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.bench.cases import detail, ingest, nested, page, tiny
from tests.bench.contenders import CONNECTIONS

QUESTIONS = [case.QUESTION for case in (page, detail, nested, tiny)]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async def leave_as_it_is(connection: asyncpg.Connection) -> None:
        """What the pool would undo when a connection comes back, nobody has done."""

    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"],
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        reset=leave_as_it_is,
        server_settings={"jit": "off"},
    ) as pool:
        app.state.pool = pool
        yield


def _reading(statement: str) -> Callable[[Request], Awaitable[Response]]:
    """A route that answers with what a statement gives for the parameters in the body."""

    async def answer(request: Request) -> Response:
        given = orjson.loads(await request.body())
        found = await request.app.state.pool.fetchval(statement, *given)
        return Response(found, media_type="application/json")

    return answer


async def _ingest(request: Request) -> Response:
    given = orjson.loads(await request.body())
    series = given["series"]
    done = await request.app.state.pool.execute(
        ingest.STORE,
        given["run_id"],
        [each["key"] for each in series for _ in each["steps"]],
        [step for each in series for step in each["steps"]],
        [value for each in series for value in each["values"]],
    )
    return Response(done)


_listeners: set[WebSocket] = set()


async def _listen(websocket: WebSocket) -> None:
    await websocket.accept("graphql-transport-ws")
    _listeners.add(websocket)
    try:
        await websocket.receive()
    finally:
        _listeners.remove(websocket)


async def _broadcast(request: Request) -> Response:
    text = (await request.body()).decode()
    for websocket in list(_listeners):
        await websocket.send_text(text)
    return Response()


app = Starlette(
    routes=[
        WebSocketRoute("/listen", _listen),
        Route("/broadcast", _broadcast, methods=["POST"]),
        Route("/ingest", _ingest, methods=["POST"]),
        *(
            Route(f"/{question.name}", _reading(question.limit), methods=["POST"])
            for question in QUESTIONS
        ),
    ],
    lifespan=_lifespan,
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
    )
