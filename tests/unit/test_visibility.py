"""Which rows exist for those who see some models only, and what a statement becomes for them."""

import re

import pytest

from lifecycle.access.visibility import OPEN, SHOWN, VISIBLE, Unrestrictable, ids_of, narrowed
from lifecycle.metadata import metadata

TABLES = frozenset(metadata.tables)
MODEL = "model AS NOT MATERIALIZED (SELECT * FROM model WHERE id = ANY($1::uuid[]))"
VERSION = (
    "model_version AS NOT MATERIALIZED "
    "(SELECT * FROM model_version WHERE model_id = ANY($1::uuid[]))"
)
RUN = "run AS NOT MATERIALIZED (SELECT * FROM run WHERE id IN (SELECT run_id FROM model_version))"


def test_each_table_is_covered_or_open_for_a_reason() -> None:
    assert VISIBLE.keys() | OPEN.keys() == TABLES
    assert not VISIBLE.keys() & OPEN.keys()
    assert all(OPEN.values())


def test_what_is_shown_of_a_table_has_its_columns() -> None:
    for table, shown in SHOWN.items():
        outside = re.sub(r"CASE .*? END AS ", "", shown)
        assert outside.split(", ") == list(metadata.tables[table].columns.keys())


def test_names_of_tables_are_told_from_all_other_names() -> None:
    assert all(table.schema is None for table in metadata.tables.values())
    columns = {column.name for table in metadata.tables.values() for column in table.c}
    assert not columns & VISIBLE.keys()


@pytest.mark.parametrize(
    ("sql", "becomes"),
    [
        ("SELECT id FROM model", f"WITH {MODEL} SELECT id FROM model"),
        ("SELECT count(*) FROM model AS m", f"WITH {MODEL} SELECT count(*) FROM model AS m"),
        ('SELECT * FROM "model"', f'WITH {MODEL} SELECT * FROM "model"'),
        ("\nselect * from MODEL\n", f"WITH {MODEL} select * from MODEL"),
        ("SELECT EXISTS (SELECT FROM model)", f"WITH {MODEL} SELECT EXISTS (SELECT FROM model)"),
        (
            "(SELECT 1 FROM model) UNION SELECT 2",
            f"WITH {MODEL} (SELECT 1 FROM model) UNION SELECT 2",
        ),
        (
            "WITH m AS (SELECT FROM model) TABLE m",
            f"WITH {MODEL}, m AS (SELECT FROM model) TABLE m",
        ),
        (
            "WITH RECURSIVE r AS (SELECT id FROM model UNION SELECT id FROM r) TABLE r",
            f"WITH {MODEL} SELECT * FROM "
            "(WITH RECURSIVE r AS (SELECT id FROM model UNION SELECT id FROM r) TABLE r) "
            "AS narrowed",
        ),
        # With what the table is visible by.
        ("SELECT id FROM run", f"WITH {VERSION}, {RUN} SELECT id FROM run"),
    ],
)
def test_what_is_read_is_read_from_what_is_visible(sql: str, becomes: str) -> None:
    assert narrowed(sql, 0, TABLES) == (becomes, True)


def test_the_models_are_the_last_parameter() -> None:
    sql, restricted = narrowed("SELECT id FROM model WHERE name = $1 AND owner = $2", 2, TABLES)

    assert restricted
    assert "id = ANY($3::uuid[])" in sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT clock_timestamp()",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT position FROM journal_head",
        "SAVEPOINT sa_savepoint_1",
        "INSERT INTO model (id) VALUES ($1) RETURNING id",
        "UPDATE run SET name = $1 WHERE id = $2",
        "DELETE FROM run WHERE id = $1",
        "WITH given AS (SELECT 1) INSERT INTO run SELECT * FROM given",
    ],
)
def test_what_shows_nothing_or_names_what_was_looked_up_is_left_alone(sql: str) -> None:
    assert narrowed(sql, 2, TABLES) == (sql, False)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT * FROM salary", "Nothing says which rows of salary are visible."),
        ("INSERT INTO salary VALUES (1)", "Nothing says which rows of salary are visible."),
        ("TABLE model", "This is neither a query nor a change."),
        ("COPY model TO STDOUT", "This is neither a query nor a change."),
        ("EXPLAIN SELECT * FROM model", "This is neither a query nor a change."),
        ("-- \nSELECT * FROM model", "This is neither a query nor a change."),
        ("SELECT * FROM public.model", "Tables are named without their schema."),
        ('SELECT * FROM "public" . "model"', "Tables are named without their schema."),
        ("SELECT * FROM model FOR UPDATE", "What locks rows asks for them by `ids_of`."),
        ("SELECT * FROM model FOR NO KEY UPDATE", "What locks rows asks for them by `ids_of`."),
        ("SELECT * FROM model FOR KEY SHARE", "What locks rows asks for them by `ids_of`."),
    ],
)
def test_what_cannot_be_narrowed_is_not_executed(sql: str, why: str) -> None:
    with pytest.raises(Unrestrictable) as raised:
        narrowed(sql, 0, TABLES | {"salary"})

    assert str(raised.value) == why


def test_what_locks_the_ids_of_visible_rows_is_left_alone() -> None:
    ids = ids_of("run", "$1::uuid[]")
    sql = f"SELECT * FROM run WHERE run.id IN ({ids}) FOR NO KEY UPDATE"

    assert ids == f"WITH {VERSION}, {RUN} SELECT id FROM run"
    assert narrowed(sql, 1, TABLES) == (sql, False)
    with pytest.raises(Unrestrictable):
        ids_of("journal_head", "$1")
