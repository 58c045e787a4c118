"""Connections to PostgreSQL: how each is made, and those that are kept for reading.

SQLAlchemy keeps the ones for writing, in `Database`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import orjson
import structlog
from sqlalchemy import Engine, ExceptionContext, event

from lifecycle.errors import LimitExceeded, Unavailable
from lifecycle.statements import STATEMENTS
from lifecycle.turns import Turns

_log = structlog.get_logger(__name__)

POOL_SECONDS = 10
# Of one operation.
MOST_AT_ONCE = 2
# JSON takes some twelve times as much in memory as it has characters.
MAX_READ = 20_000_000
_STATEMENT_SECONDS = 30
# PostgreSQL breaks off by then; who hears nothing of that has lost it.
ANSWER_SECONDS = _STATEMENT_SECONDS + 2
# How long after that at most it is found out.
_LOOK_SECONDS = 2
# A replica that does not answer is not asked again for a moment.
_REST_SECONDS = 5
# What was broken off is over at once, or never.
_SETTLE_SECONDS = 10
_OLDEST_SERVER = 15


async def connect(
    url: str,
    purpose: str,
    *,
    seconds: float = 10,
    answer_seconds: float | None = None,
    kind: type[asyncpg.Connection] = asyncpg.Connection,
    **settings: str,
) -> asyncpg.Connection:
    """A connection with these settings of the server, on which a statement raises TimeoutError when
    it is not answered in so many seconds. Reads the URL as psql does, sslmode and all, which
    SQLAlchemy would not."""
    return await asyncpg.connect(
        url.replace("+asyncpg", "", 1),
        timeout=seconds,
        command_timeout=answer_seconds,
        statement_cache_size=STATEMENTS,
        connection_class=kind,
        server_settings={"application_name": f"lifecycle-{purpose}", "jit": "off", **settings},
    )


async def check_server(url: str) -> None:
    """Raise Unavailable, saying why, unless a PostgreSQL that is new enough answers."""
    try:
        connection = await connect(url, "check")
        version = connection.get_server_version().major
        await connection.close(timeout=10)
    except (OSError, ValueError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        reason = str(error) or "no answer"
        raise Unavailable(f"The database cannot be used: {reason}.") from error
    if version < _OLDEST_SERVER:
        raise Unavailable(
            f"The database is PostgreSQL {version}; {_OLDEST_SERVER} or later is needed."
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that was executed, on a connection of the pool that reads or of the one that
    writes; with the error, if it failed."""

    sql: str
    seconds: float
    pool: str
    error: BaseException | None


# Is told of each statement once it is done, in the context of whoever asked for it.
Watch: TypeAlias = Callable[[Statement], None]


def report(connection: asyncpg.Connection, pool: str, watch: Watch) -> None:
    """Report what the driver executes on a connection of this pool."""

    def done(record: Any) -> None:
        watch(Statement(record.query, record.elapsed, pool, record.exception))

    connection.add_query_logger(done)


def report_writes(engine: Engine, watch: Watch) -> None:
    """Report what the driver does not: what SQLAlchemy has prepared, which is all but what it
    executes with many parameters at once."""

    def begin(_: Any, __: Any, ___: Any, ____: Any, context: Any, _____: Any) -> None:
        context.began = time.perf_counter()

    def end(_: Any, __: Any, sql: str, ___: Any, context: Any, many: bool) -> None:
        if not many:
            watch(Statement(sql, time.perf_counter() - context.began, "write", None))

    def fail(failure: ExceptionContext) -> None:
        context: Any = failure.execution_context
        if context is not None and failure.statement is not None and not context.executemany:
            took = time.perf_counter() - context.began
            watch(Statement(failure.statement, took, "write", failure.original_exception))

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine, "handle_error", fail)


