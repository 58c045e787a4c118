"""How deployments and their history are stored."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.deployments.rules import DeploymentStatus, Environment, HealthStatus
from lifecycle.tables import Base, Revised, choice


class DeploymentRow(Revised):
    """One version in one environment. `healthy_at` is when it first was both ACTIVE and HEALTHY:
    a rollback goes back to the last that came so far."""

    __tablename__ = "deployment"
    __table_args__ = (
        CheckConstraint(
            "(status = 'TERMINATED') = (terminated_at IS NOT NULL)", name="terminated_at"
        ),
        CheckConstraint("instances >= 1", name="instances"),
        CheckConstraint("request_count >= 0", name="request_count"),
        CheckConstraint("error_rate BETWEEN 0 AND 1", name="error_rate"),
        CheckConstraint("avg_latency_ms >= 0", name="avg_latency_ms"),
        Index(None, "created_at", "id"),
        Index(None, "updated_at", "id"),
        Index(None, "model_name", "created_at", "id"),
        Index(None, "model_version_id", "created_at", "id"),
        Index(None, "status", "created_at", "id"),
        Index(None, "rollback_from_id"),
    )

    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"))
    model_name: Mapped[str] = mapped_column(Text(collation="C"))
    version: Mapped[str]
    environment: Mapped[Environment]
    status: Mapped[DeploymentStatus] = mapped_column(default=DeploymentStatus.PENDING)
    status_message: Mapped[str | None]
    health: Mapped[HealthStatus] = mapped_column(default=HealthStatus.UNKNOWN)
    endpoint: Mapped[str | None]
    instances: Mapped[int]
    instance_type: Mapped[str | None]
    auto_scaling: Mapped[bool]
    request_count: Mapped[int] = mapped_column(BigInteger, default=0)
    error_rate: Mapped[float] = mapped_column(default=0.0)
    avg_latency_ms: Mapped[float] = mapped_column(default=0.0)
    # Figures that those who watch it measured, such as accuracy, as last reported.
    observed: Mapped[dict[str, float]] = mapped_column(
        JSONB, default=dict, server_default=text("'{}'::jsonb")
    )
    metrics_reported_at: Mapped[datetime | None]
    rollback_from_id: Mapped[UUID | None] = mapped_column(ForeignKey("deployment.id"))
    deployed_at: Mapped[datetime | None]
    healthy_at: Mapped[datetime | None]
    terminated_at: Mapped[datetime | None]
    log_lines: Mapped[int] = mapped_column(BigInteger, default=0)


class DeploymentTransitionRow(Base):
    """A deployment came from one status to another; the first entry comes from none."""

    __tablename__ = "deployment_transition"
    __table_args__ = (
        Index(None, "deployment_id", "id"),
        # What it was at a moment.
        Index(None, "deployment_id", "at", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    deployment_id: Mapped[UUID] = mapped_column(ForeignKey("deployment.id"))
    from_status: Mapped[DeploymentStatus | None] = mapped_column(
        choice(DeploymentStatus, "from_status")
    )
    to_status: Mapped[DeploymentStatus] = mapped_column(choice(DeploymentStatus, "to_status"))
    at: Mapped[datetime]
    actor: Mapped[str]
    message: Mapped[str | None]
