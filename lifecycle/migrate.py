"""Bringing a database's tables up to date, and telling whether they are."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from lifecycle.database import Database

_PACKAGE = Path(__file__).parent


def _config(url: str) -> Config:
    # In a wheel the migrations are inside the package, in a checkout beside it.
    inside, beside = _PACKAGE / "migrations", _PACKAGE.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(inside if inside.exists() else beside))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Apply what has not been applied. Safe to run by several processes at once."""
    command.upgrade(_config(url), "head")


def check(url: str) -> None:
    """Raise alembic's CommandError unless the tables are what the code expects."""
    command.check(_config(url))


@cache
def head() -> str | None:
    """The revision that this code was written for."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


async def is_current(database: Database) -> bool:
    """Whether the database has that revision. Raises Unavailable."""
    async with database.read() as session:
        found = await session.scalar(text("SELECT version_num FROM alembic_version"))
    return bool(found == head())