class Share:
    """How many connections, at `most`, one operation has or waits for at a time; further reads of
    its own wait here, so that it stands before others only as often. Where it `refuses`, nothing is
    read at all. `whose` says for each read in which principal's line it stands. No more is read
    than there is `room` for.

    Who has a connection must not wait for another of the same operation.
    """

    __slots__ = (
        "_left",
        "_line",
        "_room",
        "_whole_room",
        "failure",
        "from_primary",
        "refuses",
        "whose",
    )

    def __init__(
        self,
        whose: Callable[[], str],
        most: float = MOST_AT_ONCE,
        refuses: Unavailable | None = None,
        room: float | None = None,
    ) -> None:
        self._whole_room = self._room = MAX_READ if room is None else room
        self.whose = whose
        self._left = most
        self._line: deque[asyncio.Future[None]] = deque()
        self.refuses = refuses
        # Whether the primary has answered in place of the replica, which may be behind it.
        self.from_primary = False
        # With which the database failed it.
        self.failure: Unavailable | None = None

    def anew(self) -> "Share":
        """That of the same operation from its beginning, of which nothing is read yet."""
        other = Share(self.whose, room=self._whole_room)
        other.from_primary = self.from_primary
        return other

    def takes(self) -> bool:
        """Take one now, to be given back, if there is one; otherwise it is to be waited for."""
        if self._left:
            self._left -= 1
            return True
        return False

    def read(self, characters: int) -> None:
        """So much of JSON, or of texts that are shown as they are, is read. Raises
        LimitExceeded."""
        self._room -= characters
        if self._room < 0:
            raise LimitExceeded(
                f"An operation may read {MAX_READ:,} characters of JSON, and of what lists show. "
                "Ask for shorter pages, or for less of each object. If it was a change, it has "
                "been made.",
                "read",
                MAX_READ,
                MAX_READ + 1,
            )

    async def wait(self) -> None:
        """Wait for one. Raises what it refuses with."""
        if self.refuses is not None:
            raise Unavailable(str(self.refuses))
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except BaseException:
            # Cancelled, or closed by who drives it. What comes for nobody would be lost.
            if not place.cancel() and not place.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Let the next have it."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._left += 1


class ReadConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows whose share the statement belongs to that it executes now."""

    share: Share | None = None

    def parsed(self, form: bytes) -> Any:
        """JSON in PostgreSQL's binary form, of which the first byte is a version. Raises
        LimitExceeded: the driver passes over the rest of the answer then."""
        if self.share is not None:
            self.share.read(len(form))
        return orjson.loads(form[1:])


class Connections:
    """So many connections, each made when it is needed; the one that was last used is the next.

    When all are taken principals take turns, and some are left for those who have none, so that one
    whose statements take long does not have all of them.
    """

    def __init__(
        self,
        url: str,
        size: int,
        spare: int,
        watch: "Watch | None",
        pool: str = "read",
        seconds: float = 10,
    ) -> None:
        self._url = url
        self._watch = watch
        self._pool = pool
        self._seconds = seconds
        self._rests_until = 0.0
        # None stands for one that is not made yet.
        self._free: list[asyncpg.Connection | None] = [None] * (size + spare)
        self._turns = Turns(size, spare)
        self._all: set[asyncpg.Connection] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._doubting: asyncio.Task[None] | None = None
        # Since when an answer is awaited on each of those that somebody has.
        self._asked: dict[asyncpg.Connection, float] = {}
        self._looking: asyncio.TimerHandle | None = None

    async def take(self, principal: str) -> asyncpg.Connection:
        """One for the caller alone, to be given back. Raises Unavailable when all that the
        principal may have are taken for too long, and what the driver raises."""
        if not self._turns.enters(principal):
            try:
                await self._turns.wait(principal, POOL_SECONDS)
            except TimeoutError:
                # Not as if the server were missing, which others may reach.
                raise Unavailable("The database was too busy; try again.") from None
        connection = self._free.pop()
        if connection is not None and not connection.is_closed():
            return connection
        self._all.discard(connection)
        try:
            return await self._connect()
        except BaseException:
            self.give_back(None, principal)
            raise

    def give_back(self, connection: asyncpg.Connection | None, principal: str) -> None:
        """Let others have it."""
        self._asked.pop(connection, None)
        self._free.append(connection)
        self._turns.leave(principal)

    def asks(self, connection: asyncpg.Connection) -> None:
        """Something is asked on it now. If no answer comes it is closed, and whoever waits for one
        fails."""
        # The driver could do that for each statement, by a timer that takes longer than all that is
        # done here for a short one.
        self._asked[connection] = time.monotonic()
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        lost = time.monotonic() - ANSWER_SECONDS
        for connection, began in self._asked.items():
            if began < lost:
                connection.terminate()
        if self._asked:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def give_up(self, connection: asyncpg.Connection | None, principal: str) -> None:
        """Let others have it, of whom nobody knows what has been sent to it: perhaps a statement
        has been prepared and was to be executed next. PostgreSQL counts that time as the
        statement's, until it is told that nothing follows, and would break off whatever is next."""
        self._asked.pop(connection, None)
        settled = self._settle(connection, principal)
        settling = asyncio.create_task(settled, name="connection-settling")
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def _settle(self, connection: asyncpg.Connection | None, principal: str) -> None:
        try:
            if connection is not None:
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await connection.execute("SELECT")
        except Exception:  # whatever it is, the next one makes another
            assert connection is not None
            connection.terminate()
        finally:
            self.give_back(connection, principal)

    async def _connect(self) -> asyncpg.Connection:
        # In a task of its own, because the driver's timeout cancels the task that it is in: for who
        # drives resolvers by hand that is not theirs.
        making = asyncio.create_task(self._make())
        try:
            connection = await making
        except BaseException:  # also where who waits for it is closed, which cancels nothing
            making.cancel()
            making.add_done_callback(_end)
            raise
        self._all.add(connection)
        return connection

    async def _make(self) -> asyncpg.Connection:
        connection = await connect(
            self._url,
            self._pool,
            seconds=self._seconds,
            kind=ReadConnection,
            default_transaction_read_only="on",
            statement_timeout=f"{_STATEMENT_SECONDS}s",
        )
        assert isinstance(connection, ReadConnection)
        try:
            # In the binary form, of which the first byte is a version, because text is not taken as
            # a part of records.
            await connection.set_type_codec(
                "jsonb",
                encoder=lambda text: b"\x01" + text.encode(),
                decoder=connection.parsed,
                schema="pg_catalog",
                format="binary",
            )
        except BaseException:
            connection.terminate()
            raise
        if self._watch is not None:
            report(connection, self._pool, self._watch)
        return connection

    @property
    def taken(self) -> int:
        """How many somebody has now."""
        return self._turns.running

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return self._turns.waiting

    def load(self, principal: str) -> int:
        """How many a principal has or waits for."""
        return self._turns.load(principal)

    @property
    def resting(self) -> bool:
        """Whether it has lately been found not to answer."""
        return time.monotonic() < self._rests_until

    def rest(self) -> None:
        """Nobody is to try it for a moment."""
        if not self.resting:
            _log.warning("database.replica_missing", seconds=_REST_SECONDS)
        self._rests_until = time.monotonic() + _REST_SECONDS

    @contextmanager
    def doubted(self) -> Iterator[None]:
        """If what is asked in the block takes long, see whether the server answers at all: if not,
        nobody waits for it any more."""
        doubt = asyncio.get_running_loop().call_later(self._seconds, self._doubt)
        try:
            yield
        finally:
            doubt.cancel()

    def _doubt(self) -> None:
        if self._doubting is None or self._doubting.done():
            self._doubting = asyncio.create_task(self._see(), name="replica-doubted")

    async def _see(self) -> None:
        try:
            connection = await connect(self._url, "check", seconds=self._seconds)
        except Exception:  # whatever it is, it does not answer
            self.rest()
            self.close()
        else:
            connection.terminate()

    def close(self) -> None:
        """Close those that are there; who uses one fails."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        while self._all:
            self._all.pop().terminate()


def _end(making: asyncio.Task[asyncpg.Connection]) -> None:
    """End a connection for which nobody waits any more."""
    if not making.cancelled() and making.exception() is None:
        making.result().terminate()
