"""Drift policies and responses

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

NEVER_CHANGED = (
    """
CREATE FUNCTION refuse_drift_policy_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'drift policies are never changed: a new version is made';
END
$$
""",
    """
CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE ON drift_policy
    FOR EACH ROW EXECUTE FUNCTION refuse_drift_policy_change()
""",
)

# What holds until an administrator decides otherwise. Nothing rolls back by itself.
DEFAULT_POLICY = """
INSERT INTO drift_policy (id, version, responses, degradation, reason, created_by) VALUES (
    '00000000-0000-7000-8000-000000000006',
    1,
    '[
        {"from_severity": "HIGH", "action": "MARK_STALE"},
        {"from_severity": "HIGH", "action": "OPEN_REVIEW"}
    ]',
    '[
        {"figure": "AVG_LATENCY_MS", "metric": "inference_time_ms", "limit": "MAX_RATIO",
         "value": 1.5, "severity": "MEDIUM"},
        {"figure": "OBSERVED", "metric": "accuracy", "limit": "MAX_DECREASE",
         "value": 0.05, "severity": "HIGH"}
    ]',
    'What the service begins with.',
    'system:setup'
)
"""

# From here on the service counts them; few versions have any.
COUNT_OPEN = """
UPDATE model_version SET open_drift = counted.open_drift
FROM (
    SELECT id, jsonb_object_agg(severity, number) AS open_drift FROM (
        SELECT model_version_id AS id, severity, count(*) AS number FROM drift_event
        WHERE status NOT IN ('RESOLVED', 'FALSE_POSITIVE')
        GROUP BY model_version_id, severity
    ) AS by_severity GROUP BY id
) AS counted
WHERE counted.id = model_version.id
"""


def upgrade() -> None:
    op.create_table(
        "drift_policy",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.Text(collation="C"), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("responses", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("degradation", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("version >= 1", name="version"),
        sa.CheckConstraint(
            "(responses IS NULL) = (degradation IS NULL) AND "
            "(responses IS NOT NULL OR model_name IS NOT NULL)",
            name="rules",
        ),
        sa.ForeignKeyConstraint(["model_name"], ["model.name"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model_name", "version"),
    )
    op.create_index(
        "uq_drift_policy_general",
        "drift_policy",
        ["version"],
        unique=True,
        postgresql_where=sa.text("model_name IS NULL"),
    )
    for statement in (DEFAULT_POLICY, *NEVER_CHANGED):
        op.execute(statement)

    op.add_column(
        "deployment",
        sa.Column(
            "observed",
            postgresql.JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column("drift_event", sa.Column("dedup_key", sa.Text(), nullable=True))
    op.add_column("drift_event", sa.Column("policy_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(None, "drift_event", "drift_policy", ["policy_id"], ["id"])
    op.create_unique_constraint(None, "drift_event", ["model_version_id", "dedup_key"])
    op.create_index(None, "drift_event", ["model_name", "dedup_key"])

    op.create_table(
        "drift_response",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("drift_event_id", sa.Uuid(), nullable=False),
        sa.Column(
            "action",
            sa.Enum(
                *("MARK_STALE", "OPEN_REVIEW", "ROLL_BACK"),
                name="driftaction",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "outcome",
            sa.Enum(
                *("DONE", "NOTHING_TO_DO", "FAILED"),
                name="driftoutcome",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("approval_id", sa.Uuid(), nullable=True),
        sa.Column("deployment_id", sa.Uuid(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["approval_id"], ["approval.id"]),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployment.id"]),
        sa.ForeignKeyConstraint(["drift_event_id"], ["drift_event.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("drift_event_id", "action"),
    )
    op.create_index(None, "drift_response", ["deployment_id"])
    op.execute(COUNT_OPEN)


def downgrade() -> None:
    op.drop_table("drift_response")
    op.drop_constraint("uq_drift_event_model_version_id_dedup_key", "drift_event")
    op.drop_index("ix_drift_event_model_name_dedup_key", "drift_event")
    op.drop_column("drift_event", "policy_id")
    op.drop_column("drift_event", "dedup_key")
    op.drop_column("deployment", "observed")
    op.drop_table("drift_policy")
    op.execute("DROP FUNCTION refuse_drift_policy_change")
