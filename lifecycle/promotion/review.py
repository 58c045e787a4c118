"""What people and the policy say about a version before it goes on: checklist, validation,
submission, decision.

A decision is bound to what was decided on. Whoever changes that does so through here: in the same
transaction the approval becomes STALE, and approved items of the checklist are PENDING again. An
approval changes under its version's lock only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import SYSTEM, Action
from lifecycle.commands import Command, Line, Text
from lifecycle.database import WriteSession, clock
from lifecycle.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidTransition,
    NotFound,
    check_revision,
)
from lifecycle.journal import service as journal
from lifecycle.promotion import evaluation, repository, rules
from lifecycle.promotion.evaluation import Policy
from lifecycle.promotion.gates import Facts, GateFailed
from lifecycle.promotion.rules import (
    APPROVAL,
    ENDED,
    IN_FORCE,
    OPEN,
    ChecklistStatus,
    Decision,
    StageCause,
)
from lifecycle.promotion.service import judged_by, move, store_report
from lifecycle.promotion.tables import (
    ApprovalDecisionRow,
    ApprovalRow,
    ChecklistItemRow,
    ValidationReportRow,
)
from lifecycle.registry import repository as registry
from lifecycle.registry import service as registry_service
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.registry.service import ChangeOfVersion, UpdateModelVersion
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs import service as runs_service
from lifecycle.runs.service import UpdateRun
from lifecycle.runs.tables import RunRow

# Those of the names under which whoever is behind the actor can act, too.
SamePeople = Callable[[WriteSession, str, Collection[str]], Awaitable[frozenset[str]]]

MAX_ITEMS = 200
_MARKED_AT_ONCE = 500
POLICY = "system:policy"


class AppendChecklistItem(ChangeOfVersion):
    """One more thing to check."""

    title: Line


class MarkChecklistItem(Command):
    """Decide an item, or open it again."""

    id: UUID
    status: ChecklistStatus
    note: Text | None = None
    expected_revision: int | None = None


class ValidateModelVersion(Command):
    """Ask the policy of a stage about a version."""

    model_version: VersionSelector
    stage: Stage = Stage.PRODUCTION


class SubmitForApproval(ChangeOfVersion):
    """Ask for an approval."""

    notes: Text | None = None


class DecideApproval(ChangeOfVersion):
    """Say something to a submission."""

    decision: Decision
    notes: Text | None = None


class WithdrawApproval(ChangeOfVersion):
    """Take a submission or an approval back."""

    notes: Text | None = None


async def append_item(
    session: WriteSession, origin: Origin, command: AppendChecklistItem
) -> ChecklistItemRow:
    """Add an item at the end of a version's checklist.

    Raises NotFound, StaleRevision, Forbidden, Conflict when the list is full.
    """
    version = await registry_service.locked(session, command.model_version)
    check(origin, Action.REVIEW, version.model_id)
    check_revision(version.revision, command.expected_revision)
    place = await repository.last_place(session, version.id) + 1
    if place > MAX_ITEMS:
        raise Conflict(f"A checklist has at most {MAX_ITEMS} items.", ("title",))
    item = ChecklistItemRow(
        model_version_id=version.id, place=place, title=command.title, created_by=origin.actor
    )
    session.add(item)
    await session.flush()
    await _item_changed(session, origin, version, item, "model_version.checklist_item_appended")
    await recheck(session, origin, [version], f"“{item.title}” was added to its checklist.")
    return item


async def mark_item(
    session: WriteSession,
    origin: Origin,
    command: MarkChecklistItem,
    same_people: SamePeople | None = None,
) -> ChecklistItemRow:
    """Approve or reject an item, or set it back to PENDING. `same_people` is as in `decide`.

    Raises NotFound, StaleRevision, and Forbidden for whoever may not, or would approve an item of
    what they have registered, submitted or changed.
    """
    item = await repository.item(session, command.id)
    if item is None:
        raise NotFound("checklist item", "with this id")
    id = item.model_version_id
    version = (await registry.lock_versions(session, [id]))[id]
    if version.deleted_at is not None:
        raise NotFound("checklist item", "with this id")
    check(origin, Action.DECIDE, version.model_id)
    check_revision(version.revision, command.expected_revision)
    item = await repository.item(session, command.id)
    assert item is not None
    if (item.status, item.note) == (command.status, command.note):
        return item
    if command.status is ChecklistStatus.APPROVED:
        assert same_people is not None
        submitted = await repository.present_approval(session, id)
        submitters = []
        if submitted is not None and submitted.status in OPEN:
            submitters = await _stand_for(session, submitted)
        own = await _authors(session, version, submitters)
        mine = await same_people(session, origin.actor, [name for name, _ in own])
        _check_not_own(origin, mine, own, "approve items of its checklist")
    await _mark(session, origin, version, item, command.status, command.note)
    why = f"“{item.title}” of its checklist is {item.status}."
    await recheck(session, origin, [version], why)
    return item


async def _mark(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    item: ChecklistItemRow,
    status: ChecklistStatus,
    note: str | None,
    why: str | None = None,
) -> None:
    before = {"status": item.status, "note": item.note}
    now = await clock(session)
    decided = status is not ChecklistStatus.PENDING
    item.status, item.note = status, note
    item.decided_by = origin.actor if decided else None
    item.decided_at = now if decided else None
    await session.flush()
    type = "model_version.checklist_item_marked"
    await _item_changed(session, origin, version, item, type, before, why)


async def validate(
    session: WriteSession, origin: Origin, command: ValidateModelVersion
) -> ValidationReportRow:
    """Keep what the policy of a stage finds about a version without people.

    Raises NotFound, Forbidden, InvalidInput when the stage has no policy.
    """
    if command.stage not in rules.GUARDED:
        raise InvalidInput(f"{command.stage} is guarded by no policy.", ("stage",))
    await repository.hold_policies(session)
    version = await registry_service.locked_with_model(session, command.model_version)
    check(origin, Action.REVIEW, version.model_id)
    policy, facts = await judged_by(session, version, command.stage)
    report = evaluation.validate(policy, facts)
    row = await store_report(session, origin, version, policy, report)
    await journal.append(
        session,
        origin,
        "model_version.validated",
        version.id,
        after={
            **_about(version),
            "stage": report.stage,
            "passed": report.passed,
            "report_id": row.id,
            "policy_version": policy.version,
        },
    )
    return row


async def submit(
    session: WriteSession,
    origin: Origin,
    command: SubmitForApproval,
    same_people: SamePeople | None = None,
) -> ApprovalRow:
    """Validate a version and decide, as far as the policy decides by itself; what was submitted
    before is superseded. Once people have rejected it as it is, or their approval was taken back,
    or drift has opened a review, and where the submitter has approved items of the checklist,
    people decide next. An approval moves the version to STAGING. `same_people` is as in `decide`.

    Raises NotFound, StaleRevision, Conflict when an approved version is in production already,
    GateFailed when the policy of STAGING refuses it, and Forbidden for whoever may not, or would
    supersede what others have submitted, as `withdraw` does, unless it is in PRODUCTION and
    overruled.
    """
    await repository.hold_policies(session)
    version = await registry_service.locked_with_model(session, command.model_version)
    check(origin, Action.CHANGE, version.model_id)
    check_revision(version.revision, command.expected_revision)
    in_force = version.approval_status in IN_FORCE
    holds = in_force and version.stage is Stage.PRODUCTION
    overruled = holds and await _overruled(session, version)
    if holds and not overruled:
        raise Conflict(
            f"Version {version.version} is in PRODUCTION, and {version.approval_status}.",
            ("model_version",),
        )
    former = await repository.present_approval(session, version.id)
    # What is overruled in PRODUCTION has no other way, and who has submitted it may have left.
    if (
        former is not None
        and former.status in OPEN | IN_FORCE
        and not overruled
        and not former.submitted_by.startswith(SYSTEM)
    ):
        _check_own(origin, version, former, "supersede what others have submitted and decided")
    await _name_artifact(session, origin, version)
    policy, facts = await judged_by(session, version, Stage.PRODUCTION)
    report = evaluation.validate(policy, facts)
    status, reason = evaluation.decide(policy, facts, report)
    if status is ApprovalStatus.APPROVED and await repository.waits_for_people(
        session, version, facts.evidence_digest
    ):
        status = ApprovalStatus.NEEDS_REVIEW
        reason = (
            "Since it was rejected or taken back, or drift opened a review of it, nobody has "
            "approved it."
        )
    if status is ApprovalStatus.APPROVED and facts.checklist:
        assert same_people is not None
        items = (await repository.checklists(session, [version.id]))[version.id]
        deciders = {item.decided_by for item in items if item.decided_by is not None}
        if await same_people(session, origin.actor, deciders):
            status = ApprovalStatus.NEEDS_REVIEW
            reason = "Whoever submits it has decided items of its checklist."
    stored = await store_report(session, origin, version, policy, report)
    approval = await _new(session, origin, version, policy, facts, status)
    approval.reason = reason
    approval.submission_notes = command.notes
    approval.report_id = stored.id
    if status not in OPEN:
        approval.decided_by, approval.decided_at = POLICY, approval.submitted_at
    await _changed(session, origin, version, approval, "approval_submitted", command.notes)
    if status is ApprovalStatus.APPROVED:
        await _let_on(session, origin, version, approval, reason)
    return approval


async def _overruled(session: WriteSession, version: ModelVersionRow) -> bool:
    return version.id in await repository.overruled(session, [version.id])


async def decide(
    session: WriteSession,
    origin: Origin,
    command: DecideApproval,
    same_people: SamePeople | None = None,
) -> ApprovalRow:
    """Approve or reject what was submitted, or, as an administrator, let a version go past the
    policy. The last approval that is needed, and a bypass, move the version to STAGING.
    `same_people` tells which names stand for the same people as the actor's; to approve without is
    a bug.

    Raises NotFound, StaleRevision, InvalidTransition, Conflict when the actor has approved it
    already or nobody has submitted what it is now, GateFailed when the policy is not met any more,
    InvalidInput when a bypass has no notes, and Forbidden for whoever may not decide so.
    """
    await repository.hold_policies(session)
    version = await registry_service.locked_with_model(session, command.model_version)
    if command.decision is Decision.BYPASS:
        what = "go past a policy with BYPASS"
        check(origin, Action.ADMINISTER, version.model_id, what=what)
    else:
        check(origin, Action.DECIDE, version.model_id)
    check_revision(version.revision, command.expected_revision)
    policy, facts = await judged_by(session, version, Stage.PRODUCTION)
    if command.decision is Decision.BYPASS:
        return await _bypass(session, origin, version, policy, facts, command)
    approved = command.decision is Decision.APPROVE
    outcome = ApprovalStatus.APPROVED if approved else ApprovalStatus.REJECTED
    approval = await repository.present_approval(session, version.id)
    if approval is None or facts.approval is None or approval.status not in OPEN:
        raise _nothing_to_decide(facts.status, outcome)
    stored = None
    if approved:
        assert same_people is not None
        await _check_stood_for(session, version, approval)
        own = await _authors(session, version, await _stand_for(session, approval))
        names = [*facts.approval.approved_by, *(name for name, _ in own)]
        # Once the version is locked, so that no name comes in between.
        mine = await same_people(session, origin.actor, names)
        _check_may_approve(origin, mine, policy, facts, own)
        people = evaluation.eligible(
            policy.approvals, facts, [*facts.approval.approved_by, origin.actor]
        )
        last = len(people) >= policy.needed
        report = (evaluation.review if last else evaluation.validate)(policy, facts)
        if not report.passed:
            raise GateFailed(report)
        stored = await store_report(session, origin, version, policy, report)
        if not last:
            outcome = approval.status
    now = await repository.said_at(session, version.model_id)
    # Who has approved may still reject: the last word of each counts, the journal keeps the others.
    await session.merge(_said(approval, origin, command, now))
    approval.status, approval.notes = outcome, command.notes
    if outcome not in OPEN:
        approval.decided_by, approval.decided_at = origin.actor, now
        approval.checklist_digest = facts.checklist_digest
        approval.policy_id, approval.policy_version = policy.id, policy.version
    if stored is not None:
        approval.report_id = stored.id
    await _changed(
        session,
        origin,
        version,
        approval,
        "approval_decided",
        command.notes,
        decision=command.decision,
    )
    if outcome is ApprovalStatus.APPROVED:
        await _let_on(session, origin, version, approval, command.notes)
    return approval


async def withdraw(session: WriteSession, origin: Origin, command: WithdrawApproval) -> ApprovalRow:
    """Take a submission or an approval back.

    Raises NotFound, StaleRevision, InvalidTransition, Conflict while the version is in production,
    and Forbidden for everybody but its submitter, who decided it or, where the policy did, may
    decide, the version's author, and administrators.
    """
    version = await registry_service.locked_with_model(session, command.model_version)
    check(origin, Action.REVIEW, version.model_id)
    check_revision(version.revision, command.expected_revision)
    approval = await repository.present_approval(session, version.id)
    wanted = ApprovalStatus.WITHDRAWN
    if approval is None:
        raise InvalidTransition(version.approval_status, wanted, (), ("model_version",))
    APPROVAL.check(approval.status, wanted, ("model_version",))
    if version.stage is Stage.PRODUCTION:
        raise Conflict(
            f"Version {version.version} is in PRODUCTION; move it to STAGING or ARCHIVED first.",
            ("model_version",),
        )
    may_decide = origin.rights.may(Action.DECIDE, version.model_id)
    if not (may_decide and (approval.decided_by or "").startswith(SYSTEM)):
        _check_own(origin, version, approval, "withdraw what others have submitted and decided")
    # Who may not decide thinks better of their own; others may still have the same approved.
    now = await repository.said_at(session, version.model_id)
    if approval.status in IN_FORCE and may_decide:
        approval.overruled_at = now
    approval.status, approval.withdrawn_at = wanted, now
    if approval.decided_by is None:
        approval.notes = command.notes
    await _changed(session, origin, version, approval, "approval_withdrawn", command.notes)
    return approval


async def update_version(
    session: WriteSession, origin: Origin, command: UpdateModelVersion
) -> ModelVersionRow:
    """Change a version; if that is not what was approved, its approval becomes STALE.

    Raises NotFound, StaleRevision, InvalidInput, Forbidden.
    """
    version = await registry_service.locked(session, command.model_version)
    check(origin, Action.CHANGE, version.model_id)
    check_revision(version.revision, command.expected_revision)
    confirmed = await _confirmed(session, [version])
    await registry_service.update_version(session, origin, version, command)
    why = f"Version {version.version} was changed."
    await recheck(session, origin, [version], why, confirmed)
    return version


async def update_run(session: WriteSession, origin: Origin, command: UpdateRun) -> RunRow:
    """Take a report about a run; if that changes what versions were approved on, their approvals
    become STALE. Raises what `runs.service.update` raises, and Conflict when it would change what
    the lineage says of what has been in production."""
    if not command.model_fields_set & {"dataset_facts", "params"}:
        return await runs_service.update(session, origin, command)
    # First, whether they may: a run may have many versions.
    row = await runs_service.locked(session, origin, command.id)
    before, data_set_id = [row.params, row.dataset_facts], row.data_set_id
    # Those of other models, too, which the writer of the run may not see.
    with session.seeing_everything():
        found = (await registry.versions_of_runs(session, [command.id])).get(command.id, [])
        locked = await registry.lock_versions(session, [version.id for version in found])
        confirmed = await _confirmed(session, list(locked.values()))
    run = await runs_service.update(session, origin, command)
    if journal.same([run.params, run.dataset_facts], before):
        return run
    with session.seeing_everything():
        if data_set_id != run.data_set_id:
            await _check_may_change_data_set(session, origin, run)
        versions = list(locked.values())
        for version in versions:
            # Who has looked at it has not looked at this.
            version.revision += 1
        why = "The run that it came out of was changed."
        await recheck(session, origin, versions, why, confirmed)
    return run


async def _check_may_change_data_set(session: WriteSession, origin: Origin, run: RunRow) -> None:
    """Raise Conflict once something that came out of a run has been in production: who asks what is
    live because of its data has to find it, and nothing else, for ever. What was named falsely, or
    not at all, is put right by people who administrate everything. That a version of it is approved
    is not enough, because with other facts it is not any more, and does not go on; what came out of
    one of its parts is approved still."""
    if origin.administrator and not origin.actor.startswith(SYSTEM):
        return
    if await repository.run_counts_in_production(session, run.id):
        raise Conflict(
            "A version of this run, or of its parts, has been in PRODUCTION, or one of its parts "
            "is on the way there, so who administrates everything names its data set, or gives it "
            "another name or digest; log a new run for another.",
            ("dataset_facts",),
        )


async def _name_artifact(session: WriteSession, origin: Origin, version: ModelVersionRow) -> None:
    if version.artifact_digest is None:
        confirmed = await _confirmed(session, [version])
        await registry_service.name_artifact(session, origin, version)
        facts = await repository.facts(session, [version])
        why = "Its artifact has been logged since."
        await _ask_again(session, origin, version, facts[version.id], confirmed, why)


async def _confirmed(session: WriteSession, versions: Sequence[ModelVersionRow]) -> dict[UUID, str]:
    """What those of these versions are, of whose checklists anything is approved."""
    items = await repository.checklists(session, [version.id for version in versions])
    approved = [
        version
        for version in versions
        if any(item.status is ChecklistStatus.APPROVED for item in items.get(version.id, ()))
    ]
    facts = await repository.facts(session, approved) if approved else {}
    return await repository.contents(facts)


async def recheck(
    session: WriteSession,
    origin: Origin,
    versions: Sequence[ModelVersionRow],
    why: str,
    confirmed: Mapping[UUID, str] | None = None,
) -> None:
    """Make the approvals of versions, which the caller has locked, STALE where they are for another
    content than the version has now, and what was approved of checklists, as it was `confirmed`
    before, PENDING. A change of nothing leaves them alone."""
    confirmed = confirmed or {}
    concerned = [
        version
        for version in versions
        if version.id in confirmed or version.approval_status in OPEN | IN_FORCE
    ]
    facts = await repository.facts(session, concerned) if concerned else {}
    for version in concerned:
        await asyncio.sleep(0)  # see `contents`
        now = facts[version.id]
        await _ask_again(session, origin, version, now, confirmed, why)
        if now.is_stale:
            await mark_stale(session, origin, version, why)


async def _ask_again(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    facts: Facts,
    confirmed: Mapping[UUID, str],
    why: str,
) -> None:
    """What was approved of the checklist of another content than the version has now is PENDING."""
    if confirmed.get(version.id) in (None, facts.evidence_digest):
        return
    for item in await repository.approved_items(session, version.id):
        await _mark(session, origin, version, item, ChecklistStatus.PENDING, item.note, why)


async def mark_stale(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    why: str,
    cause_id: UUID | None = None,
) -> ApprovalRow | None:
    """Make the approval, or the open submission, of a version that the caller has locked STALE;
    None when there is neither. `cause_id` is the drift event that calls for it."""
    approval = await repository.present_approval(session, version.id)
    if approval is None or approval.status not in OPEN | IN_FORCE:
        return None
    now = await clock(session)
    approval.status, approval.stale_at = ApprovalStatus.STALE, now
    approval.stale_reason, approval.cause_id = why, cause_id
    await _changed(session, origin, version, approval, "approval_stale", why)
    return approval


async def mark_all_stale(
    session: WriteSession, origin: Origin, version_ids: Sequence[UUID], why: str
) -> None:
    """`mark_stale` for however many versions, which are held from here on: in a few statements,
    because a policy may hold for thousands, and all other changes of stages wait meanwhile."""
    held = await repository.hold_versions(session, version_ids)
    ids = list(held)
    for first in range(0, len(ids), _MARKED_AT_ONCE):
        changes = []
        for approval in await repository.make_stale(
            session, ids[first : first + _MARKED_AT_ONCE], why
        ):
            version = held[approval.model_version_id]
            before = {"approval_status": version.approval_status}
            changes.append((version.id, before, _said_of(version, approval)))
        type = "model_version.approval_stale"
        await journal.append_all(session, origin, type, changes, reason=why)


async def open_review(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    why: str,
    cause_id: UUID | None = None,
) -> ApprovalRow:
    """Ask people to decide anew about a version that the caller has locked: a submission in
    NEEDS_REVIEW, which supersedes what was there. `cause_id` is the drift event that calls for it.
    """
    policy, facts = await judged_by(session, version, Stage.PRODUCTION)
    status = ApprovalStatus.NEEDS_REVIEW
    approval = await _new(session, origin, version, policy, facts, status)
    approval.reason, approval.cause_id = why, cause_id
    await _changed(session, origin, version, approval, "approval_submitted", why)
    return approval


async def _bypass(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    policy: Policy,
    facts: Facts,
    command: DecideApproval,
) -> ApprovalRow:
    if not command.notes:
        raise InvalidInput("A BYPASS needs notes that say why.", ("notes",))
    stored = await store_report(session, origin, version, policy, evaluation.review(policy, facts))
    approval = await _new(session, origin, version, policy, facts, ApprovalStatus.BYPASSED)
    approval.reason = "An administrator went past the policy."
    approval.decided_by, approval.decided_at = origin.actor, approval.submitted_at
    approval.notes, approval.report_id = command.notes, stored.id
    await session.flush()
    session.add(_said(approval, origin, command, approval.submitted_at))
    await _changed(
        session,
        origin,
        version,
        approval,
        "approval_decided",
        command.notes,
        decision=command.decision,
    )
    await _let_on(session, origin, version, approval, command.notes)
    return approval


def _check_own(origin: Origin, version: ModelVersionRow, approval: ApprovalRow, what: str) -> None:
    """Whose submission it is: its submitter's, who decided it last, the version's author's."""
    if origin.actor not in (approval.submitted_by, approval.decided_by, version.created_by):
        check(origin, Action.ADMINISTER, version.model_id, what=what)


