"""How models and their versions are stored.

Names of models do not change, so what belongs to a model carries its name: lists are filtered by
it, and clients read it without another query. The foreign keys hold name and id together.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.errors import AlreadyExists, InUse
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.runs.rules import MetricGoal
from lifecycle.tables import Base, Revised


class _Goals(TypeDecorator[dict[str, MetricGoal]]):
    """Goals by key; JSON alone would give them back as text."""

    impl = JSONB(none_as_null=True)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, MetricGoal]:
        return {key: MetricGoal(goal) for key, goal in value.items()}


class ModelRow(Revised):
    """A named model. `last_number` is the last version number that the server gave."""

    __tablename__ = "model"
    __table_args__ = (
        UniqueConstraint(
            "name",
            info={"violation": lambda name: AlreadyExists(f"There is a model {name}.", ("name",))},
        ),
        UniqueConstraint("id", "name"),
    )

    name: Mapped[str] = mapped_column(Text(collation="C"))
    description: Mapped[str | None]
    owner: Mapped[str | None]
    tags: Mapped[dict[str, str]]
    metric_goals: Mapped[dict[str, MetricGoal]] = mapped_column(_Goals, server_default=text("'{}'"))
    last_number: Mapped[int] = mapped_column(default=0)


class ModelVersionRow(Revised):
    """One version of a model. A deleted one keeps its row, for lineage and history.

    `live_deployments` counts the deployments that keep it from being deleted; it is changed by
    whoever holds this row locked; so does `open_drift`, by severity, the drift events that are not
    closed. `stage` repeats the last entry of the stage history, which is
    open until the version is deleted, and `approval_status` the present approval's.
    """

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint(
            "model_name",
            "version",
            info={"violation": lambda _: AlreadyExists("There is such a version.", ("version",))},
        ),
        UniqueConstraint("id", "model_id"),
        ForeignKeyConstraint(
            ["model_id", "model_name"], ["model.id", "model.name"], name="fk_model_version_model"
        ),
        # The promise that everything else rests on.
        Index(
            "uq_model_version_production",
            "model_id",
            unique=True,
            postgresql_where=text("stage = 'PRODUCTION'"),
        ),
        CheckConstraint("live_deployments >= 0", name="live_deployments"),
        CheckConstraint(
            "deleted_at IS NULL OR (live_deployments = 0 AND stage = 'ARCHIVED')",
            name="deleted",
            info={"violation": lambda _: InUse("The version is in use.")},
        ),
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
        Index(None, "model_id", "created_at", "id"),
        Index(None, "model_name", "created_at", "id"),
        Index(None, "stage", "created_at", "id"),
        Index(None, "approval_status", "created_at", "id"),
        Index(None, "created_at", "id"),
        Index(None, "updated_at", "id"),
        Index(None, "run_id", "created_at", "id"),
    )

    model_id: Mapped[UUID]
    model_name: Mapped[str] = mapped_column(Text(collation="C"))
    version: Mapped[str]
    stage: Mapped[Stage]
    stage_changed_at: Mapped[datetime]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("run.id"))
    description: Mapped[str | None]
    framework: Mapped[str | None]
    hyperparameters: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    tags: Mapped[dict[str, str]]
    artifact_path: Mapped[str | None]
    artifact_digest: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    approval_status: Mapped[ApprovalStatus] = mapped_column(
        default=ApprovalStatus.NOT_SUBMITTED, server_default=ApprovalStatus.NOT_SUBMITTED
    )
    live_deployments: Mapped[int] = mapped_column(default=0)
    open_drift: Mapped[dict[str, int]] = mapped_column(
        JSONB(none_as_null=True), server_default=text("'{}'")
    )
    deleted_at: Mapped[datetime | None]


class VersionMetricRow(Base):
    """A metric of a version: what it was when the version was registered or last corrected."""

    __tablename__ = "version_metric"

    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]
    step: Mapped[int] = mapped_column(BigInteger)
    timestamp: Mapped[datetime]
