"""The only module that opens sessions, and the only one that reads the driver's errors."""

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import count, islice
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, overload
from uuid import UUID

import asyncpg
import orjson
import structlog
from sqlalchemy import (
    ARRAY,
    Constraint,
    Engine,
    ExceptionContext,
    Index,
    Select,
    Table,
    Uuid,
    bindparam,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.util import identity_key

from lifecycle.access import visibility
from lifecycle.access.visibility import Unrestrictable
from lifecycle.errors import InvalidInput, LifecycleError, Unavailable
from lifecycle.statements import Columns, Prepared, Row, Values, prepared, to_json
from lifecycle.tables import Base, WithId, mapped

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")
# The ids of the models whose rows exist for a session; None if all rows do.
Models: TypeAlias = frozenset[UUID] | None

# Pools of one process. With the journal's own connection a process holds at most 17.
_READERS = 8
_WRITERS = 8
_ATTEMPTS = 5
_POOL_SECONDS = 10
# A replica that does not answer is not waited for, nor asked again for a moment.
_REPLICA_SECONDS = 2
_REST_SECONDS = 5
# Prepared on each connection: as many as there are in the code, and then some.
_STATEMENTS = 500

_OLDEST_SERVER = 15
# PostgreSQL's bound is 1,664.
_COLUMNS = 1_600

_PARAMETER = re.compile(r"\$(\d+)")

_NONE: Mapping[str, Any] = {}

_writing: ContextVar[bool] = ContextVar("writing", default=False)


async def connect(
    url: str, purpose: str, *, seconds: float = 10, **settings: str
) -> asyncpg.Connection:
    """A connection with these settings of the server. Reads the URL as psql does, sslmode and all,
    which SQLAlchemy would not."""
    return await asyncpg.connect(
        url.replace("+asyncpg", "", 1),
        timeout=seconds,
        statement_cache_size=_STATEMENTS,
        server_settings={"application_name": f"lifecycle-{purpose}", "jit": "off", **settings},
    )


class ReadSession(ABC):
    """Reads one statement after the other."""

    @overload
    async def fetch(
        self, statement: Prepared[Row] | Select[Row], parameters: Mapping[str, Any] = ...
    ) -> list[Row]: ...
    @overload
    async def fetch(  # type: ignore[overload-cannot-match]
        self, statement: Select[*Columns], parameters: Mapping[str, Any] = ...
    ) -> list[tuple[*Columns]]: ...
    async def fetch(self, statement: Any, parameters: Mapping[str, Any] = _NONE) -> list[Any]:
        """All rows, as `Prepared` says. What is asked often should be prepared."""
        if not isinstance(statement, Prepared):
            statement, values = prepared(statement)
            parameters = {**values, **parameters}
        return await self._rows(statement, statement.values(parameters))

    @overload
    async def fetch_one(
        self, statement: Prepared[Row] | Select[Row], parameters: Mapping[str, Any] = ...
    ) -> Row | None: ...
    @overload
    async def fetch_one(  # type: ignore[overload-cannot-match]
        self, statement: Select[*Columns], parameters: Mapping[str, Any] = ...
    ) -> tuple[*Columns] | None: ...
    async def fetch_one(self, statement: Any, parameters: Mapping[str, Any] = _NONE) -> Any:
        """The first row, or None; for statements that have no more than one."""
        found = await self.fetch(statement, parameters)
        return found[0] if found else None

    async def _rows(self, statement: Prepared[Row], values: Sequence[Any]) -> list[Row]:
        return statement.rows(await self._run(statement.sql, values))

    @abstractmethod
    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        """Rows as they come from the driver."""


class _Reader(ReadSession):
    """Has a connection of its own, which cannot write; each statement sees what is committed.

    Entering raises Unavailable when there is none, and leaving when it was lost.
    """

    def __init__(self, connections: "_Connections", visible: Models) -> None:
        self._connections = connections
        self._visible = visible
        self._connection: asyncpg.Connection | None = None

    async def __aenter__(self) -> "_Reader":
        try:
            self._connection = await self._connections.take()
        except Exception as error:
            raise _expected(error) or error from error
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._connections.give_back(self._connection)
        if isinstance(error, Exception) and (known := _expected(error)) is not None:
            raise known from error

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        assert self._connection is not None
        if self._visible is not None:
            sql, values = _narrowed(sql, values, self._visible)
        found: Sequence[Values] = await self._connection.fetch(sql, *values)
        return found


class _ReplicaReader(_Reader):
    """Reads what a replica has by now; from the primary, where the replica does not answer, or
    has to break off because of what it is sent."""

    def __init__(self, replica: "_Connections", primary: "_Connections", visible: Models) -> None:
        super().__init__(replica, visible)
        self._primary = primary

    async def __aenter__(self) -> "_Reader":
        if not self._connections.resting:
            try:
                self._connection = await self._connections.take()
                return self
            except Exception as error:
                if not _is_missing(error):
                    raise
                self._connections.rest()
        self._connections = self._primary
        return await super().__aenter__()

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        try:
            return await super()._run(sql, values)
        except Exception as error:
            if self._connections is self._primary or not _is_missing(error):
                raise
            connection = await self._primary.take()
            self._connections.rest()
            self._connections.give_back(self._connection)
            self._connections, self._connection = self._primary, connection
            return await super()._run(sql, values)


class _Asking(ReadSession):
    """Has no connection: whoever drives the coroutines that read by it is given the statements, and
    sends the rows of each."""

    async def _rows(self, statement: Prepared[Row], values: Sequence[Any]) -> list[Row]:
        (rows,) = await _Asked([_Question(statement, values)])
        return cast("list[Row]", rows)

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        raise AssertionError("whoever drives it does so")


class _Question(NamedTuple):
    statement: Prepared[Any]
    values: Sequence[Any]


class _Asked:
    __slots__ = ("questions",)

    def __init__(self, questions: Sequence[_Question]) -> None:
        self.questions = questions

    def __await__(self) -> Generator[Sequence[_Question], list[list[Any]], list[list[Any]]]:
        return (yield self.questions)


class Later:
    """A parameter that is not known yet: an attribute of the one row that the first of the reads
    gives that are asked together. What was read by it says nothing, if it `missed` that row."""

    __slots__ = ("attribute", "missed")

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute
        self.missed = False


# A parameter that is Later: of which statement, at which place, which attribute.
_Place = tuple[int, int, str]


def _replaced(texts: Sequence[str], parameter: re.Match[str]) -> str:
    return texts[int(parameter[1]) - 1]


@lru_cache(_STATEMENTS)
def _joined(statements: tuple[Prepared[Any], ...], later: tuple[_Place, ...]) -> str:
    """One statement that gives all columns of each of these, as arrays. To make rows of them takes
    the driver half as long as arrays of records; with one group alone PostgreSQL keeps the order.
    With what is later the first gives one row, as it is, or there is nothing at all.
    """
    attributes = {(n, place): attribute for n, place, attribute in later}
    parts, numbers, begin = [], count(1), ""
    for n, each in enumerate(statements):
        places = [attributes.get((n, place)) for place in range(each.parameters)]
        texts = [
            f"(SELECT c{statements[0].place(attribute)} FROM found)"
            if attribute is not None
            else f"${next(numbers)}"
            for attribute in places
        ]
        rows = f"({_PARAMETER.sub(partial(_replaced, texts), each.sql)})"
        names = ", ".join(f"c{column}" for column in range(each.columns))
        if later and n == 0:
            begin = f"WITH found ({names}) AS MATERIALIZED {rows} "
            parts.append("found")
            continue
        arrays = ", ".join(f"array_agg(c{column})" for column in range(each.columns))
        parts.append(f"(SELECT {arrays} FROM {rows} AS row ({names})) AS part_{n}")
    return f"{begin}SELECT * FROM {' CROSS JOIN '.join(parts)}"


Read = Callable[[ReadSession], Coroutine[Any, Any, Any]]


async def together(session: ReadSession, reads: Sequence[Read]) -> list[Any]:
    """What each of the reads returns. What they ask at the same time is one statement: a round
    trip takes longer than most of what is asked. They must wait for nothing but their session, of
    which they may read together in turn.
    """
    if len(reads) == 1:
        return [await reads[0](session)]
    results: list[Any] = [None] * len(reads)
    coroutines = [(read(_Asking()), copy_context()) for read in reads]
    going: list[tuple[int, Any]] = [(n, None) for n in range(len(reads))]
    try:
        while going:
            asked: list[_Question] = []
            waiting = []
            for n, rows in going:
                coroutine, context = coroutines[n]
                try:
                    questions = context.run(coroutine.send, rows)
                    asked += questions
                    waiting.append((n, len(questions)))
                except StopIteration as end:
                    results[n] = end.value
            found = iter(await _answered(session, asked))
            going = [(n, list(islice(found, questions))) for n, questions in waiting]
    finally:
        for coroutine, context in coroutines:
            context.run(coroutine.close)
    return results


async def _answered(session: ReadSession, asked: Sequence[_Question]) -> list[list[Any]]:
    """The rows of each statement, in one round trip for all that can be joined."""
    if isinstance(session, _Asking):
        return await _Asked(asked)
    if len(asked) > 1 and sum(each.statement.columns for each in asked) > _COLUMNS:
        half = len(asked) // 2
        return [
            *await _answered(session, asked[:half]),
            *await _answered(session, asked[half:]),
        ]
    joined = [each for each in asked if each.statement.columns]
    later = [
        (n, place, value.attribute)
        for n, each in enumerate(joined)
        for place, value in enumerate(each.values)
        if isinstance(value, Later)
    ]
    # What is later refers to the first of all, which is not among those that are later themselves.
    apart = later and (joined[0] is not asked[0] or later[0][0] == 0)
    if len(joined) < 2 or apart:
        return [await _alone(session, each) for each in asked]
    sql = _joined(tuple(each.statement for each in joined), tuple(later))
    values = (value for each in joined for value in each.values)
    found = await session._run(sql, [each for each in values if not isinstance(each, Later)])
    if not found:
        return [[] for _ in asked]
    columns = iter(found[0])
    rows = []
    for n, each in enumerate(asked):
        own = list(islice(columns, each.statement.columns))
        if later and n == 0:
            rows.append(each.statement.rows([own]))
        elif own:
            rows.append(each.statement.rows_of(own) if own[0] is not None else [])
        else:
            rows.append(await _alone(session, each))
    return rows


async def _alone(session: ReadSession, asked: _Question) -> list[Any]:
    """The rows of a statement; none of one that is Later, which is not known yet."""
    missed = [value for value in asked.values if isinstance(value, Later)]
    for each in missed:
        each.missed = True
    return [] if missed else await session._rows(asked.statement, asked.values)


class WriteSession(AsyncSession, ReadSession):
    """A transaction. `fetch` sees what was changed in it; entities that are to be changed come by
    the methods of SQLAlchemy, locked. `visible` are the models whose rows exist for it.

    The transaction is the driver's; SQLAlchemy, which knows of none, has the same connection. So
    what is prepared goes to the driver directly.
    """

    visible: Models = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._driver: asyncpg.Connection
        self._once_committed: list[Callable[[], object]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """What the block does is committed when it ends, or has not happened."""
        try:
            self._driver = await self.run_sync(_driver_of)
            transaction = self._driver.transaction()
            try:
                await transaction.start()
                try:
                    yield
                    await self._send()
                except BaseException:
                    # SQLAlchemy closes a connection on which one of its statements is cancelled.
                    if not self._driver.is_closed():
                        await transaction.rollback()
                    raise
                await transaction.commit()
            finally:
                if self._driver.is_in_transaction():  # cancelled while it was being undone
                    self._driver.terminate()
        finally:
            await self.run_sync(Session.close)
        for call in self._once_committed:
            call()

    def once_committed(self, call: Callable[[], object]) -> None:
        """Call this when the transaction has committed, and never if it does not."""
        self._once_committed.append(call)

    async def see_only(self, visible: frozenset[UUID]) -> None:
        """From now on only the rows of these models exist, whichever way they are read."""
        self.visible = visible
        connection = (await self.connection()).sync_connection

        def narrow(_: Any, __: Any, sql: str, values: Any, ___: Any, many: bool) -> Any:
            if self.visible is None or many:
                return sql, values
            return _narrowed(sql, values, self.visible)

        def lock(state: ORMExecuteState) -> None:
            if self.visible is not None and isinstance(state.statement, Select):
                visible = {"visible": list(self.visible)}
                state.statement = _lockable(state.statement).params(visible)

        event.listen(connection, "before_cursor_execute", narrow, retval=True)
        event.listen(self.sync_session, "do_orm_execute", lock)

    @contextmanager
    def seeing_everything(self) -> Iterator[None]:
        """While the block lasts, all rows exist: for what has to be kept right whoever causes it,
        and is not told to them."""
        visible, self.visible = self.visible, None
        try:
            yield
        finally:
            self.visible = visible

    def know(self, row: WithId, values: Mapping[str, Any]) -> None:
        """The entity of this row, if there is one here, has these values: a statement has given
        them to the row."""
        entity = self.identity_map.get(identity_key(mapped(row.__tablename__), row.id))
        for name, value in values.items() if entity is not None else ():
            set_committed_value(entity, name, value)

    async def lock(
        self, statement: Prepared[Row], parameters: Mapping[str, Any] = _NONE
    ) -> list[Row]:
        """The rows of a statement that locks them, as they stand: of those that exist here."""
        if self.visible is not None:
            statement = _locking(statement)
            parameters = {**parameters, "visible": list(self.visible)}
        return await self.fetch(statement, parameters)

    async def _send(self) -> None:
        """Send what entities have been changed to."""
        if self.new or self.dirty or self.deleted:
            await self.flush()

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        await self._send()
        if self.visible is not None:
            sql, values = _narrowed(sql, values, self.visible)
        found: Sequence[Values] = await self._driver.fetch(sql, *values)
        return found


def _driver_of(session: Session) -> asyncpg.Connection:
    return session.connection().connection.driver_connection


def _narrowed(sql: str, values: Sequence[Any], visible: frozenset[UUID]) -> Any:
    """The statement and its parameters, for which only what is visible exists."""
    sql, restricted = visibility.narrowed(sql, len(values), frozenset(Base.metadata.tables))
    return sql, (*values, list(visible)) if restricted else values


@lru_cache(_STATEMENTS)
def _locking(statement: Prepared[Row]) -> Prepared[Row]:
    return Prepared(_lockable(statement.statement))


def _lockable(statement: Select[Any]) -> Select[Any]:
    """The statement with the condition that what it locks is visible, which is the parameter
    `visible`; others are left alone."""
    if statement._for_update_arg is None:
        return statement
    for table in statement.get_final_froms():
        if not isinstance(table, Table):
            raise Unrestrictable("Only rows of plain tables are locked.")
        if table.name not in visibility.OPEN:
            ids = visibility.ids_of(table.name, ":visible")
            condition = text(f"{table.name}.id IN ({ids})")
            models = bindparam("visible", type_=ARRAY(Uuid))
            statement = statement.where(condition.bindparams(models))
    return statement


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


def _report(connection: asyncpg.Connection, pool: str, watch: Watch) -> None:
    def done(record: Any) -> None:
        watch(Statement(record.query, record.elapsed, pool, record.exception))

    connection.add_query_logger(done)


def _report_writes(engine: Engine, watch: Watch) -> None:
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


class _Connections:
    """So many connections, each made when it is needed; the one that was last used is the next."""

    def __init__(
        self, url: str, size: int, watch: "Watch | None", pool: str = "read", seconds: float = 10
    ) -> None:
        self._url = url
        self._size = size
        self._watch = watch
        self._pool = pool
        self._seconds = seconds
        self._rests_until = 0.0
        self.waiting = 0
        self._free: asyncio.LifoQueue[asyncpg.Connection | None] = asyncio.LifoQueue()
        self._all: set[asyncpg.Connection] = set()
        for _ in range(size):
            self._free.put_nowait(None)

    async def take(self) -> asyncpg.Connection:
        """One for the caller alone, to be given back. Raises TimeoutError when all are taken for
        too long, and what the driver raises."""
        try:
            connection = self._free.get_nowait()
        except asyncio.QueueEmpty:
            connection = await self._next()
        if connection is not None and not connection.is_closed():
            return connection
        self._all.discard(connection)
        try:
            return await self._connect()
        except BaseException:
            self._free.put_nowait(None)
            raise

    def give_back(self, connection: asyncpg.Connection | None) -> None:
        """Let others have it."""
        self._free.put_nowait(connection)

    async def _next(self) -> asyncpg.Connection | None:
        # Not by asyncio.timeout(), because who drives resolvers by hand is not their task.
        waiting = asyncio.ensure_future(self._free.get())
        self.waiting += 1
        try:
            await asyncio.wait((waiting,), timeout=_POOL_SECONDS)
        except BaseException:
            # Cancelled, or closed by who drives it. What comes for nobody would be lost.
            if not waiting.cancel():
                self._free.put_nowait(waiting.result())
            raise
        finally:
            self.waiting -= 1
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        raise TimeoutError

    async def _connect(self) -> asyncpg.Connection:
        # In a task of its own, because the driver's timeout cancels the task that it is in: for who
        # drives resolvers by hand that is not theirs.
        connection = await asyncio.create_task(
            connect(
                self._url,
                self._pool,
                seconds=self._seconds,
                default_transaction_read_only="on",
                statement_timeout="30s",
            )
        )
        self._all.add(connection)
        # In the binary form, of which the first byte is a version, because text is not taken as a
        # part of records.
        await connection.set_type_codec(
            "jsonb",
            encoder=lambda text: b"\x01" + text.encode(),
            decoder=lambda form: orjson.loads(form[1:]),
            schema="pg_catalog",
            format="binary",
        )
        if self._watch is not None:
            _report(connection, self._pool, self._watch)
        return connection

    @property
    def taken(self) -> int:
        """How many somebody has now."""
        return self._size - self._free.qsize()

    @property
    def resting(self) -> bool:
        """Whether it has lately been found not to answer."""
        return time.monotonic() < self._rests_until

    def rest(self) -> None:
        """Nobody is to try it for a moment."""
        if not self.resting:
            _log.warning("database.replica_missing", seconds=_REST_SECONDS)
        self._rests_until = time.monotonic() + _REST_SECONDS

    def close(self) -> None:
        """Close those that are there; who uses one fails."""
        while self._all:
            self._all.pop().terminate()


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


_CLOCK = Prepared(select(func.clock_timestamp()))


async def clock(session: ReadSession) -> datetime:
    """The database's time now, which all processes share; not the transaction's, which may have
    waited long for a lock."""
    now: datetime
    (now,) = await session.fetch(_CLOCK)
    return now


@asynccontextmanager
async def savepoint(session: WriteSession) -> AsyncIterator[None]:
    """When the block fails as expected, nothing of it has happened, and the transaction can go
    on; the error is raised all the same."""
    try:
        async with session.begin_nested():
            yield
    except LifecycleError:
        # What the block had changed is as it was before.
        with session.seeing_everything():
            for row in list(session.sync_session):
                await session.refresh(row)
        raise


class _Retry(Exception):
    """PostgreSQL undid the transaction for reasons of concurrency; the same again may work."""


class Database:
    """Two pools: reads cost one round trip and cannot write; a write is one transaction.

    `url` begins with postgresql+asyncpg://. `after_commit` is called after each transaction that
    wrote, `watch` after each statement; they must not block. `read_url` is that of a replica.
    """

    def __init__(self, url: str, watch: Watch | None = None, read_url: str | None = None) -> None:
        self.url = url
        self._visible: Models = None
        self._from_replica = False
        self.after_commit: Callable[[], None] = lambda: None
        self._watch = watch
        # Shared with the copies of this.
        self._under_way: set[object] = set()
        self.write_engine = create_async_engine(
            url,
            async_creator=self._connect_to_write,
            pool_size=_WRITERS,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            # Errors that are logged must not show what was written.
            hide_parameters=True,
            # Transactions are the driver's.
            isolation_level="AUTOCOMMIT",
            json_serializer=to_json,
            json_deserializer=orjson.loads,
        )
        event.listen(self.write_engine.sync_engine, "checkout", _check_open)
        if watch is not None:
            _report_writes(self.write_engine.sync_engine, watch)
        self._readers = _Connections(url, _READERS, watch)
        self._replica = (
            _Connections(read_url, _READERS, watch, "replica", _REPLICA_SECONDS)
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
        seen = copy(self)
        seen._visible = visible
        return seen

    @property
    def shows_everything(self) -> bool:
        """Whether all rows exist."""
        return self._visible is None

    async def _connect_to_write(self) -> asyncpg.Connection:
        connection = await connect(
            self.url,
            "write",
            # What is looked at again after waiting for a lock must not be an old snapshot.
            default_transaction_isolation="read committed",
            lock_timeout="10s",
            statement_timeout="30s",
            # What is written is found by keys, one as good as another: to plan that again for each
            # takes longer than to do it.
            plan_cache_mode="force_generic_plan",
            idle_in_transaction_session_timeout="60s",
        )
        if self._watch is not None:
            _report(connection, "write", self._watch)
        return connection

    def read(self) -> AbstractAsyncContextManager[ReadSession]:
        """A session for one statement or a few; PostgreSQL refuses writes on it.

        Raises Unavailable when the database does not answer.
        """
        if _writing.get():
            # Under load this would wait for a connection while holding one: a deadlock.
            raise RuntimeError("read with the transaction's own session")
        if self._from_replica and self._replica is not None:
            return _ReplicaReader(self._replica, self._readers, self._visible)
        return _Reader(self._readers, self._visible)

    def lagging(self) -> "Database":
        """The same database, whose read sessions may be some time behind: they read from the
        replica, if there is one."""
        if self._replica is None:
            return self
        found = copy(self)
        found._from_replica = True
        return found

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
            except _Retry:
                await asyncio.sleep(0.01 * 2**attempt)
        raise Unavailable("Too many writers want the same objects at once; try again.")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[WriteSession]:
        token, mine = _writing.set(True), object()
        self._under_way.add(mine)
        try:
            session = self._write()
            async with session.transaction():
                if self._visible is not None:
                    await session.see_only(self._visible)
                yield session
        except Exception as error:
            if (known := _expected(error)) is None:
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
        return await connect(self.url, purpose, idle_session_timeout="5s")

    @property
    def reading(self) -> int:
        """How many read sessions are open."""
        return self._readers.taken

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
        return min(len(self._under_way), _WRITERS)

    @property
    def waiting_to_write(self) -> int:
        """How many transactions wait for a connection."""
        return max(len(self._under_way) - _WRITERS, 0)

    async def close(self) -> None:
        """Close all connections; sessions still open fail."""
        self._readers.close()
        if self._replica is not None:
            self._replica.close()
        await self.write_engine.dispose()


def _check_open(connection: Any, _: object, __: object) -> None:
    """Have the pool make another connection in place of one that was lost."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _expected(error: Exception) -> Exception | None:
    """What an error of the driver means to a caller; None for everything else."""
    if isinstance(error, LifecycleError):
        return None
    if isinstance(error, IntegrityError):
        return _violation(getattr(error.orig, "__cause__", None))
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return _violation(error)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Unavailable("The database is not available; try again.")
    if isinstance(error, DBAPIError | asyncpg.PostgresError):
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None) or ""
        if state in ("40P01", "40001"):  # deadlock detected, serialization failure
            return _Retry()
        if state in ("55P03", "57014"):  # lock timeout, statement timeout
            return Unavailable("The database was too busy; try again.")
        if state in ("22021", "22P05"):  # the one character that PostgreSQL cannot store
            return InvalidInput("Text must not contain the character U+0000.")
        # Connection failures, no entry (which 55000 means while connecting), no such database, out
        # of resources, operator intervention.
        if state[:2] in ("08", "28", "3D", "53", "57") or state == "55000":
            return Unavailable("The database is not available; try again.")
        return None
    # The last is what the driver says of a connection that is just being closed.
    gone = OSError | PoolTimeout | asyncpg.InterfaceError | asyncpg.InternalClientError
    if isinstance(error, gone):
        return Unavailable("The database is not available; try again.")
    return None


def _is_missing(error: Exception) -> bool:
    """Whether another server may answer what this one did not: not what took too long."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return False
    return isinstance(_expected(error), Unavailable | _Retry)


def _violation(cause: BaseException | None) -> LifecycleError | None:
    name = getattr(cause, "constraint_name", None)
    # "Key (name)=(churn) already exists."
    value = (getattr(cause, "detail", None) or "").partition("=(")[2].rpartition(")")[0]
    for table in Base.metadata.tables.values():
        rules: list[Constraint | Index] = [*table.constraints, *table.indexes]
        for rule in rules:
            if rule.name == name and "violation" in rule.info:
                made: LifecycleError = rule.info["violation"](value)
                return made
    return None
