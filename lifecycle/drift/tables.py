"""How drift events are stored."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.drift.rules import DriftStatus
from lifecycle.registry.rules import DriftSeverity
from lifecycle.tables import Revised


class DriftEventRow(Revised):
    """One observation that a version no longer behaves as it did."""

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
        Index(None, "created_at", "id"),
        Index(None, "model_name", "created_at", "id"),
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
