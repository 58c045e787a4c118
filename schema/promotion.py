"""Policies, reports, approvals, stages and checklists as clients see them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

import strawberry
from strawberry import Private
from strawberry.scalars import JSON

import schema.drift
import schema.registry
import schema.runs
from lifecycle.pages import PageRequest
from lifecycle.principals import duties
from lifecycle.promotion import gates, repository, review, service
from lifecycle.promotion.gates import Check, CheckSeverity, Report
from lifecycle.promotion.rules import OPEN, ChecklistStatus, Decision, StageCause
from lifecycle.promotion.tables import (
    ApprovalDecisionRow,
    ApprovalRow,
    ChecklistItemRow,
    StageAssignmentRow,
    ValidationReportRow,
)
from lifecycle.registry import repository as registry
from lifecycle.registry.repository import VersionFilter
from lifecycle.registry.rules import ApprovalStatus, Stage
from schema import ids
from schema.context import Info
from schema.errors import (
    Conflict,
    Error,
    ErrorHandler,
    IdempotencyConflict,
    InvalidInput,
    InvalidTransition,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import ChangeInput, Given, WriteInput, parse
from schema.loaded import loaded
from schema.nodes import Node
from schema.pagination import After, Connection, First, listed
from schema.rows import OfRow, shown
from schema.scalars import as_json

if TYPE_CHECKING:
    from schema.drift import DriftEvent
    from schema.registry import ModelVersion, ModelVersionSelector

_Versions = list[Annotated["ModelVersion", strawberry.lazy("schema.registry")]]


@strawberry.type(description="What one rule found.")
class ValidationCheck:
    name: str = strawberry.field(description="What was looked at.")
    category: str = strawberry.field(
        description="performance, data quality, complexity, baseline, review, artifact, lineage, "
        "drift, freshness, approval or stage."
    )
    passed: bool = strawberry.field(description="Whether it is as it should be.")
    severity: CheckSeverity = strawberry.field(description="Only BLOCKING stands in the way.")
    observed: JSON | None = strawberry.field(description="What was found; null if nothing was.")
    required: JSON | None = strawberry.field(description="What should be.")
    message: str = strawberry.field(description="Both in words.")
    advice: str | None = strawberry.field(description="What could be done about it.")
    where: Private[tuple[str, UUID] | None]

    @classmethod
    def from_check(cls, check: Check) -> Self:
        evidence = check.evidence
        return cls(
            name=check.name,
            category=check.category,
            passed=check.passed,
            severity=check.severity,
            observed=as_json(check.observed),
            required=as_json(check.required),
            message=check.message,
            advice=None if check.passed else check.advice,
            where=(evidence.kind, evidence.id) if evidence else None,
        )

    @strawberry.field(
        description="The object that has the figure: the version itself, its run, or the version "
        "in production."
    )
    async def evidence(self, info: Info) -> Node | None:
        if self.where is None:
            return None
        kind, id = self.where
        find = schema.runs.run_by_id if kind == "run" else schema.registry.version_by_id
        found: Node | None = await find(info, id)
        return found


@strawberry.type(description="What a policy found about a version at one moment.")
class ValidationReport:
    passed: bool = strawberry.field(description="Whether no BLOCKING check stands in the way.")
    stage: Stage = strawberry.field(description="The stage that it is about.")
    checks: list[ValidationCheck] = strawberry.field(description="Each rule's, in their order.")
    recommendations: list[str] = strawberry.field(
        description="What could be done about those that did not pass."
    )
    policy_version: int = strawberry.field(description="The version of the policy that was asked.")
    created_at: datetime = strawberry.field(description="When that was.")

    @classmethod
    def from_row(cls, row: ValidationReportRow) -> Self:
        return cls.from_report(repository.report_of(row))

    @classmethod
    def from_report(cls, report: Report) -> Self:
        return cls(
            passed=report.passed,
            stage=report.stage,
            checks=[ValidationCheck.from_check(check) for check in report.checks],
            recommendations=report.recommendations,
            policy_version=report.policy_version,
            created_at=report.at,
        )


@strawberry.type(description="What somebody said to a submission.")
class ApprovalDecision(OfRow[ApprovalDecisionRow]):
    row: Private[ApprovalDecisionRow]
    actor: str = shown(description="Who.")
    decision: Decision = shown(description="What.")
    notes: str | None = shown(description="With which remark.")
    at: datetime = shown(description="When.")


@strawberry.type(description="A submission of a version for production, and what became of it.")
class Approval:
    status: ApprovalStatus = strawberry.field(description="Where it stands.")
    reason: str | None = strawberry.field(
        default=None, description="Why the policy decided so, or did not."
    )
    submitted_by: str | None = strawberry.field(default=None, description="Who asked.")
    submitted_at: datetime | None = strawberry.field(default=None, description="When that was.")
    submission_notes: str | None = strawberry.field(
        default=None, description="What was remarked then."
    )
    decided_by: str | None = strawberry.field(
        default=None, description="Who decided; system:policy for the automatic decision."
    )
    decided_at: datetime | None = strawberry.field(default=None, description="When that was.")
    notes: str | None = strawberry.field(default=None, description="What was remarked then.")
    stale_reason: str | None = strawberry.field(default=None, description="Why it is STALE.")
    stale_at: datetime | None = strawberry.field(default=None, description="Since when it is.")
    withdrawn_at: datetime | None = strawberry.field(
        default=None, description="When it was taken back."
    )
    superseded_at: datetime | None = strawberry.field(
        default=None, description="When a later submission took its place."
    )
    used_at: datetime | None = strawberry.field(
        default=None, description="When it first let the version into production."
    )
    policy_version: int | None = strawberry.field(
        default=None,
        description="The version of the policy that it was decided, or is to be decided, by.",
    )
    digest: str | None = strawberry.field(
        default=None,
        description="Stands for what was submitted or decided on: metrics, artifact, "
        "hyperparameters and run. While it is the same, so are they.",
    )
    key: Private[UUID | None] = None
    report_key: Private[UUID | None] = None
    cause_key: Private[UUID | None] = None

    @classmethod
    def from_row(cls, row: ApprovalRow | None) -> Self:
        """`None` is a version that was never submitted."""
        if row is None:
            return cls(status=ApprovalStatus.NOT_SUBMITTED)
        return cls(
            status=row.status,
            reason=row.reason,
            submitted_by=row.submitted_by,
            submitted_at=row.submitted_at,
            submission_notes=row.submission_notes,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
            notes=row.notes,
            stale_reason=row.stale_reason,
            stale_at=row.stale_at,
            withdrawn_at=row.withdrawn_at,
            superseded_at=row.superseded_at,
            used_at=row.used_at,
            policy_version=row.policy_version,
            digest=row.evidence_digest,
            key=row.id,
            report_key=row.report_id,
            cause_key=row.cause_id,
        )

    @strawberry.field(description="What people said to it, in order.")
    async def decisions(self, info: Info) -> list[ApprovalDecision]:
        if self.key is None:
            return []
        rows = await info.context.loaders.load(repository.decisions, self.key)
        return [ApprovalDecision.from_row(row) for row in rows or ()]

    @strawberry.field(description="What the policy found when it was submitted, or last decided.")
    async def report(self, info: Info) -> ValidationReport | None:
        return await _report(info, self.report_key)

    @strawberry.field(description="The drift that made it STALE, or that asked for this review.")
    async def cause(
        self, info: Info
    ) -> Annotated["DriftEvent", strawberry.lazy("schema.drift")] | None:
        return await schema.drift.event_by_id(info, self.cause_key)


@strawberry.type(description="The policy of the stage is not met.")
class GateFailed(Error):
    report: ValidationReport = strawberry.field(description="What each rule found.")


@strawberry.type(description="Nothing but an approval is missing.")
class ApprovalRequired(Error):
    status: ApprovalStatus = strawberry.field(description="Where the approval stands.")
    report: ValidationReport = strawberry.field(description="What each rule found.")


def _gate_details(error: Any) -> dict[str, Any]:
    return {"report": ValidationReport.from_report(error.report)}


def _approval_details(error: Any) -> dict[str, Any]:
    return {"status": error.status, **_gate_details(error)}


HANDLERS: list[Any] = [
    ErrorHandler(gates.GateFailed, GateFailed, _gate_details),
    ErrorHandler(gates.ApprovalRequired, ApprovalRequired, _approval_details),
]


@strawberry.type(description="A version was in a stage for a time.")
class StageAssignment(OfRow[StageAssignmentRow]):
    row: Private[StageAssignmentRow]
    keys = ("approval_id", "id", "report_id")
    stage: Stage = shown(description="The stage.")
    valid_from: datetime = shown(description="From this moment on,")
    valid_to: datetime | None = shown(
        description="until just before this one; null while it lasts."
    )
    actor: str = shown(description="Who moved it there.")
    reason: str | None = shown(description="Why, as the actor says.")
    cause: StageCause = shown(description="Why, as the service knows.")

    model_version: Annotated["ModelVersion", strawberry.lazy("schema.registry")] = loaded(
        registry.versions_by_ids,
        by="model_version_id",
        leaves=True,
        description="The version, even if it has since been deleted.",
    )

    @strawberry.field(description="What let it into production: who decided, and on what.")
    async def approval(self, info: Info) -> Approval | None:
        if self.row.approval_id is None:
            return None
        row = await info.context.loaders.load(repository.approvals_by_ids, self.row.approval_id)
        return Approval.from_row(row)

    @strawberry.field(description="What the stage's policy found when it came in.")
    async def report(self, info: Info) -> ValidationReport | None:
        return await _report(info, self.row.report_id)

    @strawberry.field(description="The versions that it replaced when it came in.")
    async def displaced(self, info: Info) -> _Versions:
        return await _displaced(info, self.row.id)


@strawberry.type(description="One thing to be checked before a version goes on.")
class ChecklistItem(OfRow[ChecklistItemRow]):
    row: Private[ChecklistItemRow]
    id: strawberry.ID = shown(
        lambda row: ids.encode("ChecklistItem", row.id), description="For markChecklistItem."
    )
    title: str = shown(description="What is to be checked.")
    status: ChecklistStatus = shown(description="What was decided.")
    note: str | None = shown(description="What was remarked.")
    decided_by: str | None = shown(description="Who decided.")
    decided_at: datetime | None = shown(description="When that was.")


_Selector = Annotated["ModelVersionSelector", strawberry.lazy("schema.registry")]


@strawberry.input(description="A version and the stage that it should be in.")
class SetStageInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    stage: Stage = strawberry.field(description="Where it should go.")
    reason: str | None = strawberry.field(default=None, description="Why; kept in the history.")
    expected_in_production: str | None = strawberry.field(
        default=None,
        description="Refuse with Conflict unless this version is in PRODUCTION now.",
    )
    dry_run: bool = strawberry.field(
        default=False,
        description="Answer as if, but change nothing and keep nothing. An idempotencyKey counts "
        "for nothing then.",
    )


@strawberry.input(description="A version and the stage whose policy is to be asked.")
class ValidateModelVersionInput(WriteInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    stage: Stage = strawberry.field(default=Stage.PRODUCTION, description="STAGING or PRODUCTION.")


@strawberry.input(description="A version that should be let into production.")
class SubmitForApprovalInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    notes: str | None = strawberry.field(default=None, description="For those who decide.")


@strawberry.input(description="A decision about the present submission of a version.")
class DecideApprovalInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    decision: Decision = strawberry.field(description="What is decided.")
    notes: str | None = strawberry.field(default=None, description="Why; BYPASS must say so.")


@strawberry.input(description="A submission or an approval that is to be taken back.")
class WithdrawApprovalInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    notes: str | None = strawberry.field(default=None, description="Why.")


@strawberry.input(description="One more thing to check.")
class AppendChecklistItemInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    title: str = strawberry.field(description="What is to be checked.")


@strawberry.input(description="A decision about an item.")
class MarkChecklistItemInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which item.")
    status: ChecklistStatus = strawberry.field(description="PENDING opens it again.")
    note: str | None = strawberry.field(
        default=None, description="A remark on this decision; the former one goes with its own."
    )


@strawberry.type
class _AboutVersion:
    """A success that shows the version as it is after the commit: by a field of its own, so that a
    read that fails then does not make the change look undone."""

    version_key: Private[UUID]

    @strawberry.field(description="The version as it is now.")
    async def model_version(
        self, info: Info
    ) -> Annotated["ModelVersion", strawberry.lazy("schema.registry")]:
        return await _version(info, self.version_key)


@strawberry.type(description="The version is in its new stage.")
class SetStageSuccess(_AboutVersion):
    dry_run: bool = strawberry.field(description="Whether nothing was changed.")
    entry_key: Private[UUID | None]
    report_key: Private[UUID | None]
    rehearsal: Private[service.Rehearsal | None]

    @strawberry.field(
        description="The versions that it replaced, which are ARCHIVED now; of a dry run, those "
        "that it would replace."
    )
    async def displaced(self, info: Info) -> _Versions:
        if self.entry_key is None:
            displaced = self.rehearsal.displaced if self.rehearsal else ()
            return [await _version(info, id) for id in displaced]
        return await _displaced(info, self.entry_key)

    @strawberry.field(
        description="What the stage's policy found; null for a stage that nothing guards."
    )
    async def validation(self, info: Info) -> ValidationReport | None:
        if self.rehearsal is not None:
            found = self.rehearsal.report
            return ValidationReport.from_report(found) if found else None
        return await _report(info, self.report_key)


@strawberry.type(description="The policy was asked, and what it found is kept with the version.")
class ValidateModelVersionSuccess(_AboutVersion):
    report: ValidationReport = strawberry.field(description="What it found.")


@strawberry.type(description="It is submitted; `approval` says what became of it.")
class SubmitForApprovalSuccess(_AboutVersion):
    approval: Approval = strawberry.field(description="The submission as it is now.")


@strawberry.type(description="The decision is kept.")
class DecideApprovalSuccess(_AboutVersion):
    approval: Approval = strawberry.field(
        description="The submission as it is now: still open if more people have to approve."
    )


@strawberry.type(description="It is taken back.")
class WithdrawApprovalSuccess(_AboutVersion):
    approval: Approval = strawberry.field(description="The submission as it is now.")


@strawberry.type(description="The item is on the list.")
class AppendChecklistItemSuccess(_AboutVersion):
    checklist_item: ChecklistItem = strawberry.field(description="The new item.")


@strawberry.type(description="The item is marked.")
class MarkChecklistItemSuccess(_AboutVersion):
    checklist_item: ChecklistItem = strawberry.field(description="The item as it is now.")


SetStageResult = Annotated[
    SetStageSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | InvalidTransition
    | GateFailed
    | ApprovalRequired
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("SetStageResult", description="What came of setStage."),
]
ValidateModelVersionResult = Annotated[
    ValidateModelVersionSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union(
        "ValidateModelVersionResult", description="What came of validateModelVersion."
    ),
]
SubmitForApprovalResult = Annotated[
    SubmitForApprovalSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | GateFailed
    | ApprovalRequired
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("SubmitForApprovalResult", description="What came of submitForApproval."),
]
DecideApprovalResult = Annotated[
    DecideApprovalSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | InvalidTransition
    | GateFailed
    | ApprovalRequired
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("DecideApprovalResult", description="What came of decideApproval."),
]
WithdrawApprovalResult = Annotated[
    WithdrawApprovalSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("WithdrawApprovalResult", description="What came of withdrawApproval."),
]
AppendChecklistItemResult = Annotated[
    AppendChecklistItemSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("AppendChecklistItemResult", description="What came of appendChecklistItem."),
]
MarkChecklistItemResult = Annotated[
    MarkChecklistItemSuccess
    | NotFound
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("MarkChecklistItemResult", description="What came of markChecklistItem."),
]


async def _version(info: Info, id: UUID) -> "ModelVersion":
    version = await schema.registry.version_by_id(info, id)
    assert version is not None
    return version


async def _displaced(info: Info, entry: UUID) -> "list[ModelVersion]":
    displaced = await info.context.loaders.load(repository.displaced_by, entry)
    return [await _version(info, id) for id in displaced or ()]


async def _report(info: Info, key: UUID | None) -> ValidationReport | None:
    if key is None:
        return None
    row = await info.context.loaders.load(repository.reports_by_ids, key)
    return ValidationReport.from_row(row) if row else None


@strawberry.type
class PromotionQueries:
    @strawberry.field(
        description="The versions that wait for people to decide: PENDING or NEEDS_REVIEW, newest "
        "first."
    )
    async def pending_approvals(
        self, info: Info, first: First = None, after: After = None
    ) -> Connection[Annotated["ModelVersion", strawberry.lazy("schema.registry")]]:
        request = PageRequest.parse(first, after)
        wanted = VersionFilter(approval_statuses=tuple(sorted(OPEN)))
        return await listed(
            info,
            schema.registry.ModelVersion.from_row,
            lambda session: registry.versions_page(session, wanted, (), request),
            lambda session: registry.versions_count(session, wanted),
        )


@strawberry.type
class PromotionMutations:
    @strawberry.mutation(
        description="Move a version to another stage. Upwards the stage's policy has to be met, "
        "and only an approved version comes into PRODUCTION: what is missing is in GateFailed or "
        "ApprovalRequired. One that it displaces from PRODUCTION is ARCHIVED in the same moment."
    )
    async def set_stage(self, info: Info, input: Given[SetStageInput]) -> SetStageResult:
        command = parse(service.SetStage, input)
        if command.dry_run:
            async with info.context.database.read() as session:
                planned = await service.rehearse(session, info.context.origin, command)
            return SetStageSuccess(
                version_key=planned.version_id,
                dry_run=True,
                entry_key=None,
                report_key=None,
                rehearsal=planned,
            )
        entry = await info.context.write(service.set_stage, command)
        return SetStageSuccess(
            version_key=entry.model_version_id,
            dry_run=False,
            entry_key=entry.id,
            report_key=entry.report_id,
            rehearsal=None,
        )

    @strawberry.mutation(
        description="Ask the policy of a stage about a version, without people's part, and keep "
        "what it finds."
    )
    async def validate_model_version(
        self, info: Info, input: Given[ValidateModelVersionInput]
    ) -> ValidateModelVersionResult:
        command = parse(review.ValidateModelVersion, input)
        row = await info.context.write(review.validate, command)
        return ValidateModelVersionSuccess(
            version_key=row.model_version_id, report=ValidationReport.from_row(row)
        )

    @strawberry.mutation(
        description="Submit a version for production. It is validated; the policy approves, "
        "rejects, or leaves it to people, as it always does once they have rejected it as it is, "
        "or drift has opened a review. A former submission is superseded, "
        "by the same people who could withdraw it; such a review, and in PRODUCTION an approval "
        "to the same as which people have said no since, by anybody. An approved version moves to "
        "STAGING."
    )
    async def submit_for_approval(
        self, info: Info, input: Given[SubmitForApprovalInput]
    ) -> SubmitForApprovalResult:
        row = await info.context.write(duties.submit, parse(review.SubmitForApproval, input))
        return SubmitForApprovalSuccess(
            version_key=row.model_version_id, approval=Approval.from_row(row)
        )

    @strawberry.mutation(
        description="Approve or reject what was submitted. Whoever registered or submitted the "
        "version, or has changed what is to be approved, cannot approve it, nor by a token that "
        "they have made. Where drift has opened the review, somebody must have submitted it as it "
        "is, and nobody rejected it or taken it back since. BYPASS is for administrators: past the "
        "policy, with a reason, seen as such for ever, and for what the version names: no file "
        "that its run has logged since comes with it. An approved version moves to STAGING, which "
        "whoever approves it must be allowed to do. Send `expectedRevision`, the `revision` "
        "that you have looked at, of a version that you name by id, or by model and version: "
        "without it you decide on what is there then."
    )
    async def decide_approval(
        self, info: Info, input: Given[DecideApprovalInput]
    ) -> DecideApprovalResult:
        row = await info.context.write(duties.decide, parse(review.DecideApproval, input))
        return DecideApprovalSuccess(
            version_key=row.model_version_id, approval=Approval.from_row(row)
        )

    @strawberry.mutation(
        description="Take a submission or an approval back: for who submitted it, who decided it "
        "last or, where the policy did, may decide, the version's author, and administrators. Not "
        "while the version is in PRODUCTION. What somebody who may decide takes back once it is "
        "approved is not approved as another version either, until people approve it again."
    )
    async def withdraw_approval(
        self, info: Info, input: Given[WithdrawApprovalInput]
    ) -> WithdrawApprovalResult:
        row = await info.context.write(review.withdraw, parse(review.WithdrawApproval, input))
        return WithdrawApprovalSuccess(
            version_key=row.model_version_id, approval=Approval.from_row(row)
        )

    @strawberry.mutation(description="Add an item at the end of a version's checklist.")
    async def append_checklist_item(
        self, info: Info, input: Given[AppendChecklistItemInput]
    ) -> AppendChecklistItemResult:
        command = parse(review.AppendChecklistItem, input)
        row = await info.context.write(review.append_item, command)
        return AppendChecklistItemSuccess(
            checklist_item=ChecklistItem.from_row(row),
            version_key=row.model_version_id,
        )

    @strawberry.mutation(
        description="Approve or reject an item of a checklist, or open it again. It is approved by "
        "somebody else than who has registered the version, submitted it, or changed what it is. "
        "Send `expectedRevision`, the version's `revision` that you have looked at: without it "
        "what you approve is what is there then."
    )
    async def mark_checklist_item(
        self, info: Info, input: Given[MarkChecklistItemInput]
    ) -> MarkChecklistItemResult:
        command = parse(review.MarkChecklistItem, input, id="ChecklistItem")
        row = await info.context.write(duties.mark_item, command)
        return MarkChecklistItemSuccess(
            checklist_item=ChecklistItem.from_row(row),
            version_key=row.model_version_id,
        )
