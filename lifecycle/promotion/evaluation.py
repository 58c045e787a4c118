"""A policy, and the one evaluation of its rules: facts in, report out, whoever asks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from lifecycle.access.rules import known_as
from lifecycle.errors import Path
from lifecycle.promotion.gates import (
    ApprovalRequired,
    ApprovalsRule,
    Automatic,
    AutomaticApprovalRule,
    Check,
    ChecklistRule,
    CheckSeverity,
    Facts,
    GateFailed,
    Report,
    Rule,
)
from lifecycle.promotion.rules import IN_FORCE, OPEN, STAGE, is_guarded
from lifecycle.registry.rules import ApprovalStatus, Stage

_DECIDES_NOTHING = "The policy decides nothing by itself."


@dataclass(frozen=True, slots=True)
class Policy:
    """What has to be true before a version comes into a stage, as of a version of the policy."""

    id: UUID
    stage: Stage
    version: int
    rules: tuple[Rule, ...]

    @property
    def approvals(self) -> ApprovalsRule | None:
        """The rule about the number of approvals, if there is one."""
        return next((rule for rule in self.rules if isinstance(rule, ApprovalsRule)), None)

    @property
    def automatic(self) -> AutomaticApprovalRule | None:
        """The rule about what is approved without a person, if there is one."""
        return next((rule for rule in self.rules if isinstance(rule, AutomaticApprovalRule)), None)

    @property
    def needed(self) -> int:
        """How many people must approve, where the automatic decision does not."""
        return self.approvals.count if self.approvals else 1


def unguarded(stage: Stage) -> Policy:
    """What holds for a stage that no policy guards."""
    return Policy(UUID(int=0), stage, 0, ())


def validate(policy: Policy, facts: Facts) -> Report:
    """What the policy finds without people: its checklist and its approvals are left out."""
    checks = [rule.check(facts) for rule in policy.rules if isinstance(rule, Automatic)]
    return Report(policy.stage, policy.version, checks, facts.now)


def review(policy: Policy, facts: Facts) -> Report:
    """What must be true when people have approved: what `validate` finds, and the checklist."""
    checks = [
        rule.check(facts) for rule in policy.rules if isinstance(rule, Automatic | ChecklistRule)
    ]
    return Report(policy.stage, policy.version, checks, facts.now)


def evaluate(policy: Policy, facts: Facts) -> Report:
    """All that stands between a version and a stage: what `review` finds, and for production the
    approval, whether the policy speaks of it or not."""
    checks = list(review(policy, facts).checks)
    if policy.stage is Stage.PRODUCTION:
        checks.append(approval_check(policy, facts))
    return Report(policy.stage, policy.version, checks, facts.now)


def of_approval(policy: Policy, facts: Facts) -> Report:
    """What is left of `evaluate` when only that the approval is in force counts, and that people
    have not said no to the same since."""
    checks = [_approval(None, facts, _overruled(facts))] if policy.stage is Stage.PRODUCTION else []
    return Report(policy.stage, policy.version, checks, facts.now)


def outlook(policy: Policy, facts: Facts) -> Report:
    """What `evaluate` finds for a version wherever it is now, and whether it may go there from its
    present stage."""
    stage = policy.stage
    checks = []
    if stage not in STAGE.following[facts.stage]:
        checks.append(_way(facts, stage))
    if facts.stage is not stage and is_guarded(facts.stage, stage):
        found = evaluate(policy, facts).checks
        if _is_past(policy, facts):
            found = [replace(each, severity=CheckSeverity.INFO) for each in found]
        checks += found
    return Report(stage, policy.version, checks, facts.now)


def _way(facts: Facts, stage: Stage) -> Check:
    following = STAGE.following[facts.stage]
    allowed = ", ".join(sorted(following))
    here = facts.stage is stage
    then = "" if here else f" Move it to {' or '.join(_ways(facts.stage, stage))} first."
    return Check(
        "stage",
        "stage",
        CheckSeverity.BLOCKING,
        False,
        facts.stage,
        {"stage": stage, "allowed": sorted(following)},
        f"Version {facts.version} is in {facts.stage}"
        + (" already." if here else f", from where it can go to {allowed}.{then}"),
        facts.itself,
        then.strip() or None,
    )


def _ways(current: Stage, wanted: Stage) -> list[Stage]:
    return sorted(each for each in STAGE.following[current] if wanted in STAGE.following[each])


def approval_check(policy: Policy, facts: Facts) -> Check:
    """Whether the version's approval is in force, by enough people, or without people as the policy
    would still decide, and people have not thought otherwise since."""
    rule = None if _goes_past(policy, facts) else policy.approvals
    return _approval(rule, facts, _doubt(policy, facts))


def _approval(rule: ApprovalsRule | None, facts: Facts, doubt: str | None) -> Check:
    approval, status = facts.approval, facts.status
    people = eligible(rule, facts, approval.approved_by) if approval else []
    enough = rule is None or len(people) >= rule.count
    passed = status in IN_FORCE and enough and doubt is None
    said = f"Version {facts.version} is {status}"
    if status in IN_FORCE and not enough and rule:
        said += f", but by {len(people)} of the {rule.count} people who have to approve it"
    elif doubt is not None:
        said += f", but {doubt}"
    return Check(
        "approval",
        "approval",
        CheckSeverity.BLOCKING,
        passed,
        {"status": status, "approvedBy": people},
        {"status": ApprovalStatus.APPROVED, "approvals": rule.count if rule else None},
        f"{said}." if passed else f"{said}; {_next_step(status)}",
        facts.itself,
        None if passed else _next_step(status)[0].upper() + _next_step(status)[1:],
    )


def _doubt(policy: Policy, facts: Facts) -> str | None:
    """Why what was approved would not be so now: people may have rejected the same as another
    version; and where nobody has approved it, another version may be in production than then, or
    another policy in force."""
    approval = facts.approval
    if approval is None or facts.status not in IN_FORCE:
        return None
    overruled = _overruled(facts)
    if overruled or approval.approved_by or _goes_past(policy, facts):
        return overruled
    reason = _DECIDES_NOTHING
    if policy.automatic is not None:
        status, reason = policy.automatic.decide(facts, validate(policy, facts))
        if status is ApprovalStatus.APPROVED:
            return None
    return (
        f"without a person, and now the policy would leave it to people: {reason.removesuffix('.')}"
    )


def _goes_past(policy: Policy, facts: Facts) -> bool:
    """Whether an administrator has decided to go past this policy: of PRODUCTION past none that was
    set since."""
    approval = facts.approval
    return (
        approval is not None
        and facts.status is ApprovalStatus.BYPASSED
        and (policy.stage is not Stage.PRODUCTION or approval.policy_id == policy.id)
    )


def _is_past(policy: Policy, facts: Facts) -> bool:
    """Whether an administrator has decided so, and people have not said no to the same since."""
    return _goes_past(policy, facts) and _overruled(facts) is None


def _overruled(facts: Facts) -> str | None:
    if facts.approval is None or facts.approval.refused_as is None:
        return None
    return (
        "nobody has approved what it is since the same, as version "
        f"{facts.approval.refused_as}, was rejected or taken back, or drift opened a review of it"
    )


def _next_step(status: ApprovalStatus) -> str:
    if status in OPEN:
        return "somebody who may approve it has to decide, with decideApproval."
    return "submit it for approval first, with submitForApproval."


def enforce(policy: Policy, report: Report, facts: Facts, path: Path = ("model_version",)) -> None:
    """By what the policy has found, raise GateFailed, or ApprovalRequired when an approval is all
    that is missing, unless nothing stands in the way or an administrator has decided to go past it.
    `path` is what in the input asks for it."""
    unmet = report.unmet
    if not unmet or _is_past(policy, facts):
        return
    if [check.category for check in unmet] == ["approval"]:
        raise ApprovalRequired(facts.status, report, path)
    raise GateFailed(report, path)


def eligible(rule: ApprovalsRule | None, facts: Facts, people: Sequence[str]) -> list[str]:
    """Those among the people whose approval counts, each once."""
    submitter = [facts.approval.submitted_by] if facts.approval else []
    barred = set(map(known_as, [facts.author, *submitter]))
    named = set(map(known_as, rule.approvers)) if rule and rule.approvers else None
    return [
        each
        for each in dict.fromkeys(map(known_as, people))
        if each not in barred and (named is None or each in named)
    ]


def decide(policy: Policy, facts: Facts, report: Report) -> tuple[ApprovalStatus, str]:
    """The automatic decision about a submission and its reason; `report` is what `validate` found.

    Figures of D3: see AutomaticApprovalRule. What cannot be judged is left to people.
    """
    if not report.passed:
        return ApprovalStatus.REJECTED, " ".join(check.message for check in report.unmet)
    if policy.approvals:
        count = policy.approvals.count
        return (
            ApprovalStatus.PENDING,
            f"The policy wants {count} approval{'s' if count > 1 else ''}.",
        )
    unfinished = [check.message for check in review(policy, facts).unmet]
    if unfinished:
        return ApprovalStatus.PENDING, " ".join(unfinished)
    if policy.automatic is None:
        return ApprovalStatus.PENDING, _DECIDES_NOTHING
    return policy.automatic.decide(facts, report)
