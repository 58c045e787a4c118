"""Data sets, and which deployments were active when

Runs that the former release logs from here on are linked when their facts next change.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _text(key: str) -> str:
    """What `lifecycle/datasets/rules.py` takes for a name or a digest, or NULL."""
    trimmed = rf"btrim(dataset_facts ->> '{key}', E' \t\n\r')"
    return rf"""CASE WHEN jsonb_typeof(dataset_facts -> '{key}') = 'string'
                AND length({trimmed}) BETWEEN 1 AND 250
                AND {trimmed} !~ '[\x01-\x1f\x7f]' THEN {trimmed} END"""


# Each batch is a transaction of its own.
FILL = f"""
DO $$
DECLARE
    done uuid := '00000000-0000-0000-0000-000000000000';
    batch uuid[];
BEGIN
    LOOP
        batch := ARRAY(SELECT id FROM run WHERE id > done ORDER BY id LIMIT 1000);
        EXIT WHEN cardinality(batch) = 0;
        INSERT INTO data_set (id, name, digest, created_by, created_at)
        SELECT DISTINCT ON (name, digest) gen_random_uuid(), name, digest, created_by, created_at
        FROM (
            SELECT {_text("name")} AS name, {_text("digest")} AS digest, created_by, created_at
            FROM run WHERE id = ANY (batch)
        ) AS found
        WHERE name IS NOT NULL
        ORDER BY name, digest, created_at
        ON CONFLICT DO NOTHING;
        UPDATE run SET data_set_id = data_set.id FROM data_set
        WHERE run.id = ANY (batch) AND data_set.name = {_text("name")}
            AND data_set.digest IS NOT DISTINCT FROM {_text("digest")};
        done := batch[cardinality(batch)];
        COMMIT;
    END LOOP;
END
$$
"""


# Made while others write.
INDEXES = (
    ("run", ["data_set_id", "created_at", "id"]),
    ("run", ["parent_id", "created_at", "id"]),
    ("model_version", ["run_id", "created_at", "id"]),
    ("deployment_transition", ["deployment_id", "at", "id"]),
)
# By two of those.
REPLACED = (("run", "parent_id"), ("model_version", "run_id"))


def upgrade() -> None:
    # What comes before the block is there for good if the block fails, and met when it is run again.
    op.create_table(
        "data_set",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_set")),
        sa.UniqueConstraint(
            "name",
            "digest",
            name=op.f("uq_data_set_name_digest"),
            postgresql_nulls_not_distinct=True,
        ),
        if_not_exists=True,
    )
    for columns in (["created_at", "id"], ["name", "created_at", "id"]):
        name = op.f(f"ix_data_set_{'_'.join(columns)}")
        op.create_index(name, "data_set", columns, if_not_exists=True)
    # In one with the column, which is empty, so that no row has to be looked at.
    op.execute(
        "ALTER TABLE run ADD COLUMN IF NOT EXISTS data_set_id uuid "
        "CONSTRAINT fk_run_data_set_id REFERENCES data_set (id)"
    )
    with op.get_context().autocommit_block():
        op.execute(FILL)
        for table, columns in INDEXES:
            name = op.f(f"ix_{table}_{'_'.join(columns)}")
            # One that could not be finished is there, but of no use.
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
            op.create_index(name, table, columns, postgresql_concurrently=True)
        for table, column in REPLACED:
            name = op.f(f"ix_{table}_{column}")
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


def downgrade() -> None:
    for table, column in REPLACED:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
        op.drop_index(op.f(f"ix_{table}_{column}_created_at_id"), table)
    op.drop_index(
        op.f("ix_deployment_transition_deployment_id_at_id"), table_name="deployment_transition"
    )
    op.drop_column("run", "data_set_id")
    op.drop_table("data_set")
