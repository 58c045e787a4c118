"""Which keys were used, for what, and what came of it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.tables import Base


class IdempotencyKeyRow(Base):
    """A key belongs to the actor who used it, so that actors cannot collide or spy."""

    __tablename__ = "idempotency_key"

    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    operation: Mapped[str]
    fingerprint: Mapped[bytes]
    # The object that the first use made or changed.
    table_name: Mapped[str]
    row_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
