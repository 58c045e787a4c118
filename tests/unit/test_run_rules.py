"""Which status of a run may follow which, and what clients mean by a number."""

import math

import pytest

from lifecycle.errors import InvalidTransition
from lifecycle.runs.rules import ENDED, INITIAL, STATUS, RunStatus
from lifecycle.runs.service import NumberKind, number

FOLLOWING = {
    "PENDING": ["CANCELLED", "FAILED", "RUNNING"],
    "RUNNING": ["CANCELLED", "COMPLETED", "FAILED", "LOST"],
    "LOST": ["RUNNING"],
    "COMPLETED": [],
    "FAILED": [],
    "CANCELLED": [],
}


@pytest.mark.parametrize("wanted", RunStatus)
@pytest.mark.parametrize("current", RunStatus)
def test_a_status_follows_another_exactly_when_the_contract_says_so(
    current: RunStatus, wanted: RunStatus
) -> None:
    if wanted in FOLLOWING[current]:
        STATUS.check(current, wanted)
        return

    with pytest.raises(InvalidTransition) as refused:
        STATUS.check(current, wanted)

    error = refused.value
    assert (error.code, error.path) == ("INVALID_TRANSITION", ("status",))
    assert (error.current, error.wanted, error.allowed) == (current, wanted, FOLLOWING[current])
    then = ", ".join(FOLLOWING[current]) or "nothing: it is final"
    assert str(error) == f"{current} cannot become {wanted}; allowed next: {then}."


def test_a_run_has_ended_in_the_states_that_nothing_follows() -> None:
    assert {status for status in RunStatus if not STATUS.following[status]} == ENDED


def test_a_run_begins_in_any_status_but_lost() -> None:
    assert set(RunStatus) - INITIAL == {RunStatus.LOST}


@pytest.mark.parametrize(
    ("value", "kind", "meant"),
    [
        (0.5, None, 0.5),
        (-0.5, NumberKind.FINITE, -0.5),
        (0.0, None, 0.0),
        (None, NumberKind.POSITIVE_INFINITY, math.inf),
        (None, NumberKind.NEGATIVE_INFINITY, -math.inf),
    ],
)
def test_a_number_is_a_value_or_a_kind(
    value: float | None, kind: NumberKind | None, meant: float
) -> None:
    assert number(value, kind) == meant


def test_the_kind_nan_means_nan() -> None:
    assert math.isnan(number(None, NumberKind.NAN))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, None),
        (None, NumberKind.FINITE),
        (1.0, NumberKind.NAN),
        (1.0, NumberKind.POSITIVE_INFINITY),
        (1.0, NumberKind.NEGATIVE_INFINITY),
    ],
)
def test_a_number_is_not_both_and_not_neither(value: float | None, kind: NumberKind | None) -> None:
    with pytest.raises(ValueError, match="give a value, or a kind other than FINITE, not both"):
        number(value, kind)
