"""Rules as data: what has to be true before a version comes into a stage, each rule for itself.

Facts in, a check out; what comes of all of a policy's rules is in `evaluation`. Pure. Figures are
compared as the decimal numbers that people write: 0.75 is exactly 0.05 lower than 0.80.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import orjson
from pydantic import Field

from lifecycle.access.rules import known_as
from lifecycle.commands import Name
from lifecycle.errors import LifecycleError, Path
from lifecycle.promotion.rules import IN_FORCE, OPEN, ChecklistStatus
from lifecycle.registry.rules import ApprovalStatus, DriftSeverity, Stage, usual_goal
from lifecycle.runs.rules import MetricGoal, shown


class RuleKind(StrEnum):
    METRIC = "METRIC"
    DATASET_FACT = "DATASET_FACT"
    HYPERPARAMETER = "HYPERPARAMETER"
    BASELINE = "BASELINE"
    CHECKLIST = "CHECKLIST"
    APPROVALS = "APPROVALS"
    ARTIFACT_DIGEST = "ARTIFACT_DIGEST"
    RUN_COMPLETED = "RUN_COMPLETED"
    NO_OPEN_DRIFT = "NO_OPEN_DRIFT"
    EVIDENCE_AGE = "EVIDENCE_AGE"
    AUTOMATIC_APPROVAL = "AUTOMATIC_APPROVAL"


class CheckSeverity(StrEnum):
    BLOCKING = "BLOCKING"
    WARNING = "WARNING"
    INFO = "INFO"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The object that a figure comes from: its table and id."""

    kind: str
    id: UUID


