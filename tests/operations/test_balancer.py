"""Three services on one database behind a balancer, as on three machines."""

import asyncio
import signal
from contextlib import AsyncExitStack, ExitStack, aclosing
from itertools import count

import httpx
import pytest

from lifecycle.journal.verification import verify
from tests.client import PATIENCE, Graph, Json
from tests.conftest import forked
from tests.factories import a_run
from tests.following import (
    GONE,
    RUN,
    connect,
    follow,
    insist,
    items,
    key_of,
    place,
    present,
    said,
    until,
    write_line,
)
from tests.operations.balancer import Balancer

pytestmark = pytest.mark.slow


async def test_what_is_written_in_one_is_seen_in_the_others(
    own_database_url: str, unique: str
) -> None:
    with ExitStack() as stack:
        services = [
            stack.enter_context(forked("--database-url", own_database_url)) for _ in range(3)
        ]
        async with AsyncExitStack() as clients:
            graphs = [await clients.enter_async_context(Graph(each.url)) for each in services]
            run = await a_run(graphs[0], unique)
            streams = [
                await clients.enter_async_context(aclosing(items("socket", each.url, RUN, id=run)))  # type: ignore[type-var]
                for each in services
            ]
            for stream in streams:
                await present(stream)

            # when
            for n, graph in enumerate(graphs):
                await write_line(graph, run, f"by {n}")

            # then: each has all, in the same order, under the same cursors
            seen = [[await anext(stream) for _ in graphs] for stream in streams]
            assert sorted(said(seen[0])) == ["by 0", "by 1", "by 2"]
            assert seen[1] == seen[0]
            assert seen[2] == seen[0]


async def test_services_are_killed_one_after_the_other_and_nobody_loses_anything(
    own_database_url: str, unique: str
) -> None:
    with ExitStack() as stack:
        services = [
            stack.enter_context(forked("--database-url", own_database_url)) for _ in range(3)
        ]
        async with (
            Balancer(services).running() as balancer,
            httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http,
            asyncio.timeout(PATIENCE),
        ):
            async with Graph(services[0].url) as graph:
                run = await a_run(graph, unique)
            async with aclosing(items("socket", services[0].url, RUN, id=run)) as stream:  # type: ignore[type-var]
                cursor = (await present(stream))[-1]["cursor"]
            written: list[str] = []
            stop = asyncio.Event()

            async def write() -> None:
                async with Graph(balancer.url) as graph:
                    # A connection each, so that the balancer decides each time.
                    graph.http.headers["connection"] = "close"
                    for n in count():
                        if stop.is_set():
                            return
                        await insist(graph, run, str(n))
                        written.append(str(n))

            seen: list[list[Json]] = [[], [], []]
            following = [
                asyncio.create_task(
                    follow(
                        transport,
                        balancer.url,
                        run,
                        cursor,
                        got,
                        lambda got=got: written[-1:] == ["end"] and len(got) >= len(written),  # type: ignore[misc]
                    )
                )
                for transport, got in zip(("socket", "sse", "socket"), seen, strict=True)
            ]
            writing = asyncio.create_task(write())
            await until(lambda: all(len(got) > 5 for got in seen))
            assert min(balancer.given) > 0

            # when: the first has the lock; the second gets it, perhaps, and is killed too
            for victim in services[:2]:
                before = [len(written), *map(len, seen)]
                victim.popen.send_signal(signal.SIGKILL)
                await until(
                    lambda: all(
                        now > then + 5
                        for then, now in zip(before, [len(written), *map(len, seen)], strict=True)  # noqa: B023
                    )
                )
            stop.set()
            await writing
            async with Graph(balancer.url) as graph:
                await insist(graph, run, "end")
            written.append("end")
            await asyncio.gather(*following)
            with pytest.raises(GONE):
                await http.get(f"{services[0].url}/healthz")

    direct = await connect(own_database_url)
    kept = await direct.fetch(
        "SELECT position FROM event WHERE subject_id = $1 AND type = 'run.output_logged' "
        "ORDER BY position",
        key_of(run),
    )
    await direct.close()
    for got in seen:
        assert said(got) == written
        assert [place(item["cursor"]) for item in got] == [row[0] for row in kept]
    assert (await verify(own_database_url)).faults == []
