"""The journal under concurrency: gap-free, in order, resumable, bounded, whatever happens at once
and whatever dies."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from lifecycle.access.visibility import Unrestrictable
from lifecycle.journal import feed as feed_module
from lifecycle.journal import repository, sequencer
from lifecycle.journal.repository import Event, EventFilter
from tests.client import PATIENCE, Graph, Json, Socket, socket
from tests.conftest import Live, serving
from tests.factories import a_run, a_version
from tests.following import (
    RUN,
    TRANSPORTS,
    connect,
    items,
    key_of,
    place,
    present,
    said,
    take,
    until,
    write_line,
)
from tests.statements import read


@pytest_asyncio.fixture
async def direct(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the service."""
    connection = await connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def other(live: Live, database_url: str) -> AsyncIterator[Live]:
    """A second service on the same database."""
    async with serving(database_url) as service:
        yield service


async def positions(direct: asyncpg.Connection, run: str) -> list[tuple[int, str]]:
    """Position and type of a run's events, in the order of their positions."""
    rows = await direct.fetch(
        "SELECT position, type FROM event WHERE subject_id = $1 ORDER BY position", key_of(run)
    )
    return [(row["position"], row["type"]) for row in rows]


async def kill(direct: asyncpg.Connection, application: str) -> int:
    """Terminate the database connections of services on this database; says how many."""
    rows = await direct.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE $1",
        application,
    )
    return len(rows)


