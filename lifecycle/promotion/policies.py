"""What an administrator does: say what has to be true before a version comes into a stage."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.commands import Command, Name, Text
from lifecycle.database import WriteSession
from lifecycle.errors import InvalidInput, NotFound, check_revision
from lifecycle.journal import service as journal
from lifecycle.promotion import repository, review, rules
from lifecycle.promotion.gates import AutomaticApprovalRule, BaselineRule, Rule, RuleKind
from lifecycle.promotion.repository import Rules
from lifecycle.promotion.tables import StagePolicyRow
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import Stage, usual_goal
from lifecycle.registry.tables import ModelRow
from lifecycle.runs.rules import MetricGoal

MAX_RULES = 100
# Of these a policy has one each, or none.
_ONCE = (RuleKind.APPROVALS, RuleKind.AUTOMATIC_APPROVAL, RuleKind.CHECKLIST)
_OF_APPROVAL = (RuleKind.APPROVALS, RuleKind.AUTOMATIC_APPROVAL)


class SetStagePolicy(Command):
    """A new version of a policy: of one model, or of all that have none of their own. Without rules
    a model follows the general policy again."""

    stage: Stage
    model_name: Name | None = None
    rules: Annotated[Rules, Field(max_length=MAX_RULES)] | None = None
    reason: Text | None = None
    expected_version: int | None = None


async def set_policy(
    session: WriteSession, origin: Origin, command: SetStagePolicy
) -> StagePolicyRow:
    """Make a new version of a policy, unless it would say the same. What was submitted or approved
    under the former one and has not reached production becomes STALE in the same transaction.

    Raises NotFound, InvalidInput, StaleRevision when the policy has another version by now, and
    Forbidden for everybody but administrators, of the model or of everything.
    """
    model_id = None
    if command.model_name is not None:
        model_id = (await _model(session, command.model_name)).id
    check(origin, Action.ADMINISTER, model_id, what="set a policy")
    _check_rules(command)
    await repository.hold_policies_alone(session, model_id)
    goals = {}
    if command.model_name is not None:
        goals = (await _model(session, command.model_name)).metric_goals
    given = None
    if command.rules is not None:
        given = tuple(_with_goal(rule, goals, index) for index, rule in enumerate(command.rules))
    last = await repository.last_policy(session, model_id, command.stage)
    version = last.version if last else 0
    check_revision(version, command.expected_version, ("expected_version",))
    wanted = None if given is None else repository.RULES.dump_python(given, mode="json")
    if last is None and given is None:
        general = await repository.last_policy(session, None, command.stage)
        assert general is not None
        return general
    if last is not None and repository.rules_of(last) == given:
        return last
    row = StagePolicyRow(
        model_id=model_id,
        stage=command.stage,
        version=version + 1,
        rules=wanted,
        reason=command.reason,
        created_by=origin.actor,
    )
    session.add(row)
    await session.flush()
    about = {"stage": row.stage, "model_name": command.model_name}
    await journal.append(
        session,
        origin,
        "stage_policy.set",
        row.id,
        before={"version": last.version, "rules": last.rules} if last else None,
        after={**about, "version": row.version, "rules": wanted, "policy_version": row.version},
        reason=command.reason,
    )
    if command.stage is Stage.PRODUCTION:
        # The general policy holds for models, too, that who sets it may not see.
        with session.seeing_everything():
            affected = await repository.bound_to_other_policies(session, model_id)
            why = f"The policy of PRODUCTION has changed; version {row.version} holds."
            await review.mark_all_stale(session, origin, affected, why)
    return row


async def _model(session: WriteSession, name: str) -> ModelRow:
    found = await registry.models_by_names(session, [name])
    if name not in found:
        raise NotFound("model", name, ("model_name",))
    return found[name]


def _with_goal(rule: Rule, goals: Mapping[str, MetricGoal], index: int) -> Rule:
    """Say which way is better, if nobody did: whoever changes the model's goals later must not turn
    the policy round, and who has changed them before not either. Raises InvalidInput."""
    if not isinstance(rule, BaselineRule | AutomaticApprovalRule) or rule.goal is not None:
        return rule
    usual, told = usual_goal(rule.key), goals.get(rule.key)
    if told not in (None, usual):
        raise InvalidInput(
            f"Give the goal of {rule.key}: by its name it is {usual}, but the model says {told}.",
            ("rules", index),
        )
    return replace(rule, goal=usual)


def _check_rules(command: SetStagePolicy) -> None:
    if command.stage not in rules.GUARDED:
        raise InvalidInput("Only STAGING and PRODUCTION can be guarded.", ("stage",))
    if command.rules is None:
        if command.model_name is None:
            raise InvalidInput("The general policy needs rules; none is [].", ("rules",))
        return
    for index, rule in enumerate(command.rules):
        if rule.kind in _OF_APPROVAL and command.stage is not Stage.PRODUCTION:
            raise InvalidInput(
                f"An approval is for PRODUCTION, and moves a version to {command.stage} itself: "
                f"{rule.kind} belongs in the policy of PRODUCTION.",
                ("rules", index),
            )
    for kind in _ONCE:
        if sum(rule.kind is kind for rule in command.rules) > 1:
            raise InvalidInput(f"A policy has one rule {kind} at most.", ("rules",))
