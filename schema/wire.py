"""What comes over a connection, as uvicorn reads it, but for whoever never comes to an end.

uvicorn waits for the rest of a request for ever, and keeps as much of its head as is sent. Before
anybody is asked who they are, there is only this.
"""

import socket
import sys
from asyncio import AbstractEventLoop, TimerHandle
from typing import Any, ClassVar

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

from lifecycle.errors import LimitExceeded
from schema.admission import FREE, Held

# Of the head of a request, and of whatever else comes without being part of a body.
MAX_HEAD_BYTES = 64 * 1024
# So many connections of a process may be without a whole head; one more ends the one that has been
# so for longest. Whoever means to ask has a head there at once, so it is not new ones who suffer.
# More than are accepted at once, before anything of them is read (uvicorn's backlog, 2,048).
MAX_HEADS = 4_000
# By then a request is there, and a second later for each so many bytes of it.
REQUEST_SECONDS = 20
BYTES_A_SECOND = 8 * 1024
# Who is answered already is not waited for.
_LINGER_SECONDS = 5
# Whoever takes nothing of what is sent for so long does not want it.
_STUCK_SECONDS = 60
# The kernel sees to that, where it can: a connection that is being closed is nobody else's.
_STUCK = getattr(socket, "TCP_USER_TIMEOUT", None)
# Into so many frames a message may be split.
MAX_FRAMES = 10_000
# Of a message on a websocket, until it is known whose that is.
MAX_UNKNOWN_BYTES = 64 * 1024
# To whoever asks for a websocket with a head that is none, such as one of a body.
_NO_WEBSOCKET = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
# What an app calls once it is known, in the extensions of the scope.
KNOWN = "lifecycle.known"


class _Outlet:
    """Where the answer to one request goes: its head along with the first of its body, if that
    comes at once. Sent apart, as uvicorn does, they take the service and the client a system call
    each, and a packet."""

    def __init__(self, transport: Any, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._begun = False

    def write(self, data: bytes) -> None:
        """Send it, the first of all in the loop's next turn at the latest."""
        if not self._begun:
            self._begun, self._head = True, data
            self._loop.call_soon(self._flush)
        elif self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection, once all is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return bool(self._transport.is_closing())

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self.is_closing():
            self._transport.write(head)


class Http(HttpToolsProtocol):
    """Ends connections on which no request comes in time, or a head that is too long, those of
    which nobody takes what is sent, and the oldest of too many without a head."""

    # Of this process, those on which a head is awaited, the oldest first.
    _headless: ClassVar[dict["Http", None]] = {}
    # When what is awaited began; None while nothing is.
    _began: float | None = None
    _received = 0
    # Bytes since something of a request was complete.
    _rest = 0
    _late: TimerHandle | None = None
    # What is read now; and what of it is to be read once more.
    _data = b""
    _again = b""
    # Whether the request that is read asks for another protocol that is not spoken here.
    _misled = False
    # What is answered now, or was last; uvicorn's own is the one that came last.
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a request."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if _STUCK is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, _STUCK, int(_STUCK_SECONDS * 1000))
        self._await_head()
        self._await()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more, and answer nothing."""
        super().connection_lost(exc)
        self._stop()
        if self._answered is not None and self._is_answering:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Read what has come, unless that is too much."""
        self._received += len(data)
        self._rest += len(data)
        while data:
            self._data = data
            super().data_received(data)
            data, self._data, self._again = self._again, b"", b""
        if self._rest > MAX_HEAD_BYTES and self._began is not None:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._await_head()
        if self._began is None:
            self._await()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What comes after a body is nobody's business."""
        if self.scope is not None and "path" not in self.scope:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._misled = (
            self.parser.should_upgrade()
            and not self._should_upgrade()
            and any(name == b"upgrade" for name, _ in self.headers)
        )
        if self._misled:
            return
        self._rest = 0
        self._headless.pop(self, None)
        former = self.cycle
        super().on_headers_complete()
        if self.cycle is not former:
            self.cycle.transport = _Outlet(self.transport, self.loop)  # type: ignore[assignment]

    def _unsupported_upgrade_warning(self) -> None:
        """Read the request once more, as if it had not asked: the parser leaves its body to the
        other protocol. Java's client asks for HTTP/2 with the first that it posts."""
        error = sys.exc_info()[1]
        if not (self._misled and isinstance(error, HttpParserUpgrade)):
            super()._unsupported_upgrade_warning()
            return
        (read,) = error.args
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self._again = b"\r\n".join([*lines, b"", self._data[read:]])
        self.parser = HttpRequestParser(self)

    def on_body(self, body: bytes) -> None:
        """A part of the body is there."""
        self._rest = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._misled:  # so far
            return
        self._rest, self._began = 0, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered; if not all of it is there, that is not needed."""
        super().on_response_complete()
        if self._began is not None and not self.pipeline:
            self._set_late(_LINGER_SECONDS, self.transport.close)

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to another protocol, unless it is still needed for an answer, of
        which nobody would say then that it is not taken."""
        if self._is_answering:
            self._refuse(b"400 Bad Request")
            return
        self._stop()
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_answering(self) -> bool:
        return self._answered is not None and not self._answered.response_complete

    def _await_head(self) -> None:
        self._headless[self] = None
        if len(self._headless) > MAX_HEADS:
            next(iter(self._headless))._refuse(b"503 Service Unavailable")

    def _await(self) -> None:
        self._began, self._received = self.loop.time(), 0
        if self._late is None:
            self._set_late(REQUEST_SECONDS, self._look)

    def _look(self) -> None:
        self._late = None
        if self._began is None:
            return
        now = self.loop.time()
        if self.flow.read_paused:  # it is not the client who lets us wait
            self._began, self._received = now, 0
        left = self._began + REQUEST_SECONDS + self._received / BYTES_A_SECOND - now
        if left > 0:
            self._set_late(left, self._look)
        else:
            self._refuse(b"408 Request Timeout")

    def _set_late(self, seconds: float, call: Any) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(seconds, call)

    def _refuse(self, status: bytes) -> None:
        """Close the connection; say why, unless nothing was asked, or an answer is under way."""
        self._stop()
        if self.transport.is_closing():
            return
        begun = self._answered is not None and self._answered.response_started
        if self.scope is not None and not (begun and self._is_answering):
            head = b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head % status)
        self.transport.close()

    def _stop(self) -> None:
        self._headless.pop(self, None)
        if self._late is not None:
            self._late.cancel()
            self._late = None


