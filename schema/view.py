"""GraphQL over HTTP and SSE: what goes in, what comes out, with which status; and who asks, over
whichever transport. The messages on a websocket are in sockets.py.

Follows the GraphQL-over-HTTP draft: a request error has no `data` and a status of its own, unless
the client only takes application/json, which always means 200. Anything that goes wrong before
there is an operation is answered in the same form.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import orjson
import strawberry
import structlog
from cross_web import HTTPException
from graphql import GraphQLError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
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
from lifecycle.access.rules import Principal
from lifecycle.artifacts.storage import Storage
from lifecycle.database import Database
from lifecycle.errors import LifecycleError, LimitExceeded, Unauthenticated
from lifecycle.journal.feed import Feed
from schema.admission import Admission, Held
from schema.context import Context
from schema.documents import WithCost, cost_of, may_change, read, wants_cost
from schema.door import Caller, Door, header
from schema.errors import told
from schema.guard import PAGE_POLICY, policy_of
from schema.limits import MAX_BODY_BYTES, check_variables
from schema.sockets import Socket, SocketHandler
from schema.trusted import Trusted

GRAPHIQL = Path(__file__).parent / "static" / "graphiql"

_log = structlog.get_logger(__name__)

_JSON = "application/json"
_RESPONSE_JSON = "application/graphql-response+json"
_STREAM = "text/event-stream"
_STATUS = {
    "GRAPHQL_PARSE_FAILED": 400,
    "GRAPHQL_VALIDATION_FAILED": 422,
    "INVALID_INPUT": 422,
    "UNAUTHENTICATED": 401,
    "LIMIT_EXCEEDED": 422,
    "NOT_FOUND": 404,
    "FORBIDDEN": 403,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
}
# Of limits on what a principal asks, not on what an operation is.
_LIMIT_STATUS = {
    "rate": 429,
    "signIns": 429,
    "operations": 429,
    "subscriptions": 429,
    "memory": 429,
    "body": 413,
}
# What a request may have, of which type.
_PARAMETERS = (
    ("query", str, "a string"),
    ("documentId", str, "a string"),
    ("operationName", str, "a string"),
    ("variables", dict, "an object"),
    ("extensions", dict, "an object"),
)
_ALLOWED = {"GET": OperationType.from_http("GET"), "POST": OperationType.from_http("POST")}
_SSE = SSETransport()
_INIT_SECONDS = 10
_PIECE = 256 * 1024


class _Answer:
    """An answer, in pieces; one that is long counts until it has been taken."""

    def __init__(
        self, body: bytes, status: int, headers: Sequence[tuple[str, str]], held: Held | None
    ) -> None:
        self._body = body
        self._status = status
        self._headers = headers
        self._held = held
        if held is not None:
            held.add(len(body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's Response, which can more, takes 10 µs longer, a tenth of the way through here.
        headers = [(b"content-length", str(len(self._body)).encode())]
        headers += [(name.encode(), value.encode("latin-1")) for name, value in self._headers]
        with self._held or nullcontext():
            begin = {"status": self._status, "headers": headers}
            await send({"type": "http.response.start", **begin})
            for at in range(0, len(self._body), _PIECE):
                piece, more = self._body[at : at + _PIECE], at + _PIECE < len(self._body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})


class _Stream(StreamingResponse):
    """Closes what it sends, and where that comes from, however it ends: also before it began."""

    def __init__(
        self, chunks: AsyncGenerator[str, None], source: AsyncGenerator[Any, None]
    ) -> None:
        super().__init__(chunks, headers=_SSE.headers)
        self._chunks = chunks
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source), aclosing(self._chunks):
            await super().__call__(scope, receive, send)


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
        door: Door,
        mlflow_uri: str | None,
        admission: Admission,
        allowed_origins: frozenset[str],
        graphiql: bool,
        trusted: Trusted,
    ) -> None:
        super().__init__(
            schema,
            graphql_ide="graphiql",
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,),
            connection_init_wait_timeout=timedelta(seconds=_INIT_SECONDS),
            max_subscriptions_per_connection=None,
            allowed_origins=sorted(allowed_origins),
        )
        self._database = database
        self._feed = feed
        self._storage = storage
        self._door = door
        self._mlflow_uri = mlflow_uri
        self._graphiql = graphiql
        self.trusted = trusted
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            websocket = WebSocket(scope, receive, send)
            try:
                await self.run(websocket)
            except HTTPException as error:
                await websocket.close(4400, error.reason)
            return
        response: ASGIApp
        try:
            response = await self._answer(Request(scope, receive))
        except HTTPException as error:
            response = _refusal(error)
        except LifecycleError as error:
            response = _response(ExecutionResult(None, [told(error)]), _RESPONSE_JSON)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        accepted = _accepted(header(request.scope, b"accept") or "*/*")
        media_type = _media_type(accepted)
        if request.method not in _ALLOWED:
            raise HTTPException(405, "GraphQL only supports GET and POST requests.")
        by_get = request.method == "GET"
        if by_get and "text/html" in accepted and self._graphiql and _asks_nothing(request):
            return self._page()
        caller = await self._door.by_request(request)
        context = self._context(request, caller)
        counted_as = context.counted_as
        self.admission.ask(counted_as)
        with Held(self.admission.room, counted_as) as held:
            asked = _from_url(request) if by_get else await _from_body(request, held)
            _check(asked)
            check_variables(asked.get("variables"))
            asked["query"] = await self.trusted.text(asked)
            await read(self.schema, asked, context)
            operation: dict[str, Any] = {
                "query": asked["query"],
                "variable_values": asked.get("variables"),
                "context_value": context,
                "operation_name": asked.get("operationName"),
                "allowed_operation_types": _ALLOWED[request.method],
            }
            costed = wants_cost(asked)
            if _STREAM in accepted:
                results: Any = await self.schema.stream(**operation)
                results = WithCost(results, asked) if costed else results
                return self._stream(request, results, caller, context)
            try:
                result = await self.schema.execute(**operation)
            except (CannotGetOperationTypeError, InvalidOperationTypeError) as error:
                raise _misplaced(error) from error
            if costed:
                result = replace(result, extensions=cost_of(asked))
        whole = Held(self.admission.room, counted_as)
        try:
            return _response(result, media_type, whole)
        except LimitExceeded as error:
            if not may_change(asked):
                raise
            # A status that says to send it again would have it done again.
            untold = {"data": None, "errors": [told(_untold(error)).formatted]}
            return Response(orjson.dumps(untold), media_type=media_type)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        # Of a websocket, whose client says in connection_init who it is.
        return self._context(request, self._door.before_init(request))

    def _context(self, request: Request | WebSocket, caller: Caller) -> Context:
        context = Context(
            self._database,
            self._feed,
            self._storage,
            _origin(caller.principal, request.scope["request_id"]),
            request,
            self._mlflow_uri,
            self.admission,
            self._door.address(request),
        )
        context.ask_again = self._door.again(caller)
        return context

    async def on_ws_connect(self, context: Context) -> UnsetType | dict[str, object] | None:
        given, former = context.connection_params or {}, context.origin
        try:
            caller = await self._door.by_init(
                context.connection, given, Principal(former.actor, former.rights)
            )
        except (HTTPException, Unauthenticated) as error:
            _log.info("websocket.refused", reason=str(error))
            raise ConnectionRejectionError from error
        assert context.seat is not None
        # What else was sent is not held as long as the websocket lasts.
        context.connection_params = {}
        context.origin = _origin(caller.principal, former.request_id)
        context.seat.belongs_to(context.counted_as)
        context.ask_again = self._door.again(caller)
        context.watch = partial(self._door.watch, caller)
        return await super().on_ws_connect(context)

    def _page(self) -> Response:
        page = GRAPHIQL / "index.html"
        # Where it has not been built, Strawberry's own page loads it from the internet.
        if not page.exists():
            html = self.graphql_ide_html
            return HTMLResponse(html, headers={"content-security-policy": policy_of(html)})
        headers = {"cache-control": "no-cache", "content-security-policy": PAGE_POLICY}
        return FileResponse(page, headers=headers)

    def decode_json(self, data: str | bytes) -> object:
        return orjson.loads(data)

    def encode_json(self, data: object) -> str:
        return orjson.dumps(data).decode()

    async def process_result(
        self, request: Request, result: ExecutionResult
    ) -> GraphQLHTTPResponse:
        return _shown(result)

    def _stream(
        self,
        request: Request,
        results: SubscriptionExecutionResult,
        caller: Caller,
        context: Context,
    ) -> Response:
        source = cast(AsyncGenerator[ExecutionResult, None], results)
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if caller.token is not None:
            results = cast(SubscriptionExecutionResult, _until(ended, source))
        merged = self._stream_result(request, results, _SSE)

        # Strawberry does not close the results of a client that leaves while an item is under way.
        # The subscriber would stay, and be served, until the garbage collector comes by.
        async def stream() -> AsyncGenerator[str, None]:
            leave = self._door.watch(caller, ended.set_result)
            try:
                async with aclosing(merged()) as chunks:
                    async for chunk in chunks:
                        with Held(self.admission.room, context.counted_as) as held:
                            held.add(len(chunk))
                            yield chunk
            except LimitExceeded as error:  # nobody takes what is sent
                _log.info("stream.ended", reason=str(error))
            finally:
                leave()

        return _Stream(stream(), source)


def _origin(principal: Principal, request_id: str) -> Origin:
    rights = principal.rights
    return Origin(principal.name, request_id, rights=rights, visible_models=rights.visible_models)


async def _until(
    ended: asyncio.Future[str], source: AsyncGenerator[ExecutionResult, None]
) -> AsyncGenerator[ExecutionResult, None]:
    """The results of a source, until somebody ends it; why is the last one."""
    results = aiter(source)
    while True:
        coming = asyncio.ensure_future(anext(results))
        try:
            await asyncio.wait((coming, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if ended.done() or not coming.done():
                coming.cancel()
                await asyncio.wait((coming,))
        if ended.done():
            error = GraphQLError(ended.result(), extensions={"code": Unauthenticated.code})
            yield ExecutionResult(None, [error])
            return
        try:
            result = coming.result()
        except StopAsyncIteration:
            return
        yield result


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


def _asks_nothing(request: Request) -> bool:
    return request.query_params.keys().isdisjoint(("query", "documentId"))


def _from_url(request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if asked.get(name):
            asked[name] = _parse(asked[name])
    return asked


async def _from_body(request: Request, held: Held) -> dict[str, Any]:
    given = header(request.scope, b"content-type")
    if given.partition(";")[0].strip().lower() != _JSON:
        raise HTTPException(415, f"The body must be {_JSON}.")
    body = await _body(request.receive, held)
    held.add_parsed(body)
    asked = _parse(body)
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
    if not asked.get("query") and not asked.get("documentId"):
        raise HTTPException(400, "No GraphQL query found in the request.")


def _shown(result: ExecutionResult) -> GraphQLHTTPResponse:
    shown: GraphQLHTTPResponse = {"data": result.data}
    if result.errors:
        shown["errors"] = [error.formatted for error in result.errors]
        # An error without a path is the request's: nothing was executed, so there is no data.
        if result.data is None and all(error.path is None for error in result.errors):
            del shown["data"]
    if result.extensions:
        shown["extensions"] = result.extensions
    return shown


def _response(result: ExecutionResult, media_type: str, held: Held | None = None) -> _Answer:
    shown = _shown(result)
    status, headers = 200, [("content-type", media_type)]
    if "data" not in shown:
        assert result.errors
        told = result.errors[0].extensions or {}
        if told.get("name") in _LIMIT_STATUS:
            status = _LIMIT_STATUS[told["name"]]
        elif media_type == _RESPONSE_JSON:
            status = _STATUS.get(told.get("code", ""), 400)
        if "retryAfter" in told:
            headers.append(("retry-after", str(told["retryAfter"])))
        if status == 401:
            headers.append(("www-authenticate", "Bearer"))
    return _Answer(orjson.dumps(shown), status, headers, held)


def _untold(error: LimitExceeded) -> LimitExceeded:
    return LimitExceeded(
        "The mutation was executed, but its answer is larger than what can be held now. To be "
        "told, repeat it with its idempotency key, selecting less, or after a little while; "
        "without a key it would be done again.",
        error.name,
        error.limit,
        error.value,
    )


async def _body(receive: Receive, held: Held) -> bytes:
    """All of the body. Raises LimitExceeded as soon as it is too long or too much is held, and
    ClientDisconnect."""
    chunks, received, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > MAX_BODY_BYTES:
            what = f"The body may have {MAX_BODY_BYTES:,} bytes."
            raise LimitExceeded(what, "body", MAX_BODY_BYTES, received)
        held.add(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _misplaced(error: CannotGetOperationTypeError | InvalidOperationTypeError) -> HTTPException:
    """What to say of an operation that is not there, or must not come this way."""
    if isinstance(error, CannotGetOperationTypeError):
        return HTTPException(400, error.as_http_error_reason())
    if error.operation_type is OperationType.MUTATION:
        return HTTPException(405, "Mutations are not allowed over GET; use POST.")
    return HTTPException(400, f"Subscriptions need Accept: {_STREAM}, or a websocket.")


def _refusal(error: HTTPException) -> Response:
    body = {"errors": [{"message": error.reason, "extensions": {"code": "BAD_REQUEST"}}]}
    headers = {}
    if error.status_code == 405:
        misplaced = isinstance(error.__cause__, InvalidOperationTypeError)
        headers["allow"] = "POST" if misplaced else "GET, POST"
    return Response(
        orjson.dumps(body), error.status_code, headers=headers, media_type=_RESPONSE_JSON
    )
