"""What moves a version along: registration, stages, deletion.

Whoever changes a stage holds the model's row first and then the versions', in order of id, so
that the stages of one model change one after the other.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.commands import Name, Text
from lifecycle.database import ReadSession, WriteSession, together
from lifecycle.errors import Conflict, InUse, NotFound, Path, check_revision
from lifecycle.journal import service as journal
from lifecycle.promotion import evaluation, repository, rules
from lifecycle.promotion.evaluation import Policy
from lifecycle.promotion.gates import Facts, Report
from lifecycle.promotion.rules import IN_FORCE, StageCause
from lifecycle.promotion.tables import (
    ChecklistItemRow,
    StageAssignmentRow,
    ValidationReportRow,
)
from lifecycle.registry import repository as registry
from lifecycle.registry import service as registry_service
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.registry.service import ChangeOfVersion, RegisterModelVersion
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.statements import looking_at, to_json


class SetStage(ChangeOfVersion):
    """Ask for another stage."""

    stage: Stage
    reason: Text | None = None
    dry_run: bool = False
    expected_in_production: Name | None = None


class DeleteModelVersion(ChangeOfVersion):
    """Take a version out of the registry."""

    reason: Text | None = None


async def register(
    session: WriteSession, origin: Origin, command: RegisterModelVersion
) -> ModelVersionRow:
    """Register a version, with its first stage and its checklist.

    Raises AlreadyExists, NotFound, InvalidInput, Forbidden.
    """
    await registry_service.hold_run(session, origin, command)
    model = await registry_service.ensure_model(session, origin, command.model_name)
    now = await repository.moment(session, model.id)
    version = await registry_service.add_version(
        session, origin, model, command, Stage.EXPERIMENTAL, now
    )
    session.add(_entry(version, version.stage, origin, StageCause.REGISTERED, None, now))
    session.add_all(
        ChecklistItemRow(
            model_version_id=version.id, place=place, title=title, created_by=origin.actor
        )
        for place, title in enumerate(command.checklist, 1)
    )
    await session.flush()
    return version


async def set_stage(session: WriteSession, origin: Origin, command: SetStage) -> StageAssignmentRow:
    """Move a version to another stage; what it replaces in production is archived with it.

    Raises NotFound, StaleRevision, InvalidTransition, GateFailed, ApprovalRequired, Conflict when
    another version is in production than was expected, and Forbidden for whoever may not move it
    there, or out of production.
    """
    await repository.hold_policies(session)
    version = await registry_service.row_with_model(session, command.model_version)
    _check_may_move(origin, version, command.stage)
    await _check_expected(session, version, command)
    return await move(session, origin, version, command.stage, StageCause.REQUESTED, command.reason)


def _check_may_move(origin: Origin, version: ModelVersionRow, stage: Stage) -> None:
    """Raise Forbidden for whoever may not move it there, or out of production."""
    out_of = {version.stage} & {Stage.PRODUCTION}
    for each in (*out_of, stage):
        check(origin, Action.MOVE, version.model_id, stage=each)


async def _check_expected(
    session: ReadSession, version: ModelVersionRow, command: SetStage
) -> None:
    """Raise StaleRevision or Conflict unless things are as the caller saw them."""
    check_revision(version.revision, command.expected_revision)
    expected = command.expected_in_production
    if expected is not None:
        found = [row.version for row in await _holder(session, version)]
        if found != [expected]:
            there = f"version {found[0]}" if found else "nothing"
            raise Conflict(
                f"Version {expected} was expected in PRODUCTION, but {there} is there now.",
                ("expected_in_production",),
            )


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What `set_stage` would do: which version would be displaced, and what its policy finds."""

    version_id: UUID
    displaced: Sequence[UUID]
    report: Report | None


async def rehearse(session: ReadSession, origin: Origin, command: SetStage) -> Rehearsal:
    """Do all of `set_stage` but the change itself. Raises what it raises."""
    version = await registry.find(session, command.model_version)
    if version is None:
        raise NotFound("version", command.model_version, ("model_version",))
    _check_may_move(origin, version, command.stage)
    await _check_expected(session, version, command)
    rules.check_move(version.stage, command.stage, StageCause.REQUESTED)
    report = None
    if rules.is_guarded(version.stage, command.stage):
        policy, facts = await judged_by(session, version, command.stage)
        found = evaluation.evaluate(policy, facts)
        evaluation.enforce(policy, found, facts)
        report = found if found.checks else None
    displaced = []
    if command.stage is Stage.PRODUCTION:
        displaced = [row.id for row in (await _holder(session, version))]
    return Rehearsal(version.id, displaced, report)


