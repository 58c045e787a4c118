"""A PostgreSQL, and a streaming replica of it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from lifecycle import embedded
from lifecycle.errors import Unavailable


class Replica:
    """A copy of the server that keeps its data in `primary`, which follows it."""

    def __init__(self, home: Path, primary: Path) -> None:
        self.directory = home / "replica"
        self._owner = primary.stat()
        self.run(
            "pg_basebackup",
            f"--host={primary}",
            "--username=postgres",
            f"--pgdata={self.directory}",
            "--write-recovery-conf",
            "--checkpoint=fast",
        )
        # It came along, and names the primary.
        (self.directory / ".s.PGSQL.5432.lock").unlink()
        self.url = f"postgresql+asyncpg://postgres@/postgres?host={quote(str(self.directory))}"
        self.start()

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as who owns the data."""
        switch: dict[str, Any] = (
            {"user": self._owner.st_uid, "group": self._owner.st_gid, "extra_groups": ()}
            if os.geteuid() == 0
            else {}
        )
        subprocess.run(
            [str(embedded.programs() / program), *arguments],
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
            **switch,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": 1100,
            "max_standby_streaming_delay": 0,
        }
        self.run(
            "pg_ctl",
            "start",
            "--wait",
            f"--pgdata={self.directory}",
            f"--log={self.directory / 'log'}",
            "--options=" + " ".join(f"-c {key}='{value}'" for key, value in options.items()),
        )

    def stop(self) -> None:
        """End it without a word to those who are connected."""
        self.run("pg_ctl", "stop", f"--pgdata={self.directory}", "--mode=immediate")

    async def execute(self, statement: str) -> None:
        """Tell the server something, past the service."""
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        await connection.execute(statement)
        await connection.close()


@contextmanager
def replicated(home: Path) -> Iterator[tuple[str, Replica]]:
    """A server's URL, and its replica."""
    home.chmod(0o755)
    with embedded.running(home) as url:
        os.chown(home, *(getattr((home / "postgres").stat(), n) for n in ("st_uid", "st_gid")))
        replica = Replica(home, home / "postgres")
        try:
            yield url, replica
        finally:
            with suppress(subprocess.CalledProcessError, Unavailable):
                replica.stop()
