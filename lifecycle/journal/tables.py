"""How events are stored. Append-only: triggers refuse all changes but the giving of positions
and hashes, and all removals but of what the head says is too old to be kept."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    LargeBinary,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.tables import Base

# What comes before the first event, where a hash has to stand.
ZERO = bytes(32)

_NUMBERED = text("position IS NOT NULL")
_ZERO = text(f"'\\x{ZERO.hex()}'::bytea")


class EventRow(Base):
    """One thing that happened to one subject."""

    __tablename__ = "event"
    __table_args__ = (
        UniqueConstraint("position"),
        Index("ix_event_pending", "id", postgresql_where=text("position IS NULL")),
        Index("ix_event_subject_id_position", "subject_id", "position"),
        Index("ix_event_subject_kind_position", "subject_kind", "position"),
        Index("ix_event_actor_position", "actor", "position", postgresql_where=_NUMBERED),
        Index("ix_event_type_position", "type", "position", postgresql_where=_NUMBERED),
        Index("ix_event_at", "at", postgresql_where=_NUMBERED),
    )

    # In the order of insertion, which is not the order of visibility: never resume from it.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    position: Mapped[int | None] = mapped_column(BigInteger)
    type: Mapped[str]
    subject_kind: Mapped[str]
    subject_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    actor: Mapped[str]
    request_id: Mapped[str]
    idempotency_key: Mapped[str | None]
    reason: Mapped[str | None]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    # Set with the position; see `journal.chain`. Events from before there was a chain have none.
    hash: Mapped[bytes | None] = mapped_column(LargeBinary)


class JournalHeadRow(Base):
    """One row: the last position given, the last one that has been removed as too old, and where
    the chain of hashes begins and ends."""

    __tablename__ = "journal_head"
    __table_args__ = (
        CheckConstraint("id = 1", name="single"),
        CheckConstraint(
            "anchor_position <= chain_position AND chain_position <= position "
            "AND length(anchor_hash) = 32 AND length(chain_hash) = 32",
            name="chain",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Tells this journal from others; cursors carry it. Give a new one after restoring a backup.
    journal_id: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    position: Mapped[int] = mapped_column(BigInteger)
    trimmed_through: Mapped[int] = mapped_column(BigInteger)
    # The last event with a hash, which is at `position` unless another release gave that.
    chain_position: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    chain_hash: Mapped[bytes] = mapped_column(LargeBinary, server_default=_ZERO)
    # What the first event of the chain follows. A trigger moves it along with `trimmed_through`.
    anchor_position: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    anchor_hash: Mapped[bytes] = mapped_column(LargeBinary, server_default=_ZERO)
