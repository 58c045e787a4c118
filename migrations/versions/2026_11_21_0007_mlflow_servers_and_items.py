"""MLflow servers and what is, or is to be, on both sides

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "mlflow_server",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("look_lease", sa.DateTime(timezone=True), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mlflow_server")),
        sa.UniqueConstraint("uri", name=op.f("uq_mlflow_server_uri")),
    )
    op.create_table(
        "mlflow_item",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("server_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "EXPERIMENT",
                "RUN",
                "MODEL",
                "MODEL_VERSION",
                name="trackedkind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("object_id", sa.Uuid(), nullable=True),
        sa.Column("mlflow_id", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "PENDING",
                "IN_SYNC",
                "CONFLICT",
                "FAILED",
                name="syncstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="PENDING",
            nullable=False,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "conflicts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "base",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "points_seen",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("wanted", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("importing_for", sa.Text(), nullable=True),
        sa.Column("waits_for", sa.Uuid(), nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(lease_id IS NULL) = (lease_until IS NULL)", name=op.f("ck_mlflow_item_lease")
        ),
        sa.CheckConstraint(
            "object_id IS NOT NULL OR mlflow_id IS NOT NULL", name=op.f("ck_mlflow_item_somewhere")
        ),
        sa.ForeignKeyConstraint(
            ["server_id"], ["mlflow_server.id"], name=op.f("fk_mlflow_item_server_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mlflow_item")),
        sa.UniqueConstraint(
            "server_id", "kind", "mlflow_id", name=op.f("uq_mlflow_item_server_id_kind_mlflow_id")
        ),
        sa.UniqueConstraint(
            "server_id", "kind", "object_id", name=op.f("uq_mlflow_item_server_id_kind_object_id")
        ),
    )
    op.create_index(
        "ix_mlflow_item_due",
        "mlflow_item",
        ["server_id", "due_at", "id"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_mlflow_item_server_id_state_id"),
        "mlflow_item",
        ["server_id", "state", "id"],
        unique=False,
    )
    op.create_index(
        "ix_mlflow_item_waits_for",
        "mlflow_item",
        ["waits_for"],
        unique=False,
        postgresql_where=sa.text("waits_for IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("mlflow_item")
    op.drop_table("mlflow_server")