@dataclass(frozen=True, slots=True)
class Check:
    """What one rule found. `observed` and `required` are JSON; a number that is not finite is its
    name."""

    name: str
    category: str
    severity: CheckSeverity
    passed: bool
    observed: Any
    required: Any
    message: str
    evidence: Evidence | None = None
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a policy's rules found. It passed unless a BLOCKING check did not."""

    stage: Stage
    policy_version: int
    checks: Sequence[Check]
    at: datetime

    @property
    def unmet(self) -> list[Check]:
        """The checks that stand in the way."""
        return [
            check
            for check in self.checks
            if not check.passed and check.severity is CheckSeverity.BLOCKING
        ]

    @property
    def passed(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.unmet

    @property
    def recommendations(self) -> list[str]:
        """What could be done about each check that did not pass."""
        return [check.advice for check in self.checks if not check.passed and check.advice]


class GateFailed(LifecycleError):
    """The policy of the stage is not met; `report` has every check."""

    code = "GATE_FAILED"

    def __init__(self, report: Report, path: Path = ("model_version",)) -> None:
        self.report = report
        found = " ".join(check.message for check in report.unmet)
        super().__init__(f"{report.stage} is refused: {found}", path)


class ApprovalRequired(LifecycleError):
    """Nothing but an approval is missing; `report` has every check."""

    code = "APPROVAL_REQUIRED"

    def __init__(self, status: ApprovalStatus, report: Report, path: Path) -> None:
        self.status, self.report = status, report
        super().__init__(" ".join(check.message for check in report.unmet), path)


# The facts that rules look at


# Not with slots: a `cached_property` is kept in `__dict__`. There may be 500 KB of parameters and
# facts, and the digest is asked for several times for each of many versions of the run.
@dataclass(frozen=True)
class RunFacts:
    """The run that a version came out of."""

    id: UUID
    status: str
    params: Mapping[str, str]
    dataset_facts: Mapping[str, Any]

    @cached_property
    def encoded(self) -> str:
        """Its part of what an approval is bound to."""
        return _encoded(str(self.id), self.params, self.dataset_facts)


@dataclass(frozen=True, slots=True)
class BaselineFacts:
    """The version in production. `changed` says that it is not what was approved any more: whoever
    changed it must not have said what the next one is compared with."""

    id: UUID
    version: str
    metrics: Mapping[str, float]
    changed: bool = False


@dataclass(frozen=True, slots=True)
class ApprovalFacts:
    """The version's last submission, and who has approved it so far. `refused_as` is the version as
    which the same content was rejected or taken back since it was approved, be it this one."""

    id: UUID
    status: ApprovalStatus
    policy_id: UUID
    submitted_by: str
    approved_by: Sequence[str]
    evidence_digest: str | None
    checklist_digest: str | None
    refused_as: str | None = None


@dataclass(frozen=True)
class Facts:
    """All that rules may look at, as of `now`. `measured_at` is the newest metric's time."""

    id: UUID
    version: str
    stage: Stage
    author: str
    metrics: Mapping[str, float]
    measured_at: datetime | None
    hyperparameters: Mapping[str, Any]
    artifact_path: str | None
    artifact_digest: str | None
    open_drift: Mapping[str, int]
    checklist: Sequence[tuple[str, ChecklistStatus]]
    run: RunFacts | None
    baseline: BaselineFacts | None
    approval: ApprovalFacts | None
    now: datetime

    @property
    def itself(self) -> Evidence:
        """The version as evidence."""
        return Evidence("model_version", self.id)

    @property
    def status(self) -> ApprovalStatus:
        """Where its approval stands; STALE if it is not for what the version is now."""
        if self.approval is None:
            return ApprovalStatus.NOT_SUBMITTED
        return ApprovalStatus.STALE if self.is_stale else self.approval.status

    @property
    def is_stale(self) -> bool:
        """Whether the present submission, if it is open or in force, is for another content. While
        it is open the checklist may be worked on; once decided, it is part of the content."""
        approval = self.approval
        if approval is None or approval.status not in OPEN | IN_FORCE:
            return False
        return approval.evidence_digest != self.evidence_digest or (
            approval.status in IN_FORCE and approval.checklist_digest != self.checklist_digest
        )

    @cached_property
    def evidence_digest(self) -> str:
        """What an approval is bound to: the same for the same metrics, artifact, hyperparameters,
        run, parameters and data-set facts."""
        own = _encoded(
            {key: repr(value) for key, value in self.metrics.items()},
            self.artifact_path,
            self.artifact_digest,
            self.hyperparameters,
        )
        run = self.run.encoded if self.run else "null"
        return _digest(f"{own[:-1]}, {run}]")

    @cached_property
    def checklist_digest(self) -> str:
        """The same for the same items, marked alike."""
        return _digest(_encoded(self.checklist))


def _encoded(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def _digest(encoded: str) -> str:
    return hashlib.sha256(encoded.encode()).hexdigest()


# The rules


def _bounded(at_least: float | None, at_most: float | None) -> None:
    given = [bound for bound in (at_least, at_most) if bound is not None]
    if not given or not all(map(math.isfinite, given)):
        raise ValueError("give a lower bound, an upper bound or both, as finite numbers")
    if at_least is not None and at_most is not None and at_least > at_most:
        raise ValueError("the lower bound must not be above the upper one")


@dataclass(frozen=True, slots=True)
class MetricRule:
    """A metric of the version lies within bounds, which are included."""

    key: Name
    at_least: float | None = None
    at_most: float | None = None
    required: bool = False
    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.METRIC] = RuleKind.METRIC

    def __post_init__(self) -> None:
        _bounded(self.at_least, self.at_most)

    def check(self, facts: Facts) -> Check:
        """Look at the metric."""
        return _within(self, "performance", facts.metrics.get(self.key), facts.itself)


@dataclass(frozen=True, slots=True)
class DatasetFactRule:
    """A fact about the data of the run lies within bounds, which are included."""

    key: Name
    at_least: float | None = None
    at_most: float | None = None
    required: bool = False
    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.DATASET_FACT] = RuleKind.DATASET_FACT

    def __post_init__(self) -> None:
        _bounded(self.at_least, self.at_most)

    def check(self, facts: Facts) -> Check:
        """Look at the fact."""
        value = facts.run.dataset_facts.get(self.key) if facts.run else None
        return _within(self, "data quality", value, _run(facts))


