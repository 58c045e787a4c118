"""Where metrics are read: an address of its own, which strangers need not reach.

The process that was started first answers, for all that serve with it, and asks the database
itself for what is the same for all of them.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler

import asyncpg
import psutil
import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from lifecycle.database import connect

_log = structlog.get_logger(__name__)

# Whoever reads has given up by then.
_TIMEOUT = "5s"
_MISSING = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError)

_JOURNAL = """
SELECT position,
       (SELECT count(*) FROM event WHERE position IS NULL) AS pending,
       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0)::float8
        FROM event WHERE position IS NULL) AS lag
FROM journal_head
"""
_REPLICA = """
SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 ELSE
    coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
END::float8
"""
_OUTBOX = """
SELECT server.uri, head.position - server.position AS events,
       (SELECT count(*) FROM mlflow_item AS item
        WHERE item.server_id = server.id AND item.due_at IS NOT NULL) AS items
FROM mlflow_server AS server CROSS JOIN journal_head AS head
WHERE server.position IS NOT NULL
"""


@contextmanager
def answering(
    sock: socket.socket, directory: Path, database_url: str, read_url: str | None
) -> Iterator[None]:
    """Answer with the metrics of all processes on this socket, which listens, at any path.
    `directory` is where they keep what they count."""
    registry = CollectorRegistry()
    registry.register(_Processes(directory))
    registry.register(_State(database_url))
    if read_url is not None:
        registry.register(_Replica(read_url))
    server = ThreadingWSGIServer(sock.getsockname()[:2], _Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    server.server_name, server.server_port = "metrics", sock.getsockname()[1]
    server.setup_environ()
    server.set_app(make_wsgi_app(registry))
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


class _Quiet(WSGIRequestHandler):
    """Somebody asks every few seconds; who asks and never sends is not waited for."""

    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Processes(Collector):
    """What they have counted, also those that are gone; what they have, only of those alive."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        for file in self._directory.glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not psutil.pid_exists(pid):
                mark_process_dead(pid, str(self._directory))  # type: ignore[no-untyped-call]
        files = [*self._begun()]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return found

    def _begun(self) -> Iterator[str]:
        """The files in which there is something: one that is just being made cannot be read."""
        for file in self._directory.glob("*.db"):
            with suppress(FileNotFoundError):  # its process is gone
                if file.stat().st_size:
                    yield str(file)

    def describe(self) -> Iterable[Metric]:
        return ()


class _State(Collector):
    """What the database says, now."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    def collect(self) -> Iterable[Metric]:
        up = "lifecycle_database_up", "Whether the database answers."
        try:
            journal, outbox = asyncio.run(self._ask())
        except _MISSING as error:
            _log.warning("metrics.database_unavailable", error=repr(error))
            yield GaugeMetricFamily(*up, 0)
            return
        yield GaugeMetricFamily(*up, 1)
        for name, meaning, value in (
            ("position", "The last position that the journal has given.", journal["position"]),
            ("pending", "Events that have no position yet.", journal["pending"]),
            ("lag_seconds", "How long the first of them has waited.", journal["lag"]),
        ):
            yield GaugeMetricFamily(f"lifecycle_journal_{name}", meaning, value)
        events = GaugeMetricFamily(
            "lifecycle_mlflow_events",
            "Events of the journal that the mirror to an MLflow server has not looked at.",
            labels=["server"],
        )
        items = GaugeMetricFamily(
            "lifecycle_mlflow_items",
            "Objects that an MLflow server is to be told of, or asked about.",
            labels=["server"],
        )
        for server in outbox:
            events.add_metric([server["uri"]], server["events"])
            items.add_metric([server["uri"]], server["items"])
        yield events
        yield items

    def describe(self) -> Iterable[Metric]:
        return ()

    async def _ask(self) -> tuple[asyncpg.Record, list[asyncpg.Record]]:
        async with _connected(self._url) as connection:
            return await connection.fetchrow(_JOURNAL), await connection.fetch(_OUTBOX)


class _Replica(Collector):
    """What the replica says of itself, now."""

    def __init__(self, read_url: str) -> None:
        self._url = read_url

    def collect(self) -> Iterable[Metric]:
        up = "lifecycle_replica_up", "Whether the replica answers."
        try:
            lag = asyncio.run(self._ask())
        except _MISSING as error:
            _log.warning("metrics.replica_unavailable", error=repr(error))
            yield GaugeMetricFamily(*up, 0)
            return
        yield GaugeMetricFamily(*up, 1)
        yield GaugeMetricFamily(
            "lifecycle_replica_lag_seconds", "How far the replica is behind.", lag
        )

    def describe(self) -> Iterable[Metric]:
        return ()

    async def _ask(self) -> float:
        async with _connected(self._url) as connection:
            lag: float = await connection.fetchval(_REPLICA)
        return lag


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(
        url, "metrics", default_transaction_read_only="on", statement_timeout=_TIMEOUT
    )
    try:
        yield connection
    finally:
        connection.terminate()