async def why_not(
    session: ReadSession, version_ids: Sequence[UUID], stage: Stage
) -> dict[UUID, Report]:
    """What stands between each version and a stage; nothing when `set_stage` would move it."""
    versions = list((await registry.versions_by_ids(session, version_ids)).values())
    facts = await repository.facts(session, versions)
    policies = {}
    if stage in rules.GUARDED:
        models = [version.model_id for version in versions]
        policies = await repository.policies_in_force(session, models, stage)
    found = {}
    for version in versions:
        await asyncio.sleep(0)  # see `repository.contents`
        row = policies.get(version.model_id)
        policy = repository.policy_of(row) if row else evaluation.unguarded(stage)
        found[version.id] = evaluation.outlook(policy, facts[version.id])
    return found


async def move(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    stage: Stage,
    cause: StageCause,
    reason: str | None,
) -> StageAssignmentRow:
    """Move a version that the caller has locked by `lock_for_move`: the one door to a stage.

    Upwards it leads past the stage's policy, and into production only with an approval in force,
    whatever the cause; a rollback needs nothing else where there is one, and leads into production
    to nothing that was not there before. A version that is displaced from production is archived in
    the same moment.

    Raises InvalidTransition, GateFailed, ApprovalRequired, Conflict.
    """
    rules.check_move(version.stage, stage, cause)
    moment, displaced, judged = await together(
        session,
        [
            lambda session: repository.moment(session, version.model_id),
            lambda session: _making_way(session, version, stage),
            lambda session: _judged_by(session, version, stage),
        ],
    )
    approval_id = report = None
    if judged is not None:
        policy, facts = judged
        back = cause is StageCause.ROLLED_BACK
        if back and stage is Stage.PRODUCTION:
            await _check_was_there(session, version, facts)
        # What is approved has passed the policy of STAGING.
        passed = back and (stage is Stage.PRODUCTION or facts.status in IN_FORCE)
        found = (evaluation.of_approval if passed else evaluation.evaluate)(policy, facts)
        evaluation.enforce(policy, found, facts, ("id",) if back else ("model_version",))
        if found.checks:
            report = _report(origin, version, policy, found)
        if stage is Stage.PRODUCTION and facts.approval:
            approval_id = facts.approval.id
        cause = _said_openly(cause, facts)
    pushed_out = [
        await _record(
            session,
            origin,
            row,
            Stage.ARCHIVED,
            StageCause.DISPLACED,
            f"Displaced by version {version.version}.",
            moment,
        )
        for row in displaced
    ]
    entry = await _record(
        session, origin, version, stage, cause, reason, moment, approval_id, report
    )
    for each in pushed_out:
        each.replaced_by_id = entry.id
    await repository.enter(session, [entry, *pushed_out], report, moment)
    return entry


async def _check_was_there(session: ReadSession, version: ModelVersionRow, facts: Facts) -> None:
    """Raise Conflict if a version has become something else since it was in production: what never
    was there is promoted, by whoever may, and not brought back."""
    if not await repository.was_in_production(session, version.id, facts.evidence_digest):
        raise Conflict(
            f"Version {version.version} is not what was in PRODUCTION any more; move it there with "
            "setStage first.",
            ("id",),
        )


async def _making_way(
    session: ReadSession, version: ModelVersionRow, stage: Stage
) -> list[ModelVersionRow]:
    """What is displaced when a version comes into a stage."""
    if stage is not Stage.PRODUCTION:
        return []
    with looking_at("model_name", "version", "stage", "stage_changed_at"):
        return await _holder(session, version)


async def _judged_by(
    session: ReadSession, version: ModelVersionRow, stage: Stage
) -> tuple[Policy, Facts] | None:
    """What `judged_by` says; None when nothing guards the way to a stage."""
    if not rules.is_guarded(version.stage, stage):
        return None
    return await judged_by(session, version, stage)


def _said_openly(cause: StageCause, facts: Facts) -> StageCause:
    """Who comes in past the policy is seen to."""
    if facts.status is ApprovalStatus.BYPASSED and cause is not StageCause.ROLLED_BACK:
        return StageCause.BYPASSED
    return cause


async def judged_by(
    session: ReadSession, version: ModelVersionRow, stage: Stage
) -> tuple[Policy, Facts]:
    """The policy that guards a stage for a version, and what it looks at: as locked as the caller
    holds them."""
    policies, facts = await together(
        session,
        [
            lambda session: repository.policies_in_force(session, [version.model_id], stage),
            lambda session: repository.facts(session, [version]),
        ],
    )
    return repository.policy_of(policies[version.model_id]), facts[version.id]


