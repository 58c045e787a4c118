"""The migrations lead to the tables that the code expects, and back; several may try at once."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic.config import main as alembic
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy.ext.asyncio import create_async_engine

from lifecycle import embedded, migrate
from lifecycle.__main__ import main
from lifecycle.metadata import metadata
from tests.client import Graph
from tests.conftest import in_thread, serving
from tests.factories import VERSION, a_run, a_version, a_version_in

CHECKOUT = Path(__file__).parents[2]
INI = ["-c", str(CHECKOUT / "alembic.ini")]

# Everything that is in the schema, but for what belongs to something else that is listed.
OBJECTS = """
SELECT 'table ' || relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT relkind::text || ' ' || relname FROM pg_class
    WHERE relkind NOT IN ('r', 'i') AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'type ' || typname FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typrelid = 0 AND typelem = 0
UNION ALL
SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1
"""

COLUMNS = """
SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
    attidentity, attcollation::regcollation::text, pg_get_expr(adbin, adrelid)
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
    SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
)
ORDER BY 1, 2
"""

# Those of exclusion constraints are made by the migration alone; constraints that forbid null are
# objects from PostgreSQL 18 on, and seen with the columns.
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype NOT IN ('x', 'n', 't')
ORDER BY 1, 2
"""

INDEXES = """
SELECT tablename, indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND indexname NOT LIKE 'ex_%' ORDER BY 1, 2
"""

BY_MIGRATION = """
SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger
    WHERE NOT tgisinternal
UNION ALL
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype = 'x'
UNION ALL
SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind = 'f' AND prolang <> 12
ORDER BY 1, 2
"""


def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""

    async def ask() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def everything(url: str) -> list[list[tuple[Any, ...]]]:
    return [fetch(url, query) for query in (OBJECTS, COLUMNS, CONSTRAINTS, INDEXES, BY_MIGRATION)]


def test_there_is_one_head() -> None:
    scripts = ScriptDirectory(str(CHECKOUT / "migrations"))
    assert scripts.get_heads() == [migrate.head()]


def test_what_alembic_is_told_by_hand_goes_to_the_database_that_is_configured(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setenv("LIFECYCLE_DATABASE_URL", empty_database_url)

    # when
    alembic([*INI, "upgrade", "head"])
    first = everything(empty_database_url)
    alembic([*INI, "check"])  # exits unless they lead to the tables in the code
    alembic([*INI, "downgrade", "base"])
    empty = fetch(empty_database_url, OBJECTS)
    alembic([*INI, "upgrade", "head"])
    second = everything(empty_database_url)

    # then
    assert empty == [("table alembic_version",)]
    assert second == first
    assert ("function refuse_event_change",) in first[0]
    assert fetch(empty_database_url, "SELECT version_num FROM alembic_version") == [
        (migrate.head(),)
    ]


def test_without_configuration_alembic_works_on_the_embedded_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.delenv("LIFECYCLE_DATABASE_URL", raising=False)
    monkeypatch.setenv("LIFECYCLE_DATA_DIR", str(tmp_path))

    # when: the second joins the first
    with embedded.running(tmp_path) as url:
        alembic([*INI, "upgrade", "head"])
        tables = fetch(url, OBJECTS)
        alembic([*INI, "downgrade", "base"])
        left = fetch(url, OBJECTS)

    # then
    assert {("table experiment",), ("table event",)} <= set(tables)
    assert left == [("table alembic_version",)]


def test_migrations_can_be_written_out_as_sql(capsys: pytest.CaptureFixture[str]) -> None:
    alembic([*INI, "upgrade", "head", "--sql"])
    assert "CREATE TABLE experiment" in capsys.readouterr().out


def test_what_is_migrated_is_what_the_tables_say(
    database_url: str, empty_database_url: str
) -> None:
    # given: alembic compares neither CHECK constraints nor the conditions of indexes
    async def create() -> None:
        engine = create_async_engine(empty_database_url)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    asyncio.run(create())

    # then
    for query in (COLUMNS, CONSTRAINTS, INDEXES):
        migrated = [row for row in fetch(database_url, query) if row[0] != "alembic_version"]
        assert migrated == fetch(empty_database_url, query)


async def test_those_who_migrate_at_once_do_it_one_after_the_other(empty_database_url: str) -> None:
    # when
    environment = os.environ | {"LIFECYCLE_DATABASE_URL": empty_database_url}
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lifecycle", "migrate"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        for _ in range(3)
    ]
    said = await asyncio.gather(*(each.communicate() for each in started))

    # then
    assert [output for output, _ in said] == [b"The database is up to date.\n"] * 3
    connection = await asyncpg.connect(empty_database_url.replace("+asyncpg", ""))
    assert await connection.fetchval("SELECT count(*) FROM journal_head") == 1
    await connection.close()


