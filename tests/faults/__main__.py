"""`make faults`: 100,000 bad requests to a service of their own, and what came of them."""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import Process, process
from tests.faults.bad_requests import Tally, send
from tests.following import until

# Enough for every plan, statement and pool to be there that these requests lead to.
_WARM_UP = 5_000
_STEP = 5_000
# To PostgreSQL, at most.
_CONNECTIONS = 17


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    megabytes: float
    files: int
    threads: int

    @classmethod
    def by(cls, process: psutil.Process) -> "Held":
        memory = process.memory_info().rss / 2**20
        return cls(round(memory, 1), process.num_fds(), process.num_threads())


def main() -> int:
    """Send them, print the figures, and give 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with process("--data-dir", directory, LIFECYCLE_DATABASE_URL="") as service:
            return asyncio.run(_run(service, given.first, given.number))


async def _run(service: Process, first: int, number: int) -> int:
    server = psutil.Process(service.popen.pid)
    began = time.monotonic()
    warm_up = min(_WARM_UP, number // 5)
    tally = await send(service.url, range(first, first + warm_up))
    at_rest = await _settled(server)
    curve = [at_rest.megabytes]
    for begin in range(first + warm_up, first + number, _STEP):
        tally.add(await send(service.url, range(begin, min(begin + _STEP, first + number))))
        curve.append(Held.by(server).megabytes)
    seconds = time.monotonic() - began
    in_the_end = await _settled(server)
    files = in_the_end.files - at_rest.files
    memory = in_the_end.megabytes - at_rest.megabytes
    # A pool may have grown.
    if files > _CONNECTIONS or memory > at_rest.megabytes / 2:
        tally.faults.append(f"held at first {at_rest}, in the end {in_the_end}")
    log = service.log.read_text()
    bugs = [line for line in log.splitlines() if '"level":"error"' in line or "Traceback" in line]
    tally.faults += [f"log: {line[:500]}" for line in bugs]
    _print(tally, seconds, at_rest, in_the_end)
    sys.stdout.write(f"megabytes after each {_STEP:,}: {' '.join(map(str, curve))}\n")
    return 1 if tally.faults else 0


async def _settled(server: psutil.Process) -> Held:
    """What it holds once nobody is connected."""

    def alone() -> bool:
        found = server.net_connections(kind="tcp")
        return not [each for each in found if each.status == psutil.CONN_ESTABLISHED]

    await until(alone)
    await asyncio.sleep(2)
    return Held.by(server)


def _slowest(tally: Tally) -> list[str]:
    """How long answers took, and which took longest."""
    took = sorted(tally.took, reverse=True)
    lines = [f"milliseconds until answered, of {len(took):,}"]
    for percent in (50, 99, 99.9):
        at = int(len(took) * (1 - percent / 100))
        lines.append(f"  {percent:16} {took[at][0] * 1000:8,.0f}")
    return [*lines, *(f"  {kind:16} {seconds * 1000:8,.0f}  {n}" for seconds, n, kind in took[:10])]


def _print(tally: Tally, seconds: float, at_rest: Held, in_the_end: Held) -> None:
    lines = [
        f"{tally.sent.total():,} requests in {seconds:,.0f} s",
        *(f"  {kind:16} {count:8,}" for kind, count in sorted(tally.sent.items())),
        "answers by status",
        *(f"  {status:16} {count:8,}" for status, count in sorted(tally.answers.items())),
        *_slowest(tally),
        f"the server held at first {at_rest}",
        f"the server held in the end {in_the_end}",
        f"{len(tally.faults)} faults",
        *(f"  {fault}" for fault in tally.faults[:50]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