class WebSockets(WebSocketsSansIOProtocol):
    """Closes a websocket on which comes what is no text, and says so to nobody else. uvicorn logs a
    trace for each, and fails where the websocket is about to be closed already.

    Nor does it read from whoever does not take its answers, or put together a message of any number
    of frames, or a long one of somebody whom nobody knows, or wait for whoever begins none.
    """

    # What is held of messages that the app has not taken, once it is known whose they are.
    _held: Held | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn.max_message_size = MAX_UNKNOWN_BYTES

    def handle_connect(self, event: Request) -> None:
        """Begin, and have the app say when it is known whose websocket it is."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][KNOWN] = self._known  # type: ignore[assignment]

    def _known(self, held: Held) -> None:
        self._held = held
        self.conn.max_message_size = self.config.ws_max_size

    async def receive(self) -> Any:
        """Give the app what has come for it."""
        event = await super().receive()
        if self._held is not None:
            self._held.let_go()
        return event

    async def send(self, message: Any) -> None:
        """Send what the app says; what is long until it has been taken, because it counts so
        long."""
        await super().send(message)
        if len(message.get("text") or "") > FREE:
            await self.writable.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hold nothing any more."""
        super().connection_lost(exc)
        if self._held is not None:
            self._held.let_go()

    def send_receive_event_to_app(self) -> None:
        """Pass on a message that is whole."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                if self.conn.state is State.OPEN:
                    self.conn.send_close(1007)
                    self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        """Add a frame to a message."""
        if len(self.frames) < MAX_FRAMES:
            super().handle_cont(event)
        elif self.conn.state is State.OPEN:
            self.frames = []
            self.conn.send_close(1009, f"A message may have {MAX_FRAMES:,} frames.")
            self.handle_parser_exception()

    def data_received(self, data: bytes) -> None:
        """Read what has come, and no more as long as nobody takes what it is answered with."""
        super().data_received(data)
        if not self.handshake_initiated:
            self._refuse()
            return
        if self._held is not None:
            self._count(self._held, len(data))
        if not self.writable.is_set() and not self.transport.is_closing():
            self.transport.pause_reading()

    def _refuse(self) -> None:
        # The head was all of it; uvicorn would wait for another for ever.
        self.transport.write(b"".join(self.conn.data_to_send()) or _NO_WEBSOCKET)
        self.transport.close()

    def _count(self, held: Held, size: int) -> None:
        if not (self.read_paused or self.frames or self.conn.reader.buffer):
            held.let_go()  # there was something for the server alone
            return
        try:
            held.add(size)
        except LimitExceeded:
            self.frames = []
            if self.conn.state is State.OPEN:
                self.conn.send_close(1013, "Too much is sent at the same time.")
                self.handle_parser_exception()

    def keepalive_timeout(self) -> None:
        """Nobody answers a ping. Closing alone would wait for them to take what was sent."""
        super().keepalive_timeout()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken what was sent."""
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()