def _nothing_to_decide(current: ApprovalStatus, wanted: ApprovalStatus) -> InvalidTransition:
    instead = (
        "take the approval back with withdrawApproval."
        if current in IN_FORCE
        else "submit it for approval first, with submitForApproval."
    )
    return InvalidTransition(current, wanted, APPROVAL.following[current], ("decision",), instead)


async def _stand_for(session: WriteSession, approval: ApprovalRow) -> list[str]:
    """Who has submitted it. Of a review that the service has opened by itself that is whoever has
    submitted the same content before: drift must not make somebody's submission nobody's."""
    if not approval.submitted_by.startswith(SYSTEM):
        return [approval.submitted_by]
    before = await repository.submissions(session, approval.model_version_id)
    same = {name for name, content, _ in before if content == approval.evidence_digest}
    return sorted(name for name in same if not name.startswith(SYSTEM))


async def _check_stood_for(
    session: WriteSession, version: ModelVersionRow, approval: ApprovalRow
) -> None:
    """Raise Conflict if the service has opened a review of what nobody has submitted, of what was
    replaced since, or of what was rejected or taken back."""
    if not approval.submitted_by.startswith(SYSTEM):
        return
    for name, content, status in await repository.submissions(session, version.id):
        if status in ENDED:
            break
        if not name.startswith(SYSTEM):
            if content == approval.evidence_digest:
                return
            break
    raise Conflict(
        f"Nobody stands for what version {version.version} is now: whoever does submits it with "
        "submitForApproval.",
        ("decision",),
    )


