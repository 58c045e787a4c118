"""The audit chain: each event's hash covers the one before it.

The release before this one numbers events without a hash, and may go on doing so: `position` and
`hash` can be set one after the other, each once. The head says through where the chain goes; the
next sequencer that knows of it chains what the other has numbered.

Events that are here already are left without a hash: to chain them would say no more than that
they were not changed since today. The chain begins after them, at the anchor.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ZERO = "'\\x" + "00" * 32 + "'::bytea"

# Each carries one filter of the audit log. They leave out what has no position yet, so that a
# writer's insertion does not touch them.
INDEXES = {
    "ix_event_actor_position": ["actor", "position"],
    "ix_event_type_position": ["type", "position"],
    "ix_event_at": ["at"],
}

# What may be set once is put aside, and the rest compared as it is stored, whatever columns there
# will be.
REFUSE_EVENT_CHANGE = """
CREATE OR REPLACE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rest event := NEW;
BEGIN
    rest.position := OLD.position;
    rest.hash := OLD.hash;
    IF rest *= OLD AND OLD.hash IS NULL AND NEW.position IS NOT NULL
       AND (NEW.hash IS NULL OR length(NEW.hash) = 32)
       AND (OLD.position IS NULL OR (NEW.position = OLD.position AND NEW.hash IS NOT NULL)) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'events are append-only';
END
$$
"""

FORMER_REFUSE_EVENT_CHANGE = """
CREATE OR REPLACE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.position IS NULL AND NEW.position IS NOT NULL
       AND to_jsonb(NEW) - 'position' = to_jsonb(OLD) - 'position' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'events are append-only';
END
$$
"""

# Whoever trims need not know of the chain: the anchor goes along, while the event is still there.
CARRY_ANCHOR = (
    """
CREATE FUNCTION carry_anchor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.trimmed_through < OLD.trimmed_through OR NEW.trimmed_through > NEW.chain_position THEN
        RAISE EXCEPTION 'the journal is trimmed forwards, and not beyond its head';
    END IF;
    IF NEW.trimmed_through > NEW.anchor_position THEN
        NEW.anchor_position := NEW.trimmed_through;
        NEW.anchor_hash := (SELECT hash FROM event WHERE position = NEW.trimmed_through);
    END IF;
    RETURN NEW;
END
$$
""",
    """
CREATE TRIGGER carry_anchor BEFORE UPDATE OF trimmed_through ON journal_head
    FOR EACH ROW EXECUTE FUNCTION carry_anchor()
""",
)


def upgrade() -> None:
    # First what does not stand in one transaction with the rest; it may be begun anew.
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            op.drop_index(name, if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                "event",
                columns,
                postgresql_concurrently=True,
                postgresql_where=sa.text("position IS NOT NULL"),
            )
    op.add_column("event", sa.Column("hash", sa.LargeBinary(), nullable=True))
    for name in ("chain", "anchor"):
        op.add_column(
            "journal_head",
            sa.Column(
                f"{name}_position", sa.BigInteger(), server_default=sa.text("0"), nullable=False
            ),
        )
        op.add_column(
            "journal_head",
            sa.Column(
                f"{name}_hash", sa.LargeBinary(), server_default=sa.text(ZERO), nullable=False
            ),
        )
    op.execute("UPDATE journal_head SET anchor_position = position, chain_position = position")
    op.create_check_constraint(
        op.f("ck_journal_head_chain"),
        "journal_head",
        "anchor_position <= chain_position AND chain_position <= position "
        "AND length(anchor_hash) = 32 AND length(chain_hash) = 32",
    )
    op.execute(REFUSE_EVENT_CHANGE)
    for statement in CARRY_ANCHOR:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER carry_anchor ON journal_head")
    op.execute("DROP FUNCTION carry_anchor")
    op.execute(FORMER_REFUSE_EVENT_CHANGE)
    op.drop_constraint(op.f("ck_journal_head_chain"), "journal_head", type_="check")
    for name in ("anchor", "chain"):
        op.drop_column("journal_head", f"{name}_hash")
        op.drop_column("journal_head", f"{name}_position")
    op.drop_column("event", "hash")
    for name in INDEXES:
        op.drop_index(name, "event")
