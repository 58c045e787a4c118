"""Areas of artifacts, and uploads to them

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def area(name: str) -> sa.Enum:
    return sa.Enum(
        *("INTERNAL", "EXTERNAL"),
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
    )


def upgrade() -> None:
    op.create_table(
        "artifact_upload",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("area", area("artifactarea"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("remains_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("size_bytes >= 0", name="size_bytes"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_artifact_upload_remains",
        "artifact_upload",
        ["remains_until"],
        postgresql_where=sa.text("remains_until IS NOT NULL"),
    )
    # Not looked at row by row while others wait: there is nothing in it yet.
    op.add_column("artifact", sa.Column("area", sa.String(32), nullable=True))
    op.create_check_constraint(
        "artifactarea", "artifact", "area IN ('INTERNAL', 'EXTERNAL')", postgresql_not_valid=True
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE artifact VALIDATE CONSTRAINT ck_artifact_artifactarea")


def downgrade() -> None:
    op.drop_column("artifact", "area")
    op.drop_table("artifact_upload")