async def _authors(
    session: WriteSession, version: ModelVersionRow, submitters: Sequence[str]
) -> list[tuple[str, str]]:
    """Who has made a version what it is, and how."""
    return [
        (version.created_by, "registered"),
        *((name, "submitted") for name in submitters),
        *((name, "changed") for name in await repository.changers(session, version)),
    ]


def _check_may_approve(
    origin: Origin,
    mine: Collection[str],
    policy: Policy,
    facts: Facts,
    own: Sequence[tuple[str, str]],
) -> None:
    """Separation of duties. Raises Forbidden, Conflict."""
    assert facts.approval is not None
    for name in facts.approval.approved_by:
        if name in mine:
            raise Conflict(
                f"{_who(origin, name)} has approved it already; {policy.needed} people must.",
                ("decision",),
            )
    _check_not_own(origin, mine, own, "approve it")
    if not evaluation.eligible(policy.approvals, facts, [origin.actor]):
        named = ", ".join(policy.approvals.approvers) if policy.approvals else ""
        raise Forbidden(f"{origin.actor} is not among those who may approve it: {named}.")


def _check_not_own(
    origin: Origin, mine: Collection[str], own: Sequence[tuple[str, str]], what: str
) -> None:
    """Raise Forbidden for one of the names under which the actor can act, if that has made a
    version what it is."""
    for name, did in own:
        if name in mine:
            raise Forbidden(
                f"{_who(origin, name)} {did} this version; somebody else has to {what}."
            )


