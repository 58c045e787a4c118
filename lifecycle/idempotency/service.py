"""Do something at most once per key."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import orjson
from sqlalchemy import func, select

from lifecycle.access.origin import Origin
from lifecycle.commands import Command
from lifecycle.database import WriteSession
from lifecycle.errors import IdempotencyConflict, NotFound
from lifecycle.idempotency.tables import IdempotencyKeyRow
from lifecycle.tables import Base, WithId

C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=WithId)

UseCase = Callable[[WriteSession, Origin, C], Awaitable[R]]


async def once(session: WriteSession, origin: Origin, use_case: UseCase[C, R], command: C) -> R:
    """Run the use case, unless its key was used before: then the object of that time, as it is now.

    Of two simultaneous calls with one key the second waits for the first one's transaction.
    Raises IdempotencyConflict when the key stood for something else, NotFound when the object does
    not exist for who asks any more.
    """
    key = command.idempotency_key
    if key is None:
        return await use_case(session, origin, command)
    operation, fingerprint = type(command).__name__, _fingerprint(command)
    # Held until the transaction ends. Keys that share a hash merely wait for each other.
    await session.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended(f"{origin.actor}\n{key}", 0)))
    )
    known = await session.get(IdempotencyKeyRow, (origin.actor, key))
    if known is None:
        row = await use_case(session, origin, command)
        session.add(
            IdempotencyKeyRow(
                actor=origin.actor,
                key=key,
                operation=operation,
                fingerprint=fingerprint,
                table_name=row.__tablename__,
                row_id=row.id,
            )
        )
        return row
    if known.operation != operation or known.fingerprint != fingerprint:
        raise IdempotencyConflict(key)
    there = await session.get(_mapped(known.table_name), known.row_id)
    if there is None:
        raise NotFound("object", "that this key stood for", ("idempotency_key",))
    return cast(R, there)


def _mapped(table_name: str) -> type[Base]:
    """The class whose rows are in this table."""
    classes: list[type[Base]] = [mapper.class_ for mapper in Base.registry.mappers]
    return next(found for found in classes if found.__tablename__ == table_name)


def _fingerprint(command: Command) -> bytes:
    """The same for equal inputs, also after fields with defaults were added to the command."""
    plain = command.model_dump(mode="json", exclude_unset=True, exclude={"idempotency_key"})
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).digest()
