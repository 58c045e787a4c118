"""How runs, their metrics and their artifacts are stored.

`metric_point` is the history and is indexed by run first, so that what a run costs depends on its
own points alone; `latest_metric` holds the newest point of each key, for lists and comparisons.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.runs.rules import ArtifactArea, RunStatus
from lifecycle.tables import Base, Revised

_FINITE = "value <> 'NaN' AND value <> 'Infinity' AND value <> '-Infinity'"


class RunRow(Revised):
    """One run. `last_reported_at` is when its writer was last heard of; `data_set_id` is the data
    set that `dataset_facts` names."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint(
            "(status IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (ended_at IS NOT NULL)",
            name="ended_at",
        ),
        CheckConstraint("parent_id <> id", name="parent_id"),
        Index(None, "experiment_id", "created_at", "id"),
        Index(None, "created_at", "id"),
        Index(None, "parent_id", "created_at", "id"),
        Index(None, "data_set_id", "created_at", "id"),
        # The few that the search for lost runs looks at.
        Index("ix_run_running", "id", postgresql_where=text("status = 'RUNNING'")),
        Index(None, "params", postgresql_using="gin", postgresql_ops={"params": "jsonb_path_ops"}),
        Index(None, "tags", postgresql_using="gin", postgresql_ops={"tags": "jsonb_path_ops"}),
    )

    experiment_id: Mapped[UUID] = mapped_column(ForeignKey("experiment.id"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("run.id"))
    name: Mapped[str | None]
    status: Mapped[RunStatus]
    status_message: Mapped[str | None]
    params: Mapped[dict[str, str]]
    tags: Mapped[dict[str, str]]
    source: Mapped[str | None]
    git_commit: Mapped[str | None]
    dataset_facts: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    data_set_id: Mapped[UUID | None] = mapped_column(ForeignKey("data_set.id"))
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    lease_seconds: Mapped[int]
    last_reported_at: Mapped[datetime]
    log_lines: Mapped[int] = mapped_column(BigInteger, default=0)


class MetricPointRow(Base):
    """One point of a metric's history. Two values at one step are told apart by their time."""

    __tablename__ = "metric_point"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    timestamp: Mapped[datetime] = mapped_column(primary_key=True)
    value: Mapped[float]


class LatestMetricRow(Base):
    """The point of a metric with the highest step, and the highest time at that step."""

    __tablename__ = "latest_metric"
    __table_args__ = (
        # Finds the best run of an experiment; what is not finite is never the best.
        Index(
            "ix_latest_metric_best",
            "experiment_id",
            "key",
            "value",
            "run_id",
            postgresql_where=text(_FINITE),
        ),
    )

    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    experiment_id: Mapped[UUID] = mapped_column(ForeignKey("experiment.id"))
    value: Mapped[float]
    step: Mapped[int] = mapped_column(BigInteger)
    timestamp: Mapped[datetime]


class ArtifactRow(Base):
    """A file that a run wrote, where it lies, how large it is. `area` is where its content is kept,
    by its digest; null for one that was only described."""

    __tablename__ = "artifact"
    __table_args__ = (CheckConstraint("size_bytes >= 0", name="size_bytes"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[str | None]
    area: Mapped[ArtifactArea | None]
    created_at: Mapped[datetime]