async def test_what_was_in_production_before_there_were_approvals_may_come_back(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setenv("LIFECYCLE_DATABASE_URL", empty_database_url)
    in_thread(lambda: migrate.upgrade(empty_database_url))
    metrics = [{"key": "accuracy", "value": 0.9}, {"key": "loss", "kind": "NAN"}]
    params = [{"key": "depth", "value": "3"}]
    async with serving(empty_database_url) as live, Graph(live.url) as graph:
        run = await a_run(graph, "m", params=params, datasetFacts={"rows": 1.5, "ä": [None]})
        content = {"runId": run, "metrics": metrics, "hyperparameters": {"b": 1e-9, "a": "ü"}}
        let_in = [
            await a_version_in(graph, "m", "PRODUCTION", checklist=["Read"], **content),
            await a_version_in(graph, "m", "PRODUCTION"),
        ]
        other = await a_version(graph, "m")

    # when
    in_thread(lambda: alembic([*INI, "downgrade", "0004"]))
    in_thread(lambda: migrate.upgrade(empty_database_url))

    # then
    async with serving(empty_database_url) as live, Graph(live.url) as graph:
        for version in let_in:
            found = await graph.query(
                "query ($id: ID!) { node(id: $id) { ... on ModelVersion { approval { status reason "
                "notes decidedBy policyVersion } stageHistory { stage approval { status } } } } }",
                {"id": version["id"]},
            )
            said = "It was in production before there were approvals."
            assert found["node"]["approval"] == {
                "status": "BYPASSED",
                "reason": said,
                "notes": said,
                "decidedBy": "system:migration",
                "policyVersion": 1,
            }
            assert {
                entry["stage"]: entry["approval"] for entry in found["node"]["stageHistory"]
            }.items() >= {"PRODUCTION": {"status": "BYPASSED"}, "EXPERIMENTAL": None}.items()
        # Its digests are those of what it is: it comes back, and what is not changed stays let in.
        first = {"modelVersion": {"id": let_in[0]["id"]}}
        await graph.done("updateModelVersion", {**first, "metrics": metrics}, VERSION)
        for stage in ("STAGING", "PRODUCTION"):
            await graph.done("setStage", {**first, "stage": stage}, VERSION)
        await graph.done("updateModelVersion", {**first, "artifactPath": "new"}, VERSION)
        found = await graph.query(
            "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on ModelVersion { approval { status } "
            "} } }",
            {"ids": [let_in[0]["id"], other["id"]]},
        )
        assert [node["approval"]["status"] for node in found["nodes"]] == ["STALE", "NOT_SUBMITTED"]


def test_a_database_of_a_later_version_is_left_alone(empty_database_url: str) -> None:
    # given
    migrate.upgrade(empty_database_url)
    fetch(empty_database_url, "UPDATE alembic_version SET version_num = 'later'")

    # when
    result = CliRunner().invoke(main, ["migrate", "--database-url", empty_database_url])

    # then
    assert result.exit_code == 1
    assert result.output == (
        "Error: The database cannot be migrated: Can't locate revision identified by 'later'.\n"
    )


def test_a_user_who_may_not_make_tables_is_told_so(empty_database_url: str) -> None:
    # given
    role = f"weak_{uuid4().hex}"
    fetch(empty_database_url, f"CREATE ROLE {role}")
    try:
        url = f"{empty_database_url}{'&' if '?' in empty_database_url else '?'}role={role}"

        # when
        result = CliRunner().invoke(main, ["migrate", "--database-url", url])
    finally:
        fetch(empty_database_url, f"DROP ROLE {role}")

    # then
    assert result.exit_code == 1
    assert result.output == (
        "Error: The database cannot be migrated: permission denied for schema public.\n"
    )
