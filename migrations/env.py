"""Runs migrations: one process at a time, and never waiting long for a lock."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from lifecycle import embedded
from lifecycle.database import connect
from lifecycle.metadata import metadata
from lifecycle.migrate import RUNS_FROM
from lifecycle.settings import Settings

# Held while migrating, so that processes that start at the same time do it one after the other.
_LOCK = 0x6D696772
_AGAIN_SECONDS = 0.1
# The oldest revision whose code runs on the tables that these migrations make. A migration that
# contracts raises it, to what the release before it has.
_OLDEST = "0007"


@contextmanager
def _database_url() -> Iterator[str]:
    settings = Settings.from_environment()
    given: str | None = context.config.attributes.get("url") or settings.database_url
    if given:
        yield given
    else:
        with embedded.running(settings.data_dir) as url:
            yield url


def _number(migration: MigrationContext, revision: Any, directives: list[MigrationScript]) -> None:
    """Number a new migration after the one that it follows."""
    head = migration.get_current_revision() or "0"
    directives[0].rev_id = f"{int(head) + 1:04d}"


def _say(connection: Connection) -> None:
    """Leave word for releases that were written before these migrations."""
    said = RUNS_FROM.format(_OLDEST)
    if connection.scalar(text("SELECT obj_description('alembic_version'::regclass)")) != said:
        connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{said}'"))
    connection.commit()


def _migrate(connection: Connection) -> None:
    connection.execute(text("SET statement_timeout = '0'"))
    # Asked again and again: whoever waits inside a statement has a snapshot, and an index that is
    # made concurrently waits for all of those.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
        connection.commit()
        time.sleep(_AGAIN_SECONDS)
    # Only now, for it counts for that lock too.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_type=True,
        process_revision_directives=_number,
    )
    with context.begin_transaction():
        context.run_migrations()
    _say(connection)
    connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
    connection.commit()


async def _run(url: str) -> None:
    engine = create_async_engine(
        url, poolclass=NullPool, async_creator=lambda: connect(url, "migrate")
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with _database_url() as database_url:
        asyncio.run(_run(database_url))
