"""The chain: what a hash covers, and what the check says about each way of tampering."""

from dataclasses import replace
from hashlib import sha256

import pytest

from lifecycle.journal.chain import link
from lifecycle.journal.tables import ZERO
from lifecycle.journal.verification import Anchor, Bounds, Check, Verdict

Entry = tuple[int, bytes | None, bytes]

ALTERED = (
    "Position {}: the entry does not fit its hash and the one before it. It was altered, or is not "
    "the one that was here."
)
REWRITTEN = (
    "Position {}: the hash is not the one that was kept. This entry or one before it was altered, "
    "and the chain computed anew."
)


def digest(n: int) -> bytes:
    return sha256(str(n).encode()).digest()


def chained(digests: list[bytes], after: Anchor) -> list[Entry]:
    """Entries with these digests, as the sequencer chains them."""
    entries: list[Entry] = []
    previous = after.hash
    for position, each in enumerate(digests, after.position + 1):
        previous = link(previous, position, each)
        entries.append((position, previous, each))
    return entries


def bounds_of(entries: list[Entry], anchor: Anchor) -> Bounds:
    position, hash, _ = entries[-1]
    assert hash is not None
    return Bounds(position, anchor.position, anchor, Anchor(position, hash))


START = Anchor(0, ZERO)
WHOLE = chained([digest(n) for n in range(1, 11)], START)
BOUNDS = bounds_of(WHOLE, START)


def verdict_on(entries: list[Entry], bounds: Bounds = BOUNDS, *kept: Anchor) -> Verdict:
    check = Check(bounds, kept)
    for entry in entries:
        check.take(*entry)
    return check.end()


def faults(entries: list[Entry], bounds: Bounds = BOUNDS, *kept: Anchor) -> list[str]:
    return verdict_on(entries, bounds, *kept).faults


def kept(position: int, entries: list[Entry] = WHOLE) -> Anchor:
    """A head that was seen when this was the last entry."""
    hash = entries[position - 1][1]
    assert hash is not None
    return Anchor(position, hash)


def test_a_hash_covers_the_one_before_the_position_and_the_digest() -> None:
    hashes = {
        link(previous, position, of)
        for previous in (ZERO, digest(1))
        for position in (1, 256, 2**63 - 1)
        for of in (ZERO, digest(1), digest(2))
    }
    assert len(hashes) == 2 * 3 * 3
    assert link(ZERO, 1, digest(1)) == sha256(ZERO + bytes(7) + b"\x01" + digest(1)).digest()


def test_what_was_not_touched_is_whole() -> None:
    assert faults(WHOLE) == []
    assert verdict_on(WHOLE).entries == 10
    assert faults(WHOLE, BOUNDS, START, kept(1), kept(7), kept(10)) == []
    assert faults([], Bounds(0, 0, START, START)) == []


@pytest.mark.parametrize("position", [1, 5, 10])
def test_an_altered_entry_is_named_and_no_other(position: int) -> None:
    altered = [*WHOLE]
    altered[position - 1] = (position, WHOLE[position - 1][1], digest(99))
    assert faults(altered) == [ALTERED.format(position)]


def test_an_altered_entry_with_a_hash_that_fits_is_found_by_the_one_after_it() -> None:
    altered = [*WHOLE]
    altered[4] = (5, link(kept(4).hash, 5, digest(99)), digest(99))
    assert faults(altered) == [ALTERED.format(6)]
    altered = [*WHOLE]
    altered[9] = (10, link(kept(9).hash, 10, digest(99)), digest(99))
    assert faults(altered) == ["Position 10: the head has another hash than the entry."]


def test_missing_entries_are_named() -> None:
    assert faults(WHOLE[1:]) == ["Position 1: the entry is missing."]
    assert faults(WHOLE[:4] + WHOLE[7:]) == ["Positions 5 to 7: the entries are missing."]
    last = ", the last of all; the head is at 10."
    assert faults(WHOLE[:9]) == [f"Position 10: the entry is missing{last}"]
    assert faults(WHOLE[:3]) == [f"Positions 4 to 10: the entries are missing{last}"]
    assert faults([]) == [f"Positions 1 to 10: the entries are missing{last}"]


def test_what_comes_after_a_fault_is_still_checked() -> None:
    altered = [*WHOLE[:2], *WHOLE[4:]]
    altered[5] = (8, WHOLE[7][1], digest(99))
    assert faults(altered) == ["Positions 3 to 4: the entries are missing.", ALTERED.format(8)]