@dataclass(frozen=True, slots=True)
class HyperparameterRule:
    """A hyperparameter of the version, else a parameter of its run, lies within bounds, which are
    included."""

    key: Name
    at_least: float | None = None
    at_most: float | None = None
    required: bool = False
    severity: CheckSeverity = CheckSeverity.WARNING
    kind: Literal[RuleKind.HYPERPARAMETER] = RuleKind.HYPERPARAMETER

    def __post_init__(self) -> None:
        _bounded(self.at_least, self.at_most)

    def check(self, facts: Facts) -> Check:
        """Look at the hyperparameter."""
        if self.key in facts.hyperparameters or facts.run is None:
            return _within(self, "complexity", facts.hyperparameters.get(self.key), facts.itself)
        return _within(self, "complexity", facts.run.params.get(self.key), _run(facts))


@dataclass(frozen=True, slots=True)
class BaselineRule:
    """A metric is at most `tolerance` worse than that of the version in production: absolutely, or
    as a part of its figure. A negative tolerance is by how much it must be better."""

    key: Name
    tolerance: float
    relative: bool = False
    goal: MetricGoal | None = None
    required: bool = False
    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.BASELINE] = RuleKind.BASELINE

    def __post_init__(self) -> None:
        if not math.isfinite(self.tolerance):
            raise ValueError("tolerance must be a finite number")

    def check(self, facts: Facts) -> Check:
        """Compare with production."""
        name = f"{self.key} against production"
        required: dict[str, Any] = {"tolerance": self.tolerance, "relative": self.relative}
        base = facts.baseline
        if base is None:
            here = facts.stage is Stage.PRODUCTION
            said = (
                f"Version {facts.version} is in production itself."
                if here
                else "Nothing is in production."
            )
            return Check(name, "baseline", self.severity, True, None, required, said)
        required |= {
            "baselineVersion": base.version,
            "baseline": _shown(base.metrics.get(self.key)),
        }
        value, reference = facts.metrics.get(self.key), base.metrics.get(self.key)
        evidence = Evidence("model_version", base.id)
        if base.changed:
            return Check(
                name,
                "baseline",
                self.severity,
                False,
                _shown(value),
                required,
                f"{self.key} cannot be compared: {_changed(base)}.",
                evidence,
                f"Have version {base.version} approved as it is now, or change it back.",
            )
        worse = _worse_by(value, reference, self.goal or usual_goal(self.key))
        if worse is None or reference is None:
            return Check(
                name,
                "baseline",
                self.severity,
                not self.required and (value is None or math.isfinite(value)),
                _shown(value),
                required,
                f"{self.key} cannot be compared with version {base.version} in production: "
                f"{_said(value)} here, {_said(reference)} there.",
                evidence,
                f"Give version {facts.version} a metric {self.key}.",
            )
        allowed = Decimal(str(self.tolerance))
        if self.relative:
            allowed *= abs(Decimal(str(reference)))
        difference = f"{abs(worse).normalize():f} {'worse' if worse > 0 else 'better'} than"
        return Check(
            name,
            "baseline",
            self.severity,
            worse <= allowed,
            _shown(value),
            required,
            f"{self.key} is {_said(value)}, {difference if worse else 'the same as'} that of "
            f"version {base.version} in production; {_tolerance(self)} is "
            f"{'required' if self.tolerance < 0 else 'allowed'}.",
            evidence,
            f"Improve {self.key}, or let an administrator decide with BYPASS.",
        )


@dataclass(frozen=True, slots=True)
class ChecklistRule:
    """Every item of the checklist is APPROVED; with `required` there is at least one."""

    required: bool = False
    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.CHECKLIST] = RuleKind.CHECKLIST

    def check(self, facts: Facts) -> Check:
        """Look at the items."""
        open_items = [t for t, status in facts.checklist if status is not ChecklistStatus.APPROVED]
        done = len(facts.checklist) - len(open_items)
        passed = not open_items and (bool(facts.checklist) or not self.required)
        what = ", ".join(f"“{title}”" for title in open_items[:5])
        return Check(
            "checklist",
            "review",
            self.severity,
            passed,
            {"approved": done, "items": len(facts.checklist), "open": open_items[:100]},
            {"complete": True, "required": self.required},
            f"{done} of {len(facts.checklist)} items of the checklist are APPROVED"
            + (f"; open or rejected: {what}." if what else "."),
            facts.itself,
            "Mark the items of the checklist." if facts.checklist else "Append checklist items.",
        )


