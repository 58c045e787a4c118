"""The only package that opens sessions: `Database`, and what its callers need of what lies within.

| module | |
|---|---|
| `connections` | how connections are made, and the pool of those that read |
| `visible` | what exists for a principal who sees some models only |
| `reading` | what a session can read, and several reads as one statement |
| `readers`, `writing` | sessions that only read; transactions |
| `failures` | what the driver's errors mean to a caller |
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

import asyncpg
import orjson
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from lifecycle.database.connections import (
    ANSWER_SECONDS,
    POOL_SECONDS,
    Connections,
    Share,
    Statement,
    Watch,
    check_server,
    connect,
    report,
    report_writes,
)
from lifecycle.database.failures import Retry, expected
from lifecycle.database.readers import Reader, ReplicaReader
from lifecycle.database.reading import Later, ReadSession, clock, together
from lifecycle.database.visible import Models
from lifecycle.database.writing import WriteSession, savepoint
from lifecycle.errors import Unavailable
from lifecycle.statements import to_json

__all__ = [
    "IDLE_SECONDS",
    "READERS",
    "SPARE",
    "Database",
    "Later",
    "Models",
    "ReadSession",
    "Statement",
    "WriteSession",
    "check_server",
    "clock",
    "connect",
    "savepoint",
    "together",
]

Result = TypeVar("Result")

# So many connections of each kind one principal may have, and so many more are for those who have
# none. With the journal's own a process holds at most 21.
READERS = 8
WRITERS = 8
SPARE = 2
# How long PostgreSQL hears nothing on a connection outside the pools before it ends it.
IDLE_SECONDS = 5
_ATTEMPTS = 5
# A replica that does not answer is not waited for.
_REPLICA_SECONDS = 2

_writing: ContextVar[bool] = ContextVar("writing", default=False)


class Database:
    """Two pools: reads cost one round trip and cannot write; a write is one transaction.

    `url` begins with postgresql+asyncpg://. `after_commit` is called after each transaction that
    wrote, `watch` after each statement; they must not block. `read_url` is that of a replica.
    """

    def __init__(self, url: str, watch: Watch | None = None, read_url: str | None = None) -> None:
        self.url = url
        self._visible: Models = None
        self._from_replica = False
        self._share: Share | None = None
        self.after_commit: Callable[[], None] = lambda: None
        self._watch = watch
        # Shared with the copies of this.
        self._under_way: set[object] = set()
        self.write_engine = create_async_engine(
            url,
            async_creator=self._connect_to_write,
            pool_size=WRITERS + SPARE,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            # Errors that are logged must not show what was written.
            hide_parameters=True,
            # Transactions are the driver's.
            isolation_level="AUTOCOMMIT",
            json_serializer=to_json,
            json_deserializer=orjson.loads,
        )
        self._writers = WeakSet[asyncpg.Connection]()
        # Those that were there when one was found to be gone: they may be, too.
        self._doubted = WeakSet[asyncpg.Connection]()
        event.listen(self.write_engine.sync_engine, "checkout", self._check_open)
        if watch is not None:
            report_writes(self.write_engine.sync_engine, watch)
        self._readers = Connections(url, READERS, SPARE, watch)
        self._replica = (
            Connections(read_url, READERS, SPARE, watch, "replica", _REPLICA_SECONDS)
            if read_url
            else None
        )
        self._write = async_sessionmaker(
            self.write_engine, class_=WriteSession, expire_on_commit=False
        )

    def seen_by(self, visible: Models) -> "Database":
        """The same database, in which only rows of these models exist; None if all do."""
        if visible == self._visible:
            return self
        return self._but(_visible=visible)

    def shared(self, whose: Callable[[], str]) -> "Database":
        """The same database for one operation, which reads with a few connections at a time, and no
        more than that wait for one: whatever it asks, others are not behind all of it. `whose` says
        for each read in which principal's line it stands."""
        if self._share and self._share.refuses:
            return self
        return self._but(_share=Share(whose))

    def in_line(self, name: str) -> "Database":
        """The same database for a part of the service, whose reads wait in a line of their own: not
        behind what the rest of it reads, nor that behind them."""
        return self._but(_share=Share(lambda: name, math.inf, room=math.inf))

    def lasting(self) -> "Database":
        """The same database for an operation that reads for as long as it lasts: how much, is not
        counted."""
        return self._but(_share=Share(self._share.whose, room=math.inf)) if self._share else self

    def count_read(self, characters: int) -> None:
        """So much of what one operation shows as it is has been read. Raises LimitExceeded."""
        if self._share is not None:
            self._share.read(characters)

    def spared(self) -> "Database":
        """The same database for the same operation from its beginning: what was read of it does not
        count. If the database has failed it, it is not asked again: whatever is read raises what it
        failed with."""
        if self._share is None:
            return self
        failure = self._share.failure
        return self._but(_share=Share(lambda: "", 0, failure) if failure else self._share.anew())

    def _but(self, **changed: Any) -> "Database":
        other = object.__new__(Database)
        other.__dict__.update(self.__dict__, **changed)
        return other

    @property
    def visible(self) -> Models:
        """The models whose rows exist; None if all do."""
        return self._visible

    async def _connect_to_write(self) -> asyncpg.Connection:
        connection = await connect(
            self.url,
            "write",
            answer_seconds=ANSWER_SECONDS,
            # What is looked at again after waiting for a lock must not be an old snapshot.
            default_transaction_isolation="read committed",
            lock_timeout="10s",
            statement_timeout="30s",
            # What is written is found by keys, one as good as another: to plan that again for each
            # takes longer than to do it.
            plan_cache_mode="force_generic_plan",
            idle_in_transaction_session_timeout="60s",
        )
        self._writers.add(connection)
        if self._watch is not None:
            report(connection, "write", self._watch)
        return connection

    def read(self) -> AbstractAsyncContextManager[ReadSession]:
        """A session for one statement or a few; PostgreSQL refuses writes on it.

        Raises Unavailable when the database does not answer.
        """
        if _writing.get():
            # Under load this would wait for a connection while holding one: a deadlock.
            raise RuntimeError("read with the transaction's own session")
        if self._from_replica and self._replica is not None:
            return ReplicaReader(self._replica, self._readers, self._visible, self._share)
        return Reader(self._readers, self._visible, self._share)

    def lagging(self) -> "Database":
        """The same database, whose read sessions may be some time behind: they read from the
        replica, if there is one."""
        return self if self._replica is None else self._but(_from_replica=True)

    async def write(self, use_case: Callable[[WriteSession], Awaitable[Result]]) -> Result:
        """Run a use case in one transaction: it commits when it returns, or nothing has happened.

        A transaction that PostgreSQL undid because of a deadlock is run again from its beginning,
        so a use case must have no effect outside its session. Raises Unavailable when the
        database does not answer, and what the use case raises.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self._transaction() as session:
                    result = await use_case(session)
                self.after_commit()
                return result
            except Retry:
                await asyncio.sleep(0.01 * 2**attempt)
        raise Unavailable("Too many writers want the same objects at once; try again.")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[WriteSession]:
        token, mine = _writing.set(True), object()
        self._under_way.add(mine)
        session = self._write()
        try:
            async with session.transaction():
                if self._visible is not None:
                    await session.see_only(self._visible)
                yield session
        except Exception as error:
            # That of whoever gives up has been closed here.
            if session.lost:
                self._doubted.update(self._writers)
            if (known := expected(error)) is None:
                raise
            raise known from error
        finally:
            self._under_way.discard(mine)
            _writing.reset(token)

    async def connect(self, purpose: str) -> asyncpg.Connection:
        """A connection outside the pools, for LISTEN and advisory locks; the caller closes it.

        PostgreSQL ends it when it hears nothing for some seconds: a process that hangs, or whose
        network is gone, must not keep its locks.
        """
        return await connect(self.url, purpose, idle_session_timeout=f"{IDLE_SECONDS}s")

    @property
    def reading(self) -> int:
        """How many read sessions are open."""
        return self._readers.taken

    def load(self, principal: str) -> int:
        """How many connections that read a principal has or waits for."""
        return self._readers.load(principal)

    @property
    def waiting_to_read(self) -> int:
        """How many wait for a connection that reads."""
        return self._readers.waiting

    @property
    def reading_from_replica(self) -> int:
        """How many read sessions are open on the replica."""
        return self._replica.taken if self._replica is not None else 0

    @property
    def writing(self) -> int:
        """How many transactions have a connection, or will have one at once."""
        return min(len(self._under_way), WRITERS + SPARE)

    @property
    def waiting_to_write(self) -> int:
        """How many transactions wait for a connection."""
        return max(len(self._under_way) - WRITERS - SPARE, 0)

    def _check_open(self, connection: Any, _: object, __: object) -> None:
        """Have the pool make another in place of one that is lost, or may be."""
        driver = connection.driver_connection
        if driver.is_closed() or driver in self._doubted:
            raise DisconnectionError

    async def close(self) -> None:
        """Close all connections; sessions still open fail."""
        self._readers.close()
        if self._replica is not None:
            self._replica.close()
        # The pool would say goodbye on each, and wait to be heard.
        for connection in list(self._writers):
            connection.terminate()
        await self.write_engine.dispose()
