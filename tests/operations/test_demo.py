"""The demo is the first client that people see: it must work, again and beside others."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from lifecycle.demo.story import tell
from tests.conftest import Process

pytestmark = pytest.mark.slow


async def demo(url: str, directory: Path) -> tuple[int | None, str]:
    """The exit code and the output of `lifecycle demo`."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lifecycle", "demo", "--url", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    output, _ = await running.communicate()
    return running.returncode, output.decode()


def check(output: str) -> None:
    """The story was told to its end."""
    plain = re.sub(r"[\s│]+", " ", output)  # without the frame, and the ends of its lines
    for part in (
        "6. Roll back",
        "What there is now",
        "PENDING → VALIDATING → DEPLOYING → ACTIVE",  # and on, if the other one has ended it
        "HEALTHY; rolled back from version",
        "To try next in GraphiQL",
    ):
        assert part in plain, output
    assert output.count("live") > 10, output


async def test_the_demo_works_beside_another_and_again(
    served: Process,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # given
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    # when: as a command, and beside it without the time that it takes to start
    (code, output), _ = await asyncio.gather(demo(served.url, tmp_path), tell(served.url))
    beside = capsys.readouterr().out
    await tell(served.url)
    again = capsys.readouterr().out

    # then
    assert code == 0, output
    for told in (output, beside, again):
        check(told)
    assert "in production: nothing yet" not in again
