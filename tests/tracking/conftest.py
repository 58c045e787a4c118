"""Real MLflow servers, from the environments that `make mlflow` makes.

A test session has one of each line, which all tests share, each under names of its own. A test that
stops its server or takes in all that is there has one for itself.
"""

import atexit
import os
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.client import PATIENCE
from tests.forks import Forked, Forks
from tests.tracking.faults import Faults

_ENVIRONMENTS = Path(__file__).parents[2] / ".mlflow"
NEWEST = "3"
LINES = (
    pytest.param(NEWEST, id="mlflow-3"),
    pytest.param("2", id="mlflow-2", marks=pytest.mark.slow),
)


# The database of the first server of each line as it was when that had made its tables, which takes
# it longer than all else that it does until it answers.
_UNUSED: dict[str, bytes] = {}


class Mlflow:
    """An MLflow server, with a database and artifacts of its own, that may come and go."""

    def __init__(self, line: str, directory: Path) -> None:
        self.line = line
        self._directory = directory
        self._process: Forked | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def python(self) -> Path:
        """Python with the whole mlflow of this line, for training code."""
        return _ENVIRONMENTS / self.line / "bin" / "python"

    def start(self) -> None:
        """Start, where it was before and with what was there, and wait until it answers."""
        assert self._process is None
        log, database = self._directory / "log", self._directory / "mlflow.db"
        if self.line in _UNUSED and not database.exists():
            database.write_bytes(_UNUSED[self.line])
        with log.open("ab") as written:
            self._process = _forks(self.line).start(
                *("-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(self._port)),
                *("--backend-store-uri", f"sqlite:///{database}"),
                *("--artifacts-destination", str(self._directory / "artifacts")),
                stdout=written.fileno(),
                stderr=written.fileno(),
                # It has children, and leaves them behind when it is ended alone.
                session=True,
                # In version 3 a dozen more processes otherwise, for work that no test gives it.
                env=_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        _UNUSED.setdefault(self.line, database.read_bytes())

    def stop(self) -> None:
        """End it as one who stops it would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it in the midst of whatever it is doing."""
        self._end(signal.SIGKILL)

    def train(self, script: str, *arguments: str) -> str:
        """Run training code that knows only MLflow, with its plain client; what it printed."""
        training = _forks(self.line).kept(
            *("-c", script, *arguments),
            cwd=self._directory,
            env=_environment(MLFLOW_TRACKING_URI=self.url),
        )
        out, err = training.communicate(PATIENCE)
        assert training.returncode == 0, err
        return out

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/version", trust_env=False, verify=False).is_success
        return False

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(PATIENCE)
        # Its children have until here to end, and are not ours to wait for.
        deadline = time.monotonic() + PATIENCE
        with suppress(ProcessLookupError):
            while True:
                os.killpg(process.pid, 0 if time.monotonic() < deadline else signal.SIGKILL)
                time.sleep(0.05)


def _environment(**more: str) -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return ours | {"MLFLOW_DISABLE_TELEMETRY": "true"} | more


@cache
def _forks(line: str) -> Forks:
    """The whole mlflow of this line, imported; it ends with this process."""
    python = _ENVIRONMENTS / line / "bin" / "python"
    assert python.exists(), "There are no MLflow servers yet: make mlflow"
    forks = Forks(python, "mlflow.server.handlers", "tests.tracking.one_process", **_environment())
    atexit.register(forks.close)
    return forks


@contextmanager
def an_mlflow(line: str = NEWEST) -> Iterator[Mlflow]:
    """A server of this line that has started, and is gone in the end."""
    with tempfile.TemporaryDirectory() as directory:
        server = Mlflow(line, Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, Mlflow]]:
    """The servers that somebody has asked for, by line."""
    servers: dict[str, Mlflow] = {}
    yield servers
    for server in servers.values():
        server.kill()


def _server(servers: dict[str, Mlflow], line: str, factory: pytest.TempPathFactory) -> Mlflow:
    if line not in servers:
        server = servers[line] = Mlflow(line, factory.mktemp(f"mlflow-{line}"))
        server.start()
    return servers[line]


@pytest.fixture
def mlflow(_servers: dict[str, Mlflow], tmp_path_factory: pytest.TempPathFactory) -> Mlflow:
    """The newest MLflow, which all tests share."""
    return _server(_servers, NEWEST, tmp_path_factory)


@pytest.fixture(params=LINES)
def any_mlflow(
    request: pytest.FixtureRequest,
    _servers: dict[str, Mlflow],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mlflow:
    """Each line of MLflow in turn, shared by all tests."""
    line: Any = request.param
    return _server(_servers, line, tmp_path_factory)


@pytest.fixture
def mlflow_url(mlflow: Mlflow) -> str:
    """The address of the newest MLflow."""
    return mlflow.url


@pytest_asyncio.fixture
async def faults(mlflow: Mlflow) -> AsyncIterator[Faults]:
    """A way to the newest MLflow on which things go wrong as a test says."""
    async with Faults(mlflow.url) as proxy:
        yield proxy
