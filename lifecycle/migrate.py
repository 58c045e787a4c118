"""Bringing a database's tables up to date, and telling whether they are."""

import asyncio
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from lifecycle.database import Database, check_server, connect
from lifecycle.errors import Unavailable
from lifecycle.statements import Prepared

_PACKAGE = Path(__file__).parent


def _config(url: str) -> Config:
    # In a wheel the migrations are inside the package, in a checkout beside it.
    inside, beside = _PACKAGE / "migrations", _PACKAGE.parent / "migrations"
    config = Config()
    scripts = str(inside if inside.exists() else beside)
    config.set_main_option("script_location", scripts.replace("%", "%%"))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Apply what has not been applied. Safe to run by several processes at once. What a later
    release has applied is left alone, as long as this code runs on it.

    Raises Unavailable, saying why, when the database cannot be migrated.
    """
    asyncio.run(check_server(url))
    try:
        command.upgrade(_config(url), "head")
    except DBAPIError as error:
        reason = getattr(error.orig, "__cause__", None) or error.orig
        raise Unavailable(f"The database cannot be migrated: {reason}.") from error
    except CommandError as error:
        if asyncio.run(_is_later(url)):
            return
        raise Unavailable(f"The database cannot be migrated: {error}.") from error


def check(url: str) -> None:
    """Raise alembic's CommandError unless the tables are what the code expects."""
    command.check(_config(url))


@cache
def head() -> str | None:
    """The revision that this code was written for."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


_FOUND = "SELECT version_num, obj_description('alembic_version'::regclass) FROM alembic_version"
_REVISION = Prepared(text(_FOUND))
# Said of the table by `migrations/env.py`, for releases that do not know the revision.
RUNS_FROM = "Runs the code of revision {} and later."


async def fits(database: Database) -> bool:
    """Whether this code runs on the tables that are there; see `runs_on`. Raises Unavailable."""
    async with database.read() as session:
        found = await session.fetch(_REVISION)
    return [runs_on(head(), *each) for each in found] == [True]


def runs_on(own: str | None, found: str, said: str | None) -> bool:
    """Whether code that was written for the revision `own` runs on tables at `found`: at its own,
    one before or after it, or any later one that says so."""
    if own is None or not found.isdecimal():
        return False
    ahead = int(found) - int(own)
    before = [RUNS_FROM.format(f"{number:04d}") for number in range(1, int(own) + 1)]
    return abs(ahead) <= 1 or (ahead > 0 and said in before)


async def _is_later(url: str) -> bool:
    """Whether a later release has migrated, and this code runs on what it has made of it."""
    connection = await connect(url, "migrate")
    try:
        found = await connection.fetch(_FOUND)
    finally:
        await connection.close(timeout=10)
    own = head()
    return len(found) == 1 and own is not None and found[0][0] > own and runs_on(own, *found[0])
