"""What is sent to PostgreSQL, seen where it leaves the process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import event, text

from lifecycle.database import Database, WriteSession
from lifecycle.database.readers import Reader

Statement = tuple[str, Sequence[Any]]


@contextmanager
def read(database: Database) -> Iterator[list[Statement]]:
    """The statements of read sessions, with their parameters, while the block lasts."""
    found: list[Statement] = []
    run = Reader._run

    async def noted(self: Any, sql: str, values: Sequence[Any]) -> Any:
        if self._connections is database._readers:
            found.append((sql, values))
        return await run(self, sql, values)

    with patch.object(Reader, "_run", noted):
        yield found


@contextmanager
def written(database: Database) -> Iterator[list[str]]:
    """The statements of transactions while the block lasts, but for the search for lost runs."""
    found: list[str] = []
    run = WriteSession._run

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "SKIP LOCKED" not in statement:
            found.append(statement)

    async def noted(self: Any, sql: str, values: Sequence[Any]) -> Any:
        if self.bind is database.write_engine:
            note(None, None, sql)
        return await run(self, sql, values)

    engine = database.write_engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        with patch.object(WriteSession, "_run", noted):
            yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def rows(database: Database, statement: str, **parameters: Any) -> list[Any]:
    """What a test asks the database itself."""
    async with database.write_engine.connect() as connection:
        return list((await connection.execute(text(statement), parameters)).all())
