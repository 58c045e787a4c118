"""How it is stored what is on both sides, and what is still to be done about it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.tables import WithId
from lifecycle.tracking.rules import SyncState, TrackedKind


class MlflowServerRow(WithId):
    """An MLflow server, by its address without credentials.

    `position` is how far the journal has been read for it; null where nothing is told, as a server
    that was only imported from. `looked_at` is when it was last asked
    for what has changed there, `compared_at` when all of it was compared; `look_lease` is until
    when somebody is at it.
    """

    __tablename__ = "mlflow_server"
    __table_args__ = (UniqueConstraint("uri"),)

    uri: Mapped[str]
    version: Mapped[str | None]
    position: Mapped[int | None] = mapped_column(BigInteger)
    looked_at: Mapped[datetime | None]
    compared_at: Mapped[datetime | None]
    look_lease: Mapped[datetime | None]
    asked_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]
    error: Mapped[str | None]


class MlflowItemRow(WithId):
    """An object that is, or is to be, here and on an MLflow server.

    `mlflow_id` is MLflow's id of it; of a version the model's name, a slash and the number there.
    `base` is what each field was on both sides when they last agreed, `seen` a digest of what was
    there at that time, and `position` how far the journal has been told to MLflow. It is to be
    looked at from `due_at` on, by whoever holds the lease; `wanted` counts the reasons.

    `created_at` is since when it has been known as our object, if it is: of an object that came in
    the first of its items is of the server that it came from.
    """

    __tablename__ = "mlflow_item"
    __table_args__ = (
        UniqueConstraint("server_id", "kind", "object_id"),
        UniqueConstraint("server_id", "kind", "mlflow_id"),
        CheckConstraint("object_id IS NOT NULL OR mlflow_id IS NOT NULL", name="somewhere"),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", name="lease"),
        Index(
            "ix_mlflow_item_due",
            "server_id",
            "due_at",
            "id",
            postgresql_where=text("due_at IS NOT NULL"),
        ),
        Index(None, "server_id", "state", "id"),
        Index(
            "ix_mlflow_item_waits_for",
            "waits_for",
            postgresql_where=text("waits_for IS NOT NULL"),
        ),
    )

    server_id: Mapped[UUID] = mapped_column(ForeignKey("mlflow_server.id"))
    kind: Mapped[TrackedKind]
    object_id: Mapped[UUID | None]
    mlflow_id: Mapped[str | None]
    url: Mapped[str | None]
    state: Mapped[SyncState] = mapped_column(
        default=SyncState.PENDING, server_default=SyncState.PENDING
    )
    error: Mapped[str | None]
    conflicts: Mapped[list[dict[str, Any]]] = mapped_column(
        JSONB, default=list, server_default=text("'[]'::jsonb")
    )
    base: Mapped[dict[str, Any]] = mapped_column(
        JSONB, default=dict, server_default=text("'{}'::jsonb")
    )
    # Of a run: how far what is only ever added has come over; see `runs.exchange`.
    points_seen: Mapped[dict[str, Any]] = mapped_column(
        JSONB, default=dict, server_default=text("'{}'::jsonb")
    )
    seen: Mapped[str | None]
    position: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    wanted: Mapped[int] = mapped_column(BigInteger, default=1, server_default=text("1"))
    attempts: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    due_at: Mapped[datetime | None]
    # Who has asked for it by an import, and takes over its stage.
    importing_for: Mapped[str | None]
    # The item that has to be on both sides first; whoever puts it there makes this one due.
    waits_for: Mapped[UUID | None]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    synced_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
