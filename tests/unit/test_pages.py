"""Reading a connection's arguments and cursors."""

import gc
import json
import weakref
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from lifecycle.errors import InvalidInput
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.logs.tables import LogLineRow
from lifecycle.pages import (
    DEFAULT_SIZE,
    MAX_KEPT_CHARACTERS,
    MAX_SIZE,
    Listing,
    Ordering,
    PageRequest,
    by_count,
    by_id,
    by_number,
    by_text,
    by_time,
    listing,
)

ID = UUID(int=7)
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ((None, None), PageRequest(DEFAULT_SIZE)),
        ((7, None), PageRequest(7)),
        ((None, "c"), PageRequest(DEFAULT_SIZE, "c")),
        ((MAX_SIZE, "c"), PageRequest(MAX_SIZE, "c")),
        ((None, None, 1), PageRequest(1, backward=True)),
        ((None, None, 7, "c"), PageRequest(7, "c", backward=True)),
        ((None, None, None, "c"), PageRequest(DEFAULT_SIZE, "c", backward=True)),
    ],
)
def test_arguments_say_which_page(arguments: tuple[Any, ...], meant: PageRequest) -> None:
    assert PageRequest.parse(*arguments) == meant


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ((0, None), ("first",)),
        ((-1, None), ("first",)),
        ((101, None), ("first",)),
        ((None, None, 0), ("last",)),
        ((None, None, 101), ("last",)),
        ((1, None, 1), ("last",)),
        ((1, "a", 1, "b"), ("last",)),
        ((1, None, None, "b"), ("before",)),
        ((None, "a", None, "b"), ("before",)),
        ((1, "a", None, "b"), ("before",)),
        ((None, "a", 1), ("after",)),
        ((None, "a", 1, "b"), ("after",)),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    arguments: tuple[Any, ...], path: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        PageRequest.parse(*arguments)

    assert refused.value.path == path


TIMES = Ordering([by_time(ExperimentRow.created_at), by_id(ExperimentRow.id)], "times")
NAMES = Ordering([by_text(ExperimentRow.name), by_id(ExperimentRow.id)], "names")
NUMBERS = Ordering([by_number(ExperimentRow.revision), by_id(ExperimentRow.id)], "numbers")
LINES = Ordering([by_count(LogLineRow.line)], "lines")


@pytest.mark.parametrize(
    ("ordering", "values"),
    [
        (TIMES, [AT, ID]),
        (TIMES, [AT.astimezone(timezone(timedelta(hours=-9))), ID]),
        (NAMES, ["ünï \\ \" '\n", ID]),
        (NAMES, ["", ID]),
        (NUMBERS, [0.1 + 0.2, ID]),
        (NUMBERS, [-5e-324, ID]),
        (NUMBERS, [float("inf"), ID]),
        (NUMBERS, [float("-inf"), ID]),
        (LINES, [2**62]),
    ],
)
def test_a_cursor_gives_back_exactly_the_values_that_it_was_made_of(
    ordering: Ordering, values: list[Any]
) -> None:
    assert ordering.values(ordering.cursor(values)) == values


def test_a_cursor_keeps_nan() -> None:
    found = NUMBERS.values(NUMBERS.cursor([float("nan"), ID]))

    assert str(found[0]) == "nan"


def test_the_same_ordering_has_the_same_cursors_in_every_process() -> None:
    assert TIMES.cursor([AT, ID]) == (
        "WyJkZGI5ZWYwYzUxMGQiLCIyMDI2LTAxLTAyVDAzOjA0OjA1LjY3ODkwMSswMDowMCIsIjAwMDAwMDAwLTAwMDAt"
        "MDAwMC0wMDAwLTAwMDAwMDAwMDAwNyJd"
    )


@pytest.mark.parametrize("other", [NAMES, LINES, Ordering(TIMES.keys, "times", "filtered")])
def test_a_cursor_of_another_list_is_refused(other: Ordering) -> None:
    with pytest.raises(InvalidInput) as refused:
        TIMES.values(other.cursor([AT, ID] if other.keys == TIMES.keys else ["2026", ID]))

    assert refused.value.path == ("after",)


def forged(ordering: Ordering, *values: object) -> str:
    """A cursor that passes for one of the ordering, with values of our own."""
    made = ordering.cursor([AT, ID] if ordering is TIMES else [1])
    signature = json.loads(urlsafe_b64decode(made))[0]
    return urlsafe_b64encode(json.dumps([signature, *values]).encode()).decode()


TIME, ROW = AT.isoformat(), str(ID)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "ünïcode",
        "\ud800",
        "a\x00b",
        "!" * 1_000,
        urlsafe_b64encode(b"\xff\xfe").decode(),
        urlsafe_b64encode(b"{}").decode(),
        urlsafe_b64encode(b"[]").decode(),
        urlsafe_b64encode(b"3").decode(),
        urlsafe_b64encode(b"null").decode(),
        urlsafe_b64encode(b"[" * 10_000).decode(),
        forged(TIMES),
        forged(TIMES, TIME),
        forged(TIMES, TIME, ROW, 1),
        forged(TIMES, TIME, "no uuid"),
        forged(TIMES, TIME, 7),
        forged(TIMES, TIME, None),
        forged(TIMES, TIME, {}),
        forged(TIMES, "no time", ROW),
        forged(TIMES, 7, ROW),
        forged(TIMES, "2026-01-02T03:04:05", ROW),
        forged(TIMES, "0001-01-01T00:00:00+14:00", ROW),
        forged(TIMES, "9999-12-31T23:59:59-14:00", ROW),
    ],
)
def test_a_cursor_that_was_never_given_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        TIMES.values(cursor)

    assert refused.value.path == ("after",)


@pytest.mark.parametrize("line", [2**63, -(2**63) - 1, 1e300, 1.5, "1", None, []])
def test_a_number_in_a_cursor_has_64_bits(line: object) -> None:
    with pytest.raises(InvalidInput):
        LINES.values(forged(LINES, line))


def of_owner(owner: str) -> Listing[ExperimentRow]:
    keys = [by_id(ExperimentRow.id)]
    return Listing(select(ExperimentRow), Ordering(keys, "of an owner", owner))


def test_a_list_that_is_asked_for_again_is_the_same() -> None:
    kept = listing(of_owner)

    assert kept("ann") is kept("ann")
    assert kept("ann") is not kept("ben")


def test_lists_are_kept_by_what_their_filters_weigh() -> None:
    kept = listing(of_owner)
    lists = [weakref.ref(kept(f"{n}" + "x" * 20_000)) for n in range(1_000)]

    gc.collect()

    still = [each for each in lists if each() is not None]
    assert still == lists[-len(still) :]
    assert MAX_KEPT_CHARACTERS * 0.9 < len(still) * 20_000 < MAX_KEPT_CHARACTERS


def test_nothing_is_looked_for_that_is_longer_than_any_text() -> None:
    with pytest.raises(InvalidInput, match="at most 25,000 characters"):
        of_owner("x" * 25_000)
