"""An area in a local directory. Its links are the service's own: they lead to `/artifacts/…`, say
until when they are valid, and are signed with a secret that lies in the directory itself, so that
all processes that share it accept each other's.

Nothing that a client names is part of a path here: keys are made of ids and digests. All functions
block, and raise OSError.
"""

import hmac
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlencode
from uuid import uuid4

_CHUNK = 1024 * 1024
_SECRET = "secret"


class BadLink(Exception):
    """The link was not made here, was altered, or has expired; the message says which."""


class Part:
    """A file as it is written: at its place once `finish` has returned, and nowhere before."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._part = path.with_name(f"{uuid4().hex}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._part, flags, 0o600)
        self._open = True

    def write(self, data: bytes) -> None:
        """Add these bytes."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]

    def finish(self) -> None:
        """Put it in its place, in one step, and in place of what was there. Raises
        FileNotFoundError where its folder was removed meanwhile."""
        os.fsync(self._file)
        self._close()
        os.replace(self._part, self._path)
        _sync(self._path.parent)

    def discard(self) -> None:
        """Leave nothing behind, unless it is finished."""
        self._close()
        self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)


class Disk:
    """The area of this name in this directory, which is made with the first use."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root
        self._kept_secret: bytes | None = None

    def prepare(self) -> None:
        """Make what is needed; raises OSError when nothing can be kept here."""
        self._secret()

    def link(self, method: str, key: str, seconds: int, base: str, **said: str) -> str:
        """A link that does this with what is at `key`, below the service's address `base`."""
        query = urlencode({"expires": str(int(time.time()) + seconds), **said})
        path = f"/artifacts/{self.name}/{key}"
        return f"{base}{path}?{query}&signature={self._signature(method, path, query)}"

    def check(self, method: str, key: str, query: str) -> dict[str, str]:
        """What was said when this link was made. Raises BadLink."""
        signed, _, signature = query.rpartition("&signature=")
        wanted = self._signature(method, f"/artifacts/{self.name}/{key}", signed)
        if not hmac.compare_digest(wanted.encode(), signature.encode()):
            raise BadLink("This link was not made here, or was altered.")
        said = dict(parse_qsl(signed, keep_blank_values=True))
        if int(said.pop("expires")) < time.time():
            raise BadLink("This link has expired; ask for another.")
        return said

    def part(self, key: str) -> Part:
        """A file to be written that will be at `key`."""
        return Part(self._path(key))

    def file(self, key: str) -> Path | None:
        """The file at `key`; None where there is none, or where a link leads elsewhere."""
        path = self._path(key)
        with suppress(FileNotFoundError):
            real = path.resolve(strict=True)
            if real == self._root.resolve() / key and stat.S_ISREG(real.stat().st_mode):
                return real
        return None

    def size(self, key: str) -> int | None:
        """How large it is; None if it is not there."""
        path = self.file(key)
        return None if path is None else path.stat().st_size

    def is_encoded(self, key: str) -> bool:
        """Never: nothing is kept but the bytes."""
        return False

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content, some at a time. Raises FileNotFoundError."""
        with open(os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as it:
            while chunk := it.read(_CHUNK):
                yield chunk

    def copy(self, source: str, target: str) -> None:
        """Have it at another place too, unless that is taken. Nothing is copied: files are only
        ever replaced, never written to. Raises FileNotFoundError."""
        path = self._path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.link(self._path(source), path, follow_symlinks=False)
        _sync(path.parent)

    def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        path = self._path(folder)
        while path.exists():
            # Where somebody else removes from it too, what is missing ends the attempt.
            with suppress(FileNotFoundError):
                shutil.rmtree(path)

    def _path(self, key: str) -> Path:
        if ".." in key.split("/") or key.startswith("/") or "\x00" in key:
            raise FileNotFoundError(key)
        return self._root / key

    def _signature(self, method: str, path: str, query: str) -> str:
        said = f"{method}\n{path}\n{query}".encode()
        return hmac.new(self._secret(), said, "sha256").hexdigest()

    def _secret(self) -> bytes:
        if self._kept_secret is None:
            path = self._root / _SECRET
            if not path.exists():
                # Of several that make one at once, all take the first that is in its place.
                mine = f"{_SECRET}.{uuid4().hex}"
                part = Part(self._root / mine)
                try:
                    part.write(secrets.token_hex(32).encode())
                    part.finish()
                    self.copy(mine, _SECRET)
                finally:
                    part.discard()
                    self._path(mine).unlink(missing_ok=True)
            self._kept_secret = path.read_bytes()
        return self._kept_secret


def _sync(directory: Path) -> None:
    """Keep the names in a directory through a loss of power."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
