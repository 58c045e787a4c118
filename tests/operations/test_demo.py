"""The demo is the first client that people see: it must work, again and beside others."""

import asyncio
import os
import sys
from pathlib import Path

from tests.conftest import Process


async def demo(url: str, directory: Path) -> tuple[int | None, str]:
    """The exit code and the output of `lifecycle demo`."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lifecycle", "demo", "--url", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "100", "TMPDIR": str(directory)},
    )
    output, _ = await running.communicate()
    return running.returncode, output.decode()


async def test_the_demo_works_alone_again_and_twice_at_once(
    served: Process, tmp_path: Path
) -> None:
    # when
    told = [await demo(served.url, tmp_path)]
    told += await asyncio.gather(*(demo(served.url, tmp_path) for _ in range(2)))

    # then
    for code, output in told:
        assert code == 0, output
        assert f"{served.url}/graphql" in output
        assert "What there is now" in output
        assert "PENDING → VALIDATING → DEPLOYING → ACTIVE, HEALTHY; rolled back" in output
        assert "live" in output
        assert "To try next in GraphiQL" in output
        assert "Traceback" not in output
    assert "in production: nothing yet" not in told[1][1]
