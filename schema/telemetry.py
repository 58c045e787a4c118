"""What is counted, measured and traced of requests and operations, where that is switched on.

Where it is not, nothing of this is in anybody's way: the app has no such middleware, its schema is
the bare one, the database watches no statements.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from graphql import get_operation_ast
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from strawberry.schema.schema import StreamResult
from strawberry.types import ExecutionResult
from structlog.contextvars import bind_contextvars

from lifecycle.database import Database, Statement
from lifecycle.journal.feed import Feed
from lifecycle.telemetry.metrics import MAX_NAME, Metrics
from schema import loaders
from schema.admission import Admission
from schema.documents import documents
from schema.errors import failures
from schema.root import Schema
from schema.subscriptions import Answers

if TYPE_CHECKING:
    from lifecycle.tracking.worker import Round

_LOOK_SECONDS = 1.0
_ROUTES = ("/graphql", "/artifacts", "/graphiql", "/healthz", "/readyz", "/")
# Asked every few seconds by machines.
_UNTRACED = ("/healthz", "/readyz")


class Telemetry:
    """What one process shows of itself. Without metrics it only traces, and the other way round."""

    def __init__(self, metrics: Metrics | None, tracer: Tracer | None) -> None:
        self._metrics = metrics
        self._tracer = tracer
        if metrics is not None:
            loaders.watch(metrics.batch_size.observe)

    def statement(self, done: Statement) -> None:
        """The database has executed a statement."""
        if self._metrics is not None:
            self._metrics.statement_seconds.labels(done.pool).observe(done.seconds)
        # Of what asked for it, which may be over by now; not what nobody traces.
        if self._tracer is not None and trace.get_current_span().get_span_context().is_valid:
            ended = time.time_ns()
            span = self._tracer.start_span(
                done.sql.split(None, 1)[0].upper(),
                kind=SpanKind.CLIENT,
                start_time=ended - int(done.seconds * 1e9),
                # Without values, which may be secret.
                attributes={"db.system.name": "postgresql", "db.query.text": done.sql},
            )
            if done.error is not None:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(done.error).__name__)
            span.end(ended)

    def lost(self, runs: int) -> None:
        """So many runs were found to be lost."""
        if self._metrics is not None:
            self._metrics.runs_lost.inc(runs)

    def mirrored(self, round: "Round") -> None:
        """The mirror to MLflow has done something."""
        if self._metrics is not None:
            self._metrics.mirror.count(round)

    async def look(self, database: Database, feed: Feed, admission: Admission) -> None:
        """Look at what there is in this process, again and again."""
        found = self._metrics
        if found is None:
            return
        while True:
            found.pool_in_use.labels("read").set(database.reading)
            found.pool_in_use.labels("write").set(database.writing)
            found.pool_in_use.labels("replica").set(database.reading_from_replica)
            found.pool_waiting.labels("read").set(database.waiting_to_read)
            found.pool_waiting.labels("write").set(database.waiting_to_write)
            gates = {
                "query": admission.queries,
                "mutation": admission.mutations,
                "item": admission.items,
            }
            for kind, gate in gates.items():
                found.admitted.labels(kind).set(gate.running)
                found.queued.labels(kind).set(gate.waiting)
            found.subscribers.set(feed.subscribers)
            found.feed_position.set(feed.head)
            found.weigh()
            await asyncio.sleep(_LOOK_SECONDS)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The app, whose requests are counted and traced."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            status = 0

            async def answer(message: Message) -> None:
                nonlocal status
                if message["type"] in ("http.response.start", "websocket.accept"):
                    status = message.get("status", 101)
                await send(message)

            route = _route(scope["path"])
            with self._request(scope, route) as span:
                try:
                    await app(scope, receive, answer)
                finally:
                    if self._metrics is not None:
                        self._metrics.requests.labels(route, str(status)).inc()
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(StatusCode.ERROR)

        return counted

    @contextmanager
    def _request(self, scope: Scope, route: str) -> Iterator[Span]:
        # A websocket may be open for days; what is asked over it is traced for itself.
        if self._tracer is None or scope["type"] == "websocket" or route in _UNTRACED:
            yield trace.INVALID_SPAN
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        with self._tracer.start_as_current_span(
            f"{scope['method']} {route}",
            context=propagate.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route},
        ) as span:
            bind_contextvars(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
            yield span

    def observed(self, bare: Schema) -> Schema:
        """The schema, whose operations are counted and traced."""
        return Observed(bare, self.begin)

    def begin(self, query: str | None, operation_name: str | None) -> "_Operation":
        """An operation begins."""
        return _Operation(self._metrics, self._tracer, query or "", operation_name)


class _Operation:
    """One operation under way, until `end`."""

    def __init__(
        self, metrics: Metrics | None, tracer: Tracer | None, query: str, name: str | None
    ) -> None:
        self._metrics = metrics
        self._query = query
        self._name = name
        self._began = time.perf_counter()
        self._failures: list[str] = []
        self.span = tracer.start_span("GraphQL") if tracer is not None else None

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """What happens in the block is part of it."""
        token = failures.set(self._failures)
        try:
            with trace.use_span(self.span) if self.span is not None else nullcontext():
                yield
        finally:
            failures.reset(token)

    def end(self, outcome: str) -> None:
        """It is over, as `outcome` says unless a mutation has failed as expected."""
        if outcome == "OK" and self._failures:
            outcome = self._failures[0]
        # Whatever is valid is kept by now.
        document = documents.get(self._query)
        operation = document and get_operation_ast(document.node, self._name)
        kind = operation.operation.value if operation else "unknown"
        given = operation.name.value if operation and operation.name else None
        if self._metrics is not None:
            name = self._metrics.name(given, known=operation is not None)
            self._metrics.operations.labels(name, kind, outcome).inc()
            if kind != "subscription":
                took = time.perf_counter() - self._began
                self._metrics.operation_seconds.labels(name, kind).observe(took)
        if self.span is not None:
            self.span.set_attribute("graphql.operation.type", kind)
            self.span.set_attribute("lifecycle.outcome", outcome)
            if given is not None:
                # Clients choose it, as long as a document may be.
                self.span.set_attribute("graphql.operation.name", given[:MAX_NAME])
                self.span.update_name(f"{kind} {given[:MAX_NAME]}")
            else:
                self.span.update_name(kind)
            if outcome in ("INTERNAL", "UNAVAILABLE"):
                self.span.set_status(StatusCode.ERROR)
            self.span.end()


class Observed(Schema):
    """The same schema, whose operations are counted and traced."""

    def __init__(self, bare: Schema, begin: Callable[[str | None, str | None], _Operation]) -> None:
        # All that it is made of is shared.
        self.__dict__.update(bare.__dict__)
        self._bare = bare
        self._begin = begin

    async def execute(self, query: str | None, *args: Any, **kwargs: Any) -> ExecutionResult:
        """The answer, as without."""
        operation, outcome = self._begin(query, kwargs.get("operation_name")), "BAD_REQUEST"
        try:
            with operation.going_on():
                result = await self._bare.execute(query, *args, **kwargs)
            outcome = _outcome(result)
            return result
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            operation.end(outcome)

    async def stream(self, query: str | None, *args: Any, **kwargs: Any) -> StreamResult:
        """The answers, as without."""
        operation = self._begin(query, kwargs.get("operation_name"))
        with operation.going_on():
            results = await self._bare.stream(query, *args, **kwargs)
        if isinstance(results, Answers):
            operation.end("OK")
            return results
        return cast(StreamResult, _followed(operation, results))


async def _followed(
    operation: _Operation, results: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """The results, of which there is one, unless something is wrong."""
    outcome = "CANCELLED"
    try:
        async with aclosing(results):
            while True:
                # Who takes the results may do so in another task each time.
                with operation.going_on():
                    try:
                        result = await anext(results)
                    except StopAsyncIteration:
                        return
                outcome = _outcome(result)
                yield result
    finally:
        operation.end(outcome)


def _outcome(result: Any) -> str:
    for error in getattr(result, "errors", None) or ():
        return str((error.extensions or {}).get("code", "BAD_REQUEST"))
    return "OK"


def _route(path: str) -> str:
    first = "/" + path.split("/", 2)[1] if path.startswith("/") else ""
    return first if first in _ROUTES else "other"