@dataclass(frozen=True, slots=True)
class ApprovalsRule:
    """So many people have approved, none of them author or submitter; if `approvers` names any,
    only those count. Without this rule one is enough, or the automatic decision."""

    count: Annotated[int, Field(ge=1, le=20)] = 1
    approvers: Annotated[tuple[Name, ...], Field(max_length=1_000)] = ()
    kind: Literal[RuleKind.APPROVALS] = RuleKind.APPROVALS

    def __post_init__(self) -> None:
        if self.approvers and len(set(map(known_as, self.approvers))) < self.count:
            raise ValueError("there must be at least as many approvers as approvals")


@dataclass(frozen=True, slots=True)
class ArtifactDigestRule:
    """The version names its artifact and the artifact's digest."""

    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.ARTIFACT_DIGEST] = RuleKind.ARTIFACT_DIGEST

    def check(self, facts: Facts) -> Check:
        """Look for the digest."""
        there = bool(facts.artifact_path and facts.artifact_digest)
        return Check(
            "artifact digest",
            "artifact",
            self.severity,
            there,
            {"artifactPath": facts.artifact_path, "artifactDigest": facts.artifact_digest},
            {"artifactDigest": "present"},
            "The artifact has a digest." if there else "The artifact has no path or no digest.",
            facts.itself,
            "Give artifactPath and artifactDigest with updateModelVersion.",
        )


@dataclass(frozen=True, slots=True)
class RunCompletedRule:
    """The version came out of a run, and that run is COMPLETED."""

    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.RUN_COMPLETED] = RuleKind.RUN_COMPLETED

    def check(self, facts: Facts) -> Check:
        """Look at the run."""
        status = facts.run.status if facts.run else None
        said = f"The run is {status}." if status else "The version names no run."
        return Check(
            "run completed",
            "lineage",
            self.severity,
            status == "COMPLETED",
            status,
            "COMPLETED",
            said,
            _run(facts),
            "Complete the run." if status else "Register a version with its runId.",
        )


@dataclass(frozen=True, slots=True)
class NoOpenDriftRule:
    """No drift event of the version from this severity on is still open."""

    from_severity: DriftSeverity = DriftSeverity.HIGH
    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.NO_OPEN_DRIFT] = RuleKind.NO_OPEN_DRIFT

    def check(self, facts: Facts) -> Check:
        """Count the open events."""
        scale = list(DriftSeverity)
        counted = scale[scale.index(self.from_severity) :]
        # As JSON has them: a key that is an enum's member is no text to it.
        found = {
            each.value: facts.open_drift[each] for each in counted if facts.open_drift.get(each)
        }
        said = ", ".join(f"{number} {severity}" for severity, number in found.items())
        return Check(
            "no open drift",
            "drift",
            self.severity,
            not found,
            found,
            {"fromSeverity": self.from_severity, "open": 0},
            f"Open drift events: {said}."
            if found
            else f"No drift event from {self.from_severity} on is open.",
            facts.itself,
            "Resolve the drift events with updateDriftEvent.",
        )


# How much the clock of whoever measured may be ahead of the database's.
_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class EvidenceAgeRule:
    """The newest metric of the version is at most so many days old, and not of the future."""

    max_days: Annotated[float, Field(gt=0, le=36_500)]
    severity: CheckSeverity = CheckSeverity.BLOCKING
    kind: Literal[RuleKind.EVIDENCE_AGE] = RuleKind.EVIDENCE_AGE

    def check(self, facts: Facts) -> Check:
        """Look at the metrics' times."""
        measured = facts.measured_at
        passed = measured is not None and -_AHEAD <= facts.now - measured <= timedelta(
            days=self.max_days
        )
        said = (
            f"The newest metric is of {measured:%Y-%m-%d %H:%M:%S %Z}"
            if measured
            else "There are no metrics"
        )
        return Check(
            "age of the evidence",
            "freshness",
            self.severity,
            passed,
            measured.isoformat() if measured else None,
            {"maxDays": self.max_days},
            f"{said}; at most {self.max_days:g} days old is required.",
            facts.itself,
            "Evaluate the version again and update its metrics.",
        )


