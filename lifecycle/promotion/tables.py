"""How stage history and checklists are stored."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.promotion.rules import ChecklistStatus, StageCause
from lifecycle.registry.rules import Stage
from lifecycle.tables import Identified, WithId


class StageAssignmentRow(WithId):
    """A version was in a stage from `valid_from` until `valid_to`, which is null while it lasts.

    Two exclusion constraints, which the migration makes because they need a range type of ids,
    refuse overlaps: of the stages of one version, and of the versions in production of one model.
    `follows` is where the version's entry before ended, null for its first; the foreign key to it
    refuses gaps.
    `replaced_by_id` is the entry that pushed this version out of its former stage.
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
