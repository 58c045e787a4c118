"""Which stage may follow which, and what the entries of a checklist can say."""

from enum import StrEnum

from lifecycle.registry.rules import Stage
from lifecycle.states import StateMachine


class StageCause(StrEnum):
    """Why a version came into a stage."""

    REGISTERED = "REGISTERED"
    REQUESTED = "REQUESTED"
    APPROVED = "APPROVED"
    DISPLACED = "DISPLACED"
    ROLLED_BACK = "ROLLED_BACK"
    AUTOMATION = "AUTOMATION"


class ChecklistStatus(StrEnum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


_S = Stage
# What a rollback may do beyond what somebody may ask for: bring back what was there before.
_BROUGHT_BACK = frozenset({_S.STAGING, _S.PRODUCTION})
STAGE = StateMachine(
    {
        _S.EXPERIMENTAL: frozenset({_S.STAGING, _S.ARCHIVED}),
        _S.STAGING: frozenset({_S.PRODUCTION, _S.EXPERIMENTAL, _S.ARCHIVED}),
        _S.PRODUCTION: frozenset({_S.STAGING, _S.ARCHIVED}),
        _S.ARCHIVED: frozenset({_S.EXPERIMENTAL, _S.STAGING}),
    }
)


def check_move(current: Stage, wanted: Stage, cause: StageCause) -> None:
    """Raise InvalidTransition unless a version may come from one stage into another so."""
    if cause is not StageCause.ROLLED_BACK or wanted not in _BROUGHT_BACK:
        STAGE.check(current, wanted, ("stage",))
