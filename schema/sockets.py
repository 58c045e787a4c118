"""GraphQL over websockets: the messages of graphql-transport-ws, and the operations on one socket.

Not here: who asks and with which context (`view`), and HTTP.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import orjson
from graphql import GraphQLError
from starlette.websockets import WebSocketDisconnect, WebSocketState
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import (
    NonJsonMessageReceived,
    NonTextMessageReceived,
    WebSocketDisconnected,
)
from strawberry.schema.schema import StreamResult
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
    Operation,
)
from strawberry.subscriptions.protocols.graphql_transport_ws.types import (
    ConnectionInitMessage,
    Message,
    SubscribeMessage,
)

from lifecycle.errors import LifecycleError, LimitExceeded, Unavailable
from schema.admission import FREE, Held, Room
from schema.context import Context
from schema.documents import WithCost, read, wants_cost
from schema.errors import told
from schema.limits import check_variables
from schema.subscriptions import Answers
from schema.wire import KNOWN

_MAX_OPERATIONS = 100
_MAX_ID = 1_000


class Socket(ASGIWebSocketAdapter):
    """A websocket that may have been closed already, and may be closed for any reason."""

    ended = False
    # Of the message that is handled; None once somebody else has it.
    held: Held | None = None
    _room: Room | None = None

    def end(self, why: str, code: int = 4403) -> None:
        """Close it; from now on nothing is sent, and nothing taken."""
        self.ended = True
        self._closing = asyncio.create_task(self._close(why, code), name="socket-end")

    def be_known(self, room: Room, whose: str) -> None:
        """It is known whose it is; from now on messages may be long."""
        self._room, self._whose = room, whose
        known = self.ws.scope.get("extensions", {}).get(KNOWN)
        if known is not None:
            known(self._new_held())

    def _new_held(self) -> Held | None:
        return None if self._room is None else Held(self._room, self._whose)

    async def iter_json(
        self, *, ignore_parsing_errors: bool = False
    ) -> AsyncGenerator[object, None]:
        """The messages. Each is held until it is handled, unless somebody has taken `held`."""
        try:
            while self.ws.application_state is not WebSocketState.DISCONNECTED:
                text = await self.ws.receive_text()
                held = self.held = self._new_held()
                try:
                    if held is not None:
                        held.add(len(text))
                        held.add_parsed(text)
                    message = self.view.decode_json(text)
                    del text
                    yield message
                finally:
                    if self.held is not None:
                        self.held.let_go()
        except orjson.JSONDecodeError as error:
            raise NonJsonMessageReceived from error
        except KeyError as error:
            raise NonTextMessageReceived from error
        except WebSocketDisconnect:
            pass
        except LimitExceeded as error:
            await self.close(1013, str(error))

    async def _close(self, why: str, code: int) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # it is closed already
            await self.close(code, why)

    async def send_json(self, message: Mapping[str, object]) -> None:
        await self.send_text(orjson.dumps(message).decode())

    async def send_text(self, text: str) -> None:
        """Send what is JSON already; raises WebSocketDisconnected when nobody takes it."""
        if self.ended:
            raise WebSocketDisconnected
        try:
            if len(text) <= FREE or (held := self._new_held()) is None:
                await self.ws.send_text(text)
                return
            with held:
                held.add(len(text))
                await self.ws.send_text(text)
        except LimitExceeded as error:  # nobody takes what is sent
            self.end(str(error), 1013)
            raise WebSocketDisconnected from error
        except (WebSocketDisconnect, RuntimeError) as error:  # or this side has closed it
            raise WebSocketDisconnected from error

    async def close(self, code: int, reason: str) -> None:
        # No more fits into the frame.
        shown = reason.encode()[:123].decode(errors="ignore")
        try:
            await super().close(code, shown)
        except (WebSocketDisconnect, RuntimeError) as error:  # or it has been closed already
            raise WebSocketDisconnected from error


class _Operation(Operation[Context, None]):
    """An operation, and what was asked."""

    __slots__ = ("asked",)

    def __init__(self, handler: "SocketHandler", id: str, asked: dict[str, Any]) -> None:
        super().__init__(
            handler,
            id,
            asked.get("query") or "",
            asked.get("variables"),
            asked.get("operationName"),
        )
        # And nothing else of what was sent: it is held as long as the operation lasts.
        self.asked = {name: asked.get(name) for name in ("query", "documentId", "variables")}
        self.asked |= {"operationName": self.operation_name}
        self.asked |= {"extensions": {"cost": wants_cost(asked)}}


class SocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """Refuses messages that have the wrong shape, before anything trips over them, and keeps the
    operations on one socket apart: what is wrong with one does not end the others."""

    websocket: Socket
    view: Any  # has the trusted documents
    _leave: Callable[[], None] | None = None

    async def handle(self) -> None:
        client = self.websocket.ws.client
        try:
            seat = self.context.seat = self.context.admission.seat(client.host if client else "")
        except LimitExceeded as error:  # which passes: whoever says nothing is not waited for long
            await self._refuse(1013, error)
            return
        try:
            await super().handle()
        finally:
            seat.leave()

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        try:
            await super().handle_connection_init(message)
        except Unavailable as error:  # it cannot be found out who that is; later it may be
            await self.websocket.close(1013, str(error))
        except LimitExceeded as error:
            await self._refuse(4429, error)
        if self.connection_acknowledged and self._leave is None and self.context.watch:
            self._leave = self.context.watch(self.websocket.end)
        if self.connection_acknowledged:
            self.websocket.be_known(self.context.admission.room, self.context.counted_as)

    async def _refuse(self, code: int, error: LimitExceeded) -> None:
        with suppress(WebSocketDisconnected):
            await self.websocket.close(code, str(error))

    async def shutdown(self) -> None:
        if self._leave is not None:
            self._leave()
        await super().shutdown()

    async def handle_message(self, message: Message) -> None:
        if self.websocket.ended:
            return
        if not _well_formed(message):
            await self.handle_invalid_message("Malformed message")
            return
        await super().handle_message(message)
        # Nobody else lets it go before the next one comes.
        cast("dict[str, Any]", message).clear()

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        id = message["id"]
        if not self.connection_acknowledged or id in self.operations:
            await super().handle_subscribe(message)  # which closes the socket
            return
        try:
            self._admit()
        except LimitExceeded as error:
            payload = [told(error).formatted]
            await self.send_message({"id": id, "type": "error", "payload": payload})
            return
        operation = _Operation(self, id, cast("dict[str, Any]", message["payload"]))
        operation.task = asyncio.create_task(self.run_operation(operation))
        operation.task.add_done_callback(self._task_done)
        self.operations[id] = operation
        held, self.websocket.held = self.websocket.held, None
        if held is not None:
            operation.task.add_done_callback(lambda _: held.let_go())

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        """Run the operation that is meant."""
        assert isinstance(operation, _Operation)
        try:
            check_variables(operation.variables)
            operation.query = await self.view.trusted.text(operation.asked)
            operation.asked["query"] = operation.query
            await read(self.schema, operation.asked, self.context)
        except LifecycleError as error:
            await operation.send_initial_errors([told(error)])
            return
        await super().run_operation(operation)

    def forget_id(self, id: str) -> None:
        """Its operation is done; the client may have ended it a moment before."""
        self.operations.pop(id, None)

    def _admit(self) -> None:
        """Raise LimitExceeded when this socket, or whoever it belongs to, may not begin another
        operation now."""
        if len(self.operations) >= _MAX_OPERATIONS:
            raise LimitExceeded(
                f"One websocket carries at most {_MAX_OPERATIONS} operations at a time.",
                "websocketOperations",
                _MAX_OPERATIONS,
                _MAX_OPERATIONS + 1,
            )
        self.context.admission.ask(self.context.counted_as)

    async def _send_result_stream(
        self, operation: Operation[Context, None], result_source: StreamResult
    ) -> None:
        assert isinstance(operation, _Operation)
        if wants_cost(operation.asked):
            result_source = cast(StreamResult, WithCost(result_source, operation.asked))
        if not isinstance(result_source, Answers):
            await super()._send_result_stream(operation, result_source)
            return
        # A subscriber's own are only the bytes around the answer.
        id = orjson.dumps(operation.id).decode()
        async for answer in result_source:
            await self.websocket.send_text(f'{{"id":{id},"type":"next","payload":{answer.json}}}')

    @staticmethod
    def _get_pre_execution_close_reason(error: GraphQLError) -> str | None:
        return None

    async def handle_task_exception(self, error: Exception) -> None:
        if not isinstance(error, WebSocketDisconnected):
            await super().handle_task_exception(error)


def _well_formed(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    if message["type"] in ("subscribe", "complete"):
        id = message.get("id")
        if not isinstance(id, str) or len(id) > _MAX_ID:
            return False
    if message["type"] != "subscribe":
        return True
    payload = message.get("payload")
    return (
        isinstance(payload, dict)
        and isinstance(payload.get("query"), str | None)
        and isinstance(payload.get("documentId"), str | None)
        and (payload.get("query") is not None or payload.get("documentId") is not None)
        and isinstance(payload.get("variables"), dict | None)
        and isinstance(payload.get("operationName"), str | None)
        and isinstance(payload.get("extensions"), dict | None)
    )
