"""Finding a completed upload of a run by its content

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

NAME = "ix_artifact_upload_completed"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # One that could not be finished is there, but of no use.
        op.drop_index(NAME, "artifact_upload", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            NAME,
            "artifact_upload",
            ["run_id", "digest"],
            postgresql_concurrently=True,
            postgresql_where=sa.text("completed_at IS NOT NULL"),
        )


def downgrade() -> None:
    op.drop_index(NAME, "artifact_upload")
