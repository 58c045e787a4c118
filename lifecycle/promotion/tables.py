"""How stage policies, reports, approvals, stage history and checklists are stored."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.promotion.rules import ChecklistStatus, Decision, StageCause
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.tables import Base, Identified, WithId


class StagePolicyRow(Identified):
    """One version of a policy: what must be true before a version of the model, or of any model
    that has no policy of its own, comes into the stage. Never changed: the newest version holds.

    `rules` is null where a model follows the general policy again.
    """

    __tablename__ = "stage_policy"
    __table_args__ = (
        UniqueConstraint("model_id", "stage", "version", postgresql_nulls_not_distinct=True),
        CheckConstraint("stage IN ('STAGING', 'PRODUCTION')", name="guarded"),
        CheckConstraint("rules IS NOT NULL OR model_id IS NOT NULL", name="rules"),
        CheckConstraint("version >= 1", name="version"),
    )

    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("model.id"))
    stage: Mapped[Stage]
    version: Mapped[int]
    rules: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    reason: Mapped[str | None]


class ValidationReportRow(Identified):
    """What a policy found when it was asked. Never changed."""

    __tablename__ = "validation_report"
    __table_args__ = (
        UniqueConstraint("id", "model_version_id"),
        Index(None, "model_version_id", "created_at", "id"),
    )

    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"))
    stage: Mapped[Stage]
    policy_id: Mapped[UUID] = mapped_column(ForeignKey("stage_policy.id"))
    policy_version: Mapped[int]
    passed: Mapped[bool]
    checks: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    recommendations: Mapped[list[str]] = mapped_column(JSONB)


class ApprovalRow(WithId):
    """One submission of a version, and what became of it. The version's approval is the one that
    no later one has superseded.

    `evidence_digest` and `checklist_digest` say what was submitted, then what was decided on.
    `used_at` is when it first let the version into production; `withdrawn_at` of those that were
    taken back, but of none that were before there was this column, and `overruled_at` where that
    was done to an approval by somebody who may decide. `cause_id` is the drift event that made it
    STALE or asked for it.
    """

    __tablename__ = "approval"
    __table_args__ = (
        UniqueConstraint("id", "model_version_id"),
        ForeignKeyConstraint(
            ["report_id", "model_version_id"],
            ["validation_report.id", "validation_report.model_version_id"],
            name="fk_approval_report",
        ),
        CheckConstraint("status <> 'NOT_SUBMITTED'", name="submitted"),
        CheckConstraint(
            "(decided_by IS NULL) = (decided_at IS NULL) AND "
            "(status IN ('APPROVED', 'REJECTED', 'BYPASSED')) <= (decided_by IS NOT NULL) AND "
            "(status IN ('PENDING', 'NEEDS_REVIEW')) <= (decided_by IS NULL)",
            name="decided",
        ),
        CheckConstraint("(status = 'STALE') = (stale_at IS NOT NULL)", name="stale"),
        CheckConstraint("status <> 'BYPASSED' OR coalesce(notes, '') <> ''", name="bypassed"),
        Index(
            "uq_approval_present",
            "model_version_id",
            unique=True,
            postgresql_where=text("superseded_at IS NULL"),
        ),
        Index("ix_approval_model_version_id_submitted_at", "model_version_id", "submitted_at"),
    )

    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"))
    status: Mapped[ApprovalStatus]
    reason: Mapped[str | None]
    submitted_by: Mapped[str]
    submitted_at: Mapped[datetime]
    submission_notes: Mapped[str | None]
    policy_id: Mapped[UUID] = mapped_column(ForeignKey("stage_policy.id"))
    policy_version: Mapped[int]
    report_id: Mapped[UUID | None]
    evidence_digest: Mapped[str | None]
    checklist_digest: Mapped[str | None]
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    notes: Mapped[str | None]
    stale_reason: Mapped[str | None]
    stale_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    overruled_at: Mapped[datetime | None]
    cause_id: Mapped[UUID | None]
    used_at: Mapped[datetime | None]
    superseded_at: Mapped[datetime | None]


class ApprovalDecisionRow(Base):
    """What one person said to a submission: the last of it, if that was an objection after all."""

    __tablename__ = "approval_decision"

    approval_id: Mapped[UUID] = mapped_column(ForeignKey("approval.id"), primary_key=True)
    actor: Mapped[str] = mapped_column(primary_key=True)
    decision: Mapped[Decision]
    notes: Mapped[str | None]
    at: Mapped[datetime]


class StageAssignmentRow(WithId):
    """A version was in a stage from `valid_from` until `valid_to`, which is null while it lasts.

    Two exclusion constraints, which the migration makes because they need a range type of ids,
    refuse overlaps: of the stages of one version, and of the versions in production of one model.
    `follows` is where the version's entry before ended, null for its first; the foreign key to it
    refuses gaps.
    `replaced_by_id` is the entry that pushed this version out of its former stage.
    `approval_id` is what let it into production, and `report_id` what its policy found then.
    """

    __tablename__ = "stage_assignment"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_version_id", "model_id"],
            ["model_version.id", "model_version.model_id"],
            name="fk_stage_assignment_model_version",
        ),
        CheckConstraint("valid_from < valid_to", name="valid_to"),
        # One entry begins where the one before ended, and only the first follows none.
        CheckConstraint("follows = valid_from", name="follows"),
        UniqueConstraint("model_version_id", "valid_from"),
        UniqueConstraint("model_version_id", "valid_to"),
        ForeignKeyConstraint(
            ["model_version_id", "follows"],
            ["stage_assignment.model_version_id", "stage_assignment.valid_to"],
            name="fk_stage_assignment_follows",
        ),
        Index(
            "uq_stage_assignment_first",
            "model_version_id",
            unique=True,
            postgresql_where=text("follows IS NULL"),
        ),
        Index(
            "uq_stage_assignment_open",
            "model_version_id",
            unique=True,
            postgresql_where=text("valid_to IS NULL"),
        ),
        Index(None, "model_id", "valid_from", "id"),
        Index(None, "model_id", "stage", "valid_from"),
        Index(None, "replaced_by_id"),
        # Nothing comes into production but by an approval of that very version. What was there
        # before there were approvals has got one by the migration, for its last entry only.
        CheckConstraint("stage <> 'PRODUCTION' OR approval_id IS NOT NULL", name="approval"),
        ForeignKeyConstraint(
            ["approval_id", "model_version_id"],
            ["approval.id", "approval.model_version_id"],
            name="fk_stage_assignment_approval",
        ),
        ForeignKeyConstraint(
            ["report_id", "model_version_id"],
            ["validation_report.id", "validation_report.model_version_id"],
            name="fk_stage_assignment_report",
        ),
    )

    model_id: Mapped[UUID]
    model_version_id: Mapped[UUID]
    stage: Mapped[Stage]
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime | None]
    follows: Mapped[datetime | None]
    actor: Mapped[str]
    reason: Mapped[str | None]
    cause: Mapped[StageCause]
    replaced_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("stage_assignment.id"))
    approval_id: Mapped[UUID | None]
    report_id: Mapped[UUID | None]


class ChecklistItemRow(Identified):
    """One thing to be checked before a version goes on."""

    __tablename__ = "checklist_item"
    __table_args__ = (
        UniqueConstraint("model_version_id", "place"),
        CheckConstraint(
            "(status = 'PENDING') = (decided_at IS NULL) AND "
            "(decided_at IS NULL) = (decided_by IS NULL)",
            name="decided",
        ),
    )

    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"))
    place: Mapped[int]
    title: Mapped[str]
    status: Mapped[ChecklistStatus] = mapped_column(default=ChecklistStatus.PENDING)
    note: Mapped[str | None]
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
