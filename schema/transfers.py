"""The way in and out for content that is kept in a local directory: what the links of
`lifecycle.artifacts.disk` lead to. A link is all that is needed to follow it."""

import asyncio
import errno

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from lifecycle.artifacts.disk import BadLink, Disk, Part
from lifecycle.artifacts.storage import Storage

_log = structlog.get_logger(__name__)

# So much is written at a time; more of a body is never held.
_BLOCK = 256 * 1024
# So much of a body that is refused is read all the same: a client that still sends does not see
# the answer.
_DRAINED = 8 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Transfers:
    """Takes uploads by PUT, and gives content by GET and HEAD, ranges of it too."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def answer(self, request: Request) -> Response:
        """What the link that was followed gives or takes, or why not."""
        try:
            disk, key, said = await self._meant(request)
            if request.method == "PUT":
                return await _take(request, disk, key, int(said["size"]))
            return await _give(disk, key, said["name"])
        except HTTPException as error:
            await _drain(request)
            return JSONResponse({"message": error.detail}, error.status_code)
        except ClientDisconnect:
            return Response(status_code=499)  # to nobody, but for the log
        except OSError as error:
            _log.warning("artifacts.disk_failed", error=str(error))
            await _drain(request)
            full = error.errno in _FULL
            message = "There is no space left." if full else "The files cannot be reached."
            return JSONResponse({"message": message}, 507 if full else 503)

    async def _meant(self, request: Request) -> tuple[Disk, str, dict[str, str]]:
        """The area, the key, and what its link says. Raises HTTPException."""
        disk = self._storage.disk(request.path_params["area"])
        if disk is None:
            raise HTTPException(404, "There is no such area here.")
        key, query = request.path_params["key"], request.scope["query_string"].decode("latin-1")
        method = "PUT" if request.method == "PUT" else "GET"
        try:
            return disk, key, await asyncio.to_thread(disk.check, method, key, query)
        except BadLink as error:
            raise HTTPException(403, str(error)) from error


async def _give(disk: Disk, key: str, name: str) -> Response:
    file = await asyncio.to_thread(disk.file, key)
    if file is None:
        raise HTTPException(404, "The content is not there any more.")
    # Content is anybody's: no browser may take it for a page of the service.
    return FileResponse(
        file,
        filename=name,
        media_type="application/octet-stream",
        headers={"x-content-type-options": "nosniff", "content-security-policy": "sandbox"},
    )


async def _take(request: Request, disk: Disk, key: str, size: int) -> Response:
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) != size:
        raise _wrong_size(int(announced), size)
    try:
        part = await asyncio.to_thread(disk.part, key)
        try:
            await _write(request, part, size)
            await asyncio.to_thread(part.finish)
        finally:
            # When the client or the service stops in the middle, nobody may be there to wait.
            await asyncio.shield(asyncio.to_thread(part.discard))
    except FileNotFoundError:
        # With an upload goes its folder, and with that what is being written there.
        raise HTTPException(
            409, "The upload was completed meanwhile, or has expired: begin another one."
        ) from None
    return Response(status_code=200)


async def _write(request: Request, part: Part, size: int) -> None:
    received, block = 0, bytearray()
    async for chunk in request.stream():
        received += len(chunk)
        if received > size:
            raise _wrong_size(received, size)
        block += chunk
        if len(block) >= _BLOCK:
            await asyncio.to_thread(part.write, bytes(block))
            block.clear()
    if received != size:
        raise _wrong_size(received, size)
    await asyncio.to_thread(part.write, bytes(block))


async def _drain(request: Request) -> None:
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > _DRAINED:
                return
    except (ClientDisconnect, RuntimeError):  # it has gone, or all has been read
        return


def _wrong_size(found: int, size: int) -> HTTPException:
    return HTTPException(
        413 if found > size else 400, f"{size:,} bytes were announced for this link, not {found:,}."
    )
