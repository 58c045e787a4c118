"""Removes what is too old to be kept, in small transactions, each of which leaves everything right:
whoever stops it has removed less.

What a registered version rests on, the logs and points of its run, is kept however old it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, text, update

from lifecycle.database import Database, WriteSession, clock
from lifecycle.journal import repository as journal
from lifecycle.journal.tables import EventRow, JournalHeadRow
from lifecycle.tracking import repository as tracking
from lifecycle.tracking.tables import MlflowServerRow

_EVENTS = 1_000
_KEYS = 1_000
_OWNERS = 100
_ROWS = 10_000
# Between transactions, for others.
_PAUSE = 0.01

# Held until the transaction ends, so that none of them is revived, or a version registered of it,
# meanwhile. One may have been while this waited, which changes nothing of the run: so what follows
# looks for versions again.
_SILENT_RUNS = text("""
SELECT id FROM run
WHERE id > :after AND status NOT IN ('PENDING', 'RUNNING') AND last_reported_at < :before
  AND NOT EXISTS (SELECT FROM model_version WHERE run_id = run.id)
ORDER BY id LIMIT :limit FOR NO KEY UPDATE
""")
_ENDED_DEPLOYMENTS = text("""
SELECT id FROM deployment
WHERE id > :after AND status IN ('FAILED', 'ROLLBACK', 'TERMINATED') AND updated_at < :before
ORDER BY id LIMIT :limit FOR NO KEY UPDATE
""")
_LINES = text("""
DELETE FROM log_line WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM log_line WHERE owner_id = ANY (:owners)
      AND NOT EXISTS (SELECT FROM model_version WHERE run_id = owner_id)
    LIMIT :limit
))
""")
# The last point of a metric stays, as the one that is shown.
_POINTS = text("""
DELETE FROM metric_point WHERE ctid = ANY (ARRAY(
    SELECT point.ctid FROM metric_point AS point JOIN latest_metric AS latest USING (run_id, key)
    WHERE point.run_id = ANY (:owners)
      AND (point.step, point.timestamp) <> (latest.step, latest.timestamp)
      AND NOT EXISTS (SELECT FROM model_version AS version WHERE version.run_id = point.run_id)
    LIMIT :limit
))
""")
_OLD_KEYS = text("""
DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_key WHERE created_at < :before LIMIT :limit
))
""")


@dataclass(frozen=True, slots=True)
class Policy:
    """How many days each is kept; None for ever. Logs and points count from the last
    report of a run that has ended or is lost, and from the last change of a deployment that serves
    nobody any more."""

    journal: int | None = None
    logs: int | None = None
    points: int | None = None
    keys: int | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows there were of each, and what the journal's chain begins after now."""

    events: int
    lines: int
    points: int
    keys: int
    anchor: str


async def apply(url: str, policy: Policy, now: datetime | None = None) -> Removed:
    """Remove what is older than the policy says, as of `now`, which is the database's unless it is
    given. Raises Unavailable."""
    database = Database(url)
    try:
        if now is None:
            async with database.read() as session:
                now = await clock(session)

        def before(days: int | None) -> datetime | None:
            return None if days is None else now - timedelta(days=days)

        events = await _journal(database, before(policy.journal))
        lines = await _of_owners(database, before(policy.logs), _SILENT_RUNS, _LINES)
        lines += await _of_owners(database, before(policy.logs), _ENDED_DEPLOYMENTS, _LINES)
        points = await _of_owners(database, before(policy.points), _SILENT_RUNS, _POINTS)
        keys = await _keys(database, before(policy.keys))
        async with database.read() as session:
            [anchor] = await session.fetch(
                select(JournalHeadRow.anchor_position, JournalHeadRow.anchor_hash)
            )
        return Removed(events, lines, points, keys, f"{anchor[0]}:{anchor[1].hex()}")
    finally:
        await database.close()


async def _journal(database: Database, before: datetime | None) -> int:
    """Events, from the first on. The last one stays, whatever its age: the chain goes on there."""

    async def trim(session: WriteSession) -> int:
        assert before is not None
        head = await journal.head(session)
        rows = await session.fetch(
            select(EventRow.position, EventRow.at)
            .where(
                EventRow.position > head.trimmed_through, EventRow.position < head.chain_position
            )
            .order_by(EventRow.position)
            .limit(_EVENTS)
        )
        old = [position or 0 for position, _ in takewhile(lambda row: row[1] < before, rows)]
        if not old:
            return 0
        await _tell_mirrors(session, head.position, old[-1])
        # First, for only what the head says is too old can be removed.
        await session.execute(update(JournalHeadRow).values(trimmed_through=old[-1]))
        await session.execute(delete(EventRow).where(EventRow.position <= old[-1]))
        return len(old)

    return 0 if before is None else await _repeat(database, trim, _EVENTS)


async def _tell_mirrors(session: WriteSession, head: int, through: int) -> None:
    """A mirror that has not read what goes is told of everything there is instead."""
    behind = await session.scalars(
        select(MlflowServerRow).where(MlflowServerRow.position < through).with_for_update()
    )
    for server in behind.all():
        server.position = head
        await tracking.want_all(session, server.id)


async def _of_owners(database: Database, before: datetime | None, owners: Any, rows: Any) -> int:
    """Rows that belong to owners, some owners at a time."""
    if before is None:
        return 0
    found, after, more = 0, UUID(int=0), True
    while more:

        async def remove(session: WriteSession) -> tuple[int, UUID, bool]:
            given: Mapping[str, Any] = {"after": after, "before": before, "limit": _OWNERS}  # noqa: B023
            ids = list(await session.scalars(owners, given))
            if not ids:
                return 0, after, False  # noqa: B023
            done = await session.execute(rows, {"owners": ids, "limit": _ROWS})
            # The same owners again, while there is more of theirs.
            number: int = done.rowcount  # type: ignore[attr-defined]
            return number, ids[-1] if number < _ROWS else after, True  # noqa: B023

        number, after, more = await database.write(remove)
        found += number
        await asyncio.sleep(_PAUSE)
    return found


async def _keys(database: Database, before: datetime | None) -> int:
    async def remove(session: WriteSession) -> int:
        done = await session.execute(_OLD_KEYS, {"before": before, "limit": _KEYS})
        number: int = done.rowcount  # type: ignore[attr-defined]
        return number

    return 0 if before is None else await _repeat(database, remove, _KEYS)


async def _repeat(
    database: Database, remove: Callable[[WriteSession], Awaitable[int]], batch: int
) -> int:
    """Until a batch is not full."""
    found = 0
    while True:
        number = await database.write(remove)
        found += number
        if number < batch:
            return found
        await asyncio.sleep(_PAUSE)