async def check_approved(session: WriteSession, version: ModelVersionRow, path: Path) -> None:
    """Raise ApprovalRequired unless the approval of a version, which the caller has locked, is in
    force, and people have not said no to the same since. `path` is what in the input asks for it.
    """
    policy, facts = await judged_by(session, version, Stage.PRODUCTION)
    evaluation.enforce(policy, evaluation.of_approval(policy, facts), facts, path)


async def store_report(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    policy: Policy,
    report: Report,
) -> ValidationReportRow:
    """Keep what a policy found about a version."""
    row = _report(origin, version, policy, report)
    session.add(row)
    await session.flush()
    return row


def _report(
    origin: Origin, version: ModelVersionRow, policy: Policy, report: Report
) -> ValidationReportRow:
    return ValidationReportRow(
        id=uuid7(),
        model_version_id=version.id,
        stage=report.stage,
        policy_id=policy.id,
        policy_version=policy.version,
        passed=report.passed,
        checks=orjson.loads(to_json(report.checks)),
        recommendations=report.recommendations,
        created_by=origin.actor,
        created_at=report.at,
    )


async def delete(
    session: WriteSession, origin: Origin, command: DeleteModelVersion
) -> ModelVersionRow:
    """Delete a version: from then on it is in no stage; its history and name stay.

    Raises NotFound, StaleRevision, InUse, Forbidden.
    """
    version = await registry_service.locked_with_model(session, command.model_version)
    check(origin, Action.CHANGE, version.model_id)
    check_revision(version.revision, command.expected_revision)
    path = ("model_version",)
    if version.live_deployments:
        raise InUse(
            f"Version {version.version} is deployed; terminate its deployments first.", path
        )
    if version.stage is Stage.PRODUCTION:
        raise InUse(f"Version {version.version} is in PRODUCTION; move it to ARCHIVED first.", path)
    if version.stage is not Stage.ARCHIVED:
        _check_may_move(origin, version, Stage.ARCHIVED)
        await move(session, origin, version, Stage.ARCHIVED, StageCause.REQUESTED, command.reason)
    moment = await repository.moment(session, version.model_id)
    await repository.leave(session, version.id, moment)
    await journal.change(
        session,
        origin,
        version,
        {"deleted_at": moment},
        type="model_version.deleted",
        about={"model_name": version.model_name, "version": version.version},
        reason=command.reason,
    )
    return version


async def lock_for_move(
    session: WriteSession, model_id: UUID, ids: Iterable[UUID]
) -> dict[UUID, ModelVersionRow]:
    """A model, some of its versions and the one in production, held in the order that this module
    keeps to."""
    await registry.lock_model(session, model_id)
    holder = await registry.in_production(session, model_id)
    return await registry.lock_versions(session, [*ids, *([holder] if holder else [])])


async def _holder(session: ReadSession, version: ModelVersionRow) -> list[ModelVersionRow]:
    """The version that makes way in production, if there is one."""
    return list((await registry.holders(session, [version.model_id])).values())


async def _record(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    stage: Stage,
    cause: StageCause,
    reason: str | None,
    moment: datetime,
    approval_id: UUID | None = None,
    report: ValidationReportRow | None = None,
) -> StageAssignmentRow:
    """Change the stage of a version. Returns the next entry in its history, which the caller
    stores."""
    await journal.change(
        session,
        origin,
        version,
        {"stage": stage, "stage_changed_at": moment},
        type="model_version.stage_changed",
        about={
            "model_name": version.model_name,
            "version": version.version,
            "cause": cause,
            "approval_id": approval_id,
            "report_id": report.id if report else None,
            "policy_version": report.policy_version if report else None,
        },
        reason=reason,
    )
    entry = _entry(version, stage, origin, cause, reason, moment)
    entry.follows = moment
    entry.approval_id = approval_id
    entry.report_id = report.id if report else None
    return entry


def _entry(
    version: ModelVersionRow,
    stage: Stage,
    origin: Origin,
    cause: StageCause,
    reason: str | None,
    now: datetime,
) -> StageAssignmentRow:
    return StageAssignmentRow(
        id=uuid7(),
        model_id=version.model_id,
        model_version_id=version.id,
        stage=stage,
        valid_from=now,
        actor=origin.actor,
        reason=reason,
        cause=cause,
    )
