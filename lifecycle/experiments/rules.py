"""Which status of an experiment may follow which, and when it takes runs."""

from enum import StrEnum

from lifecycle.errors import Conflict
from lifecycle.states import StateMachine


class ExperimentStatus(StrEnum):
    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    ARCHIVED = "ARCHIVED"


_S = ExperimentStatus
STATUS = StateMachine(
    {
        _S.ACTIVE: frozenset({_S.COMPLETED, _S.ARCHIVED}),
        _S.COMPLETED: frozenset({_S.ACTIVE, _S.ARCHIVED}),
        _S.ARCHIVED: frozenset({_S.ACTIVE}),
    }
)


def check_takes_runs(name: str, status: ExperimentStatus) -> None:
    """Raise Conflict unless new runs may join the experiment."""
    if status is not _S.ACTIVE:
        raise Conflict(
            f"Experiment {name} is {status}; set its status to ACTIVE to log runs again.",
            ("experiment_name",),
        )
