"""Goals of metrics, digests of artifacts

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column(
        "model",
        sa.Column(
            "metric_goals",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    op.add_column("model_version", sa.Column("artifact_digest", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("model_version", "artifact_digest")
    op.drop_column("model", "metric_goals")
