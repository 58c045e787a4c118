"""Gives events their positions and hashes: one process at a time, whoever holds the lock.

A transaction that began earlier may commit later. Were positions drawn at insertion, a reader that
has seen 8 would never look for the 7 that commits afterwards. So events are written without one,
and the sequencer numbers what it can see, in its own short transactions, one after the other.
There it knows what comes before what, so that it is also the one who chains them, and no writer
waits for another's hash.
"""

import asyncpg

from lifecycle.journal.chain import DIGEST, link

# Any constant will do that nothing else on the same database uses.
_LOCK = 0x6C696665

# What the release before numbered has a position but no hash; it comes before what has neither.
# Digests are computed last, of no more events than these.
_PENDING = f"""
SELECT entry.id, entry.position, {DIGEST} AS digest,
    journal_head.position AS head, chain_position, chain_hash
FROM journal_head, LATERAL (
    (
        SELECT * FROM event WHERE position > chain_position ORDER BY position LIMIT $1
    ) UNION ALL (
        SELECT * FROM event WHERE position IS NULL ORDER BY id LIMIT $1
    ) ORDER BY position, id LIMIT $1
) AS entry
"""

_NUMBER = """
WITH moved AS (
    UPDATE journal_head SET position = greatest(position, $4), chain_position = $4, chain_hash = $5
    WHERE position = $6 AND chain_position = $7 AND chain_hash = $8
    RETURNING position
), numbered AS (
    UPDATE event SET position = given.position, hash = given.hash
    FROM moved, unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS given (id, position, hash)
    WHERE event.id = given.id
    RETURNING event.position
)
SELECT (SELECT count(*) FROM numbered), pg_notify($9, position::text) FROM moved
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
    """Give positions and hashes to at most BATCH events that have become visible, and tell all
    processes.

    Returns how many those were. Must run on the connection that holds the lock: when that is
    lost, so is the one statement that writes, or it was done before anybody else can begin. Raises
    RuntimeError, and has written nothing, when the head was moved in the meantime all the same.
    """
    pending = await connection.fetch(_PENDING, BATCH)
    if not pending:
        return 0
    head, chained, former = (pending[0][name] for name in ("head", "chain_position", "chain_hash"))
    positions, hashes = [chained], [former]
    for row in pending:
        positions.append(row["position"] or max(head, positions[-1]) + 1)
        hashes.append(link(hashes[-1], positions[-1], row["digest"]))
    numbered: int | None = await connection.fetchval(
        _NUMBER,
        [row["id"] for row in pending],
        positions[1:],
        hashes[1:],
        positions[-1],
        hashes[-1],
        head,
        chained,
        former,
        CHANNEL,
    )
    if numbered is None:
        raise RuntimeError("The head of the journal was moved by somebody else.")
    return numbered
