"""The one module by which content is kept and found, wherever that is: two areas, each in a local
directory or in an S3-compatible store.

Content lies at a key that follows from its digest, and gets there only after the service itself has
read it and found that digest: so it is never changed, and the same content is there once. What
clients send lies apart until then.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Protocol, TypeVar
from uuid import uuid4

import structlog

from lifecycle.artifacts import rules
from lifecycle.artifacts.bucket import ERRORS, Bucket
from lifecycle.artifacts.disk import Disk
from lifecycle.errors import Conflict, Unavailable
from lifecycle.runs.rules import ArtifactArea
from lifecycle.turns import Turns

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")

# What takes no time must not wait for what may take minutes.
_QUICK_THREADS = 8
# One principal reads so much at a time, and so much more is for those who read nothing.
_READING_THREADS = 4
_SPARE_THREADS = 2


@dataclass(frozen=True, slots=True)
class Link:
    """A link, and until when it can be followed."""

    url: str
    expires_at: datetime


class _Place(Protocol):
    def prepare(self) -> None: ...
    def link(self, method: str, key: str, seconds: int, base: str, **said: str) -> str: ...
    def size(self, key: str) -> int | None: ...
    def is_encoded(self, key: str) -> bool: ...
    def chunks(self, key: str) -> Iterator[bytes]: ...
    def copy(self, source: str, target: str) -> None: ...
    def remove(self, folder: str) -> None: ...


class Storage:
    """Both areas. Each is where its location says: s3://bucket/prefix, or a directory.

    What asks a store raises Unavailable when that does not answer. `base` is the address under
    which a client reaches the service; it is where links to local directories begin.
    """

    def __init__(
        self, locations: Mapping[ArtifactArea, str], public_s3_url: str | None = None
    ) -> None:
        """Raises ValueError when a location cannot be right; nothing is asked yet."""
        self._places: dict[ArtifactArea, Disk | Bucket] = {
            area: Bucket(location, public_s3_url)
            if location.startswith("s3://")
            else Disk(area.lower(), Path(location))
            for area, location in locations.items()
        }
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, "artifacts")
        self._reading = ThreadPoolExecutor(_READING_THREADS + _SPARE_THREADS, "artifacts-reading")
        self._turns = Turns(_READING_THREADS, _SPARE_THREADS)
        self._closed = Event()

    def disk(self, name: str) -> Disk | None:
        """The area of this name in links, if it is in a local directory."""
        for place in self._places.values():
            if isinstance(place, Disk) and place.name == name:
                return place
        return None

    async def stored(self, area: ArtifactArea, digest: str) -> int | None:
        """How large the content with this digest is; None if it is not there."""
        place, key = self._places[area], _content_key(digest)

        def ask() -> int | None:
            place.prepare()
            return place.size(key)

        return await self._run(self._quick, ask)

    async def upload_link(self, area: ArtifactArea, id: str, size: int, base: str) -> Link:
        """Where a client puts the bytes of an upload, so many of them."""
        return await self._link(area, "PUT", rules.upload_key(id), base, size=str(size))

    async def download_link(
        self, area: ArtifactArea, digest: str | None, name: str, base: str
    ) -> Link | None:
        """Where content is read, under this name as far as the area can say so; None for a digest
        of another kind than content is kept under."""
        key = rules.content_key(digest)
        return None if key is None else await self._link(area, "GET", key, base, name=name)

    async def link_to(self, uri: str) -> Link | None:
        """Where the object at an s3:// URI is read; None unless it lies within an area, and is not
        what somebody is just uploading, which is theirs, and can become something else."""
        found = [
            (area, key)
            for area, place in self._places.items()
            if isinstance(place, Bucket) and (key := place.key_of(uri)) is not None
        ]
        if not found or any(rules.is_of_upload(key) for _, key in found):
            return None
        area, key = found[0]
        return await self._link(area, "GET", key, "")

    def content_at(self, uri: str) -> tuple[ArtifactArea, str] | None:
        """The area and the digest of the content at an s3:// URI; None where none is kept."""
        # One area may lie within the other, whose key is longer then.
        for area, place in self._places.items():
            if isinstance(place, Bucket) and (key := place.key_of(uri)) is not None:
                digest = rules.digest_at(key)
                if digest is not None:
                    return area, digest
        return None

    async def receive(
        self,
        area: ArtifactArea,
        id: str,
        size: int,
        digest: str,
        *,
        principal: str,
        known: bool = True,
    ) -> None:
        """Keep what was uploaded, if it is what was announced, when it is the principal's turn;
        nothing to do if such content is kept already, and that may be known. Raises Conflict,
        saying what is wrong with it; what has another digest has to be uploaded again."""
        place = self._places[area]
        if not self._turns.enters(principal):
            await self._turns.wait(principal)
        received = self._run(self._reading, lambda: self._receive(place, id, size, digest, known))
        reading = asyncio.create_task(received)
        reading.add_done_callback(partial(self._has_read, principal))
        # Who leaves keeps the place: a thread cannot be stopped.
        await asyncio.shield(reading)

    def _has_read(self, principal: str, reading: asyncio.Task[None]) -> None:
        self._turns.leave(principal)
        if not reading.cancelled():
            reading.exception()  # perhaps there is nobody left who would see it

    async def discard(self, area: ArtifactArea, id: str) -> None:
        """Remove all that is left of an upload, but not the content that it led to."""
        place = self._places[area]
        await self._run(self._quick, lambda: place.remove(rules.upload_folder(id)))

    def close(self) -> None:
        """Stop reading; what was being received must be asked for again."""
        self._closed.set()
        for pool in (self._quick, self._reading):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _link(
        self, area: ArtifactArea, method: str, key: str, base: str, **said: str
    ) -> Link:
        place, now = self._places[area], datetime.now(UTC)

        def make() -> str:
            return place.link(method, key, rules.LINK_SECONDS, base, **said)

        url = await self._run(self._quick, make)
        return Link(url, now + timedelta(seconds=rules.LINK_SECONDS))

    def _receive(self, place: _Place, id: str, size: int, digest: str, known: bool) -> None:
        target = _content_key(digest)
        if known and place.size(target) == size:
            return
        try:
            self._keep(place, id, target, size, digest)
        except FileNotFoundError:
            # Another call for the same upload may have kept it, and cleared the rest away.
            if not known or place.size(target) != size:
                raise Conflict(
                    "Nothing has been uploaded yet: PUT the bytes to the uploadUrl first.", ("id",)
                ) from None

    def _keep(self, place: _Place, id: str, target: str, size: int, digest: str) -> None:
        source, attempt = rules.upload_key(id), f"{rules.upload_folder(id)}/{uuid4().hex}"
        found = place.size(source)
        if found is None:
            raise FileNotFoundError(source)
        _check_size(found, size)
        # The client can still put something else at the source, at any time: what is read is a copy
        # that only this call knows of.
        place.copy(source, attempt)
        if place.is_encoded(attempt):
            place.remove(rules.upload_folder(id))
            raise Conflict(
                "What was uploaded was sent with a Content-Encoding, so clients would not get the "
                "bytes that have this digest; upload it again without one.",
                ("id",),
            )
        read, hashed = 0, hashlib.sha256()
        for chunk in place.chunks(attempt):
            if self._closed.is_set():
                raise Unavailable("The service is stopping; try again.")
            read += len(chunk)
            hashed.update(chunk)
        _check_size(read, size)
        if (actual := f"sha256:{hashed.hexdigest()}") != digest:
            # Or it could be read again and again.
            place.remove(rules.upload_folder(id))
            raise Conflict(
                f"What was uploaded has the digest {actual}, but {digest} was announced; upload "
                "it again.",
                ("id",),
            )
        place.copy(attempt, target)

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        except ERRORS as error:
            # What the store says may have secrets in it.
            reason = str(error).partition("\n")[0]
            _log.warning("artifacts.unavailable", error=type(error).__name__, reason=reason)
            raise Unavailable("What stores artifacts is not available; try again.") from error


def _content_key(digest: str) -> str:
    key = rules.content_key(digest)
    assert key is not None
    return key


def _check_size(found: int, announced: int) -> None:
    if found != announced:
        raise Conflict(
            f"What was uploaded has {found:,} bytes, but {announced:,} were announced; upload it "
            "again.",
            ("id",),
        )
