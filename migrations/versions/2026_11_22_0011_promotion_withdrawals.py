"""When an approval was taken back, and whether by somebody who may decide

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("approval", sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("approval", sa.Column("overruled_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("approval", "overruled_at")
    op.drop_column("approval", "withdrawn_at")
