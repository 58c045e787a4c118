"""Do something at most once per key."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import orjson
from sqlalchemy import Table, bindparam, insert, select

from lifecycle.access.origin import Origin
from lifecycle.commands import Command
from lifecycle.database import WriteSession
from lifecycle.errors import IdempotencyConflict, NotFound
from lifecycle.idempotency.tables import IdempotencyKeyRow
from lifecycle.statements import Prepared
from lifecycle.tables import WithId, mapped

C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=WithId)

UseCase = Callable[[WriteSession, Origin, C], Awaitable[R]]

_KNOWN = Prepared(
    select(IdempotencyKeyRow).where(
        IdempotencyKeyRow.actor == bindparam("actor"), IdempotencyKeyRow.key == bindparam("key")
    )
)
_USED = Prepared(
    insert(cast(Table, IdempotencyKeyRow.__table__)).values(
        {
            name: bindparam(name)
            for name in ("actor", "key", "operation", "fingerprint", "table_name", "row_id")
        }
    )
)


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
    used: dict[str, Any] = {"actor": origin.actor, "key": key}
    await session.hold(f"idempotency\n{origin.actor}\n{key}")
    known = await session.fetch_one(_KNOWN, used)
    if known is None:
        row = await use_case(session, origin, command)
        used |= {
            "operation": operation,
            "fingerprint": fingerprint,
            "table_name": row.__tablename__,
            "row_id": row.id,
        }
        await session.fetch(_USED, used)
        return row
    if known.operation != operation or known.fingerprint != fingerprint:
        raise IdempotencyConflict(key)
    there = await session.get(mapped(known.table_name), known.row_id)
    if there is None:
        raise NotFound("object", "that this key stood for", ("idempotency_key",))
    return cast(R, there)


def _fingerprint(command: Command) -> bytes:
    """The same for equal inputs, also after fields with defaults were added to the command."""
    plain = command.model_dump(mode="json", exclude_unset=True, exclude={"idempotency_key"})
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).digest()
