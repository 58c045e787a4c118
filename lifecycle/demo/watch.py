"""Follows the deployments of one model live, while somebody else changes them."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Self

from lifecycle.demo import operations
from lifecycle.demo.client import Client, ConnectionLost, DemoFailed, Object

_PATIENCE = 20.0
_RECONNECTS = 5


class Watch:
    """A subscription to `deploymentStatus`. Use it as an async context manager.

    Inside of the block it has caught up: whatever happens from then on is passed to `show`, once
    and in order. When the connection breaks, it goes on from the last cursor.
    """

    def __init__(self, client: Client, model_name: str, show: Callable[[Object], None]) -> None:
        self._client = client
        self._model_name = model_name
        self._show = show
        self._cursor: str | None = None
        self._caught_up = False
        self._seen: set[tuple[str, str]] = set()
        self._failure: DemoFailed | None = None
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        try:
            await self._wait(lambda: self._caught_up, "what has happened so far")
        except BaseException:
            self._task.cancel()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, deployment_id: str, state: str) -> None:
        """Wait until the subscription has told of this status or health of a deployment."""
        await self._wait(
            lambda: (deployment_id, state) in self._seen, f"a deployment becoming {state}"
        )

    async def _wait(self, done: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE), self._news:
                await self._news.wait_for(lambda: self._failure or done())
        except TimeoutError as error:
            raise DemoFailed(
                f"The subscription did not tell of {what} within {_PATIENCE:.0f} s."
            ) from error
        if self._failure:
            raise self._failure

    async def _follow(self) -> None:
        losses = 0
        while self._failure is None:
            try:
                await self._subscribe()
                self._failure = DemoFailed("The service has ended the deploymentStatus stream.")
            except ConnectionLost as error:
                losses += 1
                if losses > _RECONNECTS:
                    self._failure = error
                await asyncio.sleep(0.5)
            except DemoFailed as error:
                self._failure = error
        async with self._news:
            self._news.notify_all()

    async def _subscribe(self) -> None:
        variables = {"modelName": self._model_name, "after": self._cursor}
        stream = self._client.subscribe(operations.DEPLOYMENT_STATUS, variables)
        async with aclosing(stream) as items:
            async for data in items:
                await self._take(data["deploymentStatus"])

    async def _take(self, item: Object) -> None:
        match item["__typename"]:
            case "DeploymentStatusEvent":
                self._cursor = item["cursor"]
                self._seen |= {(item["deployment"]["id"], item[key]) for key in ("to", "health")}
                if self._caught_up:  # before that come the deployments of earlier days
                    self._show(item)
            case "CaughtUp":
                self._cursor = item["cursor"]
                self._caught_up = True
            case "CursorExpired":
                self._cursor = None
                raise ConnectionLost("The cursor of the subscription has expired.")
            case _:  # a heartbeat
                return
        async with self._news:
            self._news.notify_all()
