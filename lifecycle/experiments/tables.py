"""How experiments are stored."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.errors import AlreadyExists
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.tables import Revised


class ExperimentRow(Revised):
    """One experiment."""

    __tablename__ = "experiment"
    __table_args__ = (
        UniqueConstraint(
            "name",
            info={
                "violation": lambda name: AlreadyExists(
                    f"There is an experiment {name}.", ("name",)
                )
            },
        ),
        # Archiving a completed experiment keeps the time of its completion.
        CheckConstraint(
            "status = 'ARCHIVED' OR (status = 'COMPLETED') = (completed_at IS NOT NULL)",
            name="completed_at",
        ),
        Index(None, "created_at", "id"),
        Index(None, "updated_at", "id"),
        Index(None, "owner", "created_at", "id"),
    )

    name: Mapped[str] = mapped_column(Text(collation="C"))
    description: Mapped[str | None]
    owner: Mapped[str | None]
    status: Mapped[ExperimentStatus] = mapped_column(default=ExperimentStatus.ACTIVE)
    tags: Mapped[dict[str, str]]
    completed_at: Mapped[datetime | None]
