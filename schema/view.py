"""GraphQL over HTTP and SSE: what goes in, what comes out, with which status; and who asks, over
whichever transport. The messages on a websocket are in sockets.py.

Follows the GraphQL-over-HTTP draft: a request error has no `data` and a status of its own, unless
the client only takes application/json, which always means 200. Anything that goes wrong before
there is an operation is answered in the same form.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import orjson
import strawberry
from cross_web import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse
from strawberry.http.streaming import SSETransport
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult, SubscriptionExecutionResult
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UnsetType

from lifecycle.access.origin import Origin
from lifecycle.artifacts.storage import Storage
from lifecycle.database import Database
from lifecycle.journal.feed import Feed
from schema.admission import Admission
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
# What a request may have, of which type.
_PARAMETERS = (
    ("query", str, "a string"),
    ("operationName", str, "a string"),
    ("variables", dict, "an object"),
    ("extensions", dict, "an object"),
)
_ALLOWED = {"GET": OperationType.from_http("GET"), "POST": OperationType.from_http("POST")}
_SSE = SSETransport()
_MAX_ACTOR = 250
_INIT_SECONDS = 10


class _Stream(StreamingResponse):
    """Closes what it sends, however it ends."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(cast(AsyncGenerator[str, None], self.body_iterator)):
            await super().stream_response(send)


