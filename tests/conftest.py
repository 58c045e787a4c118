"""What tests start from: a migrated database of their own, the service on it, and a client.

Tests share the database and never clean it: each makes objects under names that nobody else has.
"""

import asyncio
import atexit
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import uvicorn
from sqlalchemy.engine import make_url
from starlette.applications import Starlette

from lifecycle import embedded, migrate
from lifecycle.database import Database, connect
from lifecycle.journal.feed import Feed
from lifecycle.settings import Settings, asyncpg_url
from schema.app import create_app
from schema.wire import Http, WebSockets
from tests.client import PATIENCE, Graph
from tests.forks import Forked, Forks

# Who executes queries; the tests hold for both.
EXECUTION = os.environ.get("LIFECYCLE_EXECUTION", "compiled")

# The client lives in the same process, and what it says is not what the service logs.
logging.getLogger("httpx").setLevel(logging.WARNING)


def pytest_collection_finish() -> None:
    """Collect garbage as seldom as the processes do that serve; see `schema.app.served`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait come first, so that others work meanwhile and nobody waits in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL server: the one in LIFECYCLE_TEST_DATABASE_URL, else the embedded one."""
    given = os.environ.get("LIFECYCLE_TEST_DATABASE_URL")
    if given:
        yield asyncpg_url(given)
        return
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with embedded.running(Path(directory)) as url:
            # Nobody kills this one; tests of what a crash leaves have servers of their own.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                execute(url, f"ALTER SYSTEM SET {setting} = off")
            execute(url, "SELECT pg_reload_conf()")
            yield url


def in_thread(function: Callable[[], object]) -> None:
    """Run something that wants an event loop of its own beside the tests' loop."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def execute(url: str, statement: str) -> None:
    """Run a statement on a connection of its own."""

    async def run() -> None:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        await connection.execute(statement)
        await connection.close()

    in_thread(lambda: asyncio.run(run()))


@contextmanager
def a_database(server_url: str, template: str = "template1") -> Iterator[str]:
    """A database on the server that is a copy of another, dropped afterwards."""
    name = f"test_{uuid4().hex}"
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield re.sub(r"/[^/?]*(\?|$)", rf"/{name}\1", server_url, count=1)
    execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database without tables, for one test."""
    with a_database(server_url) as url:
        yield url


MakeDatabase = Callable[[], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def migrated(server_url: str) -> Iterator[MakeDatabase]:
    """Makes databases with tables, each dropped when its block ends. They are copies of one that
    was migrated, with journals of their own."""
    with a_database(server_url) as template:
        in_thread(lambda: migrate.upgrade(template))
        name = make_url(template).database
        assert name is not None

        @contextmanager
        def copied() -> Iterator[str]:
            with a_database(server_url, name) as url:
                execute(url, "UPDATE journal_head SET journal_id = gen_random_uuid()")
                yield url

        yield copied


@pytest.fixture
def own_database_url(migrated: MakeDatabase) -> Iterator[str]:
    """A migrated database for one test."""
    with migrated() as url:
        yield url


@pytest.fixture(scope="session")
def database_url(migrated: MakeDatabase) -> Iterator[str]:
    """The migrated database that all tests share."""
    with migrated() as url:
        yield url


@dataclass(frozen=True)
class Live:
    """A service that runs in the tests' own event loop, on a real port."""

    url: str
    app: Starlette

    @property
    def database(self) -> Database:
        found: Database = self.app.state.database
        return found

    @property
    def feed(self) -> Feed:
        found: Feed = self.app.state.feed
        return found


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Live]:
    """A service on this database, with these settings. Several may serve one database, like several
    processes. Unless the settings say otherwise, none has to do with an MLflow server."""
    with tempfile.TemporaryDirectory() as directory:
        given = {
            "database_url": database_url,
            "data_dir": Path(directory),
            "log_format": "json",
            "execution": EXECUTION,
            "mlflow_worker": False,
        }
        async with _serving(Settings(**{**given, **settings})) as service:
            yield service


@asynccontextmanager
async def _serving(settings: Settings) -> AsyncIterator[Live]:
    app = create_app(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            http=Http,
            ws=WebSockets,
            ws_per_message_deflate=False,
            log_config=None,
            timeout_graceful_shutdown=5,
        )
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Live(f"http://127.0.0.1:{port}", app)
    finally:
        app.state.feed.close()
        server.should_exit = True
        await task


@pytest_asyncio.fixture(scope="session")
async def live(database_url: str) -> AsyncIterator[Live]:
    """The service that most tests talk to."""
    async with serving(database_url) as service:
        yield service


@pytest_asyncio.fixture(scope="session")
async def graph(live: Live) -> AsyncIterator[Graph]:
    """A client of the service, over HTTP."""
    async with Graph(live.url) as client:
        yield client


@pytest_asyncio.fixture
async def sql(live: Live) -> AsyncIterator[asyncpg.Connection]:
    """The database without the service."""
    connection = await connect(live.database.url, "test")
    yield connection
    await connection.close()


@pytest.fixture
def unique() -> str:
    """A name that no other test has."""
    return f"t-{uuid4().hex[:12]}"


@dataclass
class Process:
    """`lifecycle serve` in a process of its own."""

    url: str
    popen: "subprocess.Popen[str] | Forked"
    log: Path

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C or another signal, and the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE)


@contextmanager
def process(
    *options: str, port: str = "0", cwd: Path | None = None, **environment: str
) -> Iterator[Process]:
    """`lifecycle serve` with these options as a person starts it; stopped if the test did not."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        popen = subprocess.Popen(
            [sys.executable, "-m", "lifecycle", "serve", "--port", port, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=cwd,
            env=os.environ | environment,
        )
        with _stopped_in_the_end(popen, Path(log.name)) as started:
            yield started


@contextmanager
def forked(*options: str, port: str = "0", **environment: str) -> Iterator[Process]:
    """The same, where nothing is said about the start: it is there sooner."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        popen = forks().piped(
            *("-m", "lifecycle", "serve", "--port", port, *options),
            stderr=log.fileno(),
            env=os.environ | environment,
        )
        with _stopped_in_the_end(popen, Path(log.name)) as started:
            yield started


@cache
def forks() -> Forks:
    """The service, imported; it ends with this process."""
    made = Forks(sys.executable, "schema.app", "lifecycle.tracking.importing")
    atexit.register(made.close)
    return made


@contextmanager
def _stopped_in_the_end(popen: "subprocess.Popen[str] | Forked", log: Path) -> Iterator[Process]:
    assert popen.stdout is not None
    try:
        found = re.search(r"http://[\d.]+:\d+", popen.stdout.readline())
        assert found, log.read_text()
        yield Process(found[0], popen, log)
    finally:
        if popen.poll() is None:
            popen.send_signal(signal.SIGINT)
            popen.wait(PATIENCE)
        popen.stdout.close()


@pytest.fixture(scope="session")
def served(database_url: str) -> Iterator[Process]:
    """The service in a process of its own, for those that cannot share the tests' event loop."""
    with forked("--database-url", database_url) as started:
        yield started
