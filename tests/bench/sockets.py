"""Websockets by the thousand: as many clients in one process as are needed, each of which notes
when it received what.

No library, because its memory and time for each connection would be the client's bottleneck.
"""

import asyncio
import base64
import os
import time
from typing import cast

import orjson

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_PATIENCE = 120


def _frame(opcode: int, content: bytes) -> bytes:
    """A whole frame from a client: masked, as it must be, with zeros, which change nothing."""
    length = len(content)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + b"\0\0\0\0" + content


class Socket(asyncio.Protocol):
    """One websocket. `times` are when the texts came that have `counted` in them, and `last` is the
    last text of all."""

    def __init__(self, port: int, path: str, counted: bytes) -> None:
        self._head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
        ).encode()
        self._received = bytearray()
        self._open = False
        self._transport: asyncio.Transport | None = None
        self._changed = asyncio.Event()
        self._counted = counted
        self.last = b""
        self.times: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self._transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._received += data
        if not self._open:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            assert self._received.startswith(b"HTTP/1.1 101"), bytes(self._received[:end])
            del self._received[: end + 4]
            self._open = True
        while (frame := self._next()) is not None:
            opcode, content = frame
            if opcode == _TEXT:
                self.last = content
                if self._counted in content:
                    self.times.append(now)
            elif opcode == _PING and self._transport is not None:
                self._transport.write(_frame(_PONG, content))
        self._changed.set()

    def _next(self) -> tuple[int, bytes] | None:
        """The next whole frame, which the server does not mask."""
        received = self._received
        begin = 2
        if len(received) < begin:
            return None
        length = received[1]
        if length >= 126:
            begin += 2 if length == 126 else 8
            length = int.from_bytes(received[2:begin], "big")
        if len(received) < begin + length:
            return None
        frame = received[0] & 0x0F, bytes(received[begin : begin + length])
        del received[: begin + length]
        return frame

    def send(self, message: object) -> None:
        """Send a text in JSON."""
        assert self._transport is not None
        self._transport.write(_frame(_TEXT, orjson.dumps(message)))

    def close(self) -> None:
        """Say goodbye and hang up."""
        assert self._transport is not None
        self._transport.write(_frame(_CLOSE, b"\x03\xe8"))
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._changed.set()

    async def opened(self) -> None:
        """Until the server has taken it."""
        async with asyncio.timeout(_PATIENCE):
            while not self._open:
                await self._changed.wait()
                self._changed.clear()

    async def received(self, content: bytes) -> None:
        """Until the last message has this in it."""
        async with asyncio.timeout(_PATIENCE):
            while content not in self.last:
                await self._changed.wait()
                self._changed.clear()

    async def has(self, count: int) -> None:
        """Until so many have come of those that are counted."""
        async with asyncio.timeout(_PATIENCE):
            while len(self.times) < count:
                await self._changed.wait()
                self._changed.clear()


async def connect(port: int, path: str, counted: bytes) -> Socket:
    """An open websocket."""
    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(lambda: Socket(port, path, counted), "127.0.0.1", port)
    await socket.opened()
    return socket
