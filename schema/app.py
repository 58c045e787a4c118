"""The one place where everything is put together: settings → database → Starlette app."""

import asyncio
import gc
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import TYPE_CHECKING, Any

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars
from uuid_utils import uuid7

from lifecycle import migrate, reporting
from lifecycle.artifacts import transfers
from lifecycle.artifacts.storage import Storage
from lifecycle.database import Database
from lifecycle.errors import LifecycleError
from lifecycle.journal.feed import Feed
from lifecycle.principals.oidc import Oidc, Provider
from lifecycle.principals.sign_in import SignIn
from lifecycle.runs import service as runs
from lifecycle.runs.rules import ArtifactArea
from lifecycle.settings import Settings, without_credentials
from lifecycle.tracking import repository as tracking
from lifecycle.tracking.service import answers
from schema.admission import Admission, Bounds
from schema.door import Door, header
from schema.execution.schema import CompiledSchema
from schema.guard import PAGE_POLICY, Guard
from schema.root import schema
from schema.transfers import Transfers
from schema.trusted import Trusted
from schema.view import GRAPHIQL, View

if TYPE_CHECKING:
    from schema.telemetry import Telemetry

_log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 5.0
# With a colon begin those of what the service does by itself.
_REQUEST_ID = re.compile(r"[\w.-]{1,100}")
# Asked every few seconds by machines; what they are told is in the answer.
_UNLOGGED = ("/healthz", "/readyz")


