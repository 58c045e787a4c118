"""A proxy before a server, on which things go wrong as a test says."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_HOP = re.compile(rb"^(connection|keep-alive|host):.*\r\n", re.IGNORECASE | re.MULTILINE)
_AUTHORIZATION = re.compile(rb"^authorization: *(.*?)\r\n", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Request:
    """What came: `path` with its query, who sent it, and whether it was to reach the server."""

    method: str
    path: str
    authorization: str | None
    forwarded: bool


@dataclass(frozen=True, slots=True)
class _Message:
    head: bytes
    body: bytes


_Act = Callable[[_Message], Awaitable[bytes | None]]


class Faults:
    """It passes everything on until it is told otherwise, one connection for each request.

    Each fault holds until the next is set, or only for `times` requests whose method and path
    (`POST /api/2.0/mlflow/runs/create`) `matching` finds; all others pass.
    """

    url: str

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self.requests: list[Request] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._own_port = 0
        self.passing()

    async def __aenter__(self) -> Self:
        await self._listen()
        self.url = f"http://127.0.0.1:{self._own_port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._silence()

    def passing(self) -> None:
        """All is well."""
        self._set(self._forward, "", None, forwards=True)

    def slow(self, seconds: float, matching: str = "", times: int | None = None) -> None:
        """Requests wait so long before they are passed on."""

        async def act(request: _Message) -> bytes | None:
            await asyncio.sleep(seconds)
            return await self._forward(request)

        self._set(act, matching, times, forwards=True)

    def answering(
        self,
        status: int,
        body: str = "",
        content_type: str = "text/html",
        matching: str = "",
        times: int | None = None,
    ) -> None:
        """Requests do not reach the server and are answered with this."""

        async def act(request: _Message) -> bytes | None:
            text = body.encode()
            return (
                f"HTTP/1.1 {status} Said\r\ncontent-type: {content_type}\r\n"
                f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
            ).encode() + text

        self._set(act, matching, times, forwards=False)

    def dropping(self, matching: str = "", times: int | None = None) -> None:
        """Requests reach the server, which does what they ask, and nobody is told."""

        async def act(request: _Message) -> bytes | None:
            await self._forward(request)
            return None

        self._set(act, matching, times, forwards=True)

    def hanging_up(self, matching: str = "", times: int | None = None) -> None:
        """Requests do not reach the server, and their connections are closed."""

        async def act(request: _Message) -> bytes | None:
            return None

        self._set(act, matching, times, forwards=False)

    async def refuse(self) -> None:
        """Nobody listens any more, until `accept`."""
        await self._silence()

    async def accept(self) -> None:
        """Somebody listens again, at the same address."""
        await self._listen()

    def count(self, matching: str) -> int:
        """How many requests came whose method and path this finds."""
        return sum(bool(re.search(matching, f"{r.method} {r.path}")) for r in self.requests)

    def _set(self, act: _Act, matching: str, times: int | None, *, forwards: bool) -> None:
        self._act, self._matching, self._times, self._forwards = act, matching, times, forwards

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]

    async def _silence(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # Who asked may have lost patience; and when the proxy closes, it is cancelled.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            answer = await self._answer(await _read(reader))
            if answer is not None:
                writer.write(answer)
                await writer.drain()
        writer.close()
        self._connections.discard(task)

    async def _answer(self, request: _Message) -> bytes | None:
        method, path, _ = request.head.split(b" ", 2)
        called = f"{method.decode()} {path.decode()}"
        faulty = self._times != 0 and re.search(self._matching, called) is not None
        if faulty and self._times is not None:
            self._times -= 1
        forwards = self._forwards or not faulty
        sent_by = _AUTHORIZATION.search(request.head)
        authorization = sent_by[1].decode() if sent_by else None
        self.requests.append(Request(method.decode(), path.decode(), authorization, forwards))
        return await (self._act if faulty else self._forward)(request)

    async def _forward(self, request: _Message) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        head = _HOP.sub(b"", request.head)
        line, _, headers = head.partition(b"\r\n")
        host = f"host: {self._host}:{self._port}\r\nconnection: close\r\n".encode()
        writer.write(line + b"\r\n" + host + headers + request.body)
        try:
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> _Message:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return _Message(head, await reader.readexactly(int(length[1])) if length else b"")
