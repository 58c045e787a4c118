"""What may become of drift, what counts as degradation, and what is done about either.

Figures are compared as the decimal numbers that people write: 0.75 is exactly 0.05 below 0.80.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from lifecycle.registry.rules import ApprovalStatus, DriftSeverity, Stage
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


class DriftAction(StrEnum):
    """What can be done about drift without asking anybody."""

    MARK_STALE = "MARK_STALE"
    OPEN_REVIEW = "OPEN_REVIEW"
    ROLL_BACK = "ROLL_BACK"


class DriftOutcome(StrEnum):
    """What came of it."""

    DONE = "DONE"
    NOTHING_TO_DO = "NOTHING_TO_DO"
    FAILED = "FAILED"


class DegradationFigure(StrEnum):
    """The figures that deployments report."""

    ERROR_RATE = "ERROR_RATE"
    AVG_LATENCY_MS = "AVG_LATENCY_MS"
    OBSERVED = "OBSERVED"


class DegradationLimit(StrEnum):
    """How a limit follows from the version's own figure, or does not."""

    MAX_RATIO = "MAX_RATIO"
    MAX_INCREASE = "MAX_INCREASE"
    MAX_DECREASE = "MAX_DECREASE"
    MAX_VALUE = "MAX_VALUE"


@dataclass(frozen=True, slots=True)
class ResponseRule:
    """What is done about drift of this severity and of all that are worse."""

    from_severity: DriftSeverity
    action: DriftAction


@dataclass(frozen=True, slots=True)
class DegradationRule:
    """A reported figure is degraded when it is beyond its limit; exactly at it, it is not.

    `metric` is the version's own metric that the limit follows from; the observed figure that is
    looked at has the same name.
    """

    figure: DegradationFigure
    limit: DegradationLimit
    value: float
    severity: DriftSeverity
    metric: str | None = None

    def __post_init__(self) -> None:
        if self.metric is None and self.figure is DegradationFigure.OBSERVED:
            raise ValueError("an OBSERVED figure needs its name as metric")
        if self.metric is None and self.limit is not DegradationLimit.MAX_VALUE:
            raise ValueError(f"{self.limit} needs the version's metric to compare with")

    @property
    def name(self) -> str:
        """What events call the figure."""
        if self.figure is DegradationFigure.OBSERVED and self.metric is not None:
            return self.metric
        return self.figure.lower()


@dataclass(frozen=True, slots=True)
class Policy:
    """What counts as degradation, and what is done about drift, in this order."""

    responses: tuple[ResponseRule, ...]
    degradation: tuple[DegradationRule, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """What a deployment reports."""

    error_rate: float
    avg_latency_ms: float
    observed: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure that is beyond its limit. `baseline` is the version's own, where that counts."""

    name: str
    severity: DriftSeverity
    baseline: float | None
    observed: float
    threshold: float
    message: str


def as_severe(severity: DriftSeverity) -> list[DriftSeverity]:
    """This severity and all that are worse."""
    scale = list(DriftSeverity)
    return scale[scale.index(severity) :]


def respond(policy: Policy, severity: DriftSeverity) -> list[DriftAction]:
    """What is to be done about drift of this severity, in order."""
    return [r.action for r in policy.responses if severity in as_severe(r.from_severity)]


def degradation(policy: Policy, reported: Reported, own: Mapping[str, float]) -> list[Finding]:
    """Which figures are beyond their limits: of each the worst finding, in the policy's order.

    `own` has the version's metrics. What was not reported, what the version has no finite figure
    for, and a ratio to a figure that is not above zero say nothing.
    """
    worst: dict[str, Finding] = {}
    for rule in policy.degradation:
        found = _judge(rule, reported, own)
        if found is None:
            continue
        known = worst.get(found.name)
        if known is None or known.severity not in as_severe(found.severity):
            worst[found.name] = found
    return list(worst.values())


def _judge(rule: DegradationRule, reported: Reported, own: Mapping[str, float]) -> Finding | None:
    observed = _reported(rule, reported)
    baseline = own.get(rule.metric) if rule.metric is not None else None
    by = Decimal(str(rule.value))
    if observed is None or not math.isfinite(observed):
        return None
    figure = Decimal(str(observed))
    if rule.limit is DegradationLimit.MAX_VALUE:
        threshold, baseline = by, None
        said = f"the {rule.value} that are allowed"
    else:
        if baseline is None or not math.isfinite(baseline):
            return None
        reference = Decimal(str(baseline))
        its_own = f"the version's own {rule.metric} of {baseline}"
        match rule.limit:
            case DegradationLimit.MAX_RATIO:
                if reference <= 0:
                    return None
                threshold = reference * by
                said = f"{rule.value} times {its_own}"
            case DegradationLimit.MAX_INCREASE:
                threshold = reference + by
                said = f"{rule.value} above {its_own}"
            case DegradationLimit.MAX_DECREASE:
                threshold = reference - by
                said = f"{rule.value} below {its_own}"
    fell = rule.limit is DegradationLimit.MAX_DECREASE
    if figure >= threshold if fell else figure <= threshold:
        return None
    message = f"{rule.name} is {observed}: {'less' if fell else 'more'} than {said}."
    return Finding(rule.name, rule.severity, baseline, observed, float(threshold), message)


def _reported(rule: DegradationRule, reported: Reported) -> float | None:
    match rule.figure:
        case DegradationFigure.ERROR_RATE:
            return reported.error_rate
        case DegradationFigure.AVG_LATENCY_MS:
            return reported.avg_latency_ms
        case DegradationFigure.OBSERVED:
            return reported.observed.get(rule.metric or "")


def reviewable(stage: Stage, status: ApprovalStatus) -> bool:
    """Whether there is something about a version that people could decide anew: it is, or is to
    be, at work."""
    return stage in (Stage.STAGING, Stage.PRODUCTION) or status in (
        ApprovalStatus.APPROVED,
        ApprovalStatus.BYPASSED,
        ApprovalStatus.STALE,
    )


def unique_actions(rules: Sequence[ResponseRule]) -> Sequence[ResponseRule]:
    """The rules, unless one action is in two of them: that raises ValueError."""
    if len({rule.action for rule in rules}) < len(rules):
        raise ValueError("each action can be named once")
    return rules
