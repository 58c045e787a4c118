"""What may become of a drift event."""

import pytest

from lifecycle.drift.rules import CLOSED, STATUS, DriftStatus
from lifecycle.errors import InvalidTransition

FOLLOWING = {
    "OPEN": {"ACKNOWLEDGED", "MITIGATED", "RESOLVED", "FALSE_POSITIVE"},
    "ACKNOWLEDGED": {"MITIGATED", "RESOLVED", "FALSE_POSITIVE"},
    "MITIGATED": {"RESOLVED", "FALSE_POSITIVE"},
    "RESOLVED": set(),
    "FALSE_POSITIVE": set(),
}


@pytest.mark.parametrize("current", DriftStatus)
@pytest.mark.parametrize("wanted", DriftStatus)
def test_drift_goes_on_towards_its_end_and_never_back(
    current: DriftStatus, wanted: DriftStatus
) -> None:
    if wanted in FOLLOWING[current]:
        STATUS.check(current, wanted)
        return

    with pytest.raises(InvalidTransition) as refusal:
        STATUS.check(current, wanted)

    assert (refusal.value.current, refusal.value.wanted) == (current, wanted)
    assert refusal.value.allowed == sorted(FOLLOWING[current])


def test_closed_are_those_after_which_nothing_comes() -> None:
    assert {status for status in DriftStatus if not STATUS.following[status]} == CLOSED
