"""`lifecycle serve` from its start to its end: what it reads, what it leaves behind."""

import asyncio
import signal
import tempfile
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import httpx
import psutil
import pytest

from lifecycle import embedded, migrate
from tests.client import PATIENCE, Graph, socket
from tests.conftest import Process, in_thread, process, serving
from tests.factories import a_deployment, a_version
from tests.following import until

pytestmark = pytest.mark.slow

DEPLOYMENT_STATUS = """
subscription {
  deploymentStatus { __typename ... on DeploymentStatusEvent { deployment { id } } }
}
"""
EXPERIMENT = "query ($name: String!) { experiment(name: $name) { name } }"


async def write(url: str, name: str) -> None:
    """Make an experiment."""
    async with Graph(url) as graph:
        await graph.done("createExperiment", {"name": name}, "experiment { id }")


async def has(url: str, name: str) -> bool:
    """Whether there is an experiment of this name."""
    async with Graph(url) as graph:
        return (await graph.query(EXPERIMENT, {"name": name}))["experiment"] is not None


async def until_answered(graph: Graph, query: str) -> None:
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if "errors" not in await graph.answer(query):
                return
            await asyncio.sleep(0.05)


def postgres_of(data_dir: Path) -> list[int]:
    """The processes of the PostgreSQL that keeps its data there."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if each.name() == "postgres" and Path(each.cwd()).is_relative_to(data_dir):
                found.append(each.pid)
    return found


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def socket_directories() -> set[Path]:
    """Where sockets are whose data is too far down."""
    return set(Path(tempfile.gettempdir()).glob("lifecycle-????????"))


async def test_it_prints_its_address_and_serves_there(served: Process) -> None:
    async with httpx.AsyncClient(
        base_url=served.url, trust_env=False, verify=False, timeout=PATIENCE
    ) as http:
        home = await http.get("/")
        alive = await http.get("/healthz")
        ready = await http.get("/readyz")
        answer = await http.post("/graphql", json={"query": "{ serverInfo { version } }"})

    assert not served.url.endswith(":0")
    assert (home.status_code, home.headers["location"]) == (307, "/graphql")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "checks": {"database": True, "migrations": True, "mlflow": None},
    }
    assert answer.json() == {"data": {"serverInfo": {"version": "0.1.0"}}}


async def test_it_reads_the_environment_and_options_win(
    database_url: str, graph: Graph, unique: str, tmp_path: Path
) -> None:
    # given
    environment = {
        "LIFECYCLE_HOST": "127.0.0.2",
        "LIFECYCLE_PORT": "1",
        "LIFECYCLE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "LIFECYCLE_LOG_FORMAT": "console",
    }

    # when
    with process("--database-url", database_url, cwd=tmp_path, **environment) as started:
        await write(started.url, unique)
        code = started.stop(signal.SIGTERM)
        log = started.log.read_text()

    # then
    assert started.url.startswith("http://127.0.0.2:")
    assert not started.url.endswith(":1")
    assert (await graph.query(EXPERIMENT, {"name": unique}))["experiment"] == {"name": unique}
    assert code == 0
    assert "request" in log
    assert '{"' not in log, "a console gets no JSON"
    assert names_in(tmp_path) == [], "the embedded PostgreSQL was not needed"


async def test_without_configuration_it_keeps_its_data_here(tmp_path: Path, unique: str) -> None:
    # when
    with process(cwd=tmp_path, LIFECYCLE_DATABASE_URL="", LIFECYCLE_DATA_DIR="") as first:
        await write(first.url, unique)
        running = postgres_of(tmp_path)
        interrupted = first.stop(signal.SIGINT)
    left = postgres_of(tmp_path)

    with process(cwd=tmp_path, LIFECYCLE_DATABASE_URL="", LIFECYCLE_DATA_DIR="") as second:
        kept = await has(second.url, unique)
        terminated = second.stop(signal.SIGTERM)

    # then
    assert (interrupted, terminated) == (0, 0)
    assert running
    assert left == postgres_of(tmp_path) == []
    assert kept
    assert names_in(tmp_path) == [".lifecycle"]
    assert "postmaster.pid" not in names_in(tmp_path / ".lifecycle" / "postgres")


async def test_two_share_one_data_directory_and_the_last_one_stops_its_database(
    tmp_path: Path, unique: str
) -> None:
    # given: a path that is longer than that of a socket may be, and has to be quoted
    data_dir = tmp_path / "a long, 100% legal name & more" / ("x" * 120)
    before = socket_directories()

    # when
    with (
        process("--data-dir", str(data_dir), LIFECYCLE_DATABASE_URL="") as first,
        process(LIFECYCLE_DATA_DIR=str(data_dir), LIFECYCLE_DATABASE_URL="") as second,
    ):
        [sockets] = socket_directories() - before
        mode = sockets.stat().st_mode
        await write(first.url, unique)
        codes = [first.stop()]
        seen = await has(second.url, unique)
        await write(second.url, f"{unique}-2")
        codes.append(second.stop())

    # then
    assert seen
    assert codes == [0, 0]
    assert postgres_of(data_dir) == []
    assert mode & 0o077 == 0, "whoever reaches the socket is let in"
    assert not sockets.exists()


async def test_workers_share_the_port_and_a_killed_one_is_replaced(
    database_url: str, unique: str
) -> None:
    def workers() -> set[int]:
        return {
            child.pid
            for child in psutil.Process(started.popen.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        }

    def are_ready(number: int) -> bool:
        return started.log.read_text().count("Application startup complete.") == number

    with process("--workers", "2", "--database-url", database_url) as started:
        # given
        await until(lambda: are_ready(2))
        first = workers()

        # when
        killed = min(first)
        psutil.Process(killed).kill()
        await until(lambda: are_ready(3))
        second = workers()
        await write(started.url, unique)
        code = started.stop()

    # then
    assert len(first) == len(second) == 2
    assert len(second - first) == 1
    assert killed not in second
    assert code == 0
    assert not [pid for pid in first | second if psutil.pid_exists(pid)]


async def test_it_recovers_by_itself_when_its_database_was_restarted(
    tmp_path: Path, unique: str
) -> None:
    query = "{ experiments(first: 1) { nodes { name } } }"
    with ExitStack() as database:
        # given: a service that has used its connections, and a subscriber
        url = database.enter_context(embedded.running(tmp_path))
        in_thread(lambda: migrate.upgrade(url))
        async with serving(url) as live, Graph(live.url) as graph, socket(live.url) as watching:
            await asyncio.gather(*(write(live.url, f"{unique}-{n}") for n in range(8)))
            items = watching.subscribe(DEPLOYMENT_STATUS)
            caught_up = await anext(items)

            # when
            database.close()
            refused = await graph.error(query)
            failed = await graph.mutate("createExperiment", {"name": f"{unique}-lost"})
            health = [(await graph.http.get(path)).status_code for path in ("/healthz", "/readyz")]
            again = database.enter_context(embedded.running(tmp_path))

            # then: pooled connections are found dead once, not one by one
            await until_answered(graph, query)
            await asyncio.gather(*(write(live.url, f"{unique}-again-{n}") for n in range(8)))
            assert (await graph.http.get("/readyz")).status_code == 200

            version = await a_version(graph, unique)
            deployment = await a_deployment(graph, version)
            event = await anext(items)

    assert again == url
    assert caught_up["__typename"] == "CaughtUp"
    assert refused["extensions"]["code"] == failed["code"] == "UNAVAILABLE"
    assert health == [200, 503]
    assert event == {"__typename": "DeploymentStatusEvent", "deployment": {"id": deployment}}
