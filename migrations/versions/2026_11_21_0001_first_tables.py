"""First tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


# Ranges of ids exist only so that the exclusion constraints below can compare ids for equality
# in a GiST index: the extension btree_gist, which is the usual way, is not everywhere.
NO_OVERLAPS = (
    "CREATE TYPE uuid_range AS RANGE (subtype = uuid)",
    """
ALTER TABLE stage_assignment ADD CONSTRAINT ex_stage_assignment_model_version EXCLUDE USING gist (
    uuid_range(model_version_id, model_version_id, '[]') WITH =,
    tstzrange(valid_from, valid_to) WITH &&
)
""",
    """
ALTER TABLE stage_assignment ADD CONSTRAINT ex_stage_assignment_production EXCLUDE USING gist (
    uuid_range(model_id, model_id, '[]') WITH =,
    tstzrange(valid_from, valid_to) WITH &&
) WHERE (stage = 'PRODUCTION')
""",
)

APPEND_ONLY = (
    """
CREATE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.position IS NULL AND NEW.position IS NOT NULL
       AND to_jsonb(NEW) - 'position' = to_jsonb(OLD) - 'position' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'events are append-only';
END
$$
""",
    """
CREATE TRIGGER append_only BEFORE UPDATE ON event
    FOR EACH ROW EXECUTE FUNCTION refuse_event_change()
""",
    """
CREATE FUNCTION refuse_event_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.position <= (SELECT trimmed_through FROM journal_head) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'only events that are too old to be kept are removed';
END
$$
""",
    """
CREATE TRIGGER keep BEFORE DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION refuse_event_removal()
""",
    """
CREATE TRIGGER keep_all BEFORE TRUNCATE ON event
    EXECUTE FUNCTION refuse_event_removal()
