"""Stage policies, reports and approvals

From here on nothing comes into production without an approval, also while processes of the former
release still run: theirs are refused by `ck_stage_assignment_approval` until they are replaced.

Revision ID: 0005
Revises: 0004
"""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_FORMER_CAUSES = ("REGISTERED", "REQUESTED", "APPROVED", "DISPLACED", "ROLLED_BACK", "AUTOMATION")
_CAUSES = (*_FORMER_CAUSES[:3], "BYPASSED", *_FORMER_CAUSES[3:])

# The policies that hold until somebody sets others.
_GENERAL_POLICIES = """
INSERT INTO stage_policy (id, model_id, stage, version, rules, reason, created_by)
VALUES (gen_random_uuid(), NULL, 'STAGING', 1, '[]', 'What the service begins with.', 'system:setup'),
(gen_random_uuid(), NULL, 'PRODUCTION', 1, '[
    {"kind": "METRIC", "key": "accuracy", "at_least": 0.75},
    {"kind": "METRIC", "key": "precision", "at_least": 0.7},
    {"kind": "METRIC", "key": "recall", "at_least": 0.65},
    {"kind": "METRIC", "key": "inference_time_ms", "at_most": 100},
    {"kind": "METRIC", "key": "data_quality_score", "at_least": 0.8},
    {"kind": "DATASET_FACT", "key": "train_size", "at_least": 1000, "severity": "WARNING"},
    {"kind": "DATASET_FACT", "key": "feature_count", "at_least": 3, "severity": "WARNING"},
    {"kind": "HYPERPARAMETER", "key": "hidden_size", "at_most": 1000, "severity": "WARNING"},
    {"kind": "HYPERPARAMETER", "key": "learning_rate", "at_least": 0.0001, "at_most": 0.1, "severity": "WARNING"},
    {"kind": "BASELINE", "key": "accuracy", "tolerance": 0.05, "goal": "MAXIMIZE"},
    {"kind": "AUTOMATIC_APPROVAL", "key": "accuracy", "better_by": 0.02, "tolerance": 0.01, "goal": "MAXIMIZE"}
]', 'What the service begins with.', 'system:setup')
"""

# What has been in production before there were approvals may be rolled back to as before. Nobody
# has approved it, and it says so.
_LET_IN_BEFORE = (
    """
INSERT INTO approval (
    id, model_version_id, status, reason, submitted_by, submitted_at, policy_id, policy_version,
    decided_by, decided_at, notes, used_at
)
SELECT gen_random_uuid(), let_in.id, 'BYPASSED', 'It was in production before there were approvals.',
    'system:migration', now(), policy.id, policy.version,
    'system:migration', now(), 'It was in production before there were approvals.', now()
FROM (
    SELECT DISTINCT model_version_id AS id FROM stage_assignment WHERE stage = 'PRODUCTION'
) AS let_in
JOIN stage_policy AS policy ON policy.stage = 'PRODUCTION'
""",
    """
UPDATE model_version SET approval_status = 'BYPASSED'
FROM approval WHERE approval.model_version_id = model_version.id
""",
    """
UPDATE stage_assignment SET approval_id = approval.id
FROM approval
WHERE approval.model_version_id = stage_assignment.model_version_id AND stage = 'PRODUCTION'
""",
)

