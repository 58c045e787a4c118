"""Bad requests by the thousand: on HTTP, in documents and variables, on the websocket protocol.

Each is made from its number, of what hypothesis has drawn (`drawn`), so that one that is found can
be sent again: `sent(number)`. Here is what is sent and what an answer must not be; what is counted
before and after is in `__main__` and in the tests.
"""

import asyncio
import json
import random
import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from tests.client import PATIENCE
from tests.faults.drawn import documents, draw, texts, values
from tests.mutations import MUTATIONS, World, capital, global_id, headers, inputs

_WORLD = World(
    name="bad-requests",
    **{
        name: global_id(kind)
        for name, kind in {
            "run": "Run",
            "version": "ModelVersion",
            "spare": "ModelVersion",
            "submitted": "ModelVersion",
            "deployment": "Deployment",
            "item": "ChecklistItem",
            "drift_event": "DriftEvent",
            "mlflow_item": "MlflowItem",
            "upload": "ArtifactUpload",
            "other_upload": "ArtifactUpload",
            "role_grant": "RoleGrant",
            "api_token": "ApiToken",
        }.items()
    },
)
_INPUTS = inputs(_WORLD)
_SUBSCRIPTION = "subscription { deploymentStatus { __typename } }"
_JSON = "application/json"

# What no answer may show, and no log may have a line of.
INSIDE = (b"Traceback", b"asyncpg", b"sqlalchemy", b"object at 0x", b'"INTERNAL"', b"site-packages")

_ODD_TEXTS = [
    "",
    "\x00",
    "\ud7ff\U0010ffff\u202e",
    "%s%n{0}",
    "' OR 1=1 --",
    "../../etc/passwd",
    "${jndi:x}",
    "x" * 5_000,
    "NaN",
    "__proto__",
]
_ODD: list[Any] = [
    *_ODD_TEXTS,
    None,
    True,
    0,
    -1,
    2**31,
    2**53,
    2**64,
    -(2**63) - 1,
    1e308,
    5e-324,
    [],
    {},
    [[[]]],
    {"": None},
]


# In a document, and what it may become.
_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"|-?\b\d[\d.eE+-]*|\b(?:true|false|null)\b')
_ODD_LITERALS = [
    *("null", "{}", "[]", "[[null]]", "$v", "A", '"""', "true"),
    *("0", "1", "-1", "3", "100", "101", "-0", "0.5", "1e400", "-1e308", str(2**31), str(2**63)),
    *('""', '"\\u0000"', '"garbage"', '"2026-01-01T00:00:00Z"', '"0001-01-01"'),
    *(json.dumps(each) for each in (_WORLD.run, _WORLD.version, _WORLD.name, _WORLD.deployment)),
]


@dataclass
class Tally:
    """What came of it."""

    sent: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    # Seconds, number and kind; those that end by themselves once they are answered.
    took: list[tuple[float, int, str]] = field(default_factory=list)

    def add(self, others: "Tally") -> None:
        """What came of others, too."""
        self.sent.update(others.sent)
        self.answers.update(others.answers)
        self.faults += others.faults
        self.took += others.took

    def fault(self, number: int, what: str) -> None:
        self.faults.append(f"{number}: {what}")


class Bad(random.Random):
    """The choices of one request."""

    def one_in(self, number: int) -> bool:
        return self.randrange(number) == 0

    def junk(self) -> Any:
        """A value of JSON that nobody expects."""
        return self.choice(_ODD if self.one_in(2) else values())

    def text(self) -> str:
        return self.choice(_ODD_TEXTS if self.one_in(3) else texts())

    def spoilt(self, value: Any) -> Any:
        """A value in which something is another."""
        if isinstance(value, dict) and value and not self.one_in(6):
            name = self.choice(sorted(value))
            if self.one_in(8):
                return {key: each for key, each in value.items() if key != name}
            if self.one_in(12):
                return {**value, self.text(): self.junk()}
            return {**value, name: self.spoilt(value[name])}
        if isinstance(value, list) and value and not self.one_in(6):
            place = self.randrange(len(value))
            return [self.spoilt(each) if n == place else each for n, each in enumerate(value)]
        return self.junk()

    def spoilt_bytes(self, content: bytes) -> bytes:
        """Bytes of which some are others, missing, or there more than once."""
        found = bytearray(content)
        for _ in range(self.randrange(1, 5)):
            at = self.randrange(len(found) + 1)
            match self.randrange(4):
                case 0:
                    del found[at : at + self.randrange(1, 20)]
                case 1:
                    found[at:at] = self.randbytes(self.randrange(1, 10))
                case 2:
                    found[at:at] = found[max(0, at - 20) : at] * self.randrange(1, 4)
                case _:
                    found[at : at + 1] = self.choice([b"\x00", b"\xff", b'"', b"{", b"}", b"\r\n"])
        return bytes(found)

    # Documents

    def document(self, root: str = "Query") -> str:
        """An operation of the schema, in which some values are others."""
        text: str = self.choice(documents(root))
        for _ in range(self.randrange(4)):
            if found := list(_LITERAL.finditer(text)):
                at = self.choice(found)
                text = f"{text[: at.start()]}{self.choice(_ODD_LITERALS)}{text[at.end() :]}"
        return text


