"""Stages, and how versions compare. Pure: plain values in, decisions out."""

import json
import math
import re
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


# Words in the usual names of metrics that say what is better; without one of them, more is.
_LESS_IS_BETTER = frozenset(
    {"loss", "losses", "logloss", "error", "errors", "err", "deviation", "deviance", "residual"}
    | {"mae", "mse", "rmse", "nrmse", "rmsle", "msle", "medae", "mase", "rae", "rse", "nll"}
    | {"mape", "smape", "wape", "wmape", "mdape", "rmspe", "mspe", "std", "stddev", "stdev"}
    | {"brier", "ece", "mce", "hinge", "entropy", "crossentropy", "bce", "divergence", "kl", "kld"}
    | {"perplexity", "ppl", "bpc", "bpb", "wer", "cer", "ter", "eer", "fid", "bouldin", "inertia"}
    | {"fpr", "fnr", "fdr", "false", "misclassification", "toxicity", "hallucination", "bias"}
    | {"gap", "regret", "drift", "psi", "wasserstein", "distance", "missing", "aic", "bic"}
    | {"failure", "failures", "failed", "timeout", "timeouts", "latency", "delay", "lag", "ttft"}
    | {"time", "runtime", "walltime", "duration", "ms", "sec", "secs", "second", "seconds"}
    | {"milliseconds", "minutes", "hours", "cost", "costs", "memory", "size", "bytes", "mb"}
    | {"flops", "energy", "emissions", "drawdown"}
)
_MORE_IS_BETTER = frozenset(
    {"accuracy", "acc", "precision", "recall", "sensitivity", "specificity", "f", "fbeta", "auc"}
    | {"auroc", "auprc", "roc", "tpr", "tnr", "likelihood", "throughput"}
    | {"coverage", "compliance", "availability", "reduction", "improvement", "savings"}
)
# One word of a name, whether they_are_joined, areJoined or ARE-JOINED; numbers are none.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def usual_goal(key: str) -> MetricGoal:
    """Whether more or less of a metric is better, judged by the words of its name.

    The last word that says something decides: an accuracy_loss is a loss. What comes after "at" or
    "per" is only the measure: recall_at_fpr, tokens_per_second.
    """
    words = [word.lower() for word in _WORD.findall(key.replace("@", " at "))]
    if "at" in words[1:]:
        words = words[: words.index("at", 1)]
    for place in range(len(words) - 1, -1, -1):
        word, before = words[place], words[:place]
        if before[-1:] == ["per"] or word not in _LESS_IS_BETTER | _MORE_IS_BETTER:
            continue
        # scikit-learn negates what should be small: neg_mean_squared_error. Of what should be
        # large, only the likelihood is negated; else it is that of the negative class.
        negated = "neg" in before or "negative" in before
        less = negated if word == "likelihood" else word in _LESS_IS_BETTER and not negated
        return MetricGoal.MINIMIZE if less else MetricGoal.MAXIMIZE
    return MetricGoal.MAXIMIZE


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
        goal = goal_of(key, goals)
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


def completed(
    given: tuple[str | None, int | None], logged: tuple[str | None, int | None]
) -> tuple[str | None, int | None]:
    """Digest and size of a file: as given, and what is missing as logged of a file at the same
    path, unless that contradicts what was given: then it was another file."""
    if any(None not in pair and pair[0] != pair[1] for pair in zip(given, logged, strict=True)):
        return given
    return given[0] or logged[0], logged[1] if given[1] is None else given[1]


def changed(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of two mappings is not in the other, or not the same there."""
    return (
        {key: value for key, value in before.items() if after.get(key) != value},
        {key: value for key, value in after.items() if before.get(key) != value},
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # Most are numbers, of which this is the JSON in a tenth of the time.
    if type(value) is int:
        return str(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
