"""`lifecycle audit verify` finds what somebody who may do everything in the database has altered,
and says where."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256

import asyncpg
import pytest
import pytest_asyncio
from alembic import command
from click.testing import CliRunner, Result

from lifecycle import migrate
from lifecycle.__main__ import main
from lifecycle.journal import sequencer
from lifecycle.journal.chain import DIGEST
from tests.client import Graph
from tests.conftest import MakeDatabase, in_thread, serving
from tests.following import connect, until

WHOLE = re.compile(r"The journal is whole: (\d+) entries through position (\d+)\.\nHead: (.*)\n$")
ALTERED = (
    "Position {}: the entry does not fit its hash and the one before it. It was altered, or is not "
    "the one that was here.\n"
)
BROKEN = "Error: The journal is not as it was written.\n"

# All hashes from position 5 on, computed anew by somebody who knows how.
REWRITE = f"""
DO $$
DECLARE entry event; previous bytea := (SELECT hash FROM event WHERE position = 4);
BEGIN
    FOR entry IN SELECT * FROM event WHERE position >= 5 ORDER BY position LOOP
        previous := sha256(previous || int8send(entry.position) || {DIGEST});
        UPDATE event SET hash = previous WHERE id = entry.id;
    END LOOP;
    UPDATE journal_head SET chain_hash = previous;
