"""Data sets are made from the facts of the runs that are there, as those of new runs make them."""

import asyncio
import json
from uuid import UUID, uuid4

import asyncpg
import pytest
from alembic.config import main as alembic

from lifecycle.datasets.rules import named
from tests.migrations.test_migrations import INI

FACTS: list[object] = [
    None,
    {},
    {"rows": 5},
    {"name": None},
    {"name": 5},
    {"name": ""},
    {"name": " \t"},
    {"name": "x" * 251},
    {"name": "two\nlines"},
    {"name": "churn"},
    {"name": "churn", "rows": 7},
    {"name": " churn\n", "digest": None},
    {"name": "churn", "digest": 5},
    {"name": "churn", "digest": "x" * 251},
    {"name": "churn", "digest": "sha256:1"},
    {"name": "churn", "digest": " sha256:1 "},
    {"name": "churn", "digest": "sha256:2"},
    {"name": "é" * 250, "digest": "\U0001f600" * 250},
]
TIMES = 70  # more than one batch

RUN = """
INSERT INTO run (id, experiment_id, status, params, tags, dataset_facts, lease_seconds,
    last_reported_at, log_lines, revision, created_by)
SELECT $1, id, 'RUNNING', '{}', '{}', $2::jsonb, 1, now(), 0, 1, 'former' FROM experiment
"""
EXPERIMENT = """
INSERT INTO experiment (id, name, status, tags, revision, created_by)
VALUES (gen_random_uuid(), 'e', 'ACTIVE', '{}', 1, 'former')
"""
LINKS = """
SELECT run.id, data_set.name, digest, data_set.created_by FROM run
JOIN data_set ON data_set.id = data_set_id
"""


def test_runs_that_are_there_are_linked_and_doing_it_again_changes_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setenv("LIFECYCLE_DATABASE_URL", empty_database_url)
    alembic([*INI, "upgrade", "0002"])
    runs = {uuid4(): facts for facts in FACTS * TIMES}

    async def work() -> None:
        connection = await asyncpg.connect(empty_database_url.replace("+asyncpg", ""))
        await connection.execute(EXPERIMENT)
        rows = [
            (id, json.dumps(facts) if facts is not None else None) for id, facts in runs.items()
        ]
        await connection.executemany(RUN, rows)
        await connection.close()

    async def links() -> dict[UUID, tuple[str, ...]]:
        connection = await asyncpg.connect(empty_database_url.replace("+asyncpg", ""))
        found = {row[0]: tuple(row)[1:] for row in await connection.fetch(LINKS)}
        assert await connection.fetchval("SELECT count(*) FROM data_set") == 4
        await connection.close()
        return found

    asyncio.run(work())

    # when, then
    wanted = {
        id: (*name, "former")
        for id, facts in runs.items()
        if isinstance(facts, dict | None) and (name := named(facts))
    }
    for _ in range(2):
        alembic([*INI, "upgrade", "0003"])
        assert asyncio.run(links()) == wanted
        alembic([*INI, "stamp", "0002"])
