"""Connections of those who never come to an end: whoever can reach the service can open them."""

import asyncio
import resource
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from socket import SO_RCVBUF, SOL_SOCKET
from socket import socket as Socket
from urllib.parse import urlsplit

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.typing import Subprotocol

from lifecycle import migrate
from schema import wire
from schema.admission import Room
from tests.client import PATIENCE, Graph, socket
from tests.conftest import Live, serving
from tests.following import until

POST = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@asynccontextmanager
async def connected(
    live: Live, receives: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the service; one whose client's buffer has so many bytes."""
    parts = urlsplit(live.url)
    sock = Socket()
    if receives is not None:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, receives)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024 * 1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the service hangs up."""
    found = b""
    async with asyncio.timeout(PATIENCE):
        try:
            while chunk := await reader.read(65_536):
                found += chunk
        except ConnectionResetError:  # it did not read all that was sent
            pass
    return found


async def sending(writer: asyncio.StreamWriter, what: bytes) -> None:
    """Send it again and again, until that fails."""
    async with asyncio.timeout(PATIENCE):
        while True:
            writer.write(what)
            await writer.drain()
            await asyncio.sleep(0.01)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that waits for a request for an instant."""
    monkeypatch.setattr(wire, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(wire, "BYTES_A_SECOND", 1_000_000)


# Answers


async def test_who_asks_whether_to_go_on_is_told_before_the_body_is_there(live: Live) -> None:
    body = b'{"query": "{ __typename }"}'
    async with connected(live) as (reader, writer), asyncio.timeout(PATIENCE):
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

        writer.write(body)

        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readuntil(b"}}") == b'{"data":{"__typename":"Query"}}'


@pytest.mark.parametrize("pieces", [1, 7], ids=["at once", "in pieces"])
async def test_who_would_rather_speak_http_2_is_answered_all_the_same(
    live: Live, pieces: int
) -> None:
    # given: what Java's client, and curl --http2, send with a first request
    body = b'{"query": "{ __typename }"}'
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    request = POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(body) + body
    sent = request + HEALTH + request
    size = -(-len(sent) // pieces)
    async with connected(live) as (reader, writer), asyncio.timeout(PATIENCE):
        # when
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await writer.drain()
            await asyncio.sleep(0.01)

        # then
        named, alive = b'{"data":{"__typename":"Query"}}', b'{"status":"alive"}'
        for shown in (named, alive, named):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(len(shown)) == shown


async def test_answers_come_in_the_order_of_the_requests_also_those_without_a_body(
    live: Live,
) -> None:
    last = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with connected(live) as (reader, writer):
        writer.write(HEALTH + HEALTH.replace(b"GET", b"HEAD") + last)

        answers = (await rest(reader)).split(b"HTTP/1.1 200 OK\r\n")
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [
        b"",
        b'{"status":"alive"}',
        b"",
        b'{"status":"alive"}',
    ]


STREAM = b'{"query": "subscription { deploymentStatus { __typename } }"}'
FOLLOW = POST + b"Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n%s" % (len(STREAM), STREAM)


@pytest.mark.parametrize("also", [b"", HEALTH, HEALTH * 2], ids=["alone", "one more", "two more"])
async def test_who_leaves_leaves_a_stream_also_with_requests_behind_it(
    live: Live, also: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a stream on which nothing is sent for long
    monkeypatch.setattr(live.feed, "heartbeat", 1_000)
    async with connected(live) as (reader, writer):
        writer.write(FOLLOW + also)
        await reader.readuntil(b"CaughtUp")
        assert live.feed.subscribers == 1

    # when they have left, then
    await until(lambda: live.feed.subscribers == 0)


async def test_no_websocket_begins_where_an_answer_is_still_sent(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.feed, "heartbeat", 1_000)
    async with connected(live) as (reader, writer):
        writer.write(FOLLOW)
        await reader.readuntil(b"CaughtUp")

        writer.write(UPGRADE)

        assert b"HTTP/1.1" not in await rest(reader)
    await until(lambda: live.feed.subscribers == 0)


# Time


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"POST /graphql HTTP/1.1\r\nHost: loc", TIMEOUT, id="half a head"),
        pytest.param(POST + b"Content-Length: 100\r\n\r\n{", TIMEOUT, id="half a body"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", TIMEOUT, id="chunks"),
    ],
)
async def test_a_request_that_does_not_come_is_not_waited_for(
    live: Live, sent: bytes, answer: bytes
) -> None:
    async with connected(live) as (reader, writer):
        writer.write(sent)

        assert await rest(reader) == answer


@pytest.mark.usefixtures("hurried")
async def test_a_byte_now_and_then_is_no_request_that_comes(live: Live) -> None:
    async with connected(live) as (reader, writer):
        writer.write(POST + b"Content-Length: 1000000\r\n\r\n")
        answered = asyncio.create_task(rest(reader))
        while not answered.done():
            writer.write(b" ")
            await asyncio.sleep(0.01)

        assert await answered == TIMEOUT


@pytest.mark.usefixtures("hurried")
async def test_after_an_answer_the_next_request_is_waited_for_as_long(live: Live) -> None:
    async with connected(live) as (reader, writer):
        writer.write(HEALTH)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
        writer.write(b"GET /healthz HT")

        assert await rest(reader) == TIMEOUT


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(UPGRADE[:-2] + b"Content-Length: 1\r\n\r\n{", b"400 Bad Request", id="a body"),
        pytest.param(
            UPGRADE[:-2] + b"X-A: %s\r\n\r\n" % (b"a" * 9_000),
            b"431 Request Header Fields Too Large",
            id="a long header",
        ),
    ],
)
async def test_what_begins_no_websocket_is_not_waited_for(
    live: Live, sent: bytes, answer: bytes
) -> None:
    async with connected(live) as (reader, writer):
        writer.write(sent)

        assert (await rest(reader)).startswith(b"HTTP/1.1 " + answer + b"\r\n")