def _who(origin: Origin, name: str) -> str:
    return name if name == origin.actor else f"{origin.actor} stands for {name}, who"


async def _new(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    policy: Policy,
    facts: Facts,
    status: ApprovalStatus,
) -> ApprovalRow:
    """A submission of a version, which supersedes the one before."""
    now = await repository.said_at(session, version.model_id)
    await repository.supersede(session, version.id, now)
    approval = ApprovalRow(
        id=uuid7(),
        model_version_id=version.id,
        status=status,
        submitted_by=origin.actor,
        submitted_at=now,
        policy_id=policy.id,
        policy_version=policy.version,
        evidence_digest=facts.evidence_digest,
        checklist_digest=facts.checklist_digest,
    )
    session.add(approval)
    return approval


def _said(
    approval: ApprovalRow, origin: Origin, command: DecideApproval, now: Any
) -> ApprovalDecisionRow:
    return ApprovalDecisionRow(
        approval_id=approval.id,
        actor=origin.actor,
        decision=command.decision,
        notes=command.notes,
        at=now,
    )


async def _let_on(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    approval: ApprovalRow,
    reason: str | None,
) -> None:
    """What an approval does at once. Whoever is approved has passed the policy of STAGING, those
    that were there, or in PRODUCTION, before they were changed too. Raises GateFailed, and
    Forbidden for whoever may not move it there, or into PRODUCTION if that is where it is."""
    if version.stage in rules.GUARDED:
        policy, facts = await judged_by(session, version, Stage.STAGING)
        evaluation.enforce(policy, evaluation.evaluate(policy, facts), facts)
        if version.stage is Stage.PRODUCTION:
            # What it is now comes in by this.
            check(origin, Action.MOVE, version.model_id, stage=Stage.PRODUCTION)
            approval.used_at = approval.decided_at
    else:
        check(origin, Action.MOVE, version.model_id, stage=Stage.STAGING)
        await move(session, origin, version, Stage.STAGING, StageCause.APPROVED, reason)


