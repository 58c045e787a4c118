"""Which stage may follow which, and how an approval comes about and ends.

What has to be true before a version comes into a stage is in `gates` and `evaluation`.
"""

from enum import StrEnum

from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.states import StateMachine


class StageCause(StrEnum):
    """Why a version came into a stage."""

    REGISTERED = "REGISTERED"
    REQUESTED = "REQUESTED"
    APPROVED = "APPROVED"
    BYPASSED = "BYPASSED"
    DISPLACED = "DISPLACED"
    ROLLED_BACK = "ROLLED_BACK"
    AUTOMATION = "AUTOMATION"


class ChecklistStatus(StrEnum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


class Decision(StrEnum):
    """What somebody can say to a submission."""

    APPROVE = "APPROVE"
    REJECT = "REJECT"
    BYPASS = "BYPASS"


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
# The stages that a policy can guard, and the moves into them that it does: those upwards.
GUARDED = frozenset({_S.STAGING, _S.PRODUCTION})

_A = ApprovalStatus
# Of one submission. Whatever became of it, a new one can be made, and an administrator can BYPASS.
APPROVAL = StateMachine(
    {
        _A.NOT_SUBMITTED: frozenset(),
        _A.PENDING: frozenset({_A.APPROVED, _A.REJECTED, _A.STALE, _A.WITHDRAWN}),
        _A.NEEDS_REVIEW: frozenset({_A.APPROVED, _A.REJECTED, _A.STALE, _A.WITHDRAWN}),
        _A.APPROVED: frozenset({_A.STALE, _A.WITHDRAWN}),
        _A.BYPASSED: frozenset({_A.STALE, _A.WITHDRAWN}),
        _A.REJECTED: frozenset(),
        _A.STALE: frozenset(),
        _A.WITHDRAWN: frozenset(),
    }
)
# Somebody still has to decide.
OPEN = frozenset({_A.PENDING, _A.NEEDS_REVIEW})
# What lets a version into production.
IN_FORCE = frozenset({_A.APPROVED, _A.BYPASSED})
# Of submissions for which nobody stands any more.
ENDED = frozenset({_A.REJECTED, _A.WITHDRAWN})


def check_move(current: Stage, wanted: Stage, cause: StageCause) -> None:
    """Raise InvalidTransition unless a version may come from one stage into another so."""
    if cause is not StageCause.ROLLED_BACK or wanted not in _BROUGHT_BACK:
        STAGE.check(current, wanted, ("stage",))


def is_guarded(current: Stage, wanted: Stage) -> bool:
    """Whether the way from one stage to another leads upwards, past a policy."""
    return wanted in GUARDED and current is not Stage.PRODUCTION