# What they were let in as, for the digests that `lifecycle.promotion.gates.Facts` makes.
_CONTENT = """
SELECT approval.id, artifact_path, artifact_digest, hyperparameters, run.id AS run_id, run.params,
    run.dataset_facts,
    (SELECT jsonb_agg(jsonb_build_array(key, value::text))
        FROM version_metric AS metric WHERE metric.model_version_id = version.id) AS metrics,
    (SELECT jsonb_agg(jsonb_build_array(title, status) ORDER BY place)
        FROM checklist_item AS item WHERE item.model_version_id = version.id) AS checklist
FROM approval
JOIN model_version AS version ON version.id = approval.model_version_id
LEFT JOIN run ON run.id = version.run_id
"""


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _bind_to_content() -> None:
    names = ("hyperparameters", "params", "dataset_facts", "metrics", "checklist")
    content = sa.text(_CONTENT).columns(**dict.fromkeys(names, postgresql.JSONB))
    for row in op.get_bind().execute(content).all():
        evidence = _digest(
            {key: repr(float(value)) for key, value in row.metrics or ()},
            row.artifact_path,
            row.artifact_digest,
            row.hyperparameters or {},
            [str(row.run_id), row.params, row.dataset_facts or {}] if row.run_id else None,
        )
        op.execute(
            sa.text(
                "UPDATE approval SET evidence_digest = :evidence, checklist_digest = :checklist "
                "WHERE id = :id"
            ).bindparams(evidence=evidence, checklist=_digest(row.checklist or []), id=row.id)
        )


def _allow_causes(causes: tuple[str, ...]) -> None:
    name = op.f("ck_stage_assignment_stagecause")
    op.drop_constraint(name, "stage_assignment")
    allowed = ", ".join(f"'{cause}'" for cause in causes)
    op.create_check_constraint(name, "stage_assignment", f"cause IN ({allowed})")


