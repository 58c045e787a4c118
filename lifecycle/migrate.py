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

from lifecycle.database import Database, check_server
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
    """Apply what has not been applied. Safe to run by several processes at once.

    Raises Unavailable, saying why, when the database cannot be migrated.
    """
    asyncio.run(check_server(url))
    try:
        command.upgrade(_config(url), "head")
    except DBAPIError as error:
        reason = getattr(error.orig, "__cause__", None) or error.orig
        raise Unavailable(f"The database cannot be migrated: {reason}.") from error
    except CommandError as error:
        raise Unavailable(f"The database cannot be migrated: {error}.") from error


def check(url: str) -> None:
    """Raise alembic's CommandError unless the tables are what the code expects."""
    command.check(_config(url))


@cache
def head() -> str | None:
    """The revision that this code was written for."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


_REVISION = Prepared(text("SELECT version_num FROM alembic_version"))


async def is_current(database: Database) -> bool:
    """Whether the database has that revision. Raises Unavailable."""
    async with database.read() as session:
        found = await session.fetch(_REVISION)
    return [revision for (revision,) in found] == [head()]
