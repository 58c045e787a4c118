"""Which status of an experiment may follow which, and when it takes runs."""

import pytest

from lifecycle.errors import Conflict, InvalidTransition
from lifecycle.experiments.rules import STATUS, ExperimentStatus, check_takes_runs

FOLLOWING = {
    "ACTIVE": ["ARCHIVED", "COMPLETED"],
    "COMPLETED": ["ACTIVE", "ARCHIVED"],
    "ARCHIVED": ["ACTIVE"],
}


@pytest.mark.parametrize("wanted", ExperimentStatus)
@pytest.mark.parametrize("current", ExperimentStatus)
def test_a_status_follows_another_exactly_when_the_table_says_so(
    current: ExperimentStatus, wanted: ExperimentStatus
) -> None:
    if wanted in FOLLOWING[current]:
        STATUS.check(current, wanted)
        return

    with pytest.raises(InvalidTransition) as refused:
        STATUS.check(current, wanted)

    error = refused.value
    assert (error.current, error.wanted, error.allowed) == (current, wanted, FOLLOWING[current])
    assert error.path == ("status",)


def test_an_active_experiment_takes_runs() -> None:
    check_takes_runs("mnist", ExperimentStatus.ACTIVE)


@pytest.mark.parametrize("status", [ExperimentStatus.COMPLETED, ExperimentStatus.ARCHIVED])
def test_an_experiment_that_is_not_active_takes_no_runs(status: ExperimentStatus) -> None:
    with pytest.raises(Conflict) as refused:
        check_takes_runs("mnist", status)

    assert str(refused.value) == (
        f"Experiment mnist is {status}; set its status to ACTIVE to log runs again."
    )
    assert refused.value.path == ("experiment_name",)