async def _changed(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    approval: ApprovalRow,
    what: str,
    reason: str | None,
    **details: Any,
) -> None:
    """An approval belongs to its version: its change counts as one of the version."""
    before = {"approval_status": version.approval_status}
    version.approval_status = approval.status
    version.revision += 1
    await session.flush()
    await journal.append(
        session,
        origin,
        f"model_version.{what}",
        version.id,
        before=before,
        after={**_said_of(version, approval), **details},
        reason=reason,
    )


def _said_of(version: ModelVersionRow, approval: ApprovalRow) -> dict[str, Any]:
    return {
        **_about(version),
        "approval_status": approval.status,
        "approval_id": approval.id,
        "reason": approval.reason,
        "submitted_by": approval.submitted_by,
        "report_id": approval.report_id,
        "cause": approval.cause_id,
        "evidence_digest": approval.evidence_digest,
        "checklist_digest": approval.checklist_digest,
        "policy_version": approval.policy_version,
    }


async def _item_changed(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    item: ChecklistItemRow,
    type: str,
    before: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """An item belongs to its version: its change counts as one of the version."""
    version.revision += 1
    await session.flush()
    about = {"item_id": item.id, "title": item.title}
    now = {"status": item.status, "note": item.note}
    await journal.append(
        session, origin, type, version.id, before=before, after=about | now, reason=reason
    )


def _about(version: ModelVersionRow) -> dict[str, Any]:
    return {"model_name": version.model_name, "version": version.version}
