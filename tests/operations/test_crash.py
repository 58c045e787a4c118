"""Killed in the middle: what was acknowledged is there afterwards, and nothing by halves."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from lifecycle import embedded
from lifecycle.errors import Unavailable
from lifecycle.journal.verification import verify
from tests.client import PATIENCE, Graph, Json
from tests.conftest import process
from tests.following import connect, until

pytestmark = pytest.mark.slow

EXPERIMENT = "query ($name: String!) { experiment(name: $name) { name } }"

HALF_WRITTEN = """
SELECT version FROM model_version AS v WHERE
    (SELECT count(*) FROM event WHERE subject_id = v.id) <> 1
    OR (SELECT count(*) FROM stage_assignment WHERE model_version_id = v.id) <> 1
    OR (SELECT count(*) FROM version_metric WHERE model_version_id = v.id) <> 2
"""


# Of the data directory, which nobody else has, and of the socket in it.
LOCK_FILES = ("postmaster.pid", ".s.PGSQL.5432.lock")


def as_user(number: int) -> dict[str, Any]:
    """How to start a process of this user, for root."""
    return {"user": number} if os.geteuid() == 0 else {}


def ended(process: psutil.Process) -> bool:
    """Whether it has, even if nobody has waited for it."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def answers(url: str) -> None:
    connection = await connect(url)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def write_until_cut_off(graph: Graph, model: str, acknowledged: list[int]) -> None:
    """Register one version after the other, for as long as there are answers."""
    metrics = [{"key": key, "value": 0.5} for key in ("accuracy", "recall")]
    input = {"modelName": model, "metrics": metrics}
    try:
        while True:
            made = await graph.done("registerModelVersion", input, "modelVersion { version }")
            acknowledged.append(int(made["version"]))
    except httpx.TransportError:
        pass


def refuses_connections(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as connecting:
        return connecting.connect_ex((address.hostname, address.port)) == errno.ECONNREFUSED


async def until_refused(graph: Graph, query: str) -> Json:
    """The error with which a query fails in the end."""
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            answer = await graph.answer(query)
            if "errors" in answer:
                break
    [error] = answer["errors"]
    found: Json = error
    return found


async def test_a_killed_service_keeps_every_acknowledged_write_and_no_half_one(
    tmp_path: Path, unique: str
) -> None:
    acknowledged: list[int] = []

    # given
    with process("--workers", "2", "--data-dir", str(tmp_path), LIFECYCLE_DATABASE_URL="") as first:
        async with Graph(first.url) as graph:
            writers = [
                asyncio.create_task(write_until_cut_off(graph, unique, acknowledged))
                for _ in range(8)
            ]
            await until(lambda: len(acknowledged) > 100)
            _, *others = [
                child
                for child in psutil.Process(first.popen.pid).children()
                if "spawn_main" in " ".join(child.cmdline())
            ]

            # when
            for victim in (first.popen, *others):
                victim.kill()
            await asyncio.gather(*writers)

    # then: the remaining worker does not keep the port
    await until(lambda: refuses_connections(first.url))

    with (
        process("--data-dir", str(tmp_path), LIFECYCLE_DATABASE_URL="") as second,
        embedded.running(tmp_path) as url,
    ):
        async with Graph(second.url) as graph:
            await graph.done("registerModelVersion", {"modelName": unique}, "modelVersion { id }")
        connection = await connect(url)
        rows = await connection.fetch("SELECT version FROM model_version ORDER BY created_at, id")
        half_written = await connection.fetch(HALF_WRITTEN)
        await connection.close()
        verdict = await verify(url)
        code = second.stop()

    written = [int(row["version"]) for row in rows]
    assert set(acknowledged) < set(written)
    assert sorted(written) == list(range(1, len(written) + 1))
    assert [row["version"] for row in half_written] == [str(len(written))], "it has no metrics"
    assert (verdict.faults, verdict.not_chained) == ([], 0)
    assert verdict.entries + verdict.waiting == 1 + len(written)
    assert code == 0


async def test_without_its_postgres_the_service_says_unavailable_and_the_next_start_repairs_it(
    tmp_path: Path, unique: str
) -> None:
    # given
    with process("--data-dir", str(tmp_path), LIFECYCLE_DATABASE_URL="") as first:
        async with Graph(first.url) as graph:
            await graph.done("createExperiment", {"name": unique}, "experiment { id }")
            lock_file = tmp_path / "postgres" / "postmaster.pid"

            # when
            os.kill(int(lock_file.read_text().split()[0]), signal.SIGKILL)
            read = await until_refused(graph, "{ experiments(first: 1) { nodes { id } } }")
            written = await graph.mutate("createExperiment", {"name": f"{unique}-2"})
            ready = await graph.http.get("/readyz")
        code = first.stop()

    # then
    assert read["extensions"]["code"] == "UNAVAILABLE"
    assert written["code"] == "UNAVAILABLE"
    assert ready.status_code == 503
    assert code == 0

    with process("--data-dir", str(tmp_path), LIFECYCLE_DATABASE_URL="") as second:
        async with Graph(second.url) as graph:
            for name, kept in ((unique, {"name": unique}), (f"{unique}-2", None)):
                assert (await graph.query(EXPERIMENT, {"name": name}))["experiment"] == kept
        assert second.stop() == 0


async def test_a_first_start_that_was_killed_does_not_spoil_the_data_directory(
    tmp_path: Path,
) -> None:
    # given: it was making the database
    command = [sys.executable, "-m", "lifecycle", "migrate", "--data-dir", str(tmp_path)]
    environment = os.environ | {"LIFECYCLE_DATABASE_URL": ""}
    migrate = await asyncio.create_subprocess_exec(*command, env=environment)
    await until(lambda: list(tmp_path.glob("*/PG_VERSION")))

    # when
    migrate.kill()
    await migrate.wait()

    # then
    with embedded.running(tmp_path) as url:
        await answers(url)
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


def test_lock_files_from_before_a_crash_do_not_hinder(tmp_path: Path) -> None:
    # given: their number belongs to another process of the same user now, as that of a killed
    # server does until somebody waits for it
    with embedded.running(tmp_path):
        lock_files = [tmp_path / "postgres" / name for name in LOCK_FILES]
        texts = [path.read_text() for path in lock_files]
    owner = (tmp_path / "postgres").stat().st_uid
    with subprocess.Popen(["sleep", "60"], **as_user(owner)) as other:
        for path, text in zip(lock_files, texts, strict=True):
            _, *lines = text.splitlines()
            path.write_text("\n".join([str(other.pid), *lines]))
            os.chown(path, owner, -1)

        # when
        with embedded.running(tmp_path) as url:
            # then
            asyncio.run(answers(url))
        other.kill()


async def test_what_a_killed_server_left_behind_does_not_hinder(tmp_path: Path) -> None:
    # given: one of its processes cannot notice that the server is gone
    with embedded.running(tmp_path) as url:
        connection = await connect(url)
        left = psutil.Process(connection.get_server_pid())
        left.suspend()
        server = left.parent()
        assert server is not None
        server.kill()
        await until(lambda: ended(server))
        connection.terminate()

    # when
    with embedded.running(tmp_path) as url:
        # then
        await answers(url)
    assert ended(left)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with embedded.running(tmp_path):
        pass
    with (tmp_path / "postgres" / "postgresql.auto.conf").open("a") as file:
        file.write("no_such_setting = 1\n")

    with pytest.raises(Unavailable, match="unrecognized configuration parameter"):
        embedded.running(tmp_path).__enter__()
