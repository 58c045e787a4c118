"""What the database refuses by itself, whoever writes to it: the last line of defence."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import count
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import Enum

from lifecycle.metadata import metadata
from tests.client import PATIENCE, Graph
from tests.factories import a_version, a_version_in, approved
from tests.following import connect, key_of

# Table, column, and what Python knows as its values.
CHOICES = [
    (table.name, column.name, set(column.type.enums))
    for table in metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, Enum)
]

CHECKS = """
SELECT pg_get_constraintdef(c.oid) FROM pg_constraint AS c
JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
WHERE contype = 'c' AND conrelid = $1::regclass AND attname = $2
"""

# An entry of the version $1 that begins and ends so many seconds after the open entry of $2.
STAGE = """
INSERT INTO stage_assignment (
    id, model_id, model_version_id, stage, follows, valid_from, valid_to, actor, cause, approval_id
)
SELECT gen_random_uuid(), model_id, $1, $3, valid_from + $4 * interval '1 s',
    valid_from + $4 * interval '1 s', valid_from + $5 * interval '1 s', 'me', 'REQUESTED',
    (SELECT id FROM approval WHERE approval.model_version_id = $1)
FROM stage_assignment WHERE model_version_id = $2 AND valid_to IS NULL
"""


@pytest_asyncio.fixture
async def past(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A way past the service; what is written on it does not stay."""
    connection = await connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def refused(past: asyncpg.Connection, statement: str, *arguments: object) -> str:
    """Who refuses the statement: the name of the constraint, or what the trigger says."""
    with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)) as raised:
        async with past.transaction():
            await past.execute(statement, *arguments)
    name: str | None = raised.value.constraint_name
    return name or str(raised.value)


async def version(graph: Graph, model: str, stage: str = "EXPERIMENTAL") -> UUID:
    return key_of((await a_version_in(graph, model, stage))["id"])


@pytest.mark.parametrize(("table", "column", "values"), CHOICES)
async def test_a_choice_has_the_same_values_here_and_there(
    past: asyncpg.Connection, table: str, column: str, values: set[str]
) -> None:
    # when
    rows = await past.fetch(CHECKS, table, column)

    # then
    found = [set(re.findall(r"'(\w+)'", row[0])) for row in rows if "ANY" in row[0]]
    assert values in found
    # Another one may allow fewer.
    assert all(allowed <= values for allowed in found)


def test_the_choices_are_those_that_there_are() -> None:
    assert {(table, column) for table, column, _ in CHOICES} >= {
        ("experiment", "status"),
        ("run", "status"),
        ("model_version", "stage"),
        ("stage_assignment", "stage"),
        ("stage_assignment", "cause"),
        ("checklist_item", "status"),
        ("stage_policy", "stage"),
        ("validation_report", "stage"),
        ("approval", "status"),
        ("approval_decision", "decision"),
        ("model_version", "approval_status"),
        ("deployment", "status"),
        ("deployment", "environment"),
        ("deployment", "health"),
        ("deployment_transition", "from_status"),
        ("deployment_transition", "to_status"),
        ("drift_event", "severity"),
        ("drift_event", "status"),
        ("drift_response", "action"),
        ("drift_response", "outcome"),
        ("artifact", "area"),
        ("artifact_upload", "area"),
    }