# Requests by HTTP: what is sent, and whether it is HTTP.


def _post(body: bytes, **more: str) -> bytes:
    given = {"Host": "localhost", "Content-Type": _JSON, "Content-Length": str(len(body)), **more}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return b"POST /graphql HTTP/1.1\r\n" + lines.encode("latin-1", "replace") + b"\r\n" + body


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _closing(**more: str) -> dict[str, str]:
    return {"Connection": "close", **more}


def _mutation(bad: Bad) -> dict[str, Any]:
    name = bad.choice(sorted(MUTATIONS))
    type_ = f"{capital(name)}Input!"
    query = f"mutation ($input: {type_}) {{ {name}(input: $input) {{ __typename }} }}"
    return {"query": query, "variables": {"input": bad.spoilt(_INPUTS[name])}}


def spoilt_input(bad: Bad) -> bytes:
    """A mutation with something odd in its input."""
    actor = bad.choice([headers("setStagePolicy")["Lifecycle-Actor"], "eve"])
    return _post(_json(_mutation(bad)), **_closing(Lifecycle_Actor=actor))


def odd_document(bad: Bad) -> bytes:
    """A document of the schema with odd arguments, sometimes as a stream."""
    root = bad.choice(["Query", "Query", "Mutation", "Subscription"])
    accept = bad.choice(["*/*", _JSON, "text/event-stream"])
    return _post(_json({"query": bad.document(root)}), **_closing(Accept=accept))


def spoilt_document(bad: Bad) -> bytes:
    """A document that is hardly one any more."""
    text = bad.spoilt_bytes(bad.document().encode()).decode("utf-8", "replace")
    return _post(_json({"query": text, "variables": bad.junk()}), **_closing())


def odd_request(bad: Bad) -> bytes:
    """JSON that is no request."""
    asked: Any = {
        "query": bad.document(),
        "variables": {},
        "operationName": None,
        "extensions": {"cost": True},
        "documentId": "sha256:" + "0" * 64,
    }
    return _post(_json(bad.spoilt(asked)), **_closing())


def spoilt_body(bad: Bad) -> bytes:
    """A body that is no JSON."""
    return _post(bad.spoilt_bytes(_json(_mutation(bad))), **_closing())


def odd_headers(bad: Bad) -> bytes:
    """A request with headers that nobody sends."""
    value = bad.text().replace("\r", "").replace("\n", "")
    names = ["Accept", "Content-Type", "Lifecycle_Actor", "X_Request_Id", "Origin", "Host"]
    names += ["Authorization", "Cookie", "Accept_Encoding", "Content_Encoding", "Range"]
    return _post(_json({"query": "{ __typename }"}), **_closing(), **{bad.choice(names): value})


def odd_address(bad: Bad) -> bytes:
    """Another method or path, or a query in the address."""
    method = bad.choice(["GET", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "X"])
    paths = ["/graphql", "/graphql", "/artifacts/internal/", "/graphiql/", "/readyz", "/"]
    names = ["query", "variables", "extensions", "documentId", "operationName"]
    query = "&".join(
        f"{bad.choice(names)}={quote(bad.choice([bad.text(), bad.document()]))}"
        for _ in range(bad.randrange(3))
    )
    path = bad.choice(paths) + (quote(bad.text()) if bad.one_in(3) else "")
    line = f"{method} {path}?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return line.encode()


def spoilt_http(bad: Bad) -> bytes:
    """Bytes that were a request."""
    return bad.spoilt_bytes(_post(_json({"query": "{ __typename }"}), **_closing()))


def noise(bad: Bad) -> bytes:
    """Bytes."""
    return bad.randbytes(bad.randrange(1, 500))


