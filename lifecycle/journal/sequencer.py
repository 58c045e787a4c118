"""Gives events their positions: one process at a time, whoever holds the lock.

A transaction that began earlier may commit later. Were positions drawn at insertion, a reader that
has seen 8 would never look for the 7 that commits afterwards. So events are written without one,
and the sequencer numbers what it can see, in its own short transactions, one after the other.
"""

import asyncpg

# Any constant will do that nothing else on the same database uses.
_LOCK = 0x6C696665

_NUMBER = """
WITH pending AS (
    SELECT id, row_number() OVER (ORDER BY id) AS n
    FROM event WHERE position IS NULL ORDER BY id LIMIT $1
), numbered AS (
    UPDATE event SET position = journal_head.position + pending.n
    FROM pending, journal_head
    WHERE event.id = pending.id
    RETURNING event.position
), moved AS (
    UPDATE journal_head SET position = (SELECT max(position) FROM numbered)
    WHERE EXISTS (SELECT FROM numbered)
    RETURNING position
)
SELECT (SELECT count(*) FROM numbered), pg_notify($2, position::text) FROM moved
"""

BATCH = 1000
CHANNEL = "lifecycle_journal"


async def elect(connection: asyncpg.Connection) -> bool:
    """Whether this connection's process is the sequencer from now on, until the connection ends.

    PostgreSQL gives the lock back when the holder's connection ends, however it ends, and after
    its last transaction has been decided: there are never two.
    """
    held: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK)
    return held


async def number(connection: asyncpg.Connection) -> int:
    """Give positions to at most BATCH events that have become visible, and tell all processes.

    Returns how many those were. Must run on the connection that holds the lock: when that is
    lost, so is this statement, or it was done before anybody else can begin.
    """
    return await connection.fetchval(_NUMBER, BATCH, CHANNEL) or 0
