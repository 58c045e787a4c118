"""A steady mixed load, for as long as STEADY_SECONDS says: memory stays as it is.

`make steady` takes ten minutes; CI takes one.
"""

import asyncio
import os
import random
from contextlib import aclosing, suppress
from statistics import median

import psutil
import pytest

from tests.client import Graph, socket
from tests.conftest import Process, process
from tests.factories import a_run
from tests.following import RUN, items, present, until

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("STEADY_SECONDS", "60"))
# Until what is kept up to a limit is kept.
WARM_UP = SECONDS / 3
# What the allocator may hold on to beyond that, of each process.
MARGIN = 16 * 2**20

LIST = """query Runs($first: Int!) { experiments(first: 1) { nodes {
  runs(first: $first) { totalCount nodes { id status metrics { key value } } } } } }"""


class Load:
    """Clients that ask, write, follow, err and go away, and what became of it."""

    def __init__(self, url: str, run: str, unique: str) -> None:
        self._url, self._run, self._unique = url, run, unique
        self.answered = {"read": 0, "write": 0, "refused": 0, "event": 0}
        self.stop = asyncio.Event()

    async def read(self) -> None:
        chance = random.Random(1)
        async with Graph(self._url) as graph:
            while not self.stop.is_set():
                await graph.query(LIST, {"first": chance.randint(1, 50)})
                # Texts that nobody sends twice are not kept for ever.
                await graph.query(f"{{ a{chance.getrandbits(48)}: __typename }}")
                self.answered["read"] += 2

    async def write(self) -> None:
        async with Graph(self._url) as graph:
            number = 0
            while not self.stop.is_set():
                number += 1
                line = {"runId": self._run, "lines": [{"message": f"line {number}"}]}
                await graph.mutate("logRunOutput", line)
                series = [{"key": "loss", "steps": [number % 1_000], "values": [0.5]}]
                await graph.mutate("logMetrics", {"runId": self._run, "series": series})
                if number % 10 == 0:
                    await graph.mutate("logRun", {"experimentName": self._unique})
                self.answered["write"] += 2

    async def err(self) -> None:
        async with Graph(self._url) as graph:
            number = 0
            while not self.stop.is_set():
                number += 1
                refused = [
                    await graph.answer(f"{{ nothing{number} }}"),
                    await graph.answer("{ " + "a" * 2_000),
                    await graph.answer("query ($id: ID!) { node(id: $id) { id } }", {"id": "x"}),
                ]
                assert all("errors" in each for each in refused)
                self.answered["refused"] += 3

    async def follow(self) -> None:
        while not self.stop.is_set():
            async with aclosing(items("socket", self._url, RUN, id=self._run)) as stream:  # type: ignore[type-var]
                await present(stream)
                for _ in range(20):
                    await anext(stream)
                    self.answered["event"] += 1
                    if self.stop.is_set():
                        return

    async def come_and_go(self) -> None:
        while not self.stop.is_set():
            async with socket(self._url) as opened:
                await opened.start(RUN, {"id": self._run})
                await opened.receive()
                opened.connection.transport.abort()
            await asyncio.sleep(0.05)


def serving(service: Process) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(service.popen.pid).children():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


async def test_memory_is_flat_under_a_steady_mixed_load(
    empty_database_url: str, unique: str
) -> None:
    options = ("--workers", "2", "--database-url", empty_database_url)
    with process(*options) as service:
        await until(lambda: len(serving(service)) == 2)
        async with Graph(service.url) as graph:
            run = await a_run(graph, unique)
        load = Load(service.url, run, unique)
        kinds = (load.read, load.read, load.write, load.err, load.follow, load.come_and_go)
        weighed: list[list[int]] = []

        # when
        async with asyncio.TaskGroup() as clients:
            for kind in kinds:
                clients.create_task(kind())
            workers = serving(service)
            await asyncio.sleep(WARM_UP)
            for _ in range(40):
                await asyncio.sleep((SECONDS - WARM_UP) / 40)
                weighed.append([each.memory_info().rss for each in workers])
            load.stop.set()
        same = serving(service) == workers
        code = await asyncio.to_thread(service.stop)
        log = service.log.read_text()

    # then
    assert same, "one of them was restarted"
    assert code == 0
    assert min(load.answered.values()) > 0
    assert "unexpected_error" not in log
    print(load.answered)  # noqa: T201
    for of_one in zip(*weighed, strict=True):
        begin, end = median(of_one[:10]), median(of_one[-10:])
        print(f"{begin / 2**20:.1f} -> {end / 2**20:.1f} MiB")  # noqa: T201
        assert end - begin < MARGIN
