"""Transactions: one connection for SQLAlchemy and for what goes to the driver directly."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Select, event, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.util import identity_key

from lifecycle.database.reading import NO_PARAMETERS, ReadSession
from lifecycle.database.visible import Models, lockable, locking, narrowed
from lifecycle.errors import LifecycleError, Unavailable
from lifecycle.statements import Prepared, Row, Values
from lifecycle.tables import WithId, mapped

# What was broken off is over at once, or never.
_UNDO_SECONDS = 10

_HOLD = Prepared(text("SELECT pg_advisory_xact_lock(:lock)"))


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
        # Whether its connection was found to be gone.
        self.lost = False
        self._once_committed: list[Callable[[], object]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """What the block does is committed when it ends, or has not happened."""
        try:
            try:
                self._driver = await self.run_sync(_driver_of)
            except InvalidRequestError as error:  # what was made in place of a lost one is, too
                raise Unavailable("The database is not available; try again.") from error
            transaction = self._driver.transaction()
            try:
                await transaction.start()
                try:
                    yield
                    await self._send()
                except TimeoutError:
                    raise
                except BaseException:
                    await self._undo(transaction)
                    raise
                await transaction.commit()
            except TimeoutError:  # nothing is heard on it any more
                self._driver.terminate()
                raise
            finally:
                self.lost = self._driver.is_closed()
                if not self.lost and self._driver.is_in_transaction():
                    self._driver.terminate()  # cancelled while it was being undone
        finally:
            await self.run_sync(Session.close)
        for call in self._once_committed:
            call()

    async def _undo(self, transaction: asyncpg.transaction.Transaction) -> None:
        # SQLAlchemy closes a connection on which one of its statements is cancelled.
        if self._driver.is_closed():
            return
        try:
            async with asyncio.timeout(_UNDO_SECONDS):
                await transaction.rollback()
        except TimeoutError:
            self._driver.terminate()

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
            return narrowed(sql, values, self.visible)

        def lock(state: ORMExecuteState) -> None:
            if self.visible is not None and isinstance(state.statement, Select):
                visible = {"visible": list(self.visible)}
                state.statement = lockable(state.statement).params(visible)

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
        self, statement: Prepared[Row], parameters: Mapping[str, Any] = NO_PARAMETERS
    ) -> list[Row]:
        """The rows of a statement that locks them, as they stand: of those that exist here."""
        if self.visible is not None:
            statement = locking(statement)
            parameters = {**parameters, "visible": list(self.visible)}
        return await self.fetch(statement, parameters)

    async def hold(self, what: str) -> None:
        """Have nobody else hold the same until the transaction ends.

        By a digest that cannot be aimed at: whoever chooses a text would otherwise have the lock of
        something else, such as that of the policies of all models.
        """
        digest = hashlib.sha256(what.encode()).digest()
        await self.fetch(_HOLD, {"lock": int.from_bytes(digest[:8], signed=True)})

    async def _send(self) -> None:
        """Send what entities have been changed to."""
        if self.new or self.dirty or self.deleted:
            await self.flush()

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        await self._send()
        if self.visible is not None:
            sql, values = narrowed(sql, values, self.visible)
        found: Sequence[Values] = await self._driver.fetch(sql, *values)
        return found


def _driver_of(session: Session) -> asyncpg.Connection:
    return session.connection().connection.driver_connection


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