async def leader(direct: asyncpg.Connection) -> int | None:
    """The backend that holds the sequencer's lock."""
    found: int | None = await direct.fetchval(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 1818846821 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return found


async def another_leader(direct: asyncpg.Connection, former: int | None) -> None:
    """Wait until somebody else is the sequencer."""
    async with asyncio.timeout(PATIENCE):
        found = None
        while found in (None, former):
            await asyncio.sleep(0.01)
            found = await leader(direct)


# Order


async def insert_event(connection: asyncpg.Connection, run: str, status: str) -> None:
    await connection.execute(
        "INSERT INTO event (type, subject_kind, subject_id, actor, request_id, after) "
        "VALUES ('run.status_changed', 'run', $1, 'slow', 'slow', $2)",
        key_of(run),
        f'{{"status": "{status}"}}',
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_began_earlier_and_commits_later_is_not_skipped(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str, transport: str
) -> None:
    run = await a_run(graph, unique)
    async with aclosing(items(transport, live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        await present(stream)
        late = direct.transaction()
        await late.start()
        await insert_event(direct, run, "LOST")
        for message in ("one", "two"):
            await write_line(graph, run, message)
        overtook = await take(stream, 2)

        await late.commit()
        await write_line(graph, run, "three")

        rest = await take(stream, 2)
    assert said(overtook) == ["one", "two"]
    assert [item.get("to") or said([item]) for item in rest] == ["LOST", ["three"]]
    cursors = [place(item["cursor"]) for item in overtook + rest]
    assert cursors == sorted(set(cursors))

    # Whoever had seen "one" gets the late event too.
    again = items(transport, live.url, RUN, id=run, after=overtook[0]["cursor"])
    async with aclosing(again) as stream:  # type: ignore[type-var]
        assert (await present(stream))[:-1] == [overtook[1], *rest]


async def test_positions_have_no_gaps_and_keep_the_order_of_each_subject(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    own = [await a_run(graph, unique) for _ in range(5)]
    shared = await a_run(graph, unique)

    async def write(writer: int) -> None:
        for n in range(3):
            await write_line(graph, own[writer % 5], f"{writer}/{n}")
            await write_line(graph, shared, f"{writer}/{n}")

    async with aclosing(items("socket", live.url, RUN, id=shared)) as stream:  # type: ignore[type-var]
        await present(stream)
        await asyncio.gather(*(write(writer) for writer in range(30)))
        seen = await take(stream, 90)

    # Each line is numbered under the run's lock, so the numbers are the order of the commits.
    assert [line["line"] for item in seen for line in item["lines"]] == list(range(1, 91))
    assert sorted(said(seen)) == sorted(f"{w}/{n}" for w in range(30) for n in range(3))
    cursors = [place(item["cursor"]) for item in seen]
    assert cursors == sorted(set(cursors))
    for run in own:
        lines = await direct.fetch(
            "SELECT after->'first_line' AS line FROM event "
            "WHERE subject_id = $1 AND type = 'run.output_logged' ORDER BY position",
            key_of(run),
        )
        assert [int(row["line"]) for row in lines] == list(range(1, 19))
    every = await direct.fetchrow(
        "SELECT min(position), max(position), count(*), "
        "(SELECT position FROM journal_head) AS head FROM event WHERE position IS NOT NULL"
    )
    assert every["min"] == 1
    assert every["max"] == every["count"] == every["head"]


async def test_events_are_append_only(
    graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique)
    for change in ("actor = 'mallory'", "position = position + 1", "position = NULL"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await direct.execute(f"UPDATE event SET {change} WHERE subject_id = $1", key_of(run))


async def test_a_batch_that_is_larger_than_the_sequencers_is_numbered_in_order(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique)
    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        await present(stream)
        await many_events(direct, run, 2500)
        seen = await take(stream, 2500)
    assert [item["metrics"][0]["step"] for item in seen] == list(range(1, 2501))


async def many_events(connection: asyncpg.Connection, run: str, number: int) -> None:
    """Events of a run, as many reports of its steps would write them, in one transaction."""
    await connection.execute(
        "INSERT INTO event (type, subject_kind, subject_id, actor, request_id, after) "
        "SELECT 'run.metrics_logged', 'run', $1, 'many', 'many', jsonb_build_object("
        "'points', 1, 'metrics', jsonb_build_array("
        "jsonb_build_array('loss', 0.5, n, '2026-01-01T00:00:00+00:00'))) "
        "FROM generate_series(1, $2::int) AS n",
        key_of(run),
        number,
    )
    await connection.execute("SELECT pg_notify($1, '')", sequencer.CHANNEL)


# Several processes


async def test_what_is_written_through_one_process_reaches_the_subscribers_of_another(
    live: Live, other: Live, graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    async with (
        Graph(other.url) as writer,
        aclosing(items("socket", live.url, RUN, id=run)) as here,  # type: ignore[type-var]
        aclosing(items("sse", other.url, RUN, id=run)) as there,  # type: ignore[type-var]
    ):
        await present(here)
        await present(there)
        for n in range(10):
            await write_line(writer if n % 2 else graph, run, str(n))

        seen = await take(here, 10), await take(there, 10)

    assert said(seen[0]) == [str(n) for n in range(10)]
    assert seen[1] == seen[0]


async def test_no_wake_up_is_lost_between_processes(
    live: Live, other: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [await a_run(graph, unique) for _ in range(8)]
    await until(lambda: live.feed.head == other.feed.head)
    # With nobody looking by himself, whatever is not told never comes.
    monkeypatch.setattr(feed_module, "_POLL_SECONDS", 3600.0)
    await asyncio.sleep(1.1)
    head = live.feed.head
    async with Graph(other.url) as second:
        for n in range(1, 21):
            writer = (graph, second)[n % 2]
            await asyncio.gather(*(write_line(writer, run, str(n)) for run in runs))
            await until(lambda: live.feed.head == other.feed.head == head + 8 * n)  # noqa: B023


@asynccontextmanager
async def cut_off(url: str, cursor: str | None, run: str) -> AsyncIterator[Socket]:
    """A subscription whose connection is torn down at the end, without any goodbye."""
    async with socket(url) as opened:
        await opened.start(RUN, {"id": run, "after": cursor})
        try:
            yield opened
        finally:
            opened.connection.transport.abort()


@pytest.mark.slow
async def test_a_client_that_is_cut_off_again_and_again_gets_each_event_once_and_in_order(
    live: Live, other: Live, graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    chance = random.Random(unique)
    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        cursor = (await present(stream))[-1]["cursor"]
    expected = [str(n) for n in range(200)]

    async def write() -> None:
        async with Graph(other.url) as second:
            for n in range(0, 200, 4):
                await write_line(graph, run, str(n))
                await write_line(second, run, str(n + 1))
                await write_line(second, run, str(n + 2))
                await write_line(graph, run, str(n + 3))

    writing = asyncio.create_task(write())
    seen: list[str] = []
    cuts = 0
    async with asyncio.timeout(PATIENCE):
        while len(seen) < 200:
            url = (live.url, other.url)[cuts % 2]
            cuts += 1
            with suppress(TimeoutError, ConnectionClosed):
                async with (
                    cut_off(url, cursor, run) as opened,
                    asyncio.timeout(chance.random() / 5),
                ):
                    while True:
                        message = await opened.receive()
                        item = message["payload"]["data"]["runProgress"]
                        cursor = item["cursor"]
                        seen += said([item])
    await writing

    assert seen == expected
    assert cuts > 5
    await until(lambda: live.feed.subscribers == other.feed.subscribers == 0)


# Death


async def test_what_takes_too_long_to_hand_out_is_handed_out_in_smaller_parts(
    live: Live,
    graph: Graph,
    direct: asyncpg.Connection,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a database that takes too long for more than three events at a time
    run = await a_run(graph, unique)
    between, asked = repository.between, set[int]()

    async def slowly(*given: Any) -> Sequence[Event]:
        events = await between(*given)
        if len(events) > 3:
            asked.add(len(events))
            await asyncio.sleep(PATIENCE)
        return events

    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        await present(stream)
        leading = await leader(direct)
        monkeypatch.setattr(feed_module, "_HAND_OUT_SECONDS", 0.2)
        monkeypatch.setattr(repository, "between", slowly)

        # When there are more
        await many_events(direct, run, 20)

        # Then each comes, once and in order, and the sequencer is the same
        seen = await take(stream, 20)
        assert [item["metrics"][0]["step"] for item in seen] == list(range(1, 21))
        assert await leader(direct) == leading
    assert asked
    # And once it is quick again, as much is read at a time as before
    monkeypatch.undo()
    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        await present(stream)
        await many_events(direct, run, 1500)
        await take(stream, 1500)
    assert live.feed._page == feed_module._PAGE


async def test_when_the_sequencer_dies_another_process_goes_on(
    live: Live, other: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique)
    async with (
        aclosing(items("socket", live.url, RUN, id=run)) as here,  # type: ignore[type-var]
        aclosing(items("sse", other.url, RUN, id=run)) as there,  # type: ignore[type-var]
    ):
        await present(here)
        await present(there)
        leaders = set()
        for n in range(0, 60, 20):
            former = await leader(direct)
            leaders.add(former)
            writing = [asyncio.create_task(write_line(graph, run, str(n + k))) for k in range(20)]
            await direct.execute("SELECT pg_terminate_backend($1)", former)
            await asyncio.gather(*writing)
            await another_leader(direct, former)
        seen = await take(here, 60), await take(there, 60)

    assert len(leaders) == 3
    assert seen[0] == seen[1]
    assert sorted(said(seen[0]), key=int) == [str(n) for n in range(60)]
    cursors = [place(item["cursor"]) for item in seen[0]]
    assert cursors == sorted(set(cursors))
    await same_as_the_journal(direct, run, cursors)


async def same_as_the_journal(direct: asyncpg.Connection, run: str, seen: list[int]) -> None:
    """What was seen is what is there: nothing lost, nothing doubled, nothing made up."""
    kept = [position for position, type in await positions(direct, run) if type != "run.created"]
    assert seen == kept


async def test_subscribers_outlive_the_loss_of_every_database_connection(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique)
    async with (
        aclosing(items("socket", live.url, RUN, id=run)) as one,  # type: ignore[type-var]
        aclosing(items("sse", live.url, RUN, id=run)) as two,  # type: ignore[type-var]
    ):
        await present(one)
        await present(two)
        for n, connections in enumerate(("lifecycle-journal", "lifecycle-read", "lifecycle-%")):
            assert await kill(direct, connections) >= 1
            async with asyncio.timeout(PATIENCE):
                # The writer is told that the database was gone, and repeats what it wanted.
                while True:
                    input = {
                        "runId": run,
                        "lines": [{"message": str(n)}],
                        "idempotencyKey": f"{n}{unique}",
                    }
                    result = await graph.mutate("logRunOutput", input)
                    if result["__typename"] == "LogRunOutputSuccess":
                        break
                    assert result["code"] == "UNAVAILABLE"
        assert said(await take(one, 3)) == said(await take(two, 3)) == ["0", "1", "2"]


# Bounds


async def test_a_slow_subscriber_is_bounded_and_gets_everything_in_the_end(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique)
    async with socket(live.url) as opened:
        opened.connection.transport.pause_reading()
        # A long alias makes each item fill the socket's buffers sooner.
        query = RUN.replace("runProgress(", f"{'a' * 4000}: runProgress(")
        await opened.start(query, {"id": run})
        await until(lambda: live.feed.subscribers == 1)
        [mailbox] = live.feed._all()
        sizes = []
        head = live.feed.head
        for n in range(1, 36):
            await many_events(direct, run, 100)
            await until(lambda: live.feed.head >= head + 100 * n)  # noqa: B023
            sizes.append(len(mailbox.news))
        assert mailbox.missed
        assert max(sizes) <= feed_module._MAILBOX
        assert len(mailbox.news) == 0

        opened.connection.transport.resume_reading()
        seen: list[Json] = []
        async with asyncio.timeout(PATIENCE):
            while len(seen) < 3500 + 2:
                payload = (await opened.receive())["payload"]
                assert "errors" not in payload
                item = payload["data"]["a" * 4000]
                if item["__typename"] != "Heartbeat":
                    seen.append(item)

    events = [item for item in seen if item["__typename"] == "RunMetricsEvent"]
    assert [item["__typename"] for item in seen if item not in events] == [
        "RunStatusEvent",
        "CaughtUp",
    ]
    assert [item["metrics"][0]["step"] for item in events] == list(range(1, 101)) * 35
    await same_as_the_journal(direct, run, [place(item["cursor"]) for item in events])


async def test_a_slow_subscriber_is_told_when_what_it_missed_is_no_longer_kept(
    own_database_url: str, unique: str
) -> None:
    direct = await connect(own_database_url)
    async with serving(own_database_url) as live, Graph(live.url) as graph:
        run = await a_run(graph, unique)
        with live.feed.follow(EventFilter("run", frozenset({"run.metrics_logged"}))) as follower:
            stream = follower.live()
            await many_events(direct, run, feed_module._MAILBOX + 1)
            await until(lambda: follower._mailbox.missed)
            async with direct.transaction():
                await direct.execute("UPDATE journal_head SET trimmed_through = 10")
                await direct.execute("DELETE FROM event WHERE position <= 10")
            with pytest.raises(feed_module.CursorExpired) as caught:
                await anext(stream)
            assert caught.value.oldest == 10
    await direct.close()


def checked_out(live: Live) -> int:
    writers: Any = live.database.write_engine.pool
    return int(writers.checkedout()) + live.database.reading


@pytest.mark.parametrize("manner", ["goodbye", "abrupt", "sse"])
@pytest.mark.slow
async def test_a_hundred_subscribers_leave_nothing_behind(
    live: Live, graph: Graph, unique: str, manner: str
) -> None:
    run = await a_run(graph, unique)
    await until(lambda: live.feed.subscribers == 0)
    before = asyncio.all_tasks()

    def left() -> list[str]:
        return [
            *["a subscriber"] * live.feed.subscribers,
            *["a connection of the pool"] * checked_out(live),
            *(repr(task) for task in asyncio.all_tasks() - before),
        ]

    async def leave_by_socket() -> None:
        async with socket(live.url) as opened:
            await opened.start(RUN, {"id": run})
            for _ in range(2):
                await opened.receive()
            await ready.wait()
            if manner == "abrupt":
                opened.connection.transport.abort()

    async def leave_by_sse() -> None:
        async with Graph(live.url) as client:
            streamed = client.http.stream(
                "POST",
                "/graphql",
                json={"query": RUN, "variables": {"id": run}},
                headers={"accept": "text/event-stream"},
            )
            async with streamed as response:
                lines = response.aiter_lines()  # closes the response when it is dropped
                await anext(lines)
                await ready.wait()

    ready = asyncio.Event()
    leave = leave_by_sse if manner == "sse" else leave_by_socket
    leaving = [asyncio.create_task(leave()) for _ in range(100)]
    await until(lambda: live.feed.subscribers == 100)
    # They leave while events are under way to them.
    writing = [asyncio.create_task(write_line(graph, run, str(n))) for n in range(10)]
    ready.set()
    await asyncio.gather(*leaving, *writing)

    try:
        await until(lambda: not left())
    except TimeoutError:
        pytest.fail(f"left behind: {left()}")


async def test_an_sse_client_that_leaves_in_the_very_moment_that_something_is_sent_is_gone(
    live: Live, graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    body = orjson.dumps({"query": RUN, "variables": {"id": run}})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/graphql",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream"),
        ],
    }

    async def leave(send_turns: int, turns: int) -> None:
        sent = asyncio.Event()
        incoming = iter([{"type": "http.request", "body": body}])

        async def receive() -> Json:
            if message := next(incoming, None):
                return message
            await sent.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                sent.set()
                for _ in range(send_turns):
                    await asyncio.sleep(0)

        await live.app(scope, receive, send)
        assert live.feed.subscribers == 0, (send_turns, turns)

    # Nobody may depend on the garbage collector, which comes when it likes.
    gc.collect()
    gc.disable()
    try:
        async with asyncio.timeout(PATIENCE):
            for send_turns in range(6):
                for turns in range(8):
                    await leave(send_turns, turns)
    finally:
        gc.enable()


async def test_whoever_leaves_in_the_very_moment_that_something_happens_is_gone(
    live: Live,
) -> None:
    def event(n: int) -> Event:
        now = datetime.now(UTC)
        return Event(n, live.feed.head + n, "x.y", "x", uuid4(), now, "a", {}, {})

    for turns in range(6):
        with live.feed.follow(EventFilter("x", frozenset({"x.y"}))) as follower:

            async def follow(follower: Any) -> None:
                async for _ in follower.live():
                    pass

            following = asyncio.create_task(follow(follower))
            await asyncio.sleep(0.01)
            follower._mailbox.put(feed_module.Happened(event(1), ""))
            for _ in range(turns):
                await asyncio.sleep(0)
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(5):
                    await following


# What it costs


async def test_silence_costs_about_a_look_a_second_and_no_events_are_read_for_nobody(
    live: Live, graph: Graph, direct: asyncpg.Connection, unique: str
) -> None:
    run = await a_run(graph, unique)
    assert live.feed.subscribers == 0
    # The run's own events are announced a little later, and looked at then.
    await asyncio.sleep(1)
    with read(live.database) as statements:
        await asyncio.sleep(2.2)
        assert (
            len(statements) < 10
        )  # busy machines announce late; a loop would look thousands of times
        head = live.feed.head
        await many_events(direct, run, 50)
        await until(lambda: live.feed.head >= head + 50)
        assert not [statement for statement, _ in statements if "FROM event" in statement]


async def test_what_happens_is_looked_up_once_for_however_many_see_some_models_only(
    own_database_url: str, unique: str
) -> None:
    direct = await connect(own_database_url)
    async with serving(own_database_url) as live, Graph(live.url) as graph:
        # Given a run of one model, which many follow, who all see others besides
        run = await a_run(graph, unique)
        await a_version(graph, unique, runId=run)
        model = await direct.fetchval("SELECT id FROM model")
        wanted = EventFilter("run", frozenset({"run.metrics_logged"}))
        with ExitStack() as following:
            seeing = [
                live.database.seen_by(frozenset({uuid4(), *({model} if n % 2 else ())}))
                for n in range(20)
            ]
            followers = [following.enter_context(live.feed.follow(wanted, each)) for each in seeing]
            with read(live.database) as statements:
                # When three things happen at once
                await many_events(direct, run, 3)
                await until(lambda: followers[1]._mailbox.news)

            # Then it is asked once whose that is, and those who see the model are told
            assert len([sql for sql, _ in statements if "position" not in sql]) == 1
            assert [len(each._mailbox.news) for each in followers] == [0, 3] * 10
    await direct.close()


async def test_what_is_visible_by_no_models_is_not_followed_by_those_who_see_some(
    live: Live,
) -> None:
    database = live.database.seen_by(frozenset({uuid4()}))

    with (
        pytest.raises(Unrestrictable),
        live.feed.follow(EventFilter("stage_policy", frozenset({"stage_policy.set"})), database),
    ):
        pass
    assert live.feed.subscribers == 0
