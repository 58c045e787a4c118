"""Who is compared: processes that serve the same data from one PostgreSQL.

Here: how each is started and ended. Not here: what each is asked (`cases`).
"""

import asyncio
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import asyncpg
import httpx
import orjson
import psutil

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".bench"
# Of the client to each server, and of a server to PostgreSQL: as many as the service's readers.
CONNECTIONS = 8
# With more of them it was slower on two cores.
_POSTGRAPHILE_CONNECTIONS = 4
_POSTGRAPHILE = WORK / "postgraphile"
_MLFLOW_PYTHON = str(WORK / "mlflow-server" / "bin" / "python")
_START_SECONDS = 120
_END_SECONDS = 20


@dataclass(frozen=True)
class Server:
    """A process that answers on a port of this machine."""

    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def resident(self) -> int:
        """How much memory it has, in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)


@contextmanager
def _started(name: str, command: list[str], port: int, path: str, **given: str) -> Iterator[Server]:
    """A server that answers at a path; it is gone in the end, with its children."""
    # Nothing that this shell is configured with should reach those that are compared.
    ours = re.compile("LIFECYCLE_|MLFLOW_|PG|NODE_|PYTHON")
    inherited = {key: value for key, value in os.environ.items() if not ours.match(key)}
    log = WORK / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=inherited | given,
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(f"http://127.0.0.1:{port}{path}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not start: {log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield Server(name, port, process.pid)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)


def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=_START_SECONDS).status_code != 503
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def service(database_url: str, name: str = "service", **environment: str) -> Iterator[Server]:
    """`lifecycle serve` as a person starts it, one process."""
    port = _free_port()
    command = [sys.executable, "-m", "lifecycle", "serve", "--port", str(port)]
    command += ["--database-url", database_url, "--data-dir", str(WORK / "service")]
    with _started(name, command, port, "/readyz", **environment) as server:
        yield server


@contextmanager
def limit(database_url: str) -> Iterator[Server]:
    """One statement by hand behind a bare route; see `limit`."""
    port = _free_port()
    command = [sys.executable, "-m", "tests.bench.limit", str(port)]
    with _started("limit", command, port, "/", DATABASE_URL=_plain(database_url)) as server:
        yield server


@contextmanager
def postgraphile(database_url: str) -> Iterator[Server]:
    """PostGraphile, with the Node.js that was installed for it or else the one that is there."""
    port = _free_port()
    command = [_node(), str(_POSTGRAPHILE / "server.mjs")]
    environment = {
        "DATABASE_URL": _plain(database_url),
        "PORT": str(port),
        "CONNECTIONS": str(_POSTGRAPHILE_CONNECTIONS),
        "NODE_ENV": "production",
        "GRAPHILE_ENV": "production",
    }
    with _started("postgraphile", command, port, "/graphql", **environment) as server:
        yield server


def _node() -> str:
    own = _POSTGRAPHILE / "node_modules" / ".bin" / "node"
    return str(own) if own.exists() else "node"


@contextmanager
def mlflow(database_url: str) -> Iterator[Server]:
    """MLflow's server, one process; it makes its tables in the database."""
    port = _free_port()
    command = [
        *(_MLFLOW_PYTHON, "-m", "mlflow", "server"),
        *("--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", database_url.replace("+asyncpg", "+psycopg2")),
        *("--artifacts-destination", str(WORK / "mlflow")),
    ]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A dozen more processes otherwise, for work that nobody gives it here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(CONNECTIONS),
    }
    with _started("mlflow", command, port, "/health", **environment) as server:
        yield server


def _plain(database_url: str) -> str:
    return database_url.replace("+asyncpg", "")


@contextmanager
def running(
    names: Container[str], database_url: str, mlflow_url: str
) -> Iterator[dict[str, Server]]:
    """Those of these names, on databases that have their data."""
    # This service is the first that starts: so it is the one that numbers the journal.
    every: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        "service": lambda: service(database_url),
        "stock": lambda: service(database_url, "stock", LIFECYCLE_EXECUTION="stock"),
        "postgraphile": lambda: postgraphile(database_url),
        "mlflow": lambda: mlflow(mlflow_url),
        "limit": lambda: limit(database_url),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(start()) for name, start in every.items() if name in names}


def versions(postgres_url: str) -> dict[str, str]:
    """Which version of everything was measured."""

    async def postgres() -> str:
        connection = await asyncpg.connect(_plain(postgres_url))
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package = _POSTGRAPHILE / "node_modules" / "postgraphile" / "package.json"
    ours = ("strawberry-graphql", "graphql-core", "sqlalchemy", "asyncpg", "starlette", "uvicorn")
    mlflow_version = "from importlib.metadata import version; print(version('mlflow'))"
    return {
        "postgresql": asyncio.run(postgres()),
        "postgraphile": orjson.loads(package.read_bytes())["version"],
        "node": said(_node(), "--version"),
        "mlflow": said(_MLFLOW_PYTHON, "-c", mlflow_version),
        "python": f"{platform.python_version()}, {Path(sys.executable).resolve()}",
        **{name: version(name) for name in ours},
    }
