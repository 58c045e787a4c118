"""Who is executed now, and who waits: a burst must not make every answer late.

Operations that run at the same time take turns, so each ends when nearly all do. A few at a time,
in the order in which they came, are done together as soon, and most of them much earlier.
"""

import asyncio
from collections.abc import AsyncIterator

from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType

from lifecycle.errors import Unavailable

# How many are executed by one process.
MAX_QUERIES = 16
# Each holds a connection that writes, and may wait long for a lock; queries do not wait for it.
MAX_MUTATIONS = 8

MAX_WAITING = 1_000
MAX_SECONDS = 10


class Gate:
    """Lets in so many at a time; the next wait in order.

    Raises Unavailable where MAX_WAITING wait already, and after MAX_SECONDS.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._places = asyncio.Semaphore(most)
        self._waiting = 0

    @property
    def running(self) -> int:
        """How many are in."""
        return self._most - self._places._value

    @property
    def waiting(self) -> int:
        """How many wait to be let in."""
        return self._waiting

    async def __aenter__(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        if self._waiting >= MAX_WAITING:
            raise Unavailable("Too many operations wait already; try again.")
        self._waiting += 1
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable("Too many operations were before this one; try again.") from None
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._places.release()


class Admission:
    """The gates of one service."""

    def __init__(self) -> None:
        self.queries = Gate(MAX_QUERIES)
        self.mutations = Gate(MAX_MUTATIONS)


class Admitted(SchemaExtension):
    """Executes a query or a mutation when it is its turn, over whichever transport it comes."""

    async def on_execute(self) -> AsyncIterator[None]:
        context = self.execution_context
        admission: Admission = context.context.admission
        if context.operation_type is OperationType.SUBSCRIPTION:
            yield
            return
        by_query = context.operation_type is OperationType.QUERY
        async with admission.queries if by_query else admission.mutations:
            yield