END
$$
"""


def verify(url: str, *options: str) -> Result:
    """The command, beside the loop that the tests run in."""
    results: list[Result] = []
    arguments = ["audit", "verify", "--database-url", url, *options]
    in_thread(lambda: results.append(CliRunner().invoke(main, arguments)))
    return results[0]


def head(result: Result) -> str:
    """What is printed of a journal that is whole, to be kept."""
    found = WHOLE.search(result.output)
    assert result.exit_code == 0, result.output
    assert found, result.output
    return found[3]


async def number_all(connection: asyncpg.Connection) -> None:
    while await sequencer.number(connection):
        pass


async def write(connection: asyncpg.Connection, number: int) -> None:
    """Some events, not numbered yet."""
    await connection.execute(
        "INSERT INTO event (type, subject_kind, subject_id, actor, request_id, before, after) "
        "SELECT 'run.updated', 'run', gen_random_uuid(), 'actor', 'request', "
        """jsonb_build_object('n', n - 1), jsonb_build_object('n', n, 'text', 'é "x"') """
        "FROM generate_series(1, $1::int) AS n",
        number,
    )


@pytest.fixture(scope="module")
def written(migrated: MakeDatabase) -> Iterator[str]:
    """A database with ten entries, chained in three turns."""
    with migrated() as url:

        async def fill() -> None:
            connection = await connect(url)
            for some in (1, 6, 3):
                await write(connection, some)
                await number_all(connection)
            for table in ("event", "journal_head"):
                await connection.execute(f"CREATE TABLE saved_{table} AS TABLE {table}")
            await connection.close()

        in_thread(lambda: asyncio.run(fill()))
        yield url


@pytest_asyncio.fixture
async def tampering(written: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """A connection to it on which no trigger says no; it is put right again afterwards."""
    connection = await connect(written)
    await connection.execute("SET session_replication_role = replica")
    yield connection, written
    await connection.execute("SET session_replication_role = replica")
    for table in ("event", "journal_head"):
        await connection.execute(f"DELETE FROM {table}")
        await connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE saved_{table}")
    await connection.close()


def test_a_journal_that_nobody_touched_is_whole(written: str) -> None:
    result = verify(written)
    anchor = head(result)
    assert result.output == (
        f"The journal is whole: 10 entries through position 10.\nHead: {anchor}\n"
    )
    assert re.fullmatch("10:[0-9a-f]{64}", anchor)
    assert verify(written, "--anchor", anchor, "--anchor", f"0:{'0' * 64}").exit_code == 0


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        ("UPDATE event SET actor = 'mallory' WHERE position = 5", ALTERED.format(5)),
        ("UPDATE event SET at = at + interval '1 us' WHERE position = 1", ALTERED.format(1)),
        ("UPDATE event SET at = 'infinity' WHERE position = 1", ALTERED.format(1)),
        ("UPDATE event SET reason = '' WHERE position = 10", ALTERED.format(10)),
        ("UPDATE event SET before = NULL WHERE position = 3", ALTERED.format(3)),
        ("UPDATE event SET before = 'null' WHERE position = 3", ALTERED.format(3)),
        ("UPDATE event SET subject_id = gen_random_uuid() WHERE position = 4", ALTERED.format(4)),
        (
            "UPDATE event SET hash = sha256('') WHERE position = 4",
            ALTERED.format(4) + ALTERED.format(5),
        ),
        (
            "UPDATE event SET hash = NULL WHERE position = 4",
            "Position 4: the entry has lost its hash.\n",
        ),
        ("DELETE FROM event WHERE position = 1", "Position 1: the entry is missing.\n"),
        (
            "DELETE FROM event WHERE position BETWEEN 4 AND 6",
            "Positions 4 to 6: the entries are missing.\n",
        ),
        (
            "DELETE FROM event WHERE position > 8",
            "Positions 9 to 10: the entries are missing, the last of all; the head is at 10.\n",
        ),
        (
            "UPDATE event SET position = CASE position WHEN 4 THEN -5 ELSE -4 END "
            "WHERE position IN (4, 5); UPDATE event SET position = -position WHERE position < 0",
            ALTERED.format(4) + ALTERED.format(5) + ALTERED.format(6),
        ),
        (
            "UPDATE event SET position = NULL, hash = NULL, at = at - interval '1 hour' "
            "WHERE position = 4",
            "Just written, not numbered yet: 1.\n"
            "Position 4: the entry is missing.\n"
            "Entries without a position: 1 of them older by more than ten minutes than the last "
            "one that has one.\n",
        ),
        (
            "UPDATE event SET position = 11 WHERE position = 10",
            "Position 10: the entry is missing.\n"
            "Position 11: the entry lies beyond the head, 10.\n",
        ),
        (
            "UPDATE journal_head SET chain_hash = sha256('')",
            "Position 10: the head has another hash than the entry.\n",
        ),
        (
            "UPDATE journal_head SET position = 8, chain_position = 8, "
            "chain_hash = (SELECT hash FROM event WHERE position = 8)",
            "Position 9: the entry lies beyond the head, 8.\n"
            "Position 10: the entry lies beyond the head, 8.\n",
        ),
        (
            "UPDATE journal_head SET trimmed_through = 3; DELETE FROM event WHERE position <= 4",
            "Removed as too old, before: positions 1 to 3.\n"
            "The head says that entries were removed as too old through position 3, but the chain "
            "begins after 0.\n"
            "Position 4: the entry is missing.\n",
        ),
    ],
)
async def test_what_was_altered_or_removed_is_found_and_named(
    tampering: tuple[asyncpg.Connection, str], tamper: str, said: str
) -> None:
    # when
    connection, url = tampering
    await connection.execute(tamper)
    result = verify(url)

    # then
    assert result.output == said + BROKEN
    assert result.exit_code == 1


async def test_who_computes_the_chain_anew_is_found_with_a_head_that_was_kept(
    tampering: tuple[asyncpg.Connection, str],
) -> None:
    # given
    connection, url = tampering
    kept = head(verify(url))
    fourth = await connection.fetchval("SELECT hash FROM event WHERE position = 4")

    # when
    await connection.execute("UPDATE event SET actor = 'mallory' WHERE position = 5")
    await connection.execute(REWRITE)

    # then
    assert head(verify(url)) != kept
    assert verify(url, "--anchor", f"4:{fourth.hex()}").exit_code == 0
    result = verify(url, "--anchor", kept)
    assert result.exit_code == 1
    assert result.output == (
        "Position 10: the hash is not the one that was kept. This entry or one before it was "
        "altered, and the chain computed anew.\n" + BROKEN
    )


async def test_who_moves_the_head_back_is_found_with_a_head_that_was_kept(
    tampering: tuple[asyncpg.Connection, str],
) -> None:
    connection, url = tampering
    kept = head(verify(url))
    await connection.execute(
        "DELETE FROM event WHERE position > 8;"
        "UPDATE journal_head SET position = 8, chain_position = 8, "
        "chain_hash = (SELECT hash FROM event WHERE position = 8)"
    )

    assert verify(url).exit_code == 0
    result = verify(url, "--anchor", kept)
    assert result.exit_code == 1
    assert result.output == (
        "Position 10: there once was an entry here, but the chain ends at 8. The head was moved "
        "back.\n" + BROKEN
    )


async def test_what_is_removed_as_too_old_takes_the_anchor_along(
    tampering: tuple[asyncpg.Connection, str],
) -> None:
    # given
    connection, url = tampering
    kept = head(verify(url))
    await connection.execute("SET session_replication_role = origin")
    fourth = await connection.fetchval("SELECT hash FROM event WHERE position = 4")

    # when: as a job would that knows nothing of the chain
    async with connection.transaction():
        await connection.execute("UPDATE journal_head SET trimmed_through = 4")
        await connection.execute("DELETE FROM event WHERE position <= 4")

    # then
    result = verify(url, "--anchor", kept, "--anchor", f"4:{fourth.hex()}")
    assert result.exit_code == 0
    assert result.output == (
        "Removed as too old, before: positions 1 to 4.\n"
        f"The journal is whole: 6 entries through position 10.\nHead: {kept}\n"
    )
    result = verify(url, "--anchor", f"2:{'a' * 64}")
    assert result.output.splitlines()[1] == (
        "Position 2: what was kept of it cannot be compared; the chain begins after 4."
    )

    # and not backwards, nor beyond the head
    for position in (3, 11):
        with pytest.raises(asyncpg.RaiseError, match="trimmed forwards"):
            await connection.execute("UPDATE journal_head SET trimmed_through = $1", position)


async def test_everything_may_be_too_old(tampering: tuple[asyncpg.Connection, str]) -> None:
    connection, url = tampering
    kept = head(verify(url))
    await connection.execute("SET session_replication_role = origin")
    async with connection.transaction():
        await connection.execute("UPDATE journal_head SET trimmed_through = 10")
        await connection.execute("DELETE FROM event")
    assert verify(url, "--anchor", kept).exit_code == 0

    await write(connection, 1)
    await number_all(connection)
    assert head(verify(url, "--anchor", kept)).startswith("11:")


async def test_what_the_release_before_numbers_is_chained_by_the_next_sequencer(
    tampering: tuple[asyncpg.Connection, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: its statement, on this schema
    connection, url = tampering
    await connection.execute("SET session_replication_role = origin")
    await write(connection, 5)
    await connection.execute(
        "WITH pending AS (SELECT id, row_number() OVER (ORDER BY id) AS n "
        "FROM event WHERE position IS NULL ORDER BY id), numbered AS ("
        "UPDATE event SET position = journal_head.position + pending.n "
        "FROM pending, journal_head WHERE event.id = pending.id RETURNING event.position) "
        "UPDATE journal_head SET position = (SELECT max(position) FROM numbered)"
    )
    await write(connection, 2)
    result = verify(url)
    assert result.exit_code == 0
    assert result.output.startswith(
        "Numbered by an earlier release, not chained yet: 5.\nJust written, not numbered yet: 2.\n"
        "The journal is whole: 15 entries through position 15.\nHead: 10:"
    )

    # when
    monkeypatch.setattr(sequencer, "BATCH", 3)
    assert [await sequencer.number(connection) for _ in range(4)] == [3, 3, 1, 0]

    # then
    result = verify(url)
    assert head(result).startswith("17:")
    assert WHOLE.match(result.output)


async def test_a_database_with_events_is_chained_from_its_upgrade_on(
    empty_database_url: str,
) -> None:
    # given: the tables of the release before, with its events
    url = empty_database_url
    in_thread(lambda: command.upgrade(migrate._config(url), "0001"))
    connection = await connect(url)
    await write(connection, 10)
    await connection.execute(
        "UPDATE event SET position = id; UPDATE journal_head SET position = 10"
    )
    in_thread(lambda: migrate.upgrade(url))

    # when
    await write(connection, 1)
    await number_all(connection)
    await connection.close()

    # then
    result = verify(url)
    assert result.exit_code == 0
    assert result.output.startswith(
        "From before there was a chain, not covered by it: 10.\n"
        "The journal is whole: 11 entries through position 11.\nHead: 11:"
    )


async def test_writers_at_once_in_two_processes_make_one_chain(
    own_database_url: str, unique: str
) -> None:
    async with (
        serving(own_database_url) as one,
        serving(own_database_url) as two,
        Graph(one.url) as first,
        Graph(two.url) as second,
    ):

        async def write(writer: int) -> None:
            for n in range(10):
                name = f"{unique}-{writer}-{n}"
                graph = (first, second)[writer % 2]
                await graph.done("createExperiment", {"name": name}, "experiment { id }")

        await asyncio.gather(*(write(writer) for writer in range(20)))
        await until(lambda: one.feed.head == 200)
        anchor = (await first.query("{ auditHead { anchor } }"))["auditHead"]["anchor"]
        assert head(verify(own_database_url)) == anchor


def test_what_cannot_be_verified_is_said_in_one_line(empty_database_url: str) -> None:
    result = verify(empty_database_url)
    assert result.exit_code == 1
    assert result.output == "Error: The database is not up to date; run `lifecycle migrate`.\n"


@pytest.mark.parametrize("anchor", ["", "12", "12:xyz", f"-1:{'0' * 64}", f"12:{'0' * 62}"])
def test_an_anchor_that_is_none_is_refused(anchor: str) -> None:
    result = CliRunner().invoke(main, ["audit", "verify", "--anchor", anchor])
    assert result.exit_code == 2
    assert "is not a position and a hash" in result.output


# What a digest covers

VALUES: list[object] = [
    7, "run.updated", "run", "0193f3a0-0000-7000-8000-000000000001", "2026-11-21T09:00:00.000001Z",
    "me", "request", "key", "Because.", '{"a": 1}', '{"a": 2}',
]  # fmt: skip
ROW = (
    "SELECT $1::text::bigint AS id, $2::text AS type, $3::text AS subject_kind, "
    "$4::text::uuid AS subject_id, $5::text::timestamptz AS at, $6::text AS actor, "
    "$7::text AS request_id, $8::text AS idempotency_key, $9::text AS reason, "
    "$10::text::jsonb AS before, $11::text::jsonb AS after"
)


async def digest(sql: asyncpg.Connection, *values: object) -> bytes:
    given = [None if value is None else str(value) for value in values]
    found: bytes = await sql.fetchval(f"SELECT {DIGEST} FROM ({ROW}) AS entry", *given)
    return found


async def test_a_digest_is_of_each_value_with_its_type_and_length(sql: asyncpg.Connection) -> None:
    # bigint, text, text, uuid, timestamptz, four times text, two times jsonb
    types = [20, 25, 25, 2950, 1184, 25, 25, 25, 25, 3802, 3802]
    values = [
        struct.pack(">q", 7),
        b"run.updated",
        b"run",
        bytes.fromhex("0193f3a0000070008000000000000001"),
        struct.pack(">q", 848_566_800_000_001),  # microseconds since the year 2000
        b"me",
        b"request",
        None,
        "Été.".encode(),
        b'\x01{"a": [1, null]}',
        None,
    ]
    encoded = struct.pack(">i", len(values))
    for type_, value in zip(types, values, strict=True):
        encoded += struct.pack(">Ii", type_, -1 if value is None else len(value)) + (value or b"")

    given = [*VALUES[:7], None, "Été.", '{"a":[1,null]}', None]
    assert await digest(sql, *given) == sha256(encoded).digest()


async def test_no_two_entries_have_the_same_digest(sql: asyncpg.Connection) -> None:
    others = [
        VALUES,
        *(
            [*VALUES[:n], value, *VALUES[n + 1 :]]
            for n, value in [
                (0, 8), (1, "run.update"), (2, "Run"), (3, VALUES[3][:-1] + "2"),  # type: ignore[index]
                (4, "2026-11-21T09:00:00.000002Z"), (5, "m"), (5, ""), (6, "request "), (7, ""),
                (7, None), (8, ""), (8, None), (9, None), (9, "null"), (9, "{}"), (9, '{"a": "1"}'),
                (10, None), (10, '{"a": 1.0}'), (10, '{"b": 1}'),
            ]
        ),
        # A character moves from one value to the next, and values change places.
        [*VALUES[:5], "m", "erequest", *VALUES[7:]],
        [*VALUES[:5], "merequest", "", *VALUES[7:]],
        [*VALUES[:7], None, "keyBecause.", *VALUES[9:]],
        [*VALUES[:7], "Because.", "key", *VALUES[9:]],
        [*VALUES[:9], '{"a": 2}', '{"a": 1}'],
    ]  # fmt: skip
    digests = [await digest(sql, *values) for values in others]
    assert len(set(digests)) == len(others) == 25