def upgrade() -> None:
    op.create_table(
        "stage_policy",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=True),
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
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "rules", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "stage IN ('STAGING', 'PRODUCTION')", name=op.f("ck_stage_policy_guarded")
        ),
        sa.CheckConstraint(
            "rules IS NOT NULL OR model_id IS NOT NULL", name=op.f("ck_stage_policy_rules")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_stage_policy_version")),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_stage_policy_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_policy")),
        sa.UniqueConstraint(
            "model_id",
            "stage",
            "version",
            name=op.f("uq_stage_policy_model_id_stage_version"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_table(
        "validation_report",
        sa.Column("id", sa.Uuid(), nullable=False),
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
        sa.Column("policy_id", sa.Uuid(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("checks", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("recommendations", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_validation_report_model_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["stage_policy.id"], name=op.f("fk_validation_report_policy_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_validation_report")),
        sa.UniqueConstraint(
            "id", "model_version_id", name=op.f("uq_validation_report_id_model_version_id")
        ),
    )
    op.create_index(
        op.f("ix_validation_report_model_version_id_created_at_id"),
        "validation_report",
        ["model_version_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "NOT_SUBMITTED",
                "PENDING",
                "NEEDS_REVIEW",
                "APPROVED",
                "REJECTED",
                "STALE",
                "BYPASSED",
                "WITHDRAWN",
                name="approvalstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submission_notes", sa.Text(), nullable=True),
        sa.Column("policy_id", sa.Uuid(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=True),
        sa.Column("evidence_digest", sa.Text(), nullable=True),
        sa.Column("checklist_digest", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("stale_reason", sa.Text(), nullable=True),
        sa.Column("stale_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cause_id", sa.Uuid(), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(decided_by IS NULL) = (decided_at IS NULL) AND (status IN ('APPROVED', 'REJECTED', 'BYPASSED')) <= (decided_by IS NOT NULL) AND (status IN ('PENDING', 'NEEDS_REVIEW')) <= (decided_by IS NULL)",
            name=op.f("ck_approval_decided"),
        ),
        sa.CheckConstraint(
            "(status = 'STALE') = (stale_at IS NOT NULL)", name=op.f("ck_approval_stale")
        ),
        sa.CheckConstraint(
            "status <> 'BYPASSED' OR coalesce(notes, '') <> ''", name=op.f("ck_approval_bypassed")
        ),
        sa.CheckConstraint("status <> 'NOT_SUBMITTED'", name=op.f("ck_approval_submitted")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_approval_model_version_id")
        ),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["stage_policy.id"], name=op.f("fk_approval_policy_id")
        ),
        sa.ForeignKeyConstraint(
            ["report_id", "model_version_id"],
            ["validation_report.id", "validation_report.model_version_id"],
            name="fk_approval_report",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
        sa.UniqueConstraint("id", "model_version_id", name=op.f("uq_approval_id_model_version_id")),
    )
    op.create_index(
        "ix_approval_model_version_id_submitted_at",
        "approval",
        ["model_version_id", "submitted_at"],
        unique=False,
    )
    op.create_index(
        "uq_approval_present",
        "approval",
        ["model_version_id"],
        unique=True,
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.create_table(
        "approval_decision",
        sa.Column("approval_id", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column(
            "decision",
            sa.Enum(
                "APPROVE",
                "REJECT",
                "BYPASS",
                name="decision",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["approval_id"], ["approval.id"], name=op.f("fk_approval_decision_approval_id")
        ),
        sa.PrimaryKeyConstraint("approval_id", "actor", name=op.f("pk_approval_decision")),
    )
    op.add_column(
        "model_version",
        sa.Column(
            "approval_status",
            sa.Enum(
                "NOT_SUBMITTED",
                "PENDING",
                "NEEDS_REVIEW",
                "APPROVED",
                "REJECTED",
                "STALE",
                "BYPASSED",
                "WITHDRAWN",
                name="approvalstatus",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="NOT_SUBMITTED",
            nullable=False,
        ),
    )
    op.add_column(
        "model_version",
        sa.Column(
            "open_drift",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    _allow_causes(_CAUSES)
    op.add_column("stage_assignment", sa.Column("approval_id", sa.Uuid(), nullable=True))
    op.add_column("stage_assignment", sa.Column("report_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        "fk_stage_assignment_report",
        "stage_assignment",
        "validation_report",
        ["report_id", "model_version_id"],
        ["id", "model_version_id"],
    )
    op.create_foreign_key(
        "fk_stage_assignment_approval",
        "stage_assignment",
        "approval",
        ["approval_id", "model_version_id"],
        ["id", "model_version_id"],
    )
    for statement in (_GENERAL_POLICIES, *_LET_IN_BEFORE):
        op.execute(statement)
    # Written out as SQL it cannot: then each of them needs an approval before it is moved again.
    if not op.get_context().as_sql:
        _bind_to_content()
    op.create_check_constraint(
        op.f("ck_stage_assignment_approval"),
        "stage_assignment",
        "stage <> 'PRODUCTION' OR approval_id IS NOT NULL",
    )
    with op.get_context().autocommit_block():
        op.create_index(
            op.f("ix_model_version_approval_status_created_at_id"),
            "model_version",
            ["approval_status", "created_at", "id"],
            unique=False,
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_stage_assignment_approval"), "stage_assignment")
    op.execute("UPDATE stage_assignment SET cause = 'REQUESTED' WHERE cause = 'BYPASSED'")
    _allow_causes(_FORMER_CAUSES)
    op.drop_constraint("fk_stage_assignment_approval", "stage_assignment", type_="foreignkey")
    op.drop_constraint("fk_stage_assignment_report", "stage_assignment", type_="foreignkey")
    op.drop_column("stage_assignment", "report_id")
    op.drop_column("stage_assignment", "approval_id")
    op.drop_index(
        op.f("ix_model_version_approval_status_created_at_id"), table_name="model_version"
    )
    op.drop_column("model_version", "open_drift")
    op.drop_column("model_version", "approval_status")
    op.drop_table("approval_decision")
    op.drop_index(
        "uq_approval_present",
        table_name="approval",
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.drop_index("ix_approval_model_version_id_submitted_at", table_name="approval")
    op.drop_table("approval")
    op.drop_index(
        op.f("ix_validation_report_model_version_id_created_at_id"), table_name="validation_report"
    )
    op.drop_table("validation_report")
    op.drop_table("stage_policy")
