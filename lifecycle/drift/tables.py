"""How drift events are stored."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.drift.rules import DriftAction, DriftOutcome, DriftStatus
from lifecycle.registry.rules import DriftSeverity
from lifecycle.tables import Identified, Revised, WithId


class DriftPolicyRow(Identified):
    """One version of a policy: what counts as degradation and what is done about drift of a model,
    or of all that have no policy of their own. Never changed: the newest version holds.

    Both are null where a model follows the general policy again.
    """

    __tablename__ = "drift_policy"
    __table_args__ = (
        UniqueConstraint("model_name", "version"),
        Index(
            "uq_drift_policy_general",
            "version",
            unique=True,
            postgresql_where=text("model_name IS NULL"),
        ),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint(
            "(responses IS NULL) = (degradation IS NULL) AND "
            "(responses IS NOT NULL OR model_name IS NOT NULL)",
            name="rules",
        ),
    )

    model_name: Mapped[str | None] = mapped_column(Text(collation="C"), ForeignKey("model.name"))
    version: Mapped[int]
    responses: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    degradation: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    reason: Mapped[str]


class DriftEventRow(Revised):
    """One observation that a version no longer behaves as it did.

    `policy_id` is the policy that held when it was recorded, null from before there were any.
    """

    __tablename__ = "drift_event"
    __table_args__ = (
        CheckConstraint(
            "(status IN ('RESOLVED', 'FALSE_POSITIVE')) = (resolved_by IS NOT NULL) AND "
            "(resolved_by IS NULL) = (resolved_at IS NULL)",
            name="resolved",
        ),
        CheckConstraint(
            "(acknowledged_by IS NULL) = (acknowledged_at IS NULL)", name="acknowledged"
        ),
        UniqueConstraint("model_version_id", "dedup_key"),
        Index(None, "created_at", "id"),
        Index(None, "model_name", "created_at", "id"),
        Index(None, "model_name", "dedup_key"),
        Index(None, "model_version_id", "created_at", "id"),
        Index(None, "deployment_id", "created_at", "id"),
        Index(None, "status", "created_at", "id"),
    )

    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"))
    model_name: Mapped[str] = mapped_column(Text(collation="C"))
    deployment_id: Mapped[UUID | None] = mapped_column(ForeignKey("deployment.id"))
    severity: Mapped[DriftSeverity]
    status: Mapped[DriftStatus] = mapped_column(default=DriftStatus.OPEN)
    metric: Mapped[str]
    feature: Mapped[str | None]
    baseline_value: Mapped[float | None]
    observed_value: Mapped[float | None]
    threshold: Mapped[float | None]
    method: Mapped[str | None]
    description: Mapped[str | None]
    details: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    detected_at: Mapped[datetime]
    acknowledged_by: Mapped[str | None]
    acknowledged_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolution: Mapped[str | None]
    dedup_key: Mapped[str | None]
    policy_id: Mapped[UUID | None] = mapped_column(ForeignKey("drift_policy.id"))

    # Not stored: false on what this very transaction has recorded, true on what it found.
    duplicate = True


class DriftResponseRow(WithId):
    """What a policy had done about an event, and what came of it.

    `deployment_id` is the deployment that a rollback made, `approval_id` the approval that became
    STALE or the submission that was made for people to decide on.
    """

    __tablename__ = "drift_response"
    __table_args__ = (
        UniqueConstraint("drift_event_id", "action"),
        Index(None, "deployment_id"),
    )

    drift_event_id: Mapped[UUID] = mapped_column(ForeignKey("drift_event.id"))
    action: Mapped[DriftAction]
    outcome: Mapped[DriftOutcome]
    message: Mapped[str]
    approval_id: Mapped[UUID | None] = mapped_column(ForeignKey("approval.id"))
    deployment_id: Mapped[UUID | None] = mapped_column(ForeignKey("deployment.id"))
    at: Mapped[datetime]
