"""The client: keep-alive connections that send prepared bytes and look at each answer briefly.

As little as possible is done here, because the client has the same two cores as what it measures:
no library, no parsing beyond the length of the answer.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import cast

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATIENCE = 120


class WrongAnswer(Exception):
    """A contender did not answer as it must; its figures would mean nothing."""


@dataclass(frozen=True)
class Request:
    """What is sent, and what the answer must be: so many bytes, or any with this in it. With
    `patience`, a status of 500 only means that it is sent again."""

    sent: bytes
    length: int | None = None
    contains: bytes = b""
    patience: bool = False

    def check(self, status: bytes, body: bytes) -> None:
        """Raise WrongAnswer unless this is the answer."""
        right_length = self.length is None or len(body) == self.length
        if status != b"200" or not right_length or self.contains not in body:
            raise WrongAnswer(f"{status.decode()} {body[:1000].decode(errors='replace')}")


def post(
    port: int, path: str, content: object, contains: bytes = b"", method: str = "POST"
) -> Request:
    """A POST of JSON to a server on this machine, or another method with a body."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, contains=contains)


class _Connection(asyncio.Protocol):
    """Sends one request after the other until they end, or until it is told to stop and has an
    answer to count; `done` is set after the last answer, which is waited for.

    What is counted begins with an answer and ends with one, so nothing depends on how many of them
    fit into a second: half an answer is neither lost nor given.
    """

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests
        self._request: Request | None = None
        self._received = bytearray()
        self._body = 0
        self._end = 0
        self._transport: asyncio.Transport | None = None
        self._first = self._last = 0.0
        self.counting = self.stopping = False
        self.counted = 0
        self.body = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.counted / (self._last - self._first)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        stop = self.stopping and self.counted > 0
        self._request = None if stop else next(self._requests, None)
        if self._request is None:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._transport.write(self._request.sent)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            if self._is_complete():
                self._answered()
        except WrongAnswer as error:
            assert self._transport is not None
            self.done.set_exception(error)
            self._transport.close()

    def _is_complete(self) -> bool:
        if not self._end:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return False
            length = _LENGTH.search(self._received, 0, head)
            if length is None:
                raise WrongAnswer(f"no length: {bytes(self._received[:1000])!r}")
            self._body = head + 4
            self._end = self._body + int(length[1])
        return len(self._received) >= self._end

    def _answered(self) -> None:
        assert self._request is not None
        assert self._transport is not None
        self.body = bytes(self._received[self._body :])
        status = bytes(self._received[9:12])
        self._received.clear()
        self._end = 0
        if self._request.patience and status == b"500":
            self._transport.write(self._request.sent)
            return
        self._request.check(status, self.body)
        if self.counting:
            self._last = time.perf_counter()
            if self._first:
                self.counted += 1
            else:
                self._first = self._last
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or WrongAnswer("The connection was closed."))


async def _open(port: int, streams: Sequence[Iterator[Request]]) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    made = [partial(_Connection, stream) for stream in streams]
    return [(await loop.create_connection(each, "127.0.0.1", port))[1] for each in made]


async def ask(port: int, request: Request) -> bytes:
    """The body of one answer. Raises WrongAnswer."""
    (connection,) = await _open(port, [iter([request])])
    async with asyncio.timeout(_PATIENCE):
        await connection.done
    return connection.body


async def rate(
    port: int, streams: Sequence[Iterator[Request]], warm_up: float, seconds: float
) -> float:
    """Answers a second, one connection for each stream, after a while that is not counted.

    What has been sent is waited for, so the next contender has the machine to itself. Raises
    WrongAnswer.
    """
    connections = await _open(port, streams)
    ends = [connection.done for connection in connections]
    await asyncio.wait(ends, timeout=warm_up, return_when=asyncio.FIRST_COMPLETED)
    for connection in connections:
        connection.counting = True
    await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for connection in connections:
        connection.stopping = True
    async with asyncio.timeout(_PATIENCE):
        await asyncio.gather(*ends)
    return sum(connection.rate for connection in connections)


async def exhaust(port: int, streams: Sequence[Iterator[Request]]) -> None:
    """Send all that there is, one connection for each stream. Raises WrongAnswer."""
    await asyncio.gather(*(connection.done for connection in await _open(port, streams)))


def staggered(requests: Sequence[Request], streams: int) -> list[Iterator[Request]]:
    """The same requests over and over, each stream beginning elsewhere."""
    step = max(1, len(requests) // streams)
    return [islice(cycle(requests), n * step, None) for n in range(streams)]
