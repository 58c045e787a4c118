"""Real server processes that are told to stop, killed, or frozen under their subscribers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from itertools import count

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from lifecycle.journal.verification import verify
from tests.client import PATIENCE, Graph, Json, Socket, socket
from tests.conftest import Live, Process, forked, serving
from tests.factories import a_run
from tests.following import (
    RUN,
    connect,
    follow,
    insist,
    items,
    key_of,
    place,
    present,
    said,
    take,
    until,
    write_line,
)

pytestmark = pytest.mark.slow


def workers(service: Process) -> set[int]:
    """The processes that serve."""
    children = psutil.Process(service.popen.pid).children()
    return {child.pid for child in children if "spawn_main" in " ".join(child.cmdline())}


async def test_workers_are_killed_one_after_the_other_and_nothing_is_lost_or_doubled(
    own_database_url: str, unique: str
) -> None:
    with forked("--workers", "3", "--database-url", own_database_url) as service:
        await until(lambda: len(workers(service)) == 3)
        async with Graph(service.url) as graph, asyncio.timeout(PATIENCE):
            run = await a_run(graph, unique)
            async with aclosing(items("socket", service.url, RUN, id=run)) as stream:  # type: ignore[type-var]
                cursor = (await present(stream))[-1]["cursor"]
            written: list[str] = []
            stop = asyncio.Event()

            async def write() -> None:
                for n in count():
                    if stop.is_set():
                        return
                    await insist(graph, run, str(n))
                    written.append(str(n))

            seen: dict[str, list[Json]] = {"socket": [], "sse": []}

            def enough(transport: str) -> Callable[[], bool]:
                return lambda: written[-1:] == ["end"] and len(seen[transport]) >= len(written)

            def counts() -> list[int]:
                return [len(written), *map(len, seen.values())]

            following = [
                asyncio.create_task(follow(name, service.url, run, cursor, got, enough(name)))
                for name, got in seen.items()
            ]
            writing = asyncio.create_task(write())
            # One of the first three is the sequencer; whoever takes over may be killed next.
            for victim in workers(service):
                before = counts()
                os.kill(victim, signal.SIGKILL)
                await until(lambda: all(b > a + 5 for a, b in zip(before, counts(), strict=True)))  # noqa: B023
            stop.set()
            await writing
            written.append("end")
            await insist(graph, run, "end")
            await asyncio.gather(*following)

    direct = await connect(own_database_url)
    kept = await direct.fetch(
        "SELECT position FROM event WHERE subject_id = $1 AND type = 'run.output_logged' "
        "ORDER BY position",
        key_of(run),
    )
    every = await direct.fetchrow("SELECT max(position), count(*), count(position) AS n FROM event")
    await direct.close()
    for got in seen.values():
        assert said(got) == written
        assert [place(item["cursor"]) for item in got] == [row[0] for row in kept]
    assert every["max"] == every["count"] == every["n"]
    verdict = await verify(own_database_url)
    assert (verdict.faults, verdict.entries) == ([], every["n"])
    assert verdict.bounds.chain.position == every["n"]


async def goodbye(opened: Socket) -> tuple[list[Json], int | None, str | None]:
    """What a websocket is told at the end, and how it is closed."""
    told = []
    with suppress(ConnectionClosed):
        while True:
            told.append(await opened.receive())
    return told, opened.connection.close_code, opened.connection.close_reason


async def payloads(graph: Graph, run: str) -> AsyncIterator[Json]:
    async with aclosing(graph.stream(RUN, {"id": run})) as stream:  # type: ignore[type-var]
        async for payload in stream:
            yield payload


@pytest.mark.parametrize("number", ["1", "2"])
async def test_a_service_that_is_told_to_stop_says_so_and_stops(
    live: Live, graph: Graph, unique: str, database_url: str, number: str
) -> None:
    run = await a_run(graph, unique)
    with forked("--workers", number, "--database-url", database_url) as service:
        async with (
            asyncio.timeout(PATIENCE),
            Graph(service.url) as client,
            socket(service.url) as opened,
            aclosing(payloads(client, run)) as streamed,  # type: ignore[type-var]
        ):
            id = await opened.start(RUN, {"id": run})
            start = [(await opened.receive())["payload"] for _ in range(2)]
            assert [await anext(streamed) for _ in range(2)][1]["data"] is not None
            service.popen.send_signal(signal.SIGTERM)

            told, code, _ = await goodbye(opened)
            rest = [payload async for payload in streamed]
            exit_code = await asyncio.to_thread(service.popen.wait, PATIENCE)

    error = {
        "message": "The server is shutting down; resume after the last cursor.",
        "extensions": {"code": "UNAVAILABLE"},
    }
    assert [message["type"] for message in told] == ["next", "complete"]
    assert told[1]["id"] == id
    for payload in (told[0]["payload"], *rest):
        assert [{name: found[name] for name in error} for found in payload["errors"]] == [error]
    assert len(rest) == 1
    assert code == 1012
    assert exit_code == 0

    await write_line(graph, run, "meanwhile")
    cursor = start[1]["data"]["runProgress"]["cursor"]
    async with aclosing(items("socket", live.url, RUN, id=run, after=cursor)) as stream:  # type: ignore[type-var]
        assert said(await take(stream, 2)) == ["meanwhile"]


async def test_a_sequencer_that_hangs_is_replaced_and_finds_its_way_back(
    own_database_url: str, unique: str
) -> None:
    with forked("--database-url", own_database_url) as frozen:
        async with (
            serving(own_database_url) as live,
            Graph(live.url) as graph,
            aclosing(items("socket", live.url, RUN, id=await a_run(graph, unique))) as stream,  # type: ignore[type-var]
        ):
            run = (await present(stream))[0]["runId"]
            async with aclosing(items("sse", frozen.url, RUN, id=run)) as there:  # type: ignore[type-var]
                await present(there)
                # It is the first, so it holds the lock; its connection stays open.
                frozen.popen.send_signal(signal.SIGSTOP)
                try:
                    await write_line(graph, run, "while it hangs")
                    seen = await take(stream, 1)
                finally:
                    frozen.popen.send_signal(signal.SIGCONT)
                await write_line(graph, run, "afterwards")
                seen += await take(stream, 1)

                assert said(seen) == ["while it hangs", "afterwards"]
                assert await take(there, 2) == seen
