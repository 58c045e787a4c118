"""A backup by PostgreSQL's own tools, restored into an empty database, is the service as it was."""

import asyncio
import subprocess
from contextlib import aclosing
from pathlib import Path
from uuid import UUID

import pytest

from lifecycle import embedded
from lifecycle.journal.verification import verify
from tests.client import Graph, Json
from tests.conftest import a_database, serving
from tests.factories import a_run, a_version_in
from tests.following import RUN, connect, items, present, said, take, write_line

pytestmark = pytest.mark.slow

EVERYTHING = """query ($id: ID!) {
  experiments(first: 1) { nodes { name runs(first: 1) { nodes {
    status metrics { key value } logs(first: 100) { nodes { message } }
  } } } }
  modelVersions { nodes { version stage stageHistory { stage cause actor validFrom } } }
  node(id: $id) { id }
}"""


def tool(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs, which must succeed."""
    subprocess.run([str(embedded.programs() / name), *arguments], check=True)


def place(url: str) -> str:
    """As libpq reads it."""
    return url.replace("+asyncpg", "")


async def everything(url: str, run: str) -> Json:
    async with Graph(url) as graph:
        return await graph.query(EVERYTHING, {"id": run})


async def test_a_backup_that_was_made_while_it_was_written_to_is_whole_when_it_is_restored(
    server_url: str, own_database_url: str, unique: str, tmp_path: Path
) -> None:
    # given: a service at work, with a subscriber
    dump = tmp_path / "lifecycle.dump"
    async with serving(own_database_url) as first, Graph(first.url) as graph:
        run = await a_run(graph, unique)
        await a_version_in(graph, unique, "PRODUCTION")
        async with aclosing(items("socket", first.url, RUN, id=run)) as stream:  # type: ignore[type-var]
            cursor = (await present(stream))[-1]["cursor"]
        done = asyncio.Event()

        async def write() -> list[str]:
            written: list[str] = []
            while not done.is_set():
                written.append(str(len(written)))
                await write_line(graph, run, written[-1])
            return written

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.3)

        # when
        await asyncio.to_thread(
            tool, "pg_dump", "--format=custom", f"--file={dump}", place(own_database_url)
        )
        done.set()
        written = await writing
        before = await everything(first.url, run)

    with a_database(server_url) as restored_url:
        await asyncio.to_thread(
            tool, "pg_restore", "--no-owner", "--exit-on-error",
            f"--dbname={place(restored_url)}", str(dump),
        )  # fmt: skip
        direct = await connect(restored_url)
        former = await direct.fetchval("SELECT journal_id FROM journal_head")
        renewed: UUID = await direct.fetchval(
            "UPDATE journal_head SET journal_id = gen_random_uuid() RETURNING journal_id"
        )
        await direct.close()

        # then: what was acknowledged before the backup began is there, nothing by halves
        async with serving(restored_url) as second, Graph(second.url) as graph:
            after = await everything(second.url, run)
            lines = after["experiments"]["nodes"][0]["runs"]["nodes"][0].pop("logs")["nodes"]
            before["experiments"]["nodes"][0]["runs"]["nodes"][0].pop("logs")
            kept = [line["message"] for line in lines]
            assert kept == written[: len(kept)]
            assert kept
            assert after == before
            # and a cursor of the other journal is told so, because positions are given again
            assert former != renewed
            async with aclosing(items("socket", second.url, RUN, id=run, after=cursor)) as stream:  # type: ignore[type-var]
                assert (await take(stream, 1))[0]["__typename"] == "CursorExpired"
            async with aclosing(items("socket", second.url, RUN, id=run)) as stream:  # type: ignore[type-var]
                await present(stream)
                await write_line(graph, run, "afterwards")
                assert said(await take(stream, 1)) == ["afterwards"]
        verdict = await verify(restored_url)
        assert (verdict.faults, verdict.not_chained, verdict.waiting) == ([], 0, 0)