class View(GraphQL[Context, None]):
    """The one endpoint. Strawberry's view speaks to websockets, and gives streams their form; what
    else comes by HTTP is answered here."""

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
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,),
            connection_init_wait_timeout=timedelta(seconds=_INIT_SECONDS),
            max_subscriptions_per_connection=None,
        )
        self._database = database
        self._feed = feed
        self._storage = storage
        self._administrators = administrators
        self._mlflow_uri = mlflow_uri
        self.admission = Admission()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            websocket = WebSocket(scope, receive, send)
            try:
                await self.run(websocket)
            except HTTPException as error:
                await websocket.close(4400, error.reason)
            return
        try:
            response = await self._answer(Request(scope, _bounded(receive)))
        except HTTPException as error:
            response = _refusal(error)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        accepted = _accepted(request.headers.get("accept", "*/*"))
        media_type = _media_type(accepted)
        context = self._context(request)
        if request.method not in _ALLOWED:
            raise HTTPException(405, "GraphQL only supports GET and POST requests.")
        by_get = request.method == "GET"
        if by_get and "text/html" in accepted and "query" not in request.query_params:
            return self._page()
        asked = _from_url(request) if by_get else await _from_body(request)
        _check(asked)
        operation: dict[str, Any] = {
            "query": asked["query"],
            "variable_values": asked.get("variables"),
            "context_value": context,
            "operation_name": asked.get("operationName"),
            "allowed_operation_types": _ALLOWED[request.method],
        }
        if _STREAM in accepted:
            results = cast(SubscriptionExecutionResult, await self.schema.stream(**operation))
            return self._stream(request, results)
        try:
            result = await self.schema.execute(**operation)
        except (CannotGetOperationTypeError, InvalidOperationTypeError) as error:
            raise _misplaced(error) from error
        return _response(result, media_type)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        return self._context(request)

    def _context(self, request: Request | WebSocket) -> Context:
        header = request.headers.get("lifecycle-actor", "").encode("latin-1")
        actor = _actor(header.decode("utf-8", "replace"))
        if actor is None:
            raise HTTPException(
                400, "Lifecycle-Actor must be a short line, and not begin with system:."
            )
        origin = self._origin(actor, request.scope["request_id"])
        return Context(
            self._database,
            self._feed,
            self._storage,
            origin,
            request,
            self._mlflow_uri,
            self.admission,
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

    def _page(self) -> Response:
        page = GRAPHIQL / "index.html"
        # Where it has not been built, Strawberry's own page loads it from the internet.
        return (
            FileResponse(page, headers={"cache-control": "no-cache"})
            if page.exists()
            else HTMLResponse(self.graphql_ide_html)
        )

    def decode_json(self, data: str | bytes) -> object:
        return orjson.loads(data)

    def encode_json(self, data: object) -> str:
        return orjson.dumps(data).decode()

    async def process_result(
        self, request: Request, result: ExecutionResult
    ) -> GraphQLHTTPResponse:
        return _shown(result)

    def _stream(self, request: Request, results: SubscriptionExecutionResult) -> Response:
        source = cast(AsyncGenerator[ExecutionResult, None], results)
        merged = self._stream_result(request, results, _SSE)

        # Strawberry does not close the results of a client that leaves while an item is under way.
        # The subscriber would stay, and be served, until the garbage collector comes by.
        async def stream() -> AsyncGenerator[str, None]:
            async with aclosing(source), aclosing(merged()) as chunks:
                async for chunk in chunks:
                    yield chunk

        return _Stream(stream(), headers=_SSE.headers)


def _actor(given: object) -> str | None:
    """Who asks, as long as nobody has to prove it; None when that cannot be a name."""
    if not isinstance(given, str) or len(given) > _MAX_ACTOR:
        return None
    name = given.strip() or "anonymous"
    # What the service does by itself is journalled under such names.
    return name if name.isprintable() and not name.startswith("system:") else None


@lru_cache(100)
def _accepted(accept: str) -> frozenset[str]:
    """The media types in a header, of which there are only a few that clients send."""
    return frozenset(part.partition(";")[0].strip().lower() for part in accept.split(","))


def _media_type(accepted: frozenset[str]) -> str:
    """The form of the answer that the client takes; the draft's own unless it wants plain JSON."""
    if not accepted.isdisjoint((_RESPONSE_JSON, "application/*", "*/*")):
        return _RESPONSE_JSON
    if not accepted.isdisjoint((_JSON, _STREAM, "text/html")):
        return _JSON
    raise HTTPException(406, f"Answers are {_RESPONSE_JSON}, {_JSON} or {_STREAM}.")


def _from_url(request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if asked.get(name):
            asked[name] = _parse(asked[name])
    return asked


async def _from_body(request: Request) -> dict[str, Any]:
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != _JSON:
        raise HTTPException(415, f"The body must be {_JSON}.")
    asked = _parse(await request.body())
    if not isinstance(asked, dict):
        raise HTTPException(400, "The body must be one JSON object; batches are not taken.")
    return asked


def _parse(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise HTTPException(
            400, "This is not JSON. (Nor are NaN and Infinity: send a null value and a kind.)"
        ) from error


def _check(asked: dict[str, Any]) -> None:
    for name, kind, called in _PARAMETERS:
        value = asked.get(name)
        if value is not None and not isinstance(value, kind):
            raise HTTPException(400, f"{name} must be {called} or null.")
    if not asked.get("query"):
        raise HTTPException(400, "No GraphQL query found in the request.")


def _shown(result: ExecutionResult) -> GraphQLHTTPResponse:
    if not result.errors:
        return {"data": result.data}
    errors: list[object] = [error.formatted for error in result.errors]
    # An error without a path is the request's: nothing was executed, so there is no data.
    if result.data is None and all(error.path is None for error in result.errors):
        return {"errors": errors}
    return {"data": result.data, "errors": errors}


def _response(result: ExecutionResult, media_type: str) -> Response:
    shown = _shown(result)
    status = 200
    if "data" not in shown and media_type == _RESPONSE_JSON:
        assert result.errors
        status = _STATUS.get((result.errors[0].extensions or {}).get("code", ""), 400)
    return Response(orjson.dumps(shown), status, media_type=media_type)


def _bounded(receive: Receive) -> Receive:
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


def _misplaced(error: CannotGetOperationTypeError | InvalidOperationTypeError) -> HTTPException:
    """What to say of an operation that is not there, or must not come this way."""
    if isinstance(error, CannotGetOperationTypeError):
        return HTTPException(400, error.as_http_error_reason())
    if error.operation_type is OperationType.MUTATION:
        return HTTPException(405, "Mutations are not allowed over GET; use POST.")
    return HTTPException(400, f"Subscriptions need Accept: {_STREAM}, or a websocket.")


def _refusal(error: HTTPException) -> Response:
    code = "LIMIT_EXCEEDED" if error.status_code == 413 else "BAD_REQUEST"
    body = {"errors": [{"message": error.reason, "extensions": {"code": code}}]}
    headers = {}
    if error.status_code == 405:
        misplaced = isinstance(error.__cause__, InvalidOperationTypeError)
        headers["allow"] = "POST" if misplaced else "GET, POST"
    return Response(
        orjson.dumps(body), error.status_code, headers=headers, media_type=_RESPONSE_JSON
    )