""",
    "INSERT INTO journal_head (id, position, trimmed_through) VALUES (1, 0, 0)",
)


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject_kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "before", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column(
            "after", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("position", name=op.f("uq_event_position")),
    )
    op.create_index(
        "ix_event_pending",
        "event",
        ["id"],
        unique=False,
        postgresql_where=sa.text("position IS NULL"),
    )
    op.create_index(
        "ix_event_subject_id_position", "event", ["subject_id", "position"], unique=False
    )
    op.create_index(
        "ix_event_subject_kind_position", "event", ["subject_kind", "position"], unique=False
    )
    op.create_table(
        "experiment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "ACTIVE",
                "COMPLETED",
                "ARCHIVED",
                name="experimentstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "tags", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "status = 'ARCHIVED' OR (status = 'COMPLETED') = (completed_at IS NOT NULL)",
            name=op.f("ck_experiment_completed_at"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment")),
        sa.UniqueConstraint("name", name=op.f("uq_experiment_name")),
    )
    op.create_index(
        op.f("ix_experiment_created_at_id"), "experiment", ["created_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_experiment_owner_created_at_id"),
        "experiment",
        ["owner", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_experiment_updated_at_id"), "experiment", ["updated_at", "id"], unique=False
    )
    op.create_table(
        "idempotency_key",
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("actor", "key", name=op.f("pk_idempotency_key")),
    )
    op.create_index(
        op.f("ix_idempotency_key_created_at"), "idempotency_key", ["created_at"], unique=False
    )
    op.create_table(
        "journal_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "journal_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False
        ),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("trimmed_through", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_journal_head_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal_head")),
    )
    op.create_table(
        "log_line",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "line", name=op.f("pk_log_line")),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column(
            "tags", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model")),
        sa.UniqueConstraint("id", "name", name=op.f("uq_model_id_name")),
        sa.UniqueConstraint("name", name=op.f("uq_model_name")),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "PENDING",
                "RUNNING",
                "COMPLETED",
                "FAILED",
                "CANCELLED",
                "LOST",
                name="runstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column(
            "params", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column(
            "tags", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("git_commit", sa.Text(), nullable=True),
        sa.Column(
            "dataset_facts",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_seconds", sa.Integer(), nullable=False),
        sa.Column("last_reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("log_lines", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(status IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (ended_at IS NOT NULL)",
            name=op.f("ck_run_ended_at"),
        ),
        sa.CheckConstraint("parent_id <> id", name=op.f("ck_run_parent_id")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiment.id"], name=op.f("fk_run_experiment_id")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["run.id"], name=op.f("fk_run_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_created_at_id"), "run", ["created_at", "id"], unique=False)
    op.create_index(
        op.f("ix_run_experiment_id_created_at_id"),
        "run",
        ["experiment_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_run_params"),
        "run",
        ["params"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"params": "jsonb_path_ops"},
    )
    op.create_index(op.f("ix_run_parent_id"), "run", ["parent_id"], unique=False)
    op.create_index(
        "ix_run_running",
        "run",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'RUNNING'"),
    )
    op.create_index(
        op.f("ix_run_tags"),
        "run",
        ["tags"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )
    op.create_table(
        "artifact",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_artifact_size_bytes")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_artifact_run_id")),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_artifact")),
    )
    op.create_table(
        "latest_metric",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiment.id"], name=op.f("fk_latest_metric_experiment_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_latest_metric_run_id")),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_latest_metric")),
    )
    op.create_index(
        "ix_latest_metric_best",
        "latest_metric",
        ["experiment_id", "key", "value", "run_id"],
        unique=False,
        postgresql_where=sa.text("value <> 'NaN' AND value <> 'Infinity' AND value <> '-Infinity'"),
    )
    op.create_table(
        "metric_point",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_metric_point_run_id")),
        sa.PrimaryKeyConstraint("run_id", "key", "step", "timestamp", name=op.f("pk_metric_point")),
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum(
                "EXPERIMENTAL",
                "STAGING",
                "PRODUCTION",
                "ARCHIVED",
                name="stage",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("stage_changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("framework", sa.Text(), nullable=True),
        sa.Column(
            "hyperparameters",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
        ),
        sa.Column(
            "tags", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column("artifact_path", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("live_deployments", sa.Integer(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "deleted_at IS NULL OR (live_deployments = 0 AND stage = 'ARCHIVED')",
            name=op.f("ck_model_version_deleted"),
        ),
        sa.CheckConstraint("live_deployments >= 0", name=op.f("ck_model_version_live_deployments")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_model_version_size_bytes")),
        sa.ForeignKeyConstraint(
            ["model_id", "model_name"], ["model.id", "model.name"], name="fk_model_version_model"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_model_version_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("id", "model_id", name=op.f("uq_model_version_id_model_id")),
        sa.UniqueConstraint(
            "model_name", "version", name=op.f("uq_model_version_model_name_version")
        ),
    )
    op.create_index(
        op.f("ix_model_version_created_at_id"), "model_version", ["created_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_model_version_model_id_created_at_id"),
        "model_version",
        ["model_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_model_version_model_name_created_at_id"),
        "model_version",
        ["model_name", "created_at", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_model_version_run_id"), "model_version", ["run_id"], unique=False)
    op.create_index(
        op.f("ix_model_version_stage_created_at_id"),
        "model_version",
        ["stage", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_model_version_updated_at_id"), "model_version", ["updated_at", "id"], unique=False
    )
    op.create_index(
        "uq_model_version_production",
        "model_version",
        ["model_id"],
        unique=True,
        postgresql_where=sa.text("stage = 'PRODUCTION'"),
    )
    op.create_table(
        "checklist_item",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "PENDING",
                "APPROVED",
                "REJECTED",
                name="checkliststatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(status = 'PENDING') = (decided_at IS NULL) AND (decided_at IS NULL) = (decided_by IS NULL)",
            name=op.f("ck_checklist_item_decided"),
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_checklist_item_model_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checklist_item")),
        sa.UniqueConstraint(
            "model_version_id", "place", name=op.f("uq_checklist_item_model_version_id_place")
        ),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column(
            "environment",
            sa.Enum(
                "DEVELOPMENT",
                "STAGING",
                "PRODUCTION",
                name="environment",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "status",
            sa.Enum(
                "PENDING",
                "VALIDATING",
                "DEPLOYING",
                "ACTIVE",
                "FAILED",
                "ROLLBACK",
                "TERMINATED",
                name="deploymentstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column(
            "health",
            sa.Enum(
                "UNKNOWN",
                "HEALTHY",
                "DEGRADED",
                "UNHEALTHY",
                name="healthstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("instance_type", sa.Text(), nullable=True),
        sa.Column("auto_scaling", sa.Boolean(), nullable=False),
        sa.Column("request_count", sa.BigInteger(), nullable=False),
        sa.Column("error_rate", sa.Double(), nullable=False),
        sa.Column("avg_latency_ms", sa.Double(), nullable=False),
        sa.Column("metrics_reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rollback_from_id", sa.Uuid(), nullable=True),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("healthy_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("terminated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("log_lines", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(status = 'TERMINATED') = (terminated_at IS NOT NULL)",
            name=op.f("ck_deployment_terminated_at"),
        ),
        sa.CheckConstraint("avg_latency_ms >= 0", name=op.f("ck_deployment_avg_latency_ms")),
        sa.CheckConstraint("error_rate BETWEEN 0 AND 1", name=op.f("ck_deployment_error_rate")),
        sa.CheckConstraint("instances >= 1", name=op.f("ck_deployment_instances")),
        sa.CheckConstraint("request_count >= 0", name=op.f("ck_deployment_request_count")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_deployment_model_version_id")
        ),
        sa.ForeignKeyConstraint(
            ["rollback_from_id"], ["deployment.id"], name=op.f("fk_deployment_rollback_from_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
    )
    op.create_index(
        op.f("ix_deployment_created_at_id"), "deployment", ["created_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_deployment_model_name_created_at_id"),
        "deployment",
        ["model_name", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_deployment_model_version_id_created_at_id"),
        "deployment",
        ["model_version_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_deployment_rollback_from_id"), "deployment", ["rollback_from_id"], unique=False
    )
    op.create_index(
        op.f("ix_deployment_status_created_at_id"),
        "deployment",
        ["status", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_deployment_updated_at_id"), "deployment", ["updated_at", "id"], unique=False
    )
    op.create_table(
        "stage_assignment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum(
                "EXPERIMENTAL",
                "STAGING",
                "PRODUCTION",
                "ARCHIVED",
                name="stage",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("follows", sa.DateTime(timezone=True), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "cause",
            sa.Enum(
                "REGISTERED",
                "REQUESTED",
                "APPROVED",
                "DISPLACED",
                "ROLLED_BACK",
                "AUTOMATION",
                name="stagecause",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("replaced_by_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint("follows = valid_from", name=op.f("ck_stage_assignment_follows")),
        sa.CheckConstraint("valid_from < valid_to", name=op.f("ck_stage_assignment_valid_to")),
        sa.ForeignKeyConstraint(
            ["model_version_id", "follows"],
            ["stage_assignment.model_version_id", "stage_assignment.valid_to"],
            name="fk_stage_assignment_follows",
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id", "model_id"],
            ["model_version.id", "model_version.model_id"],
            name="fk_stage_assignment_model_version",
        ),
        sa.ForeignKeyConstraint(
            ["replaced_by_id"],
            ["stage_assignment.id"],
            name=op.f("fk_stage_assignment_replaced_by_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_assignment")),
        sa.UniqueConstraint(
            "model_version_id",
            "valid_from",
            name=op.f("uq_stage_assignment_model_version_id_valid_from"),
        ),
        sa.UniqueConstraint(
            "model_version_id",
            "valid_to",
            name=op.f("uq_stage_assignment_model_version_id_valid_to"),
        ),
    )
    op.create_index(
        op.f("ix_stage_assignment_model_id_stage_valid_from"),
        "stage_assignment",
        ["model_id", "stage", "valid_from"],
        unique=False,
    )
    op.create_index(
        op.f("ix_stage_assignment_model_id_valid_from_id"),
        "stage_assignment",
        ["model_id", "valid_from", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_stage_assignment_replaced_by_id"),
        "stage_assignment",
        ["replaced_by_id"],
        unique=False,
    )
    op.create_index(
        "uq_stage_assignment_first",
        "stage_assignment",
        ["model_version_id"],
        unique=True,
        postgresql_where=sa.text("follows IS NULL"),
    )
    op.create_index(
        "uq_stage_assignment_open",
        "stage_assignment",
        ["model_version_id"],
        unique=True,
        postgresql_where=sa.text("valid_to IS NULL"),
    )
    op.create_table(
        "version_metric",
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_version_metric_model_version_id"),
        ),
        sa.PrimaryKeyConstraint("model_version_id", "key", name=op.f("pk_version_metric")),
    )
    op.create_table(
        "deployment_transition",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("deployment_id", sa.Uuid(), nullable=False),
        sa.Column(
            "from_status",
            sa.Enum(
                "PENDING",
                "VALIDATING",
                "DEPLOYING",
                "ACTIVE",
                "FAILED",
                "ROLLBACK",
                "TERMINATED",
                name="from_status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column(
            "to_status",
            sa.Enum(
                "PENDING",
                "VALIDATING",
                "DEPLOYING",
                "ACTIVE",
                "FAILED",
                "ROLLBACK",
                "TERMINATED",
                name="to_status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["deployment.id"],
            name=op.f("fk_deployment_transition_deployment_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment_transition")),
    )
    op.create_index(
        op.f("ix_deployment_transition_deployment_id_id"),
        "deployment_transition",
        ["deployment_id", "id"],
        unique=False,
    )
    op.create_table(
        "drift_event",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.Text(collation="C"), nullable=False),
        sa.Column("deployment_id", sa.Uuid(), nullable=True),
        sa.Column(
            "severity",
            sa.Enum(
                "LOW",
                "MEDIUM",
                "HIGH",
                "CRITICAL",
                name="driftseverity",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "status",
            sa.Enum(
                "OPEN",
                "ACKNOWLEDGED",
                "MITIGATED",
                "RESOLVED",
                "FALSE_POSITIVE",
                name="driftstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=True),
        sa.Column("baseline_value", sa.Double(), nullable=True),
        sa.Column("observed_value", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "details", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("detected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(status IN ('RESOLVED', 'FALSE_POSITIVE')) = (resolved_by IS NOT NULL) AND (resolved_by IS NULL) = (resolved_at IS NULL)",
            name=op.f("ck_drift_event_resolved"),
        ),
        sa.CheckConstraint(
            "(acknowledged_by IS NULL) = (acknowledged_at IS NULL)",
            name=op.f("ck_drift_event_acknowledged"),
        ),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployment.id"], name=op.f("fk_drift_event_deployment_id")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_drift_event_model_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_event")),
    )
    op.create_index(
        op.f("ix_drift_event_created_at_id"), "drift_event", ["created_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_drift_event_deployment_id_created_at_id"),
        "drift_event",
        ["deployment_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_drift_event_model_name_created_at_id"),
        "drift_event",
        ["model_name", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_drift_event_model_version_id_created_at_id"),
        "drift_event",
        ["model_version_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_drift_event_status_created_at_id"),
        "drift_event",
        ["status", "created_at", "id"],
        unique=False,
    )
    for statement in (*NO_OVERLAPS, *APPEND_ONLY):
        op.execute(statement)


def downgrade() -> None:
    op.drop_index(op.f("ix_drift_event_status_created_at_id"), table_name="drift_event")
    op.drop_index(op.f("ix_drift_event_model_version_id_created_at_id"), table_name="drift_event")
    op.drop_index(op.f("ix_drift_event_model_name_created_at_id"), table_name="drift_event")
    op.drop_index(op.f("ix_drift_event_deployment_id_created_at_id"), table_name="drift_event")
    op.drop_index(op.f("ix_drift_event_created_at_id"), table_name="drift_event")
    op.drop_table("drift_event")
    op.drop_index(
        op.f("ix_deployment_transition_deployment_id_id"), table_name="deployment_transition"
    )
    op.drop_table("deployment_transition")
    op.drop_table("version_metric")
    op.drop_index(
        "uq_stage_assignment_open",
        table_name="stage_assignment",
        postgresql_where=sa.text("valid_to IS NULL"),
    )
    op.drop_index(
        "uq_stage_assignment_first",
        table_name="stage_assignment",
        postgresql_where=sa.text("follows IS NULL"),
    )
    op.drop_index(op.f("ix_stage_assignment_replaced_by_id"), table_name="stage_assignment")
    op.drop_index(op.f("ix_stage_assignment_model_id_valid_from_id"), table_name="stage_assignment")
    op.drop_index(
        op.f("ix_stage_assignment_model_id_stage_valid_from"), table_name="stage_assignment"
    )
    op.drop_table("stage_assignment")
    op.drop_index(op.f("ix_deployment_updated_at_id"), table_name="deployment")
    op.drop_index(op.f("ix_deployment_status_created_at_id"), table_name="deployment")
    op.drop_index(op.f("ix_deployment_rollback_from_id"), table_name="deployment")
    op.drop_index(op.f("ix_deployment_model_version_id_created_at_id"), table_name="deployment")
    op.drop_index(op.f("ix_deployment_model_name_created_at_id"), table_name="deployment")
    op.drop_index(op.f("ix_deployment_created_at_id"), table_name="deployment")
    op.drop_table("deployment")
    op.drop_table("checklist_item")
    op.drop_index(
        "uq_model_version_production",
        table_name="model_version",
        postgresql_where=sa.text("stage = 'PRODUCTION'"),
    )
    op.drop_index(op.f("ix_model_version_updated_at_id"), table_name="model_version")
    op.drop_index(op.f("ix_model_version_stage_created_at_id"), table_name="model_version")
    op.drop_index(op.f("ix_model_version_run_id"), table_name="model_version")
    op.drop_index(op.f("ix_model_version_model_name_created_at_id"), table_name="model_version")
    op.drop_index(op.f("ix_model_version_model_id_created_at_id"), table_name="model_version")
    op.drop_index(op.f("ix_model_version_created_at_id"), table_name="model_version")
    op.drop_table("model_version")
    op.drop_table("metric_point")
    op.drop_index(
        "ix_latest_metric_best",
        table_name="latest_metric",
        postgresql_where=sa.text("value <> 'NaN' AND value <> 'Infinity' AND value <> '-Infinity'"),
    )
    op.drop_table("latest_metric")
    op.drop_table("artifact")
    op.drop_index(
        op.f("ix_run_tags"),
        table_name="run",
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )
    op.drop_index(
        "ix_run_running", table_name="run", postgresql_where=sa.text("status = 'RUNNING'")
    )
    op.drop_index(op.f("ix_run_parent_id"), table_name="run")
    op.drop_index(
        op.f("ix_run_params"),
        table_name="run",
        postgresql_using="gin",
        postgresql_ops={"params": "jsonb_path_ops"},
    )
    op.drop_index(op.f("ix_run_experiment_id_created_at_id"), table_name="run")
    op.drop_index(op.f("ix_run_created_at_id"), table_name="run")
    op.drop_table("run")
    op.drop_table("model")
    op.drop_table("log_line")
    op.drop_table("journal_head")
    op.drop_index(op.f("ix_idempotency_key_created_at"), table_name="idempotency_key")
    op.drop_table("idempotency_key")
    op.drop_index(op.f("ix_experiment_updated_at_id"), table_name="experiment")
    op.drop_index(op.f("ix_experiment_owner_created_at_id"), table_name="experiment")
    op.drop_index(op.f("ix_experiment_created_at_id"), table_name="experiment")
    op.drop_table("experiment")
    op.drop_index("ix_event_subject_kind_position", table_name="event")
    op.drop_index("ix_event_subject_id_position", table_name="event")
    op.drop_index(
        "ix_event_pending", table_name="event", postgresql_where=sa.text("position IS NULL")
    )
    op.drop_table("event")
    op.execute("DROP FUNCTION refuse_event_change")
    op.execute("DROP FUNCTION refuse_event_removal")
    op.execute("DROP TYPE uuid_range")
