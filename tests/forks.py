"""Python processes that need not import what they run: each is a fork of one that has done so.

Importing the service takes seconds, importing MLflow takes more, and the tests start both hundreds
of times. What is forked is told, as Python is, which module or which code to run; it has arguments,
environment, directory and output of its own. What is tested about starting itself, or reads its
environment while it is imported, is to be started as a process of its own instead.

This file is the program that forks, too: any Python runs it, so it imports nothing but Python.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

# The length of a request, the id of a process, and its exit status as `subprocess` gives it.
_NUMBER = struct.Struct("i")


class Forked:
    """A process that was forked, used like one of `subprocess`."""

    def __init__(self, pid: int, ended: socket.socket) -> None:
        self.pid = pid
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self.returncode: int | None = None
        self._ended = ended
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; raises TimeoutExpired if it still runs after so many seconds."""
        found = self._look(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return found

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What one that was started by `kept` has said, once it has ended."""
        self.wait(timeout)
        said = []
        for file in (self.stdout, self.stderr):
            assert file is not None
            with file:
                file.seek(0)
                said.append(file.read())
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it in the midst of whatever it is doing."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
                said = self._ended.recv(_NUMBER.size)
                self._ended.close()
                assert said, "The process that forks has ended."
                [self.returncode] = _NUMBER.unpack(said)
        return self.returncode


class Forks:
    """A process that has imported these modules, and forks others."""

    def __init__(self, python: Path | str, *modules: str, **environment: str) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [python, __file__, str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | environment,
            )

    def start(
        self,
        *arguments: str,
        stdout: int,
        stderr: int,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        session: bool = False,
    ) -> Forked:
        """`python ARGUMENTS`, which begin with -m and a module or with -c and code."""
        request = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ) if env is None else env,
            "session": session,
        }
        ended, theirs = socket.socketpair()
        said = json.dumps(request).encode()
        with theirs, self._lock:
            given = [theirs.fileno(), stdout, stderr]
            socket.send_fds(self._socket, [_NUMBER.pack(len(said))], given)
            self._socket.sendall(said)
        [pid] = _NUMBER.unpack(ended.recv(_NUMBER.size))
        return Forked(pid, ended)

    def piped(self, *arguments: str, stderr: int, **more: Any) -> Forked:
        """The same, whose output is read while it runs."""
        ours, theirs = os.pipe()
        try:
            forked = self.start(*arguments, stdout=theirs, stderr=stderr, **more)
        finally:
            os.close(theirs)
        forked.stdout = os.fdopen(ours, encoding="utf-8")
        return forked

    def kept(self, *arguments: str, **more: Any) -> Forked:
        """The same, whose output is kept until `communicate` gives it."""
        out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        forked = self.start(*arguments, stdout=out.fileno(), stderr=err.fileno(), **more)
        forked.stdout, forked.stderr = out, err
        return forked

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._socket.close()
        self._process.wait()


def _serve(control: socket.socket) -> Sequence[str]:
    """Fork whenever that is asked for: in what was forked it returns, with what to run there."""
    noticed, notices = socket.socketpair()
    for each in (noticed, notices):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(notices.fileno(), warn_on_full_buffer=False)
    running: dict[int, int] = {}
    while True:
        ready = select.select([control, noticed], [], [])[0]
        if noticed in ready:
            noticed.recv(1_000)
            _tell_who_has_ended(running)
        if control not in ready:
            continue
        header, given, _, _ = socket.recv_fds(control, _NUMBER.size, 3)
        if not header:
            os._exit(0)
        [length] = _NUMBER.unpack(header)
        message = control.recv(length, socket.MSG_WAITALL)
        ended = given[0]
        pid = os.fork()
        if pid:
            os.write(ended, _NUMBER.pack(pid))
            for output in given[1:]:
                os.close(output)
            running[pid] = ended
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (control, noticed, notices):
            each.close()
        for other in running.values():
            os.close(other)
        return _become(json.loads(message), *given)


def _tell_who_has_ended(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ended = running.pop(pid)
        with suppress(BrokenPipeError):  # nobody wants to know
            os.write(ended, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(ended)


def _become(request: dict[str, Any], ended: int, stdout: int, stderr: int) -> Sequence[str]:
    os.close(ended)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return list(request["arguments"])


def _run(how: str, what: str, *arguments: str) -> None:
    sys.path[0] = ""
    if how == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    fd, *modules = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parents[1])
    for name in modules:
        import_module(name)
    gc.freeze()  # or the first collection in each would copy everything
    _run(*_serve(socket.socket(fileno=int(fd))))
