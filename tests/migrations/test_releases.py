"""Releases overlap: the code of the one before runs on the tables of this one."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import httpx
import pytest

from lifecycle import migrate
from lifecycle.journal.verification import verify
from lifecycle.migrate import RUNS_FROM, runs_on
from tests.client import PATIENCE, Graph
from tests.conftest import in_thread, serving
from tests.factories import a_deployment, a_run, a_version_in
from tests.following import RUN, connect, items, present, said, take, until, write_line

CHECKOUT = Path(__file__).parents[2]
DEPLOYED = """query ($id: ID!) {
  node(id: $id) { ... on Deployment { modelVersion { modelName stage } } }
}"""
SERVE = """
import socket, sys, uvicorn
from schema.app import create_app
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
config = uvicorn.Config(create_app, factory=True, log_config=None, ws="websockets-sansio")
uvicorn.Server(config).run([listening])
"""


@pytest.mark.parametrize(
    ("own", "found", "said", "runs"),
    [
        ("0008", "0008", None, True),
        ("0008", "0007", None, True),
        ("0008", "0006", None, False),
        ("0008", "0009", None, True),
        ("0008", "0010", None, False),
        ("0008", "0012", RUNS_FROM.format("0008"), True),
        ("0008", "0012", RUNS_FROM.format("0007"), True),
        ("0008", "0012", RUNS_FROM.format("0009"), False),
        ("0008", "0006", RUNS_FROM.format("0001"), False),
        ("0008", "0012", "something else", False),
        ("0008", "later", None, False),
        (None, "0008", None, False),
    ],
)
def test_code_runs_on_its_own_tables_on_those_next_to_them_and_where_later_ones_say_so(
    own: str | None, found: str, said: str | None, runs: bool
) -> None:
    assert runs_on(own, found, said) is runs


@pytest.mark.parametrize(
    ("revision", "said", "status"),
    [
        (migrate.head(), None, 200),
        (f"{int(migrate.head() or 0) - 1:04d}", None, 200),
        (f"{int(migrate.head() or 0) + 1:04d}", None, 200),
        (f"{int(migrate.head() or 0) - 2:04d}", None, 503),
        (f"{int(migrate.head() or 0) + 2:04d}", None, 503),
        (f"{int(migrate.head() or 0) + 2:04d}", RUNS_FROM.format(migrate.head()), 200),
        ("later", None, 503),
    ],
)
async def test_a_service_is_ready_on_tables_that_it_runs_on_and_starts_on_them(
    empty_database_url: str, revision: str, said: str | None, status: int
) -> None:
    in_thread(lambda: migrate.upgrade(empty_database_url))
    direct = await connect(empty_database_url)
    await direct.execute("UPDATE alembic_version SET version_num = $1", revision)
    word = "NULL" if said is None else f"'{said}'"
    await direct.execute(f"COMMENT ON TABLE alembic_version IS {word}")
    await direct.close()

    async with serving(empty_database_url) as live, Graph(live.url) as graph:
        assert (await graph.http.get("/readyz")).status_code == status
    later = revision > (migrate.head() or "")
    if later and status == 200:
        in_thread(lambda: migrate.upgrade(empty_database_url))


def test_the_former_release_may_go_on_when_this_one_has_migrated(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    former = f"{int(migrate.head() or 0) - 1:04d}"

    async def word() -> tuple[str, str]:
        direct = await connect(empty_database_url)
        row = await direct.fetchrow(
            "SELECT version_num, obj_description('alembic_version'::regclass) FROM alembic_version"
        )
        await direct.close()
        return row[0], row[1]

    found, said = asyncio.run(word())

    assert runs_on(former, found, said)
    assert not said.endswith(former) or said == RUNS_FROM.format(former)


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def former_release() -> str:
    """The release before this one; as long as there is none, the code before the last migration."""
    tags = git("tag", "--merged", "HEAD", "--sort=-creatordate").split()
    here = git("tag", "--points-at", "HEAD").split()
    for tag in tags:
        if tag not in here:
            return tag
    [last] = (CHECKOUT / "migrations" / "versions").glob(f"*_{migrate.head()}_*.py")
    found = git(
        "log", "--first-parent", "-m", "--diff-filter=A", "--format=%H %P", "-1", "--", str(last)
    )
    # Of a clone without history nothing is known but this.
    return found.split()[1] if " " in found else "HEAD"


@contextmanager
def former(database_url: str, directory: Path) -> Iterator[str]:
    """The former code as a service on this database, which it does not migrate."""
    archive = subprocess.run(
        ["git", "-C", str(CHECKOUT), "archive", former_release(), "schema", "lifecycle",
         "migrations"],
        capture_output=True,
        check=True,
    ).stdout  # fmt: skip
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive, check=True)
    service = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        cwd=directory,
        env=os.environ
        | {
            "PYTHONPATH": str(directory),
            "LIFECYCLE_DATABASE_URL": database_url,
            "LIFECYCLE_LOG_FORMAT": "json",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        port = service.stdout.readline().strip()
        assert port, "it does not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        service.terminate()
        service.wait(60)
        assert service.stdout is not None
        service.stdout.close()


@pytest.mark.slow
async def test_the_former_code_reads_and_writes_beside_this_one(
    empty_database_url: str, unique: str, tmp_path: Path
) -> None:
    in_thread(lambda: migrate.upgrade(empty_database_url))
    with former(empty_database_url, tmp_path) as url:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
            alive = [0]

            async def ask() -> None:
                while alive[0] != 200:
                    try:
                        alive[0] = (await http.get(f"{url}/healthz")).status_code
                    except httpx.TransportError:
                        await asyncio.sleep(0.05)

            await asyncio.wait_for(ask(), 60)
        async with serving(empty_database_url) as live, Graph(url) as old, Graph(live.url) as new:
            # each writes, and both see it, as it happens and afterwards
            run = await a_run(old, unique)
            async with (
                aclosing(items("socket", live.url, RUN, id=run)) as here,  # type: ignore[type-var]
                aclosing(items("sse", url, RUN, id=run)) as there,  # type: ignore[type-var]
            ):
                await present(here)
                await present(there)
                await write_line(old, run, "by the former")
                await write_line(new, run, "by this one")
                seen = await take(here, 2)
                assert said(seen) == ["by the former", "by this one"]
                assert await take(there, 2) == seen
            for graph, model in ((old, f"{unique}-old"), (new, f"{unique}-new")):
                version = await a_version_in(graph, model, "PRODUCTION")
                deployment = await a_deployment(graph, version, environment="PRODUCTION")
                for reader in (old, new):
                    found = await reader.query(DEPLOYED, {"id": deployment})
                    assert found["node"]["modelVersion"] == {
                        "modelName": model,
                        "stage": "PRODUCTION",
                    }
            await until(lambda: live.feed.head > 0)
    # the sequencer may have been of either release
    verdict = await verify(empty_database_url)
    assert verdict.faults == []
