"""How often rights have changed, counted by triggers; a service's makers from an index

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

NAME = "ix_api_token_name_created_by"
FORMER = "ix_api_token_name"

# By triggers, so that what is changed by hand, or by a process of another release, counts as well.
COUNT_CHANGES = (
    """
CREATE FUNCTION count_change_of_rights() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE rights_head SET changes = changes + 1;
    RETURN NULL;
END
$$
""",
    """
CREATE TRIGGER count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON role_grant
    EXECUTE FUNCTION count_change_of_rights()
""",
    # Not of `last_used_at`, which is noted by the way.
    """
CREATE TRIGGER count_change AFTER INSERT OR DELETE OR TRUNCATE
    OR UPDATE OF name, digest, grants, expires_at, revoked_at ON api_token
    EXECUTE FUNCTION count_change_of_rights()
""",
    "INSERT INTO rights_head (id, changes) VALUES (1, 0)",
)


def _change_index(made: str, columns: list[str], removed: str) -> None:
    with op.get_context().autocommit_block():
        # One that could not be finished is there, but of no use.
        op.drop_index(made, "api_token", if_exists=True, postgresql_concurrently=True)
        op.create_index(made, "api_token", columns, postgresql_concurrently=True)
        op.drop_index(removed, "api_token", if_exists=True, postgresql_concurrently=True)


def upgrade() -> None:
    _change_index(NAME, ["name", "created_by"], FORMER)
    op.create_table(
        "rights_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_rights_head_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rights_head")),
    )
    for statement in COUNT_CHANGES:
        op.execute(statement)


def downgrade() -> None:
    # First what does not stand in one transaction with the rest; it may be begun anew.
    _change_index(FORMER, ["name"], NAME)
    for table in ("api_token", "role_grant"):
        op.execute(f"DROP TRIGGER count_change ON {table}")
    op.execute("DROP FUNCTION count_change_of_rights")
    op.drop_table("rights_head")
