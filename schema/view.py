"""GraphQL over HTTP and SSE: what goes in, what comes out, with which status; and who asks, over
whichever transport. The messages on a websocket are in sockets.py.

Follows the GraphQL-over-HTTP draft: a request error has no `data` and a status of its own, unless
the client only takes application/json, which always means 200. Anything that goes wrong before
there is an operation is answered in the same form.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import strawberry
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.http.streaming import HTTPStreamTransport
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult, SubscriptionExecutionResult
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UnsetType

from lifecycle.access.origin import Origin
from lifecycle.artifacts.storage import Storage
from lifecycle.database import Database
from lifecycle.journal.feed import Feed
from schema.context import Context
from schema.limits import MAX_BODY_BYTES
from schema.sockets import Socket, SocketHandler

GRAPHIQL = Path(__file__).parent / "static" / "graphiql"

_JSON = "application/json"
_RESPONSE_JSON = "application/graphql-response+json"
_STREAM = "text/event-stream"
_STATUS = {
    "GRAPHQL_PARSE_FAILED": 400,
    "GRAPHQL_VALIDATION_FAILED": 422,
    "INVALID_INPUT": 422,
    "LIMIT_EXCEEDED": 422,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
}
_MAX_ACTOR = 250
_INIT_SECONDS = 10


class _Stream(StreamingResponse):
    """Closes what it sends, however it ends."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(cast(AsyncGenerator[str, None], self.body_iterator)):
            await super().stream_response(send)


class View(GraphQL[Context, None]):
    """The one endpoint."""

    graphql_transport_ws_handler_class = SocketHandler
    websocket_adapter_class = Socket

    def __init__(
        self,
        schema: strawberry.Schema,
        database: Database,
        feed: Feed,
        storage: Storage,
        administrators: frozenset[str] = frozenset(),
        mlflow_uri: str | None = None,
    ) -> None:
        super().__init__(
            schema,
            graphql_ide="graphiql",
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
            connection_init_wait_timeout=timedelta(seconds=_INIT_SECONDS),
            max_subscriptions_per_connection=None,
        )
        self._database = database
        self._feed = feed
        self._storage = storage
        self._administrators = administrators
        self._mlflow_uri = mlflow_uri

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            websocket = WebSocket(scope, receive, send)
            try:
                await self.run(websocket)
            except HTTPException as error:
                await websocket.close(4400, error.reason)
            return
        try:
            response = await self.run(Request(scope, _bounded(scope, receive)))
        except HTTPException as error:
            response = _refusal(error)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        header = request.headers.get("lifecycle-actor", "").encode("latin-1")
        actor = _actor(header.decode("utf-8", "replace"))
        if actor is None:
            raise HTTPException(
                400, "Lifecycle-Actor must be a short line, and not begin with system:."
            )
        origin = self._origin(actor, request.scope["request_id"])
        # A websocket's scheme is ws, but what it is told to fetch is fetched by HTTP.
        base_url = re.sub("^ws", "http", str(request.base_url)).rstrip("/")
        return Context(
            self._database, self._feed, self._storage, origin, base_url, self._mlflow_uri
        )

    def _origin(self, actor: str, request_id: str) -> Origin:
        return Origin(actor, request_id, administrator=actor in self._administrators)

    async def on_ws_connect(self, context: Context) -> UnsetType | dict[str, object] | None:
        given = (context.connection_params or {}).get("actor")
        if given is not None:
            actor = _actor(given)
            if actor is None:
                raise ConnectionRejectionError
            context.origin = self._origin(actor, context.origin.request_id)
        return await super().on_ws_connect(context)

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        response = await super().get_sub_response(request)
        response.media_type = _media_type(request)
        return response

    def should_render_graphql_ide(self, request: Any) -> bool:
        return (
            request.method == "GET"
            and "query" not in request.query_params
            and "text/html" in request.headers.get("accept", "")
        )

    async def render_graphql_ide(self, request: Request) -> Response:
        page = GRAPHIQL / "index.html"
        # Where it has not been built, Strawberry's own page loads it from the internet.
        return (
            FileResponse(page, headers={"cache-control": "no-cache"})
            if page.exists()
            else HTMLResponse(self.graphql_ide_html)
        )

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        transport = self._get_stream_transport_from_headers(request.headers)
        if request.method == "GET":
            data: Any = self.parse_query_params(request.query_params)
        elif (request.content_type or "").partition(";")[0].strip().lower() != _JSON:
            raise HTTPException(415, f"The body must be {_JSON}.")
        else:
            data = self.parse_json(await request.get_body())
        if not isinstance(data, dict):
            raise HTTPException(400, "The body must be one JSON object; batches are not taken.")
        _check(data, "query", str, "a string")
        _check(data, "operationName", str, "a string")
        _check(data, "variables", dict, "an object")
        _check(data, "extensions", dict, "an object")
        if not data.get("query"):
            raise HTTPException(400, "No GraphQL query found in the request.")
        return GraphQLRequestData(
            query=data.get("query"),
            variables=data.get("variables"),
            operation_name=data.get("operationName"),
            extensions=data.get("extensions"),
            protocol=transport.protocol if transport else "http",
        )

    def parse_json(self, data: str | bytes) -> Any:
        try:
            return self.decode_json(data)
        except orjson.JSONDecodeError as error:
            raise HTTPException(
                400,
                "This is not JSON. (Nor are NaN and Infinity: send a null value and a kind.)",
            ) from error

    def decode_json(self, data: str | bytes) -> object:
        return orjson.loads(data)

    def encode_json(self, data: object) -> str:
        return orjson.dumps(data).decode()

    async def create_streaming_response(
        self,
        request: Request | WebSocket,
        stream: Callable[[], AsyncIterator[str]],
        sub_response: Response,
        headers: Mapping[str, str],
    ) -> Response:
        return _Stream(stream(), headers={**sub_response.headers, **headers})

    def _stream_result(
        self,
        request: Request,
        result: SubscriptionExecutionResult,
        transport: HTTPStreamTransport,
    ) -> Callable[[], AsyncGenerator[str, None]]:
        merged = super()._stream_result(request, result, transport)
        source = cast(AsyncGenerator[ExecutionResult, None], result)

        # Strawberry does not close the result of a client that leaves while an item is under way.
        # The subscriber would stay, and be served, until the garbage collector comes by.
        async def stream() -> AsyncGenerator[str, None]:
            async with aclosing(source), aclosing(merged()) as chunks:
                async for chunk in chunks:
                    yield chunk

        return stream

    async def process_result(
        self, request: Request, result: ExecutionResult
    ) -> GraphQLHTTPResponse:
        response = await super().process_result(request, result)
        # An error without a path is the request's: nothing was executed, so there is no data.
        if result.data is None and all(error.path is None for error in result.errors or ()):
            cast(dict[str, Any], response).pop("data", None)
        return response

    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        status = 200
        if "data" not in response_data and sub_response.media_type == _RESPONSE_JSON:
            data = cast(dict[str, Any], response_data)
            status = _STATUS.get(data["errors"][0].get("extensions", {}).get("code"), 400)
        return Response(orjson.dumps(response_data), status, media_type=sub_response.media_type)


