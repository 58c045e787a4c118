"""Connections to PostgreSQL that are lost without a word, as by a firewall that forgets them: each
side takes the other for silent. Those that are made afterwards work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from lifecycle import database as databases
from lifecycle.database import Database, WriteSession, writing
from lifecycle.errors import Unavailable
from lifecycle.statements import Prepared
from tests.client import PATIENCE

NOTHING = Prepared(text("SELECT 1"))
LONG = Prepared(text(f"SELECT pg_sleep({PATIENCE})"))


class Way:
    """Stands between the service and PostgreSQL."""

    def __init__(self, directory: Path, url: str) -> None:
        self._far, port = make_url(url), "5432"
        self._near = directory / f".s.PGSQL.{port}"
        here = self._far.set(host=None, port=None).difference_update_query(["host", "port"])
        here = here.update_query_dict({"host": str(directory), "port": port})
        self.url = here.render_as_string(hide_password=False)
        # Of each connection, whether it still carries anything.
        self._carrying: list[asyncio.Event] = []
        self._passing: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Way"]:
        server = await asyncio.start_unix_server(self._pass_on, self._near)
        try:
            yield self
        finally:
            server.close()
            for each in self._passing:
                each.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    def lose(self) -> int:
        """From now on nothing comes through on the connections that there are."""
        for each in self._carrying:
            each.clear()
        return len(self._carrying)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = self._far.query
        far_reader, far_writer = await (
            asyncio.open_connection(self._far.host, self._far.port or 5432)
            if self._far.host
            else asyncio.open_unix_connection(f"{query['host']}/.s.PGSQL.{query['port']}")
        )
        carrying = asyncio.Event()
        carrying.set()
        self._carrying.append(carrying)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._passing.append(asyncio.create_task(_carry(source, target, carrying)))


async def _carry(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, carrying: asyncio.Event
) -> None:
    try:
        while data := await source.read(65_536):
            await carrying.wait()
            target.write(data)
    finally:
        target.close()


@pytest.fixture
async def way(database_url: str) -> AsyncIterator[Way]:
    # The path of a socket must be short.
    with TemporaryDirectory() as directory:
        async with Way(Path(directory), database_url).open() as opened:
            yield opened


@pytest.fixture
async def database(way: Way, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(databases, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(writing, "_UNDO_SECONDS", 0.1)
    database = Database(way.url)
    yield database
    await database.close()


async def say_nothing(session: WriteSession) -> None:
    await session.fetch(NOTHING)


async def write_at_once(database: Database, number: int) -> list[BaseException | None]:
    """So many transactions that all have a connection at the same time."""
    met = asyncio.Barrier(number)

    async def meet(session: WriteSession) -> None:
        await session.fetch(NOTHING)
        await met.wait()

    return await asyncio.gather(
        *(database.write(meet) for _ in range(number)), return_exceptions=True
    )


async def test_who_writes_on_a_lost_connection_is_told_and_the_next_writes_on_another(
    way: Way, database: Database
) -> None:
    # given
    assert await write_at_once(database, 3) == [None] * 3
    assert way.lose() == 3

    # when
    with pytest.raises(Unavailable, match="is not available"):
        await database.write(say_nothing)

    # then the others that are lost are not tried one after the other
    await database.write(say_nothing)
    assert await write_at_once(database, 3) == [None] * 3
    assert database.writing == 0


async def test_who_gives_up_on_a_lost_connection_does_not_wait_for_it(
    way: Way, database: Database
) -> None:
    # given
    begun = asyncio.Event()

    async def wait(session: WriteSession) -> None:
        await session.fetch(NOTHING)
        begun.set()
        await session.fetch(LONG)

    task = asyncio.create_task(database.write(wait))
    await begun.wait()
    way.lose()

    # when
    task.cancel()

    # then
    with pytest.raises(asyncio.CancelledError):
        await task
    assert database.writing == 0
    await database.write(say_nothing)


async def test_where_each_connection_is_lost_again_it_is_not_available(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    make, lost = Database._connect_to_write, False

    async def lose(database: Database) -> asyncpg.Connection:
        connection = await make(database)
        if lost:  # another was found to be, while this was being made
            database._doubted.update(database._writers)
        return connection

    monkeypatch.setattr(Database, "_connect_to_write", lose)
    database = Database(way.url)
    await database.write(say_nothing)

    # when
    lost = True
    database._doubted.update(database._writers)

    # then
    with pytest.raises(Unavailable, match="is not available"):
        await database.write(say_nothing)
    lost = False
    await database.write(say_nothing)
    await database.close()


async def test_who_gives_up_has_no_other_connections_made_anew(database: Database) -> None:
    # given
    assert await write_at_once(database, 3) == [None] * 3
    begun = asyncio.Event()

    async def wait(session: WriteSession) -> None:
        begun.set()
        # Whose connection SQLAlchemy closes, as that of one of its statements.
        await session.execute(text(f"SELECT pg_sleep({PATIENCE})"))

    task = asyncio.create_task(database.write(wait))
    await begun.wait()
    before = set(database._writers)

    # when
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # then
    assert await write_at_once(database, 2) == [None] * 2
    assert len(before & {each for each in database._writers if not each.is_closed()}) >= 2


async def test_lost_connections_are_closed_without_a_goodbye(
    way: Way, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "ANSWER_SECONDS", 10 * PATIENCE)
    assert await write_at_once(database, 3) == [None] * 3
    way.lose()

    async with asyncio.timeout(PATIENCE):
        await database.close()
