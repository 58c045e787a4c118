"""The rules of stage policies at their bounds, the automatic decision, and what an approval is
bound to."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from lifecycle.promotion import evaluation, gates
from lifecycle.promotion.evaluation import Policy
from lifecycle.promotion.gates import (
    ApprovalFacts,
    ApprovalRequired,
    ApprovalsRule,
    ArtifactDigestRule,
    AutomaticApprovalRule,
    BaselineFacts,
    BaselineRule,
    ChecklistRule,
    CheckSeverity,
    DatasetFactRule,
    EvidenceAgeRule,
    Facts,
    GateFailed,
    HyperparameterRule,
    MetricRule,
    NoOpenDriftRule,
    Rule,
    RunCompletedRule,
    RunFacts,
)
from lifecycle.promotion.repository import RULES
from lifecycle.promotion.rules import ChecklistStatus
from lifecycle.registry.rules import ApprovalStatus, DriftSeverity, Stage
from lifecycle.runs.rules import MetricGoal

NAN, INFINITY = float("nan"), float("inf")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ME, RUN, HOLDER, POLICY, APPROVAL = (UUID(int=n) for n in range(1, 6))
A_RUN = RunFacts(RUN, "COMPLETED", {}, {})
BARE = Facts(
    id=ME,
    version="7",
    stage=Stage.STAGING,
    author="ann",
    metrics={},
    measured_at=None,
    hyperparameters={},
    artifact_path=None,
    artifact_digest=None,
    open_drift={},
    checklist=[],
    run=None,
    baseline=None,
    approval=None,
    now=NOW,
)
S = ApprovalStatus


def facts(**changes: Any) -> Facts:
    """A version with nothing but these."""
    return replace(BARE, **changes)


def production(**metrics: float) -> BaselineFacts:
    return BaselineFacts(HOLDER, "3", metrics)


def policy(*rules: Rule, stage: Stage = Stage.PRODUCTION) -> Policy:
    return Policy(POLICY, stage, 2, rules)


def submitted(found: Facts, status: S, *approved_by: str) -> Facts:
    """The same version with a submission of what it is."""
    digests = found.evidence_digest, found.checklist_digest
    return replace(
        found, approval=ApprovalFacts(APPROVAL, status, POLICY, "sue", approved_by, *digests)
    )


# Bounds


@pytest.mark.parametrize(
    ("value", "passed", "observed"),
    [
        (0.75, True, 0.75),
        (0.7499999999999999, False, 0.7499999999999999),
        (0.1 + 0.2 + 0.45, True, 0.75),
        (1, True, 1),
        (1.0000000000000002, False, 1.0000000000000002),
        (NAN, False, "NaN"),
        (INFINITY, False, "Infinity"),
        (-INFINITY, False, "-Infinity"),
        ("0.75", True, "0.75"),
        (" 0.8 ", True, " 0.8 "),
        ("0.74", False, "0.74"),
        ("nan", False, "nan"),
        ("inf", False, "inf"),
        ("many", False, "many"),
        # Numbers to Python, but not as people write them.
        ("0_1.0", False, "0_1.0"),
        ("１", False, "１"),
        ("", False, ""),
        (True, False, True),
        ([0.8], False, [0.8]),
        ("x" * 250, False, "x" * 250),
        ("x" * 251, False, "x" * 250 + "…"),
        ([1] * 200, False, "[" + "1," * 124 + "1…"),
        ({"a": "é" * 300}, False, '{"a":"' + "é" * 244 + "…"),
        ({"a": 0.8}, False, {"a": 0.8}),
        (10**400, False, 10**400),
    ],
)
def test_a_figure_lies_within_bounds_that_are_included(
    value: Any, passed: bool, observed: Any
) -> None:
    bounds: dict[str, Any] = {"at_least": 0.75, "at_most": 1.0}
    of_run = facts(run=RunFacts(RUN, "COMPLETED", {"a": value}, {"a": value}))
    found = {
        "performance": MetricRule("a", **bounds).check(facts(metrics={"a": value})),
        "data quality": DatasetFactRule("a", **bounds).check(of_run),
        "complexity": HyperparameterRule("a", **bounds).check(of_run),
    }

    for category, check in found.items():
        assert (check.name, check.category) == ("a", category)
        assert (check.passed, check.observed) == (passed, observed)
        assert check.required == {"atLeast": 0.75, "atMost": 1.0, "required": False}
        assert "at least 0.75 and at most 1 is required" in check.message
        assert check.advice == "Bring a to at least 0.75 and at most 1."


@pytest.mark.parametrize("kind", [MetricRule, DatasetFactRule, HyperparameterRule])
def test_a_figure_that_is_absent_fails_only_where_it_is_required(kind: Any) -> None:
    wanted, needed = (kind("a", at_most=1, required=required) for required in (False, True))

    for found in (facts(), facts(run=A_RUN)):
        assert wanted.check(found).passed
        assert not needed.check(found).passed
        assert wanted.check(found).observed is None
    assert needed.check(facts()).message == "a is not reported; at most 1 is required."


def test_a_bound_on_one_side_leaves_the_other_open() -> None:
    least, most = MetricRule("a", at_least=0), MetricRule("a", at_most=0)

    assert [least.check(facts(metrics={"a": v})).passed for v in (0, 1e308, INFINITY, -5e-324)] == [
        True,
        True,
        True,
        False,
    ]
    assert [most.check(facts(metrics={"a": v})).passed for v in (0, -INFINITY, NAN, 5e-324)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_hyperparameter_is_that_of_the_version_before_that_of_its_run() -> None:
    rule = HyperparameterRule("depth", at_most=3)
    run = RunFacts(RUN, "COMPLETED", {"depth": "4"}, {})

    own = rule.check(facts(hyperparameters={"depth": 3}, run=run))
    of_run = rule.check(facts(run=run))

    assert (own.passed, own.observed, own.evidence) == (True, 3, BARE.itself)
    assert (of_run.passed, of_run.observed) == (False, "4")
    assert of_run.evidence == gates.Evidence("run", RUN)
    # It is a warning, unless the policy says more.
    assert of_run.severity is CheckSeverity.WARNING


@pytest.mark.parametrize(
    ("written", "passed"),
    [
        *[
            (text, True)
            for text in ("2", "2.", ".5", "2.5", "-2.5E0", "+2e0", " 2\n", "0" * 99 + "2")
        ],
        *[
            (text, False)
            for text in ("4", "1e1", "0" * 100 + "2", "", ".", "e1", "1_0", "٢", "inf")
        ],
        # Of these lengths each digit must be looked at once.
        *[("1" * 250_000 + end, False) for end in ("", "x", ".x", "ex", " x")],
        (" " * 250_000 + "x", False),
    ],
    ids=lambda value: str(value)[:10],
)
def test_a_number_may_be_written_as_text_of_up_to_100_characters(
    written: str, passed: bool
) -> None:
    rule = HyperparameterRule("depth", at_most=3)

    assert rule.check(facts(hyperparameters={"depth": written})).passed is passed


# Against production


@pytest.mark.parametrize(
    ("value", "reference", "passed"),
    [
        # Exactly 0.05 lower, where binary floats say a little more or less than that.
        (0.75, 0.80, True),
        (0.85, 0.90, True),
        (0.70, 0.75, True),
        (0.7499999999999999, 0.80, False),
        (0.7500000000000001, 0.80, True),
        (0.95, 0.80, True),
        # What is no figure fails; what was none in production is nothing to compare with.
        (NAN, 0.80, False),
        (INFINITY, 0.80, False),
        (-INFINITY, 0.80, False),
        (0.80, NAN, True),
        (0.80, INFINITY, True),
    ],
)
def test_a_metric_may_be_worse_by_the_tolerance_and_no_more(
    value: float, reference: float, passed: bool
) -> None:
    check = BaselineRule("accuracy", 0.05).check(
        facts(metrics={"accuracy": value}, baseline=production(accuracy=reference))
    )

    assert check.passed == passed
    assert check.evidence == gates.Evidence("model_version", HOLDER)


def test_what_cannot_be_compared_fails_only_where_it_is_required() -> None:
    wanted, needed = (BaselineRule("a", 0.05, required=required) for required in (False, True))

    for metrics, there in (({}, {"a": 1.0}), ({"a": 1.0}, {}), ({"a": 1.0}, {"a": NAN})):
        found = facts(metrics=metrics, baseline=production(**there))
        assert wanted.check(found).passed
        assert not needed.check(found).passed
    # With nothing in production there is nothing to be worse than.
    assert needed.check(facts()).passed
    assert needed.check(facts()).message == "Nothing is in production."


@pytest.mark.parametrize(
    ("rule", "value", "reference", "passed"),
    [
        # A tenth of 0.80 is 0.08.
        (BaselineRule("accuracy", 0.1, relative=True), 0.72, 0.80, True),
        (BaselineRule("accuracy", 0.1, relative=True), 0.7199, 0.80, False),
        (BaselineRule("accuracy", 0.1, relative=True), -1.1, -1.0, True),
        (BaselineRule("accuracy", 0.1, relative=True), -1.11, -1.0, False),
        (BaselineRule("accuracy", 0.1, relative=True), 0.0, 0.0, True),
        (BaselineRule("accuracy", 0.1, relative=True), -0.001, 0.0, False),
        # Less is better, by the name, or as the rule says.
        (BaselineRule("loss", 0.05), 0.80, 0.75, True),
        (BaselineRule("loss", 0.05), 0.8001, 0.75, False),
        (BaselineRule("loss", 0.05), 0.1, 0.75, True),
        (BaselineRule("loss", 0.05, goal=MetricGoal.MAXIMIZE), 0.1, 0.75, False),
        (BaselineRule("size_ms", 0.1, relative=True), 110, 100, True),
        (BaselineRule("size_ms", 0.1, relative=True), 110.1, 100, False),
        # It has to be better.
        (BaselineRule("accuracy", -0.02), 0.82, 0.80, True),
        (BaselineRule("accuracy", -0.02), 0.8199, 0.80, False),
        (BaselineRule("accuracy", 0.0), 0.80, 0.80, True),
        (BaselineRule("accuracy", 0.0), 0.7999, 0.80, False),
    ],
)
def test_worse_is_what_the_goal_and_the_scale_say(
    rule: BaselineRule, value: float, reference: float, passed: bool
) -> None:
    found = facts(metrics={rule.key: value}, baseline=production(**{rule.key: reference}))

    assert rule.check(found).passed == passed


def test_the_rule_has_the_last_word_about_which_way_is_better() -> None:
    found = facts(metrics={"loss": 0.9}, baseline=production(loss=0.5))

    assert not BaselineRule("loss", 0.1).check(found).passed
    assert BaselineRule("loss", 0.1, goal=MetricGoal.MAXIMIZE).check(found).passed


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (
            BaselineRule("accuracy", 0.05),
            0.7,
            "accuracy is 0.7, 0.1 worse than that of version 3 in production; at most 0.05 worse "
            "is allowed.",
        ),
        (
            BaselineRule("accuracy", 0.05, relative=True),
            0.9,
            "accuracy is 0.9, 0.1 better than that of version 3 in production; at most 5 % worse "
            "is allowed.",
        ),
        (
            BaselineRule("accuracy", -0.02),
            0.8,
            "accuracy is 0.8, the same as that of version 3 in production; at least 0.02 better "
            "is required.",
        ),
        (
            BaselineRule("accuracy", 0.05),
            None,
            "accuracy cannot be compared with version 3 in production: not reported here, 0.8 "
            "there.",
        ),
    ],
)
def test_a_comparison_is_told_in_figures_as_people_write_them(
    rule: BaselineRule, value: float | None, message: str
) -> None:
    metrics = {} if value is None else {"accuracy": value}
    found = facts(metrics=metrics, baseline=production(accuracy=0.8))

    check = rule.check(found)

    assert check.message == message
    assert check.observed == value
    assert check.required == {
        "tolerance": rule.tolerance,
        "relative": rule.relative,
        "baselineVersion": "3",
        "baseline": 0.8,
    }


# People, artifacts, runs, drift, age

P, A, R = ChecklistStatus.PENDING, ChecklistStatus.APPROVED, ChecklistStatus.REJECTED


@pytest.mark.parametrize(
    ("statuses", "passed", "passed_if_required"),
    [
        ([], True, False),
        ([A], True, True),
        ([A, A], True, True),
        ([P], False, False),
        ([A, P], False, False),
        ([A, R], False, False),
    ],
)
def test_a_checklist_is_complete_when_all_its_items_are_approved(
    statuses: list[ChecklistStatus], passed: bool, passed_if_required: bool
) -> None:
    found = facts(checklist=[(f"item {n}", status) for n, status in enumerate(statuses)])

    assert ChecklistRule().check(found).passed == passed
    assert ChecklistRule(required=True).check(found).passed == passed_if_required


def test_a_checklist_names_what_is_open() -> None:
    check = ChecklistRule().check(facts(checklist=[("data", A), ("bias", P), ("cost", R)]))

    assert check.observed == {"approved": 1, "items": 3, "open": ["bias", "cost"]}
    assert check.message == (
        "1 of 3 items of the checklist are APPROVED; open or rejected: “bias”, “cost”."
    )


@pytest.mark.parametrize(
    ("path", "digest", "passed"),
    [("a", "sha256:0", True), ("a", None, False), (None, "sha256:0", False), (None, None, False)],
)
def test_an_artifact_has_a_path_and_a_digest(
    path: str | None, digest: str | None, passed: bool
) -> None:
    found = facts(artifact_path=path, artifact_digest=digest)
    assert ArtifactDigestRule().check(found).passed == passed


def test_the_run_is_completed() -> None:
    for status in ("PENDING", "RUNNING", "FAILED", "CANCELLED", "LOST"):
        check = RunCompletedRule().check(facts(run=replace(A_RUN, status=status)))
        assert (check.passed, check.message) == (False, f"The run is {status}.")
    assert RunCompletedRule().check(facts(run=A_RUN)).passed
    none = RunCompletedRule().check(facts())
    assert (none.passed, none.message) == (False, "The version names no run.")


@pytest.mark.parametrize("present", DriftSeverity)
@pytest.mark.parametrize("threshold", DriftSeverity)
def test_open_drift_counts_from_a_severity_on(
    threshold: DriftSeverity, present: DriftSeverity
) -> None:
    scale = list(DriftSeverity)
    counts = scale.index(present) >= scale.index(threshold)

    check = NoOpenDriftRule(threshold).check(facts(open_drift={present: 2}))

    assert check.passed != counts
    assert check.observed == ({present: 2} if counts else {})
    # What has been closed counts no more.
    assert NoOpenDriftRule(threshold).check(facts(open_drift={present: 0})).passed


@pytest.mark.parametrize(
    ("age", "passed"),
    [
        (timedelta(0), True),
        (timedelta(days=30), True),
        (timedelta(days=30, microseconds=1), False),
        # A clock may be somewhat ahead; beyond that it is no time of a measurement.
        (timedelta(minutes=-5), True),
        (timedelta(minutes=-5, microseconds=-1), False),
    ],
)
def test_evidence_may_be_as_old_as_that(age: timedelta, passed: bool) -> None:
    assert EvidenceAgeRule(30).check(facts(measured_at=NOW - age)).passed == passed


def test_no_evidence_is_too_old() -> None:
    check = EvidenceAgeRule(0.5).check(facts())
    assert (check.passed, check.observed) == (False, None)
    assert check.message == "There are no metrics; at most 0.5 days old is required."


# Approvals


@pytest.mark.parametrize(
    ("rule", "status", "people", "passed"),
    [
        (None, S.APPROVED, ["bob"], True),
        (None, S.APPROVED, [], False),
        (None, S.BYPASSED, [], True),
        *((None, status, [], False) for status in (S.PENDING, S.NEEDS_REVIEW, S.REJECTED)),
        *((None, status, ["bob"], False) for status in (S.STALE, S.WITHDRAWN)),
        (ApprovalsRule(), S.APPROVED, ["bob"], True),
        (ApprovalsRule(), S.APPROVED, [], False),
        (ApprovalsRule(), S.APPROVED, ["ann"], False),
        (ApprovalsRule(), S.APPROVED, ["sue"], False),
        (ApprovalsRule(), S.BYPASSED, [], True),
        (ApprovalsRule(2), S.APPROVED, ["bob"], False),
        (ApprovalsRule(2), S.APPROVED, ["bob", "ann"], False),
        (ApprovalsRule(2), S.APPROVED, ["bob", "cid"], True),
        (ApprovalsRule(1, ("cid",)), S.APPROVED, ["bob"], False),
        (ApprovalsRule(1, ("cid",)), S.APPROVED, ["bob", "cid"], True),
        (ApprovalsRule(1, ("ann", "cid")), S.APPROVED, ["ann"], False),
    ],
)
def test_enough_people_have_approved_none_of_them_author_or_submitter(
    rule: ApprovalsRule | None, status: S, people: list[str], passed: bool
) -> None:
    found = submitted(facts(), status, *people)

    check = evaluation.approval_check(policy(*([rule] if rule else [])), found)

    assert check.passed == passed
    assert check.observed["status"] == status


@pytest.mark.parametrize("who", ["Ann", "SUE"])
def test_who_is_not_counted_is_so_whichever_way_their_name_was_written(who: str) -> None:
    found = submitted(facts(author="ANN"), S.APPROVED)
    rule = ApprovalsRule(1, ("eve", "ann", "Sue"))

    assert evaluation.eligible(rule, found, [who, "Eve", "eve", "bob"]) == ["eve"]


def test_one_person_written_in_two_ways_is_not_two_approvers() -> None:
    with pytest.raises(ValueError, match="at least as many approvers as approvals"):
        ApprovalsRule(2, ("eve", "Eve"))


def test_a_version_that_was_never_submitted_is_told_how() -> None:
    check = evaluation.approval_check(policy(), facts())

    assert check.message == (
        "Version 7 is NOT_SUBMITTED; submit it for approval first, with submitForApproval."
    )
    assert check.required == {"status": "APPROVED", "approvals": None}


# What an approval is for

FULL = facts(
    metrics={"accuracy": 0.9, "loss": NAN},
    measured_at=NOW,
    hyperparameters={"depth": 3},
    artifact_path="a",
    artifact_digest="sha256:0",
    checklist=[("data", A)],
    run=RunFacts(RUN, "COMPLETED", {"seed": "1"}, {"rows": 10}),
)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"accuracy": 0.9}},
        {"metrics": {"accuracy": 0.9000000000000001, "loss": NAN}},
        {"metrics": {"accuracy": 0.9, "loss": INFINITY}},
        {"hyperparameters": {"depth": 4}},
        {"hyperparameters": {"depth": "3"}},
        {"artifact_path": "b"},
        {"artifact_path": None},
        {"artifact_digest": "sha256:1"},
        {"run": None},
        {"run": RunFacts(HOLDER, "COMPLETED", {"seed": "1"}, {"rows": 10})},
        {"run": RunFacts(RUN, "COMPLETED", {"seed": "2"}, {"rows": 10})},
        {"run": RunFacts(RUN, "COMPLETED", {"seed": "1"}, {"rows": 11})},
    ],
)
def test_another_content_is_not_what_was_approved(change: Mapping[str, Any]) -> None:
    for status in (S.PENDING, S.NEEDS_REVIEW, S.APPROVED, S.BYPASSED):
        found = submitted(FULL, status)
        assert found.status is status
        assert replace(found, **change).status is S.STALE
    for status in (S.REJECTED, S.WITHDRAWN):
        assert replace(submitted(FULL, status), **change).status is status


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"loss": NAN, "accuracy": 0.9}},
        {"measured_at": NOW - timedelta(days=1)},
        {"stage": Stage.PRODUCTION},
        {"open_drift": {"HIGH": 1}},
        {"baseline": production(accuracy=0.5)},
        {"now": NOW + timedelta(days=1)},
        {"run": RunFacts(RUN, "FAILED", {"seed": "1"}, {"rows": 10})},
    ],
)
def test_what_is_not_content_leaves_an_approval_alone(change: Mapping[str, Any]) -> None:
    assert replace(submitted(FULL, S.APPROVED), **change).status is S.APPROVED


@pytest.mark.parametrize(
    ("found", "digest"),
    [
        (FULL, "75b96fd302b528db7af23e506371d9fc4e5ba51a27d9deb516d2ebfa85aabd2f"),
        (
            replace(FULL, run=None),
            "2532c61d3c905b7daf5bff237b182492d7e8dc4c107a13f3ce01a4993c5731ed",
        ),
    ],
)
def test_the_same_content_has_the_same_digest_as_in_former_releases(
    found: Facts, digest: str
) -> None:
    assert found.evidence_digest == digest


def test_a_run_is_encoded_once_for_all_of_its_versions_however_often_they_are_looked_at() -> None:
    class Counted(dict[str, Any]):
        read = 0

        def items(self) -> Any:
            self.read += 1
            return super().items()

    own, rows = Counted(depth=3), Counted(rows=10)
    run = RunFacts(RUN, "COMPLETED", {}, rows)
    for version in (facts(run=run, hyperparameters=own), facts(run=run)):
        # `submitted` makes another object of the same.
        found = submitted(version, S.APPROVED)
        for _ in range(3):
            assert found.status is S.APPROVED
            evaluation.outlook(policy(), found)

    assert (own.read, rows.read) == (2, 1)


@pytest.mark.parametrize("items", [[], [("data", R)], [("bias", A)], [("data", A), ("bias", P)]])
def test_the_checklist_belongs_to_the_content_once_it_was_decided(
    items: list[tuple[str, ChecklistStatus]],
) -> None:
    for status in (S.APPROVED, S.BYPASSED):
        assert replace(submitted(FULL, status), checklist=items).status is S.STALE
    for status in (S.PENDING, S.NEEDS_REVIEW):
        assert replace(submitted(FULL, status), checklist=items).status is status


# The automatic decision of requirement D3

ACCURACY = MetricRule("accuracy", at_least=0.75)
AUTOMATIC = AutomaticApprovalRule("accuracy", better_by=0.02, tolerance=0.01)


def decided(rules: list[Rule], found: Facts) -> tuple[S, str]:
    asked = policy(*rules)
    return evaluation.decide(asked, found, evaluation.validate(asked, found))


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (0.92, S.APPROVED, "at least 0.02 better."),
        (0.82, S.APPROVED, "at least 0.02 better."),
        (0.8199999999999998, S.APPROVED, "not worse."),
        (0.80, S.APPROVED, "not worse."),
        (0.7999999999999999, S.APPROVED, "not more than 0.01 worse."),
        (0.79, S.APPROVED, "not more than 0.01 worse."),
        (0.7899999999999999, S.NEEDS_REVIEW, "more than 0.01 worse."),
        (0.75, S.NEEDS_REVIEW, "more than 0.01 worse."),
    ],
)
def test_who_is_not_worse_than_production_is_approved(value: float, status: S, reason: str) -> None:
    found = facts(metrics={"accuracy": value}, baseline=production(accuracy=0.80))

    assert decided([ACCURACY, BaselineRule("accuracy", 0.05), AUTOMATIC], found) == (
        status,
        f"accuracy is {value}, and 0.8 for version 3 in production: {reason}",
    )


def test_who_fails_validation_is_rejected_with_every_reason() -> None:
    rules: list[Rule] = [ACCURACY, BaselineRule("accuracy", 0.05), AUTOMATIC]
    found = facts(metrics={"accuracy": 0.7499}, baseline=production(accuracy=0.80))

    assert decided(rules, found) == (
        S.REJECTED,
        "accuracy is 0.7499; at least 0.75 is required. accuracy is 0.7499, 0.0501 worse than "
        "that of version 3 in production; at most 0.05 worse is allowed.",
    )


def test_a_warning_rejects_nobody() -> None:
    size = DatasetFactRule("train_size", at_least=1000, severity=CheckSeverity.WARNING)
    found = facts(metrics={"accuracy": 0.8}, run=RunFacts(RUN, "COMPLETED", {}, {"train_size": 9}))

    status, _ = decided([ACCURACY, size, AUTOMATIC], found)
    report = evaluation.validate(policy(ACCURACY, size), found)

    assert status is S.APPROVED
    assert report.passed
    assert report.recommendations == ["Bring train_size to at least 1000."]


@pytest.mark.parametrize(
    ("metrics", "status", "reason"),
    [
        ({"accuracy": 0.75}, S.APPROVED, "all checks of performance passed."),
        ({}, S.NEEDS_REVIEW, "there are no figures to judge by."),
        ({"other": 1.0}, S.NEEDS_REVIEW, "there are no figures to judge by."),
    ],
)
def test_with_nothing_in_production_performance_decides(
    metrics: Mapping[str, float], status: S, reason: str
) -> None:
    assert decided([ACCURACY, AUTOMATIC], facts(metrics=metrics)) == (
        status,
        f"Nothing is in production, and {reason}",
    )


def test_performance_that_only_warns_is_for_people_when_nothing_is_in_production() -> None:
    rule = replace(ACCURACY, severity=CheckSeverity.WARNING)

    assert decided([rule, AUTOMATIC], facts(metrics={"accuracy": 0.7})) == (
        S.NEEDS_REVIEW,
        "Nothing is in production, and accuracy is 0.7; at least 0.75 is required.",
    )


@pytest.mark.parametrize(
    ("here", "there"), [({}, {"accuracy": 0.8}), ({"accuracy": 0.8}, {}), ({"accuracy": 0.8}, NAN)]
)
def test_what_cannot_be_compared_is_for_people(here: Any, there: Any) -> None:
    metrics = {"accuracy": there} if there is NAN else there
    found = facts(metrics=here, baseline=production(**metrics))

    assert decided([ACCURACY, AUTOMATIC], found) == (
        S.NEEDS_REVIEW,
        "accuracy cannot be compared with version 3 in production.",
    )


def test_less_may_be_better_in_the_automatic_decision_too() -> None:
    rule = AutomaticApprovalRule("loss", better_by=0.02, tolerance=0.01)
    for value, status in ((0.28, S.APPROVED), (0.31, S.APPROVED), (0.3101, S.NEEDS_REVIEW)):
        found = facts(metrics={"loss": value}, baseline=production(loss=0.30))
        assert decided([rule], found)[0] is status


def test_people_decide_where_the_policy_wants_them() -> None:
    good = facts(metrics={"accuracy": 0.9})

    assert decided([ACCURACY, AUTOMATIC, ApprovalsRule()], good) == (
        S.PENDING,
        "The policy wants 1 approval.",
    )
    assert decided([ACCURACY, AUTOMATIC, ApprovalsRule(2)], good) == (
        S.PENDING,
        "The policy wants 2 approvals.",
    )
    assert decided([ACCURACY], good) == (S.PENDING, "The policy decides nothing by itself.")
    assert decided([], good) == (S.PENDING, "The policy decides nothing by itself.")
    open_item = replace(good, checklist=[("data", P)])
    assert decided([ACCURACY, AUTOMATIC, ChecklistRule()], open_item) == (
        S.PENDING,
        "0 of 1 items of the checklist are APPROVED; open or rejected: “data”.",
    )
    # Whatever people are to say, what fails by itself is rejected.
    assert decided([ACCURACY, ApprovalsRule()], facts(metrics={"accuracy": 0.1}))[0] is S.REJECTED


# Reports and outlooks


def test_a_report_passes_unless_something_blocks() -> None:
    rules = [
        MetricRule("a", at_least=1, severity=severity)
        for severity in (CheckSeverity.WARNING, CheckSeverity.INFO)
    ]
    found = facts(metrics={"a": 0})

    report = evaluation.validate(policy(*rules), found)
    blocked = evaluation.validate(policy(*rules, MetricRule("a", at_least=2)), found)

    assert (report.passed, report.unmet, len(report.recommendations)) == (True, [], 2)
    assert (report.stage, report.policy_version, report.at) == (Stage.PRODUCTION, 2, NOW)
    assert not blocked.passed
    assert [check.message for check in blocked.unmet] == ["a is 0; at least 2 is required."]


def test_who_is_asked_says_what_is_in_a_report() -> None:
    rules = (ACCURACY, ChecklistRule(), ApprovalsRule(), AUTOMATIC)
    asked, found = policy(*rules), facts()

    assert [c.name for c in evaluation.validate(asked, found).checks] == ["accuracy"]
    assert [c.name for c in evaluation.review(asked, found).checks] == ["accuracy", "checklist"]
    everything = ["accuracy", "checklist", "approval"]
    assert [c.name for c in evaluation.evaluate(asked, found).checks] == everything
    assert [c.name for c in evaluation.of_approval(asked, found).checks] == ["approval"]
    staging = policy(ACCURACY, stage=Stage.STAGING)
    assert [c.name for c in evaluation.evaluate(staging, found).checks] == ["accuracy"]
    assert not evaluation.of_approval(staging, found).checks


def test_a_refusal_says_whether_only_an_approval_is_missing() -> None:
    asked = policy(ACCURACY)
    low, good = (facts(metrics={"accuracy": value}) for value in (0.7, 0.8))

    with pytest.raises(GateFailed) as failed:
        evaluation.enforce(asked, evaluation.evaluate(asked, low), low)
    with pytest.raises(ApprovalRequired) as required:
        evaluation.enforce(asked, evaluation.evaluate(asked, good), good)

    assert str(failed.value) == (
        "PRODUCTION is refused: accuracy is 0.7; at least 0.75 is required. Version 7 is "
        "NOT_SUBMITTED; submit it for approval first, with submitForApproval."
    )
    assert required.value.status is S.NOT_SUBMITTED
    for found in (submitted(good, S.APPROVED, "bob"), submitted(low, S.BYPASSED)):
        evaluation.enforce(asked, evaluation.evaluate(asked, found), found)
    # Nobody goes past it with a bypass of something else.
    changed = replace(submitted(low, S.BYPASSED), metrics={"accuracy": 0.6})
    with pytest.raises(GateFailed):
        evaluation.enforce(asked, evaluation.evaluate(asked, changed), changed)


@pytest.mark.parametrize(
    ("stage", "names", "way"),
    [
        (Stage.STAGING, ["accuracy", "approval"], None),
        (Stage.EXPERIMENTAL, ["stage", "accuracy", "approval"], "Move it to STAGING first."),
        (Stage.ARCHIVED, ["stage", "accuracy", "approval"], "Move it to STAGING first."),
        (Stage.PRODUCTION, ["stage"], None),
    ],
)
def test_an_outlook_names_all_that_stands_in_the_way_from_where_a_version_is(
    stage: Stage, names: list[str], way: str | None
) -> None:
    report = evaluation.outlook(policy(ACCURACY), facts(stage=stage, metrics={"accuracy": 0.1}))

    assert [check.name for check in report.unmet] == names
    assert report.checks[0].advice == (way if names[0] == "stage" else report.checks[0].advice)


def test_a_bypass_opens_the_gate_but_not_another_way() -> None:
    found = submitted(facts(metrics={"accuracy": 0.1}), S.BYPASSED)

    assert evaluation.outlook(policy(ACCURACY), found).passed
    archived = evaluation.outlook(policy(ACCURACY), replace(found, stage=Stage.ARCHIVED))
    assert [check.name for check in archived.unmet] == ["stage"]


# Rules as data


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (ACCURACY, "The metric accuracy is at least 0.75, where it is reported."),
        (
            MetricRule("ms", at_most=100, required=True, severity=CheckSeverity.WARNING),
            "The metric ms is at most 100. (WARNING)",
        ),
        (
            DatasetFactRule("rows", at_least=3, at_most=1e6),
            "The data-set fact rows is at least 3 and at most 1000000, where it is reported.",
        ),
        (
            HyperparameterRule("lr", at_most=0.1),
            "The hyperparameter lr is at most 0.1, where it is reported. (WARNING)",
        ),
        (
            BaselineRule("accuracy", 0.05),
            "The metric accuracy is at most 0.05 worse than in production, where both are "
            "reported.",
        ),
        (
            BaselineRule("accuracy", -0.1, relative=True, required=True),
            "The metric accuracy is at least 10 % better than in production.",
        ),
        (ChecklistRule(), "All items of the checklist are APPROVED."),
        (
            ChecklistRule(required=True, severity=CheckSeverity.INFO),
            "All items of the checklist are APPROVED, and there is at least one. (INFO)",
        ),
        (ApprovalsRule(), "1 person has approved, author and submitter not counted."),
        (
            ApprovalsRule(2, ("a", "b", "c")),
            "2 people among a, b, c have approved, author and submitter not counted.",
        ),
        (ArtifactDigestRule(), "The artifact has a path and a digest."),
        (RunCompletedRule(), "The version came out of a run that is COMPLETED."),
        (NoOpenDriftRule(), "No drift event from HIGH on is open."),
        (EvidenceAgeRule(30), "The newest metric is at most 30 days old."),
        (
            AUTOMATIC,
            "A submission is approved without a person when accuracy is at most 0.01 worse than "
            "in production; from 0.02 better on it is an improvement.",
        ),
    ],
)
def test_a_rule_says_what_it_wants_and_is_the_same_as_data(rule: Rule, said: str) -> None:
    assert gates.describe(rule) == said
    assert RULES.validate_python(RULES.dump_python((rule,), mode="json")) == (rule,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MetricRule("a"),
        lambda: MetricRule("a", at_least=1, at_most=0.5),
        lambda: MetricRule("a", at_least=NAN),
        lambda: DatasetFactRule("a", at_most=INFINITY),
        lambda: HyperparameterRule("a"),
        lambda: BaselineRule("a", NAN),
        lambda: ApprovalsRule(2, ("a",)),
        lambda: ApprovalsRule(2, ("a", "a")),
        lambda: AutomaticApprovalRule("a", INFINITY, 0),
        lambda: AutomaticApprovalRule("a", 0, NAN),
    ],
)
def test_a_rule_that_makes_no_sense_cannot_be_made(make: Any) -> None:
    with pytest.raises(ValueError, match=r"give a lower bound|must"):
        make()