def _actor(given: object) -> str | None:
    """Who asks, as long as nobody has to prove it; None when that cannot be a name."""
    if not isinstance(given, str) or len(given) > _MAX_ACTOR:
        return None
    name = given.strip() or "anonymous"
    # What the service does by itself is journalled under such names.
    return name if name.isprintable() and not name.startswith("system:") else None


def _media_type(request: Request | WebSocket) -> str:
    """The form of the answer that the client takes; the draft's own unless it wants plain JSON."""
    accepted = {
        part.partition(";")[0].strip().lower()
        for part in request.headers.get("accept", "*/*").split(",")
    }
    if accepted & {_RESPONSE_JSON, "application/*", "*/*"}:
        return _RESPONSE_JSON
    if accepted & {_JSON, _STREAM, "text/html"}:
        return _JSON
    raise HTTPException(406, f"Answers are {_RESPONSE_JSON}, {_JSON} or {_STREAM}.")


def _check(data: dict[str, Any], name: str, kind: type, called: str) -> None:
    if not isinstance(data.get(name), kind | None):
        raise HTTPException(400, f"{name} must be {called} or null.")


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """The body as it comes, until it is too long."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body may have {MAX_BODY_BYTES:,} bytes.")
        return message

    return bounded


def _refusal(error: HTTPException) -> Response:
    status, message, headers = error.status_code, error.reason, {}
    code = "LIMIT_EXCEEDED" if status == 413 else "BAD_REQUEST"
    cause = error.__cause__
    if isinstance(cause, InvalidOperationTypeError):
        if cause.operation_type is OperationType.MUTATION:
            status, headers = 405, {"allow": "POST"}
            message = "Mutations are not allowed over GET; use POST."
        elif cause.operation_type is OperationType.SUBSCRIPTION:
            message = f"Subscriptions need Accept: {_STREAM}, or a websocket."
    elif status == 405:
        headers = {"allow": "GET, POST"}
    body = {"errors": [{"message": message, "extensions": {"code": code}}]}
    return Response(orjson.dumps(body), status, headers=headers, media_type=_RESPONSE_JSON)