HTTP: list[Callable[[Bad], bytes]] = [
    spoilt_input,
    spoilt_input,
    odd_document,
    odd_document,
    spoilt_document,
    odd_request,
    spoilt_body,
    odd_headers,
    odd_address,
    spoilt_http,
    noise,
]
# Nobody may expect an answer to what is not HTTP.
_NOT_HTTP = ("spoilt_http", "noise")


# Websockets


def _message(bad: Bad) -> bytes:
    """A message of the protocol, mostly out of order or spoilt."""
    asked = {"query": bad.choice([bad.document(), _SUBSCRIPTION]), "variables": None}
    message: Any = bad.choice(
        [
            {"type": "connection_init", "payload": {"actor": "eve"}},
            {"type": "subscribe", "id": str(bad.randrange(3)), "payload": asked},
            {"type": "subscribe", "id": str(bad.randrange(3)), "payload": _mutation(bad)},
            {"type": "complete", "id": str(bad.randrange(3))},
            {"type": "ping", "payload": {}},
            {"type": "pong"},
            {"type": "next", "id": "1", "payload": {}},
        ]
    )
    if bad.one_in(3):
        message = bad.spoilt(message)
    encoded = _json(message)
    return bad.spoilt_bytes(encoded) if bad.one_in(6) else encoded


def _frame(bad: Bad, opcode: int, payload: bytes) -> bytes:
    """A frame as clients send it."""
    mask = bad.randbytes(4)
    size = len(payload)
    head = bytes([0x80 | opcode])
    head += bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return head + mask + bytes(each ^ mask[n % 4] for n, each in enumerate(payload))


def frames(bad: Bad) -> bytes:
    """A handshake, and what comes after it: messages, or frames that are none."""
    key = b64encode(bad.randbytes(16)).decode()
    protocol = "graphql-transport-ws" if not bad.one_in(20) else bad.choice(["graphql-ws", "x"])
    sent = (
        "GET /graphql HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ).encode()
    if not bad.one_in(4):
        sent += _frame(bad, 1, _json({"type": "connection_init"}))
    for _ in range(bad.randrange(6)):
        payload = _message(bad)[:60_000]
        opcode = 1 if not bad.one_in(10) else bad.choice([0, 2, 3, 9, 10])
        frame = _frame(bad, opcode, payload if opcode < 8 else payload[:125])
        sent += bad.spoilt_bytes(frame) if bad.one_in(10) else frame
    return sent + _frame(bad, 8, (1000).to_bytes(2, "big"))


# All of them


def sent(number: int) -> tuple[str, bytes]:
    """The kind of a request, and what is sent."""
    bad = Bad(number)
    make = frames if bad.one_in(4) else bad.choice(HTTP)
    return make.__name__, make(bad)


async def exchange(host: str, port: int, kind: str, content: bytes) -> bytes:
    """What is answered until the connection is closed, or until it is a stream that goes on."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            if kind == frames.__name__:
                # The server wants nothing of a client that it has not let in.
                handshake, end, content = content.partition(b"\r\n\r\n")
                writer.write(handshake + end)
                answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(content)
            await writer.drain()
            # Nothing more comes: what is not whole never will be. For the rest of a frame the
            # server would wait until its own pings are not answered.
            if kind in _NOT_HTTP or kind == frames.__name__:
                asyncio.get_running_loop().call_later(0.5, _ended, writer)
            while chunk := await reader.read(65_536):
                answer += chunk
                if b"text/event-stream" in answer and b"event: next" in answer:
                    break
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return answer


def _ended(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        if not writer.is_closing():
            writer.write_eof()


async def send(url: str, numbers: range, at_a_time: int = 64) -> Tally:
    """Send these requests, some at a time, and look at what is answered."""
    draw()
    address, tally = urlsplit(url), Tally()
    host, port = address.hostname or "", address.port or 0
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            kind, content = sent(number)
            tally.sent[kind] += 1
            began = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await exchange(host, port, kind, content)
            except TimeoutError:
                tally.fault(number, f"{kind}: neither answered nor closed")
                continue
            if kind not in (*_NOT_HTTP, frames.__name__):
                tally.took.append((time.monotonic() - began, number, kind))
            _look(tally, number, kind, answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(worker())
    return tally


def _look(tally: Tally, number: int, kind: str, answer: bytes) -> None:
    status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"
    tally.answers[status] += 1
    if status == "closed" and kind not in _NOT_HTTP:
        tally.fault(number, f"{kind}: closed without an answer")
    if status.startswith("5"):
        tally.fault(number, f"{kind}: {answer[:300]!r}")
    for inside in INSIDE:
        if inside in answer:
            tally.fault(number, f"{kind}: shows {inside!r}")
