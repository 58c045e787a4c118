"""Which status of a run may follow which, and what a report from its writer means."""

from enum import StrEnum

from lifecycle.states import StateMachine


class RunStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class MetricGoal(StrEnum):
    """Whether more or less of a metric is better."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"


_S = RunStatus
STATUS = StateMachine(
    {
        _S.PENDING: frozenset({_S.RUNNING, _S.CANCELLED, _S.FAILED}),
        _S.RUNNING: frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED, _S.LOST}),
        _S.LOST: frozenset({_S.RUNNING}),
        _S.COMPLETED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)

ENDED = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
# A run cannot begin as lost: somebody has just reported it.
INITIAL = frozenset(_S) - {_S.LOST}
