"""How log lines are stored: numbered from 1 for each owner, without gaps."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.tables import Base


class LogLineRow(Base):
    """A line of a run's or a deployment's log."""

    __tablename__ = "log_line"

    owner_id: Mapped[UUID] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    timestamp: Mapped[datetime]
    level: Mapped[str]
    message: Mapped[str]
