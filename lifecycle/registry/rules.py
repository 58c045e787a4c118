"""Stages, and how versions compare. Pure: plain values in, decisions out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lifecycle.runs.rules import MetricGoal


class Stage(StrEnum):
    EXPERIMENTAL = "EXPERIMENTAL"
    STAGING = "STAGING"
    PRODUCTION = "PRODUCTION"
    ARCHIVED = "ARCHIVED"


class ApprovalStatus(StrEnum):
    """Where the approval of a version stands."""

    NOT_SUBMITTED = "NOT_SUBMITTED"
    PENDING = "PENDING"
    NEEDS_REVIEW = "NEEDS_REVIEW"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    STALE = "STALE"
    BYPASSED = "BYPASSED"
    WITHDRAWN = "WITHDRAWN"


class DriftSeverity(StrEnum):
    """How bad drift of a version is, from the least on."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


# Parts of the usual names of metrics of which less is better; of all others, more is.
_LESS_IS_BETTER = frozenset(
    {"loss", "error", "err", "mae", "mse", "rmse", "mape", "smape", "msle", "logloss", "brier"}
    | {"perplexity", "ppl", "nll", "wer", "cer", "fpr", "fnr", "drift", "psi"}
    | {"latency", "ms", "seconds", "time", "duration", "cost", "memory", "size"}
)


def usual_goal(key: str) -> MetricGoal:
    """Whether more or less of a metric is better, judged by the words of its name."""
    words = key.lower().replace("-", "_").replace("/", "_").replace(".", "_").split("_")
    # scikit-learn negates what should be small: neg_mean_squared_error.
    less = "neg" not in words and any(word in _LESS_IS_BETTER for word in words)
    return MetricGoal.MINIMIZE if less else MetricGoal.MAXIMIZE


def goal_of(key: str, goals: Mapping[str, MetricGoal]) -> MetricGoal:
    """Whether more or less of a metric is better: as the model says, else as is usual."""
    return goals.get(key) or usual_goal(key)


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric of several versions, by position; None where a version has no finite value.

    `best` is the position of the best value: the first of equals, None when there is none.
    """

    key: str
    goal: MetricGoal
    values: Sequence[float | None]
    differences: Sequence[float | None]
    best: int | None


@dataclass(frozen=True, slots=True)
class ParamComparison:
    """A parameter of several versions, by position, as text; None where a version lacks it."""

    key: str
    values: Sequence[str | None]
    differs: bool


def compare_metrics(
    versions: Sequence[Mapping[str, float]], baseline: int, goals: Mapping[str, MetricGoal] = {}
) -> list[MetricComparison]:
    """The metrics that any version has, each with its differences to the baseline's value. What
    `goals` does not say is judged by the metric's name."""
    compared = []
    for key in sorted({key for version in versions for key in version}):
        goal = goals.get(key) or usual_goal(key)
        values = [_finite(version.get(key)) for version in versions]
        base = values[baseline]
        known = [value for value in values if value is not None]
        best = None
        if known:
            choose = max if goal is MetricGoal.MAXIMIZE else min
            best = values.index(choose(known))
        differences = [None if value is None or base is None else value - base for value in values]
        compared.append(MetricComparison(key, goal, values, differences, best))
    return compared


def compare_params(versions: Sequence[Mapping[str, Any]]) -> list[ParamComparison]:
    """The parameters that any version has."""
    compared = []
    for key in sorted({key for version in versions for key in version}):
        values = [_text(version[key]) if key in version else None for version in versions]
        compared.append(ParamComparison(key, values, differs=len(set(values)) > 1))
    return compared


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _text(value: Any) -> str:
    return (
        value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    )