async def test_a_second_version_in_production_is_refused(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    await version(graph, unique, "PRODUCTION")
    second = await version(graph, unique)

    # then
    statement = "UPDATE model_version SET stage = 'PRODUCTION' WHERE id = $1"
    assert await refused(past, statement, second) == "uq_model_version_production"


async def test_one_dedup_key_is_one_event_of_a_version(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    insert = """
INSERT INTO drift_event (id, model_version_id, model_name, severity, status, metric, detected_at,
    revision, created_by, dedup_key)
VALUES (gen_random_uuid(), $1, $2, 'LOW', 'OPEN', 'psi', now(), 1, 'me', $3)
"""
    one, two = await version(graph, unique), await version(graph, unique)
    for id, key in ((one, "k"), (two, "k"), (one, None), (one, None)):
        await past.execute(insert, id, unique, key)

    # then
    name = await refused(past, insert, one, unique, "k")
    assert name == "uq_drift_event_model_version_id_dedup_key"


async def test_a_drift_policy_is_never_changed(past: asyncpg.Connection) -> None:
    for statement in ("UPDATE drift_policy SET responses = '[]'", "DELETE FROM drift_policy"):
        said = "drift policies are never changed: a new version is made"
        assert await refused(past, statement) == said

    # Nor is a version of it made twice.
    again = """
INSERT INTO drift_policy (id, version, responses, degradation, reason, created_by)
VALUES (gen_random_uuid(), 1, '[]', '[]', '', 'me')
"""
    assert await refused(past, again) == "uq_drift_policy_general"


async def test_stages_of_one_version_do_not_overlap(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    id = await version(graph, unique)

    # then
    for begin, end in ((-1, 0.000001), (1, 2), (-2, 2)):
        name = await refused(past, STAGE, id, id, "STAGING", begin, end)
        assert name == "ex_stage_assignment_model_version"


async def test_production_of_one_model_was_never_two_versions_at_once(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    producing = await version(graph, unique, "PRODUCTION")
    later = key_of((await approved(graph, await a_version(graph, unique)))["id"])

    # then: before it was registered, so that its own history has room
    name = await refused(past, STAGE, later, producing, "PRODUCTION", 0.000001, 0.000002)
    assert name == "ex_stage_assignment_production"


async def test_nothing_is_in_production_without_an_approval_of_its_own(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    producing = await version(graph, unique, "PRODUCTION")
    other = await version(graph, f"{unique}-other")

    # then
    enter = "UPDATE stage_assignment SET stage = 'PRODUCTION' WHERE model_version_id = $1"
    assert await refused(past, enter, other) == "ck_stage_assignment_approval"
    forget = "UPDATE stage_assignment SET approval_id = NULL WHERE model_version_id = $1"
    assert await refused(past, forget, producing) == "ck_stage_assignment_approval"
    borrow = (
        "UPDATE stage_assignment SET stage = 'PRODUCTION', approval_id = "
        "(SELECT id FROM approval WHERE model_version_id = $2) WHERE model_version_id = $1"
    )
    assert await refused(past, borrow, other, producing) == "fk_stage_assignment_approval"
    borrow = (
        "UPDATE {} SET report_id = (SELECT id FROM validation_report WHERE model_version_id = $2 "
        "LIMIT 1) WHERE model_version_id = $1"
    )
    name = await refused(past, borrow.format("stage_assignment"), other, producing)
    assert name == "fk_stage_assignment_report"


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'NOT_SUBMITTED'", "ck_approval_submitted"),
        ("status = 'PENDING'", "ck_approval_decided"),
        ("decided_by = NULL", "ck_approval_decided"),
        ("decided_by = NULL, decided_at = NULL", "ck_approval_decided"),
        ("status = 'STALE'", "ck_approval_stale"),
        ("stale_at = now()", "ck_approval_stale"),
        ("status = 'BYPASSED', notes = ''", "ck_approval_bypassed"),
        ("status = 'BYPASSED'", "ck_approval_bypassed"),
        ("policy_id = gen_random_uuid()", "fk_approval_policy_id"),
        ("report_id = gen_random_uuid()", "fk_approval_report"),
    ],
)
async def test_an_approval_says_who_decided_when_and_why(
    past: asyncpg.Connection, graph: Graph, unique: str, change: str, constraint: str
) -> None:
    # given
    id = key_of((await approved(graph, await a_version(graph, unique)))["id"])

    # then
    statement = f"UPDATE approval SET {change} WHERE model_version_id = $1"
    assert await refused(past, statement, id) == constraint


async def test_a_version_has_one_approval_at_a_time_and_hears_everybody_once(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    id = key_of((await approved(graph, await a_version(graph, unique)))["id"])

    # then
    second = (
        "INSERT INTO approval SELECT (jsonb_populate_record(NULL::approval, to_jsonb(approval) || "
        "jsonb_build_object('id', gen_random_uuid()))).* FROM approval WHERE model_version_id = $1"
    )
    assert await refused(past, second, id) == "uq_approval_present"
    again = (
        "INSERT INTO approval_decision SELECT d.* FROM approval_decision d "
        "JOIN approval ON approval.id = approval_id WHERE model_version_id = $1"
    )
    assert await refused(past, again, id) == "pk_approval_decision"


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("NULL, 'PRODUCTION', 1, '[]'", "uq_stage_policy_model_id_stage_version"),
        ("NULL, 'ARCHIVED', 1, '[]'", "ck_stage_policy_guarded"),
        ("NULL, 'PRODUCTION', 999, NULL", "ck_stage_policy_rules"),
        ("NULL, 'PRODUCTION', 0, '[]'", "ck_stage_policy_version"),
        ("gen_random_uuid(), 'PRODUCTION', 1, '[]'", "fk_stage_policy_model_id"),
    ],
)
async def test_a_policy_guards_a_stage_with_rules_in_one_version_after_the_other(
    past: asyncpg.Connection, values: str, constraint: str
) -> None:
    statement = (
        "INSERT INTO stage_policy (id, model_id, stage, version, rules, created_by) "
        f"VALUES (gen_random_uuid(), {values}, 'me')"
    )
    assert await refused(past, statement) == constraint


async def test_stages_of_a_version_have_no_gap_and_one_beginning(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    id = await version(graph, unique)

    # then
    assert await refused(past, STAGE, id, id, "STAGING", -2, -1) == "fk_stage_assignment_follows"
    first = STAGE.replace("valid_from + $4 * interval '1 s',", "NULL,", 1)
    assert await refused(past, first, id, id, "STAGING", -2, 0) == "uq_stage_assignment_first"


async def test_a_stage_ends_after_it_began(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    id = await version(graph, unique)
    for end in (-2, -3):
        name = await refused(past, STAGE, id, id, "STAGING", -2, end)
        assert name == "ck_stage_assignment_valid_to"


async def test_an_event_changes_only_once_and_only_by_getting_its_position_and_its_hash(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    id = await version(graph, unique)
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if await past.fetchval("SELECT position FROM event WHERE subject_id = $1", id):
                break

    # then
    for change in (
        "actor = 'x'", "after = NULL", "at = now()", "position = 1", "position = NULL",
        "hash = sha256('')", "hash = NULL", "position = NULL, hash = NULL",
    ):  # fmt: skip
        statement = f"UPDATE event SET {change} WHERE subject_id = $1"
        assert await refused(past, statement, id) == "events are append-only"
    too_old = "only events that are too old to be kept are removed"
    assert await refused(past, "DELETE FROM event WHERE subject_id = $1", id) == too_old
    assert await refused(past, "TRUNCATE event") == too_old


async def test_a_position_may_come_before_the_hash_but_not_after_it_and_nothing_with_them(
    past: asyncpg.Connection,
) -> None:
    # given: as the release before numbers
    insert = (
        "INSERT INTO event (type, subject_kind, subject_id, actor, request_id) "
        "VALUES ('x.y', 'x', gen_random_uuid(), 'me', 'r') RETURNING id"
    )
    beyond = "position = (SELECT position FROM journal_head) + 100"
    hash = "hash = sha256('')"
    id = await past.fetchval(insert)

    # then
    for change in (
        hash, "actor = 'x'", f"{beyond}, actor = 'x'", f"{beyond}, hash = 'short'",
        f"{beyond}, {hash}, reason = 'x'",
    ):  # fmt: skip
        statement = f"UPDATE event SET {change} WHERE id = $1"
        assert await refused(past, statement, id) == "events are append-only"
    await past.execute(f"UPDATE event SET {beyond} WHERE id = $1", id)
    for change in ("position = position + 1", f"position = position + 1, {hash}", "reason = 'x'"):
        statement = f"UPDATE event SET {change} WHERE id = $1"
        assert await refused(past, statement, id) == "events are append-only"
    await past.execute(f"UPDATE event SET {hash} WHERE id = $1", id)
    statement = "UPDATE event SET hash = sha256('x') WHERE id = $1"
    assert await refused(past, statement, id) == "events are append-only"


async def test_the_chain_lies_within_the_journal(past: asyncpg.Connection) -> None:
    for change in (
        "anchor_position = chain_position + 1", "chain_position = position + 1",
        "chain_hash = ''", "anchor_hash = ''",
    ):  # fmt: skip
        statement = f"UPDATE journal_head SET {change}"
        assert await refused(past, statement) == "ck_journal_head_chain"


async def test_a_version_of_which_something_is_deployed_is_not_deleted(
    past: asyncpg.Connection, graph: Graph, unique: str
) -> None:
    # given
    made = await a_version(graph, unique)
    input = {"modelVersion": {"id": made["id"]}, "environment": "DEVELOPMENT"}
    await graph.done("createDeployment", input, "deployment { id }")

    # then
    statement = "UPDATE model_version SET deleted_at = now(), stage = 'ARCHIVED' WHERE id = $1"
    assert await refused(past, statement, key_of(made["id"])) == "ck_model_version_deleted"


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("journal_head", "(id, position, trimmed_through) VALUES ({}, 0, 0)"),
        ("rights_head", "(id, changes) VALUES ({}, 0)"),
    ],
)
async def test_a_head_is_one(past: asyncpg.Connection, table: str, columns: str) -> None:
    statement = f"INSERT INTO {table} {columns}"
    assert await refused(past, statement.format(1)) == f"pk_{table}"
    assert await refused(past, statement.format(2)) == f"ck_{table}_single"


A_GRANT = (
    "INSERT INTO role_grant (id, subject, role, created_by) "
    "VALUES (gen_random_uuid(), 'somebody', 'VIEWER', 'me')"
)
A_TOKEN = (
    "INSERT INTO api_token (id, name, prefix, digest, grants, expires_at, created_by) "
    "VALUES (gen_random_uuid(), 'ci', 'mll', '\\x00', '[]', now(), 'me')"
)


@pytest.mark.parametrize(
    ("given", "statement", "counted"),
    [
        ("SELECT", A_GRANT, 1),
        (A_GRANT, "UPDATE role_grant SET revoked_at = now()", 1),
        (A_GRANT, "UPDATE role_grant SET stages = '[]'", 1),
        (A_GRANT, "DELETE FROM role_grant", 1),
        (A_GRANT, "TRUNCATE role_grant", 1),
        ("SELECT", A_TOKEN, 1),
        (A_TOKEN, "UPDATE api_token SET revoked_at = now()", 1),
        (A_TOKEN, "UPDATE api_token SET expires_at = now()", 1),
        (A_TOKEN, "UPDATE api_token SET grants = '[{}]'", 1),
        (A_TOKEN, "UPDATE api_token SET digest = '\\x01' WHERE digest = '\\x00'", 1),
        (A_TOKEN, "UPDATE api_token SET name = 'cd'", 1),
        (A_TOKEN, "DELETE FROM api_token", 1),
        (A_TOKEN, "TRUNCATE api_token", 1),
        (A_TOKEN, "UPDATE api_token SET last_used_at = now()", 0),
    ],
)
async def test_each_change_of_rights_is_counted_also_one_by_hand(
    past: asyncpg.Connection, given: str, statement: str, counted: int
) -> None:
    await past.execute(given)
    before = await past.fetchval("SELECT changes FROM rights_head")

    await past.execute(statement)

    assert await past.fetchval("SELECT changes FROM rights_head") - before == counted
