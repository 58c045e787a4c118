"""Is the journal still what was written? Reads all of it, in one snapshot and little memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg

from lifecycle.database import check_server, connect
from lifecycle.errors import Unavailable
from lifecycle.journal.chain import DIGEST, link

_HEAD = """
SELECT position, trimmed_through, chain_position, chain_hash, anchor_position, anchor_hash
FROM journal_head
"""

_ENTRIES = f"""
SELECT position, hash, {DIGEST} AS digest FROM event AS entry
WHERE position > $1 ORDER BY position
"""

# The sequencer numbers whatever it can see, so that only a transaction can hold an event back, and
# none lasts that long.
_WAITING = """
SELECT count(*) AS waiting, count(*) FILTER (WHERE at < (
    SELECT at FROM event JOIN journal_head USING (position)) - interval '10 minutes'
) AS overdue
FROM event WHERE position IS NULL
"""

_PREFETCH = 1000
# Enough to see the extent of it; the rest is counted.
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Anchor:
    """A position and the hash that is there: all that has to be kept elsewhere to find out whether
    what comes before has been rewritten as a whole."""

    position: int
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> "Anchor":
        """Read POSITION:HASH. Raises ValueError."""
        position, _, hexadecimal = text.partition(":")
        hash = bytes.fromhex(hexadecimal)
        if not (position.isdecimal() and position.isascii()) or len(hash) != 32:
            raise ValueError(text)
        return cls(int(position), hash)

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the head says: the last position, through where events were removed as too old, and
    what the chain begins after and ends with."""

    position: int
    trimmed_through: int
    anchor: Anchor
    chain: Anchor


@dataclass
class Verdict:
    """What was found: the entries from `first` on, those of them without a hash, because they come
    before the chain or the release before has numbered them, and what is wrong."""

    bounds: Bounds
    entries: int = 0
    before_chain: int = 0
    not_chained: int = 0
    waiting: int = 0
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0

    def add(self, fault: str) -> None:
        """Something is wrong."""
        if len(self.faults) < _SHOWN:
            self.faults.append(fault)
        else:
            self.more_faults += 1


class Check:
    """Compares entries, given in the order of their positions, with the head and each other.

    `kept` are heads from earlier. Each hash is compared with the stored one before it, so that what
    comes after a fault is still checked.
    """

    def __init__(self, bounds: Bounds, kept: Iterable[Anchor] = ()) -> None:
        self.verdict = Verdict(bounds)
        self._last = bounds.trimmed_through
        self._previous: bytes | None = None
        self._kept: dict[int, set[bytes]] = {}
        for anchor in kept:
            self._kept.setdefault(anchor.position, set()).add(anchor.hash)
        if bounds.trimmed_through > bounds.anchor.position:
            self.verdict.add(
                f"The head says that entries were removed as too old through position "
                f"{bounds.trimmed_through}, but the chain begins after {bounds.anchor.position}."
            )
        self._see(bounds.anchor)

    def take(self, position: int, hash: bytes | None, digest: bytes) -> None:
        """The next entry."""
        bounds, verdict = self.verdict.bounds, self.verdict
        if position > self._last + 1:
            verdict.add(f"{_missing(self._last + 1, position - 1)}.")
            self._previous = None
        if position == bounds.anchor.position + 1:
            self._previous = bounds.anchor.hash
        self._last = position
        verdict.entries += 1
        if position <= bounds.anchor.position:
            verdict.before_chain += 1
            if hash is not None:
                verdict.add(
                    f"Position {position}: the entry has a hash, but the chain begins after "
                    f"{bounds.anchor.position}."
                )
        elif position > bounds.position:
            verdict.add(f"Position {position}: the entry lies beyond the head, {bounds.position}.")
        elif position > bounds.chain.position:
            verdict.not_chained += 1
        elif hash is None:
            verdict.add(f"Position {position}: the entry has lost its hash.")
        elif self._previous is not None and link(self._previous, position, digest) != hash:
            verdict.add(
                f"Position {position}: the entry does not fit its hash and the one before it. It "
                "was altered, or is not the one that was here."
            )
        self._previous = hash
        if hash is not None and position > bounds.anchor.position:
            self._see(Anchor(position, hash))

    def end(self) -> Verdict:
        """The verdict, when there are no more entries."""
        bounds, verdict = self.verdict.bounds, self.verdict
        if self._last < bounds.position:
            missing = _missing(self._last + 1, bounds.position)
            verdict.add(f"{missing}, the last of all; the head is at {bounds.position}.")
        for position in sorted(self._kept):
            if position < bounds.anchor.position:
                verdict.add(
                    f"Position {position}: what was kept of it cannot be compared; the chain "
                    f"begins after {bounds.anchor.position}."
                )
            elif position > bounds.chain.position:
                verdict.add(
                    f"Position {position}: there once was an entry here, but the chain ends at "
                    f"{bounds.chain.position}. The head was moved back."
                )
        return verdict

    def _see(self, found: Anchor) -> None:
        """Compare a hash with what is known about its position from elsewhere."""
        chain = self.verdict.bounds.chain
        if found.position == chain.position and found.hash != chain.hash:
            self.verdict.add(
                f"Position {chain.position}: the head has another hash than the entry."
            )
        for hash in self._kept.get(found.position, ()):
            if found.hash != hash:
                self.verdict.add(
                    f"Position {found.position}: the hash is not the one that was kept. This "
                    "entry or one before it was altered, and the chain computed anew."
                )


async def verify(url: str, kept: Sequence[Anchor] = ()) -> Verdict:
    """Read the journal and say what is wrong with it; `kept` are heads that were seen earlier.

    Raises Unavailable when the database does not answer or has not been migrated.
    """
    await check_server(url)
    try:
        connection = await connect(url, "audit", default_transaction_read_only="on")
        try:
            return await _verify(connection, kept)
        finally:
            await connection.close(timeout=10)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise Unavailable("The database is not up to date; run `lifecycle migrate`.") from error
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise Unavailable(f"The database cannot be read: {error}.") from error


async def _verify(connection: asyncpg.Connection, kept: Sequence[Anchor]) -> Verdict:
    # One snapshot: what happens meanwhile is not seen, by none of the statements.
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        head = await connection.fetchrow(_HEAD)
        if head is None:
            raise Unavailable("The journal has no head: the one row of journal_head was removed.")
        bounds = Bounds(
            head["position"],
            head["trimmed_through"],
            Anchor(head["anchor_position"], head["anchor_hash"]),
            Anchor(head["chain_position"], head["chain_hash"]),
        )
        check = Check(bounds, kept)
        async for entry in connection.cursor(_ENTRIES, bounds.trimmed_through, prefetch=_PREFETCH):
            check.take(entry["position"], entry["hash"], entry["digest"])
        verdict = check.end()
        verdict.waiting, overdue = await connection.fetchrow(_WAITING)
        if overdue:
            verdict.add(
                f"Entries without a position: {overdue} of them older by more than ten minutes "
                "than the last one that has one."
            )
    return verdict


def _missing(first: int, last: int) -> str:
    if first == last:
        return f"Position {first}: the entry is missing"
    return f"Positions {first} to {last}: the entries are missing"
