"""What may become of drift."""

from enum import StrEnum

from lifecycle.states import StateMachine


class DriftStatus(StrEnum):
    OPEN = "OPEN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    MITIGATED = "MITIGATED"
    RESOLVED = "RESOLVED"
    FALSE_POSITIVE = "FALSE_POSITIVE"


_S = DriftStatus
STATUS = StateMachine(
    {
        _S.OPEN: frozenset({_S.ACKNOWLEDGED, _S.MITIGATED, _S.RESOLVED, _S.FALSE_POSITIVE}),
        _S.ACKNOWLEDGED: frozenset({_S.MITIGATED, _S.RESOLVED, _S.FALSE_POSITIVE}),
        _S.MITIGATED: frozenset({_S.RESOLVED, _S.FALSE_POSITIVE}),
        _S.RESOLVED: frozenset(),
        _S.FALSE_POSITIVE: frozenset(),
    }
)

CLOSED = frozenset({_S.RESOLVED, _S.FALSE_POSITIVE})