async def test_of_too_many_connections_without_a_request_the_oldest_are_ended(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: as many as there may be; on the first something was asked already
    monkeypatch.setattr(wire, "MAX_HEADS", 3)
    async with (
        connected(live) as (asked, first),
        connected(live) as (silent, _),
        connected(live) as (half, third),
    ):
        first.write(HEALTH)
        assert (await asked.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
        third.write(b"POST /graphql HTTP/1.1\r\nHost: loc")
        first.write(b"GET /healthz HT")
        await until(lambda: len(wire.Http._headless) == 3)

        # when others come, and ask
        for answer in (silent, half):
            async with connected(live) as (newest, writer), connected(live):
                ended = await rest(answer)
                writer.write(HEALTH)

                # then: they are answered, and who has not asked is told so, if they have begun.
                assert (await newest.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
            await until(lambda: len(wire.Http._headless) <= 2)
            assert ended == (b"" if answer is silent else FULL)
        first.write(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await asked.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
    await until(lambda: not wire.Http._headless)


async def test_whoever_is_refused_and_goes_on_sending_is_not_listened_to(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_LINGER_SECONDS", 0.1)
    async with connected(live) as (reader, writer):
        writer.write(
            b"PUT /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        )
        answered = asyncio.create_task(rest(reader))
        try:
            while not answered.done():
                writer.write(b" " * 1000)
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass

        assert (await answered).startswith(b"HTTP/1.1 405 Method Not Allowed")


async def test_whoever_does_not_take_the_answers_does_not_keep_them_here(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_STUCK_SECONDS", 0.2)
    name = b"a" * 400_000
    body = b'{"query": "{ %s: __typename }"}' % name
    async with connected(live, receives=65_536) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        # Given more answers than fit into what lies between, when nobody takes them for a while,
        writer.write((POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)) * 30)

        # then the service hangs up.
        with pytest.raises(ConnectionError):
            await sending(writer, b" ")


@pytest.mark.usefixtures("hurried")
async def test_nor_does_who_has_begun_to_ask_something_else(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_STUCK_SECONDS", 0.5)
    room = Room(30_000_000)
    monkeypatch.setattr(live.app.state.admission, "room", room)
    query = await a_query_of_ten_megabytes(graph, unique)
    body = orjson.dumps({"query": query})
    async with connected(live, receives=4096) as (_, writer):
        # given: an answer that nobody takes, and a request that does not come
        writer.write(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await until(lambda: room.held > 9_000_000)
        writer.write(b"GET /healthz HT")

        await until(lambda: room.held == 0)


# Size


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        pytest.param(b"GET /", b"a" * 60_000, id="an address"),
        pytest.param(HEALTH[:-2] + b"X-A: ", b"a" * 60_000, id="a header"),
        pytest.param(HEALTH[:-2], b"X-A: a\r\n" * 8_000, id="headers"),
        pytest.param(b"", b"\r\n" * 30_000, id="empty lines"),
    ],
)
async def test_a_head_has_an_end(live: Live, begins: bytes, goes_on: bytes) -> None:
    async with connected(live) as (_reader, writer):
        writer.write(begins)

        with pytest.raises(ConnectionError):
            await sending(writer, goes_on)


@pytest.mark.parametrize(
    "goes_on",
    [pytest.param(b"X-A: a\r\n" * 8_000, id="trailers"), pytest.param(b"0" * 60_000, id="a size")],
)
async def test_what_is_around_a_body_has_an_end(live: Live, goes_on: bytes) -> None:
    async with connected(live) as (_reader, writer):
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
        writer.write(b"0\r\n" if goes_on[:1] == b"X" else b"")

        with pytest.raises(ConnectionError):
            await sending(writer, goes_on)


async def test_what_comes_after_a_body_is_no_header(live: Live) -> None:
    body = b'{"query": "{ me { name } }"}'
    async with connected(live) as (reader, writer):
        writer.write(
            POST
            + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            + b"%x\r\n%s\r\n0\r\nLifecycle-Actor: admin\r\n\r\n" % (len(body), body)
        )

        assert b'{"data":{"me":{"name":"anonymous"}}}' in await rest(reader)


# Files


async def test_who_has_no_files_left_is_ready_still(database_url: str) -> None:
    migrate.head.cache_clear()
    async with serving(database_url) as live, Graph(live.url) as graph:
        # given connections to the database, of which others may use one
        async with AsyncExitStack() as opened:
            for _ in range(3):
                await opened.enter_async_context(live.database.read())
        await graph.query("{ experiments { totalCount } }")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)

        # when
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            ready = await graph.http.get("/readyz")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert ready.json()["checks"] == {"database": True, "migrations": True, "mlflow": None}


# Together


@pytest.fixture
def room(live: Live, monkeypatch: pytest.MonkeyPatch) -> Room:
    """What is held of all that is sent to the service: a megabyte at the most."""
    made = Room(1_000_000)
    monkeypatch.setattr(live.app.state.admission, "room", made)
    return made


async def test_of_bodies_that_are_not_there_yet_so_many_bytes_are_held(
    live: Live, room: Room
) -> None:
    head = POST + b"Lifecycle-Actor: %s\r\nContent-Length: 400000\r\n\r\n"
    async with (
        connected(live) as (_, first),
        connected(live) as (second_answer, second),
        connected(live) as (_, third),
    ):
        # given: somebody sends most of one body,
        first.write(head % b"somebody" + b" " * 390_000)
        await until(lambda: room.held > 350_000)

        # when they begin another, and somebody else, too,
        second.write(head % b"somebody" + b" " * 200_000)
        third.write(head % b"another" + b" " * 200_000)
        answer = await second_answer.readuntil(b"}}]}")
        await until(lambda: room.held > 550_000)

    # then
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests")
    assert b'"code":"LIMIT_EXCEEDED","name":"memory","limit":500000' in answer
    await until(lambda: room.held == 0)


async def a_query_of_ten_megabytes(graph: Graph, unique: str) -> str:
    """A short query with an answer of that length."""
    made = {"name": unique, "description": "x" * 20_000}
    await graph.done("createExperiment", made, "experiment { id }")
    often = " ".join(f"a{n}: description" for n in range(500))
    return f'{{ experiment(name: "{unique}") {{ {often} }} }}'


async def test_answers_that_nobody_takes_count_until_they_are_taken(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: more than there is room for between here and there
    query = await a_query_of_ten_megabytes(graph, unique)
    room = Room(30_000_000)
    monkeypatch.setattr(live.app.state.admission, "room", room)

    # when
    async with connected(live, receives=4096) as (_, writer):
        body = orjson.dumps({"query": query})
        writer.write(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await until(lambda: room.held > 9_000_000)
        refused = await graph.answer(query, None, **{"lifecycle-actor": "anonymous"})

    # then
    assert refused["errors"][0]["extensions"]["name"] == "memory"
    await until(lambda: room.held == 0)
    assert "errors" not in await graph.answer(query)


async def test_who_cannot_be_answered_is_told_that_the_change_was_made(
    graph: Graph, unique: str, room: Room
) -> None:
    # given: a change whose answer is larger than what may be held
    often = " ".join(f"a{n}: description" for n in range(100))
    mutation = """mutation ($input: CreateExperimentInput!) { createExperiment(input: $input) {
        __typename ... on CreateExperimentSuccess { experiment { %s } } } }"""
    made = {"name": unique, "description": "x" * 20_000, "idempotencyKey": unique}
    asked = {"query": mutation % often, "variables": {"input": made}}

    # when
    response = await graph.http.post("/graphql", json=asked)
    repeated = await graph.answer(mutation % "name createdBy", {"input": made})
    found = await graph.query(f'{{ experiment(name: "{unique}") {{ name }} }}')

    # then: nothing says to send it again as if it were not made, and by its key it is told.
    assert (response.status_code, "retry-after" in response.headers) == (200, False)
    assert response.json() == {
        "data": None,
        "errors": [
            {
                "message": "The mutation was executed, but its answer is larger than what can be "
                "held now. To be told, repeat it with its idempotency key, selecting less, or "
                "after a little while; without a key it would be done again.",
                "extensions": {
                    "code": "LIMIT_EXCEEDED",
                    "name": "memory",
                    "limit": 500_000,
                    "value": response.json()["errors"][0]["extensions"]["value"],
                },
            }
        ],
    }
    assert found == {"experiment": {"name": unique}}
    assert repeated["data"]["createExperiment"] == {
        "__typename": "CreateExperimentSuccess",
        "experiment": {"name": unique, "createdBy": "tester"},
    }
    assert room.held == 0


async def test_answers_on_a_websocket_that_nobody_takes_count_until_no_ping_is_answered(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[wire.WebSockets] = []

    def note(made: wire.WebSockets) -> None:
        opened.append(made)

    monkeypatch.setattr(wire.WebSockets, "start_keepalive", note)
    monkeypatch.setattr(wire, "_LINGER_SECONDS", 0.1)
    query = await a_query_of_ten_megabytes(graph, unique)
    room = Room(30_000_000)
    monkeypatch.setattr(live.app.state.admission, "room", room)
    async with connected(live, receives=4096) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(1, b'{"type": "connection_init"}'))
        await reader.readuntil(b'{"type":"connection_ack"}')
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        asked = {"type": "subscribe", "id": "1", "payload": {"query": query}}
        writer.write(frame(1, orjson.dumps(asked)))

        await until(lambda: room.held > 9_000_000)

        opened[0].keepalive_timeout()

        await until(lambda: room.held == 0)


async def test_a_body_counts_as_what_is_made_of_it(graph: Graph, room: Room) -> None:
    async def status(variables: str) -> int:
        body = f'{{"query": "{{ __typename }}", "variables": {{"x": [{variables}]}}}}'
        headers = {"content-type": "application/json"}
        answer = await graph.http.post("/graphql", content=body, headers=headers)
        return answer.status_code

    assert await status("[]," * 10_000 + "[]") == 429
    assert await status("[]," * 1_000 + "[]") == 200
    assert await status('"%s"' % ("a" * 300_000)) == 200
    assert room.held == 0


# Websockets


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A frame as a client sends it, masked with zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    return bytes([(0x80 if fin else 0) | opcode]) + size + bytes(4) + data


async def test_a_message_has_so_many_frames(live: Live) -> None:
    async with connected(live) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(1, b"{", fin=False) + frame(0, b"", fin=False) * wire.MAX_FRAMES)

        answer = await rest(reader)

    assert answer[2:4] == struct.pack("!H", 1009)
    assert answer[4:] == b"A message may have 10,000 frames."


async def test_before_it_is_known_whose_a_websocket_is_a_message_is_short(live: Live) -> None:
    async def closed(*messages: bytes) -> int | None:
        url = live.url.replace("http", "ws", 1) + "/graphql"
        protocols = [Subprotocol("graphql-transport-ws")]
        async with connect(url, subprotocols=protocols, proxy=None) as connection:
            for message in messages:
                await connection.send(message.decode())
                await connection.recv()
            await connection.close()
        return connection.close_code

    begin, long = b'{"type": "connection_init"}', b'{"type": "ping"%s}' % (b" " * 100_000)

    with pytest.raises(ConnectionClosedError) as error:
        await closed(long, begin)

    assert error.value.rcvd is not None
    assert error.value.rcvd.code == 1009
    assert await closed(begin, long) == 1000


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(1, b"{", fin=False) + frame(0, b" " * 60_000, fin=False) * 9, id="part"),
        pytest.param(frame(1, b"[%s]" % (b"[]," * 9_000 + b"[]")), id="what is made of it"),
    ],
)
async def test_of_messages_on_websockets_so_many_bytes_are_held(
    live: Live, room: Room, sent: bytes
) -> None:
    async with connected(live) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(1, b'{"type": "connection_init"}'))
        await reader.readuntil(b'{"type":"connection_ack"}')

        writer.write(sent)

        assert (await rest(reader))[2:4] == struct.pack("!H", 1013)
    await until(lambda: room.held == 0)


async def test_what_is_held_of_a_message_is_let_go_once_it_is_answered(
    live: Live, room: Room
) -> None:
    comment = "#" + "a" * 100_000
    async with socket(live.url) as opened:
        for _ in range(20):
            await opened.start(comment + "\n{ __typename }")
            kinds = [(await opened.receive())["type"] for _ in range(2)]
            assert kinds == ["next", "complete"]

        await until(lambda: room.held == 0)


async def test_whoever_does_not_take_the_answers_to_pings_is_not_read_from(live: Live) -> None:
    async with connected(live, receives=4096) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        pings = frame(9, b"x" * 125) * 10_000

        async def send() -> None:
            async with asyncio.timeout(2):
                for _ in range(40):
                    writer.write(pings)
                    await writer.drain()

        # When nobody takes them, what is sent stays with who sends it.
        with pytest.raises(TimeoutError):
            await send()