def test_swapped_entries_fit_neither_place() -> None:
    swapped = [*WHOLE]
    swapped[3], swapped[4] = (4, *WHOLE[4][1:]), (5, *WHOLE[3][1:])
    assert faults(swapped) == [ALTERED.format(n) for n in (4, 5, 6)]
    # Their hashes left where they were.
    swapped[3], swapped[4] = (4, WHOLE[3][1], digest(5)), (5, WHOLE[4][1], digest(4))
    assert faults(swapped) == [ALTERED.format(n) for n in (4, 5)]


def test_an_entry_without_its_hash_is_named() -> None:
    altered = [*WHOLE]
    altered[4] = (5, None, digest(5))
    assert faults(altered) == ["Position 5: the entry has lost its hash."]


def test_an_entry_beyond_the_head_is_named() -> None:
    bounds = bounds_of(WHOLE[:9], START)
    assert faults(WHOLE, bounds) == ["Position 10: the entry lies beyond the head, 9."]


def test_a_head_that_was_moved_back_is_found_with_a_head_that_was_kept() -> None:
    bounds = bounds_of(WHOLE[:7], START)
    assert faults(WHOLE[:7], bounds) == []
    assert faults(WHOLE[:7], bounds, kept(7), kept(9)) == [
        "Position 9: there once was an entry here, but the chain ends at 7. The head was moved "
        "back."
    ]


def test_a_chain_that_was_computed_anew_is_found_with_a_head_that_was_kept() -> None:
    digests = [digest(99 if n == 5 else n) for n in range(1, 11)]
    anew = chained(digests, START)
    bounds = bounds_of(anew, START)
    assert faults(anew, bounds) == []
    assert faults(anew, bounds, kept(4)) == []
    for position in (5, 8, 10):
        assert faults(anew, bounds, kept(position)) == [REWRITTEN.format(position)]


def test_a_chain_may_begin_later() -> None:
    # given: entries were removed as too old, and the anchor was moved along
    trimmed = bounds_of(WHOLE, kept(4))
    assert faults(WHOLE[4:], trimmed, kept(4), kept(6)) == []
    assert faults(WHOLE[5:], trimmed) == ["Position 5: the entry is missing."]
    assert faults(WHOLE[4:], trimmed, kept(3)) == [
        "Position 3: what was kept of it cannot be compared; the chain begins after 4."
    ]
    assert faults(WHOLE[4:], trimmed, Anchor(4, ZERO)) == [REWRITTEN.format(4)]
    gone = Bounds(10, 10, kept(10), kept(10))
    assert faults([], gone) == []

    # and when it was not
    assert faults(WHOLE[4:], replace(trimmed, anchor=START)) == [
        "The head says that entries were removed as too old through position 4, but the chain "
        "begins after 0."
    ]


def test_what_is_older_than_the_chain_has_only_its_number() -> None:
    # given: a database from before there were hashes
    older: list[Entry] = [(n, None, digest(n)) for n in (1, 2, 3)]
    newer = chained([digest(n) for n in range(4, 8)], Anchor(3, ZERO))
    bounds = Bounds(7, 0, Anchor(3, ZERO), kept(4, newer))
    bounds = replace(bounds, chain=Anchor(7, newer[-1][1] or b""))
    assert faults(older + newer, bounds) == []
    assert verdict_on(older + newer, bounds).before_chain == 3
    assert faults([*older[:1], *older[2:], *newer], bounds) == ["Position 2: the entry is missing."]

    # An anchor that was moved over what is chained leaves the hashes behind.
    assert faults(WHOLE, replace(BOUNDS, anchor=kept(2))) == [
        "Position 1: the entry has a hash, but the chain begins after 2.",
        "Position 2: the entry has a hash, but the chain begins after 2.",
    ]


def test_what_an_earlier_release_numbered_is_not_chained_yet() -> None:
    entries: list[Entry] = [*WHOLE[:7], *((n, None, digest(n)) for n in (8, 9))]
    verdict = verdict_on(entries, Bounds(9, 0, START, kept(7)))
    assert (verdict.faults, verdict.not_chained) == ([], 2)


def test_many_faults_are_counted() -> None:
    entries: list[Entry] = [(n, ZERO, digest(n)) for n in range(1, 101)]
    verdict = verdict_on(entries, Bounds(100, 0, START, Anchor(100, ZERO)))
    assert len(verdict.faults) == 20
    assert verdict.more_faults == 80


def test_an_anchor_is_read_as_it_is_printed() -> None:
    assert Anchor.parse(str(kept(7))) == kept(7)
    for text in ("", "7", "7:", ":" + "0" * 64, "x:" + "0" * 64, "-7:" + "0" * 64, "7:" + "0" * 63):
        with pytest.raises(ValueError, match=r".*"):
            Anchor.parse(text)
