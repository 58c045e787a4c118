"""Stands between clients and services, and may cut them off from each other."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from urllib.parse import urlsplit

from tests.conftest import Process


class Balancer:
    """Gives each connection to the next service that takes it."""

    def __init__(self, services: list[Process]) -> None:
        self._places = [urlsplit(service.url) for service in services]
        self._turn = count()
        self.given = [0 for _ in services]
        self._open: list[asyncio.StreamWriter] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Balancer"]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in self._places:
                number = next(self._turn) % len(self._places)
                address = self._places[number]
                with suppress(OSError):
                    far = await asyncio.open_connection(address.hostname, address.port)
                    self.given[number] += 1
                    self._open.append(writer)
                    await asyncio.gather(_copy(reader, far[1]), _copy(far[0], writer))
                    return
        finally:
            if writer in self._open:
                self._open.remove(writer)
            writer.close()

    def cut(self, chance: random.Random) -> None:
        """Cut one connection off, without a word."""
        if self._open:
            chance.choice(self._open).transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()
