"""Sessions that only read, from the primary or from a replica."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from lifecycle.database.connections import Connections, Share
from lifecycle.database.failures import expected, is_missing
from lifecycle.database.reading import ReadSession
from lifecycle.database.visible import Models, narrowed
from lifecycle.errors import LifecycleError, Unavailable
from lifecycle.statements import Values


class Reader(ReadSession):
    """Has a connection of its own, which cannot write; each statement sees what is committed.

    Entering raises Unavailable when there is none, and leaving when it was lost.
    """

    def __init__(self, connections: "Connections", visible: Models, share: Share | None) -> None:
        self._connections = connections
        self._visible = visible
        self._share = share
        # Nobody's reads are the service's own.
        self._principal = "" if share is None else share.whose()
        self._connection: asyncpg.Connection | None = None

    async def __aenter__(self) -> "Reader":
        if self._share is None:
            await self._take()
            return self
        if not self._share.takes():
            await self._share.wait()
        try:
            await self._take()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    async def _take(self) -> None:
        try:
            self._connection = await self._connections.take(self._principal)
        except Exception as error:
            raise expected(error) or error from error

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._connection is not None:
            self._connection.share = None
        if error is None or isinstance(error, LifecycleError):
            self._connections.give_back(self._connection, self._principal)
        else:
            self._connections.give_up(self._connection, self._principal)
        known = expected(error) if isinstance(error, Exception) else None
        self._leave(known)
        if known is not None:
            raise known from error

    def _leave(self, error: BaseException | None) -> None:
        if self._share is not None:
            self._share.give_back()
            if isinstance(error, Unavailable):
                self._share.failure = error

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        assert self._connection is not None
        if self._visible is not None:
            sql, values = narrowed(sql, values, self._visible)
        self._connection.share = self._share
        self._connections.asks(self._connection)
        found: Sequence[Values] = await self._connection.fetch(sql, *values)
        return found


class ReplicaReader(Reader):
    """Reads what a replica has by now; from the primary, where the replica does not answer, or
    has to break off because of what it is sent. An operation that has read from the primary goes on
    there: what it reads later must not be older."""

    def __init__(
        self,
        replica: "Connections",
        primary: "Connections",
        visible: Models,
        share: Share | None,
    ) -> None:
        super().__init__(replica, visible, share)
        self._primary = primary

    async def _take(self) -> None:
        if not self._connections.resting and not (self._share and self._share.from_primary):
            try:
                self._connection = await self._connections.take(self._principal)
                return
            except Exception as error:
                if not is_missing(error):
                    raise
                self._connections.rest()
        self._go_on_from_primary()
        await super()._take()

    def _go_on_from_primary(self) -> None:
        self._connections = self._primary
        if self._share is not None:
            self._share.from_primary = True

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        if self._connections is self._primary:
            return await super()._run(sql, values)
        try:
            with self._connections.doubted():
                return await super()._run(sql, values)
        except Exception as error:
            if not is_missing(error):
                raise
            connection = await self._primary.take(self._principal)
            self._connections.rest()
            assert self._connection is not None
            # Of one that has not answered nobody knows what it would do next.
            self._connection.terminate()
            self._connections.give_back(self._connection, self._principal)
            self._go_on_from_primary()
            self._connection = connection
            return await super()._run(sql, values)