@dataclass(frozen=True, slots=True)
class AutomaticApprovalRule:
    """A submission is approved without a person when this metric is at most `tolerance` worse than
    in production, or nothing is in production. From `better_by` on it counts as an improvement.
    It is asked again when a version that nobody else has approved wants into production."""

    key: Name
    better_by: float
    tolerance: float
    goal: MetricGoal | None = None
    kind: Literal[RuleKind.AUTOMATIC_APPROVAL] = RuleKind.AUTOMATIC_APPROVAL

    def __post_init__(self) -> None:
        if not (math.isfinite(self.better_by) and math.isfinite(self.tolerance)):
            raise ValueError("the figures must be finite numbers")

    def decide(self, facts: Facts, report: Report) -> tuple[ApprovalStatus, str]:
        """APPROVED or NEEDS_REVIEW, and why; `report` is what was found without people.

        Figures of D3: `better_by` 0.02, `tolerance` 0.01. What cannot be judged is left to people.
        """
        if facts.stage is Stage.PRODUCTION:
            return (
                ApprovalStatus.NEEDS_REVIEW,
                f"Version {facts.version} is in production itself; there is nothing to compare it "
                "with.",
            )
        if facts.baseline is None:
            performance = [check for check in report.checks if check.category == "performance"]
            failed = [check.message for check in performance if not check.passed]
            if failed:
                said = " ".join(failed)
                return ApprovalStatus.NEEDS_REVIEW, f"Nothing is in production, and {said}"
            if any(check.observed is not None for check in performance):
                said = "all checks of performance passed."
                return ApprovalStatus.APPROVED, f"Nothing is in production, and {said}"
            said = "there are no figures to judge by."
            return ApprovalStatus.NEEDS_REVIEW, f"Nothing is in production, and {said}"
        if facts.baseline.changed:
            said = f"{self.key} cannot be compared: {_changed(facts.baseline)}."
            return ApprovalStatus.NEEDS_REVIEW, said
        there = f"version {facts.baseline.version} in production"
        value, reference = facts.metrics.get(self.key), facts.baseline.metrics.get(self.key)
        worse = _worse_by(value, reference, self.goal or usual_goal(self.key))
        if worse is None:
            return ApprovalStatus.NEEDS_REVIEW, f"{self.key} cannot be compared with {there}."
        figures = f"{self.key} is {_said(value)}, and {_said(reference)} for {there}"
        if -worse >= Decimal(str(self.better_by)):
            return ApprovalStatus.APPROVED, f"{figures}: at least {_figure(self.better_by)} better."
        if worse <= Decimal(str(self.tolerance)):
            how = "not worse" if worse <= 0 else f"not more than {_figure(self.tolerance)} worse"
            return ApprovalStatus.APPROVED, f"{figures}: {how}."
        return ApprovalStatus.NEEDS_REVIEW, f"{figures}: more than {_figure(self.tolerance)} worse."


_Figure: TypeAlias = MetricRule | DatasetFactRule | HyperparameterRule
# What is there to be checked without people, what people do during a review, and how it is decided.
Automatic: TypeAlias = (
    _Figure
    | BaselineRule
    | ArtifactDigestRule
    | RunCompletedRule
    | NoOpenDriftRule
    | EvidenceAgeRule
)
Rule: TypeAlias = Automatic | ChecklistRule | ApprovalsRule | AutomaticApprovalRule


