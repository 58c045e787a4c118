"""Talks to a running service as any client does: GraphQL over HTTP and over a websocket."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self
from uuid import uuid4

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

Object = dict[str, Any]  # a JSON object, as it came

_ATTEMPTS = 4
_HERE = {"127.0.0.1", "localhost", "::1"}


class DemoFailed(Exception):
    """The demo cannot go on. The message is one line for the person at the terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Refused(DemoFailed):
    """The service answered with an expected failure; nothing has changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class ConnectionLost(DemoFailed):
    """The websocket is gone; a new subscription may go on from the last cursor."""


class Client:
    """One service, seen by one actor, who has a token where that has to be proved. Use it as an
    async context manager."""

    def __init__(self, url: str, actor: str, token: str | None = None) -> None:
        """Raise DemoFailed when `url` is not the http(s) URL of a service."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise DemoFailed(f"{url!r} is not a URL: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise DemoFailed(f"{url!r} is not a URL that begins with http:// or https://.")
        self.url = url.rstrip("/").removesuffix("/graphql") + "/graphql"
        self.actor = actor
        self._who = {"authorization": f"Bearer {token}"} if token else {"actor": actor}
        # A proxy from the environment cannot reach a service on this machine.
        self._use_proxies = parsed.host not in _HERE
        self._http = httpx.AsyncClient(
            headers={
                **({"Authorization": f"Bearer {token}"} if token else {"Lifecycle-Actor": actor}),
                "Accept": "application/graphql-response+json, application/json",
            },
            timeout=30,
            trust_env=self._use_proxies,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()

    async def query(self, document: str, variables: Mapping[str, Any] | None = None) -> Object:
        """Return the `data` of the answer.

        Raises Refused when this actor may not do it, DemoFailed on any other error.
        """
        response = await self._post({"query": document, "variables": variables or {}})
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise DemoFailed(
                f"{self.url} answered {response.status_code} and no JSON: is it the right URL?"
            )
        return _data(answer)

    async def mutate(self, document: str, input: Mapping[str, Any]) -> Object:
        """Return the success of a document with one mutation that takes `$input`.

        Raises Refused when the result is an Error or this actor may not do it. One idempotency key
        goes with all attempts, so an answer that got lost on its way does not make the change
        happen twice.
        """
        variables = {"input": {**input, "idempotencyKey": str(uuid4())}}
        for attempt in range(1, _ATTEMPTS + 1):
            (result,) = (await self.query(document, variables)).values()
            if "code" not in result:
                break
            if result["code"] != "UNAVAILABLE" or attempt == _ATTEMPTS:
                raise Refused(result["code"], result["message"])
            await asyncio.sleep(0.2 * attempt)
        success: Object = result
        return success

    async def _post(self, body: Object) -> httpx.Response:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._http.post(self.url, json=body)
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    raise DemoFailed(
                        f"No service answers at {self.url} ({error or type(error).__name__}); "
                        "`lifecycle serve` starts one."
                    ) from error
            await asyncio.sleep(0.2 * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def subscribe(
        self, document: str, variables: Mapping[str, Any]
    ) -> AsyncGenerator[Object, None]:
        """Yield the `data` of each item, over the graphql-transport-ws protocol.

        Ends when the service says that the subscription is complete. Raises ConnectionLost when
        the connection ends otherwise, DemoFailed when the service answers with errors.
        """
        try:
            async with connect(
                self.url.replace("http", "ws", 1),
                subprotocols=[Subprotocol("graphql-transport-ws")],
                proxy=True if self._use_proxies else None,
                close_timeout=1,
            ) as socket:
                hello = {"type": "connection_init", "payload": self._who}
                await socket.send(json.dumps(hello))
                async for text in socket:
                    message = json.loads(text)
                    match message["type"]:
                        case "connection_ack":
                            request = {"query": document, "variables": variables}
                            await socket.send(
                                json.dumps({"id": "1", "type": "subscribe", "payload": request})
                            )
                        case "ping":
                            await socket.send(json.dumps({"type": "pong"}))
                        case "next":
                            yield _data(message["payload"])
                        case "error":
                            _data({"errors": message["payload"]})
                        case "complete":
                            return
        except (OSError, WebSocketException) as error:
            raise ConnectionLost(f"The websocket to {self.url} broke: {error}") from error
        raise ConnectionLost(f"The service closed the websocket to {self.url}.")


def _data(answer: Object) -> Object:
    """Return what a GraphQL answer holds. Raises Refused and DemoFailed when it holds errors."""
    if answer.get("errors"):
        error = answer["errors"][0]
        extensions = error.get("extensions") or {}
        if extensions.get("code") == "FORBIDDEN":
            raise Refused("FORBIDDEN", error["message"])
        marks = [str(extensions[key]) for key in ("code", "requestId") if key in extensions]
        raise DemoFailed(
            f"The service answered: {error.get('message')}"
            + (f" ({', '.join(marks)})" if marks else "")
        )
    if not isinstance(answer.get("data"), dict):
        raise DemoFailed("The service answered without data; is it a GraphQL service?")
    data: Object = answer["data"]
    return data
