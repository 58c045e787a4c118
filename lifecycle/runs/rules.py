"""Which status of a run may follow which, and what a report from its writer means."""

import math
from collections.abc import Mapping
from enum import StrEnum

from lifecycle.errors import Conflict, InvalidInput
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


class ArtifactArea(StrEnum):
    """Where the content of an artifact is kept."""

    INTERNAL = "INTERNAL"
    EXTERNAL = "EXTERNAL"


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


# Of all parameters of a run together, with their keys: a page has those of 100 runs, and an event
# about a change has them twice.
MAX_PARAMS = 2_000
MAX_PARAMS_CHARACTERS = 250_000


def check_params(known: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise Conflict if a parameter that a run has would get another value: what a run was run
    with does not change. Raise InvalidInput if there would be more than a run may have."""
    for key, value in given.items():
        if known.get(key, value) != value:
            raise Conflict(f"Parameter {key} is {known[key]} already.", ("params",))
    if len(fitting_params(known, given)) < len(given):
        raise InvalidInput(
            f"A run has at most {MAX_PARAMS:,} parameters, of {MAX_PARAMS_CHARACTERS:,} characters "
            "in all.",
            ("params",),
        )


def fitting_params(known: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """As many of the given parameters, in order of their keys, as a run may have that has the known
    ones."""
    count, characters = len(known), sum(len(key) + len(known[key]) for key in known)
    fitting = {}
    for key in sorted(given):
        if key not in known:
            count, characters = count + 1, characters + len(key) + len(given[key])
            if count > MAX_PARAMS or characters > MAX_PARAMS_CHARACTERS:
                break
        fitting[key] = given[key]
    return fitting


def shown(number: float) -> float | str:
    """As JSON has it: a number that is not finite is its name."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