def describe(rule: Rule) -> str:
    """A rule in words."""
    match rule:
        case MetricRule() | DatasetFactRule() | HyperparameterRule():
            what = {
                RuleKind.METRIC: "metric",
                RuleKind.DATASET_FACT: "data-set fact",
                RuleKind.HYPERPARAMETER: "hyperparameter",
            }[rule.kind]
            where = "" if rule.required else ", where it is reported"
            said = f"The {what} {rule.key} is {_bounds(rule)}{where}."
        case BaselineRule():
            where = "" if rule.required else ", where both are reported"
            said = f"The metric {rule.key} is {_tolerance(rule)} than in production{where}."
        case ChecklistRule():
            least = ", and there is at least one" if rule.required else ""
            said = f"All items of the checklist are APPROVED{least}."
        case ApprovalsRule():
            among = f" among {', '.join(rule.approvers)}" if rule.approvers else ""
            people = "1 person" if rule.count == 1 else f"{rule.count} people"
            have = "has" if rule.count == 1 else "have"
            said = f"{people}{among} {have} approved, author and submitter not counted."
        case ArtifactDigestRule():
            said = "The artifact has a path and a digest."
        case RunCompletedRule():
            said = "The version came out of a run that is COMPLETED."
        case NoOpenDriftRule():
            said = f"No drift event from {rule.from_severity} on is open."
        case EvidenceAgeRule():
            said = f"The newest metric is at most {rule.max_days:g} days old."
        case AutomaticApprovalRule():
            return (
                f"A submission is approved without a person when {rule.key} is at most "
                f"{_figure(rule.tolerance)} worse than in production; from "
                f"{_figure(rule.better_by)} better on it is an improvement."
            )
    if isinstance(rule, ApprovalsRule) or rule.severity is CheckSeverity.BLOCKING:
        return said
    return f"{said} ({rule.severity})"


def _bounds(rule: _Figure) -> str:
    bounds = []
    if rule.at_least is not None:
        bounds.append(f"at least {_figure(rule.at_least)}")
    if rule.at_most is not None:
        bounds.append(f"at most {_figure(rule.at_most)}")
    return " and ".join(bounds)


def _within(rule: _Figure, category: str, value: Any, evidence: Evidence | None) -> Check:
    wanted = _bounds(rule)
    number = _number(value)
    if value is None:
        passed = not rule.required
        said = f"{rule.key} is not reported; {wanted} is required" + (
            "." if rule.required else " where it is."
        )
    elif number is None:
        passed = False
        said = f"{rule.key} is {_said(value)}, which is not a number; {wanted} is required."
    else:
        passed = (rule.at_least is None or number >= Decimal(str(rule.at_least))) and (
            rule.at_most is None or number <= Decimal(str(rule.at_most))
        )
        said = f"{rule.key} is {_said(value)}; {wanted} is required."
    return Check(
        rule.key,
        category,
        rule.severity,
        passed,
        _shown(value),
        {"atLeast": rule.at_least, "atMost": rule.at_most, "required": rule.required},
        said,
        evidence,
        f"Bring {rule.key} to {wanted}.",
    )


def _changed(base: BaselineFacts) -> str:
    return f"version {base.version} in production is not what was approved any more"


def _run(facts: Facts) -> Evidence | None:
    return Evidence("run", facts.run.id) if facts.run else None


def _worse_by(value: float | None, reference: float | None, goal: MetricGoal) -> Decimal | None:
    """By how much a figure is worse than another; negative when it is better, None when the two
    cannot be compared."""
    if value is None or reference is None or not math.isfinite(value + reference):
        return None
    difference = Decimal(str(reference)) - Decimal(str(value))
    return difference if goal is MetricGoal.MAXIMIZE else -difference


# Python reads more than that, such as 1_000 and the digits of other scripts. Each digit has one
# place in it, so that what is no number after all is not read again and again.
_WRITTEN = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
_LONGEST_NUMBER = 100
_LONGEST_SHOWN = 250


def _number(value: Any) -> Decimal | None:
    """The number that a value is, also as text; None when it is none, or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (len(value) > _LONGEST_NUMBER or not _WRITTEN.fullmatch(value)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else Decimal(str(number))


def _shown(value: Any) -> Any:
    """As JSON has it. What is long is cut off: it was to be a number, and stands in each report
    twice, since the message says it, too."""
    if isinstance(value, float):
        return shown(value)
    if value is None or isinstance(value, int):
        return value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return value if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _figure(number: float) -> str:
    return f"{number:.15g}"


def _tolerance(rule: BaselineRule) -> str:
    number = abs(rule.tolerance)
    figure = f"{_figure(number * 100)} %" if rule.relative else _figure(number)
    return f"at least {figure} better" if rule.tolerance < 0 else f"at most {figure} worse"


def _said(value: Any) -> str:
    return "not reported" if value is None else str(_shown(value))