def create_app(settings: Settings | None = None) -> Starlette:
    """The service as an ASGI app, for any server that knows lifespans.

    Needs `LIFECYCLE_DATABASE_URL`, unless settings are given; the database must be migrated.
    Raises ValueError where settings cannot be right.
    """
    settings = settings or Settings.from_environment()
    if settings.database_url is None:
        raise ValueError("Set LIFECYCLE_DATABASE_URL, or use `lifecycle serve`.")
    reporting.configure(settings.log_format)
    # It is kept from then on; later there may be no files to be had, and it would be None for ever.
    migrate.head()
    telemetry, end_telemetry = _telemetry(settings)
    database = Database(
        settings.database_url, telemetry.statement if telemetry else None, settings.read_url
    )
    feed = Feed(database)
    storage = _storage(settings)
    mlflow_uri = without_credentials(settings.mlflow_uri) if settings.mlflow_uri else None
    sign_in = _sign_in(settings, database)
    served_schema = CompiledSchema(schema) if settings.execution == "compiled" else schema
    view = View(
        telemetry.observed(served_schema) if telemetry else served_schema,
        database,
        feed,
        storage,
        Door(sign_in, settings.administrators, settings.insecure),
        mlflow_uri,
        Admission(_bounds(settings), settings.introspection),
        settings.allowed_origins,
        settings.graphiql,
        Trusted(database, settings.trusted_documents),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            signing_in = sign_in.running() if sign_in else nullcontext()
            async with feed.running(), signing_in, _mirror(settings, database, telemetry):
                sweepers = [
                    asyncio.create_task(_mark_lost_runs(database, telemetry), name="lost-runs"),
                    asyncio.create_task(_clear_uploads(database, storage), name="old-uploads"),
                ]
                if telemetry is not None:
                    look = telemetry.look(database, feed, view.admission)
                    sweepers.append(asyncio.create_task(look, name="telemetry"))
                with _on_shutdown_signal(feed):
                    _stop_with_supervisor()
                    yield
                for sweeper in sweepers:
                    sweeper.cancel()
                    with suppress(asyncio.CancelledError):
                        await sweeper
        finally:
            storage.close()
            await database.close()
            await asyncio.to_thread(end_telemetry)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    readiness = _Readiness(database, mlflow_uri)

    async def readyz(request: Request) -> Response:
        told = await readiness.told()
        return JSONResponse(told, 200 if told["ready"] else 503)

    async def home(request: Request) -> Response:
        return RedirectResponse("/graphql")

    # Where it was not built, there is nothing to load.
    with_pages = settings.graphiql and GRAPHIQL.exists()
    pages = [Mount("/graphiql", _Pages(directory=GRAPHIQL))] if with_pages else []
    app = Starlette(
        routes=[
            Route("/graphql", view),
            WebSocketRoute("/graphql", view),
            Route("/", home),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route(
                "/artifacts/{area}/{key:path}", Transfers(storage).answer, methods=["GET", "PUT"]
            ),
            *pages,
        ],
        lifespan=lifespan,
        middleware=[
            *([Middleware(telemetry.middleware)] if telemetry else []),
            Middleware(RequestLog),
            Middleware(Guard, _hosts(settings)),
            *_other_origins(settings.allowed_origins),
            Middleware(Straight, view),
        ],
    )
    app.state.database, app.state.feed, app.state.storage = database, feed, storage
    app.state.sign_in = sign_in
    app.state.admission = view.admission
    return app


class _Pages(StaticFiles):
    """What GraphiQL loads."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["content-security-policy"] = PAGE_POLICY
        return response


def _hosts(settings: Settings) -> frozenset[str] | None:
    """The names under which it is served. Where nobody signs in it is for this machine: the name of
    a foreign page that leads here is none of its own."""
    if settings.allowed_hosts is None and settings.private:
        return frozenset()
    return settings.allowed_hosts


def _other_origins(origins: frozenset[str]) -> list[Middleware]:
    """Lets pages of these origins use the service."""
    if not origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=sorted(origins),
        allow_methods=["GET", "POST", "PUT"],
        allow_headers=["Authorization", "Content-Type", "Lifecycle-Actor", "X-Request-Id"],
        expose_headers=["Retry-After", "X-Request-Id"],
    )
    return [cors]


def _bounds(settings: Settings) -> Bounds:
    """What each principal may have; where nobody signs in nobody has to be protected."""

    def bound(given: int | None, usual: int) -> int:
        return given if given is not None else 0 if settings.private else usual

    return Bounds(
        settings.max_seconds,
        bound(settings.max_operations, 100),
        bound(settings.max_subscriptions, 1_000),
        bound(settings.max_websockets, 1_000),
        bound(settings.max_rate, 100),
    )


def served() -> Starlette:
    """The same for a process that does nothing but serve it, as `lifecycle serve` starts them."""
    app = create_app()
    # All that is there now stays. Looking through it again and again took half of the time that
    # large answers needed.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)
    return app


def _storage(settings: Settings) -> Storage:
    """Where artifacts are kept. Raises ValueError."""
    settings.check_directories()
    return Storage(
        {
            ArtifactArea.INTERNAL: settings.internal_area,
            ArtifactArea.EXTERNAL: settings.external_area,
        },
        settings.s3_public_url,
    )


def _sign_in(settings: Settings, database: Database) -> SignIn | None:
    """What tells who sends a token, where people prove who they are."""
    if settings.sign_in == "none":
        return None
    oidc = None
    if settings.oidc_issuer is not None and settings.oidc_audience is not None:
        claims = settings.oidc_name_claim, settings.oidc_groups_claim
        oidc = Oidc(Provider(settings.oidc_issuer, settings.oidc_audience, *claims))
    return SignIn(database, settings.administrators, oidc)


def _telemetry(settings: Settings) -> tuple["Telemetry | None", Callable[[], None]]:
    """What shows this process to operators, where any is to, and how that ends."""
    if settings.metrics is None and settings.otlp_endpoint is None:
        return None, lambda: None
    from lifecycle.telemetry import metrics, traces
    from schema.telemetry import Telemetry

    counted = metrics.Metrics() if settings.metrics else None
    if settings.otlp_endpoint is None:
        return Telemetry(counted, None), lambda: None
    provider = traces.provider()
    return Telemetry(counted, provider.get_tracer("lifecycle")), lambda: traces.end(provider)


def _mirror(
    settings: Settings, database: Database, telemetry: "Telemetry | None"
) -> AbstractAsyncContextManager[None]:
    """The worker that mirrors to MLflow, where this process is to have one."""
    if settings.mlflow_uri is None or not settings.mlflow_worker:
        return nullcontext()
    # Its client takes seconds to import.
    from lifecycle.tracking import worker

    watch = telemetry.mirrored if telemetry else lambda _: None
    return worker.running(database, settings.mlflow_uri, settings.mlflow_follow, watch)


class _Readiness:
    """Whether requests can be answered. It is found out once for all who ask meanwhile: anybody may
    ask, without a limit, and nobody is to wait for a connection behind all of them."""

    def __init__(self, database: Database, mlflow_uri: str | None) -> None:
        self._database = database
        self._mlflow_uri = mlflow_uri
        self._finding: asyncio.Task[dict[str, object]] | None = None

    async def told(self) -> dict[str, object]:
        """What /readyz answers."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find_out(), name="readiness")
        return await asyncio.shield(self._finding)

    async def _find_out(self) -> dict[str, object]:
        try:
            checks = {"database": True, "migrations": await migrate.fits(self._database)}
        except Exception:  # whatever it is, the answer is that we are not ready
            checks = {"database": False, "migrations": False}
        ready = all(checks.values())
        told: dict[str, bool | None] = {**checks, "mlflow": None}
        if self._mlflow_uri is not None:
            # Everything works without it, so readiness does not depend on it.
            told["mlflow"] = ready and await _answers(self._database, self._mlflow_uri)
        return {"ready": ready, "checks": told}


async def _answers(database: Database, mlflow_uri: str) -> bool:
    """Whether MLflow answered when a worker last asked it."""
    try:
        async with database.read() as session:
            known = await tracking.servers_by_uris(session, [mlflow_uri])
    except LifecycleError:
        return False
    return mlflow_uri in known and answers(known[mlflow_uri])


async def _mark_lost_runs(database: Database, telemetry: "Telemetry | None") -> None:
    """Looks for silent runs now and then; every process may."""

    async def look() -> int:
        lost = await database.write(runs.mark_lost)
        if lost:
            _log.warning("runs.lost", count=lost)
            if telemetry is not None:
                telemetry.lost(lost)
        return lost

    await _sweep("runs", look, runs.SWEEP)


async def _clear_uploads(database: Database, storage: Storage) -> None:
    """Removes what is left of old uploads now and then; every process may."""
    await _sweep("uploads", lambda: transfers.sweep(database, storage), transfers.SWEEP)


async def _sweep(what: str, look: Callable[[], Awaitable[int]], batch: int) -> None:
    """Look for something to do, which `look` does and counts, for as long as the service lives."""
    while True:
        found = 0
        try:
            found = await look()
        except LifecycleError as error:
            _log.warning(f"{what}.sweep_failed", error=str(error))
        except Exception:  # whatever it is, the next look is due
            _log.exception(f"{what}.sweep_failed")
        # A full batch says that there are more.
        if found < batch:
            await asyncio.sleep(_SWEEP_SECONDS)


@contextmanager
def _on_shutdown_signal(feed: Feed) -> Iterator[None]:
    """Tell subscribers why their streams end, before the server closes their connections."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    farewells: set[asyncio.Task[None]] = set()

    def pass_on(number: int) -> None:
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, None)

    def begin(number: int) -> None:
        if farewells:  # whoever asks twice does not want to wait
            pass_on(number)
            return
        farewell = loop.create_task(feed.drain(), name="farewell")
        farewell.add_done_callback(lambda _: pass_on(number))
        farewells.add(farewell)

    for number in former:
        signal.signal(number, lambda number, _: loop.call_soon_threadsafe(begin, number))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _stop_with_supervisor() -> None:
    """Without it, the other processes of `--workers` would survive a killed first one, keep the
    port, and serve on unseen."""
    supervisor = multiprocessing.parent_process()

    def stop() -> None:
        assert supervisor is not None
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)

    if supervisor is not None:
        threading.Thread(target=stop, name="supervisor-watch", daemon=True).start()


class Straight:
    """Takes what nearly all requests are for to the endpoint, past Starlette's routes and what
    answers exceptions there: the endpoint does so itself, and they take a fifteenth of the time of
    a small query."""

    def __init__(self, app: ASGIApp, view: View) -> None:
        self._app = app
        self._view = view

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        straight = scope["type"] == "http" and scope["path"] == "/graphql"
        await (self._view if straight else self._app)(scope, receive, send)


class RequestLog:
    """Gives each request an id, sends it back, and logs one line when the request is done."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Not by a proxy, which would look for its logger anew for each line.
        self._log = _log.bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        scope["request_id"] = request_id
        status, began = 0, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        # The server runs each request in a task of its own, with which this ends.
        bind_contextvars(request_id=request_id, operation=None)
        try:
            await self._app(scope, receive, answer)
        finally:
            if scope["path"] not in _UNLOGGED:
                self._log.info(
                    "request",
                    method=scope.get("method", "WEBSOCKET"),
                    path=scope["path"],
                    status=status,
                    milliseconds=round((time.perf_counter() - began) * 1000, 1),
                )
