"""Who is executed now, who waits, and who asks too much: a burst must not make every answer late,
and one principal must not take what all need.

Operations that run at the same time take turns, so each ends when nearly all do. A few at a time,
in the order in which they came, are done together as soon, and most of them much earlier.

What is counted here is counted by each process for itself. How large one operation may be is in
limits.py.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType

from lifecycle.errors import LimitExceeded, Unavailable
from schema.kept import Kept

# How many are executed by one process.
MAX_QUERIES = 16
# Each holds a connection that writes, and may wait long for a lock; queries do not wait for it.
MAX_MUTATIONS = 8

MAX_WAITING = 1_000
MAX_SECONDS = 10

# Of so many principals it is known how much they have asked lately.
_MAX_PRINCIPALS = 10_000
# So many seconds' worth may come at once, after a pause.
_BURST_SECONDS = 10

# When the operation that is executed has to be over.
_deadline: ContextVar[asyncio.Timeout | None] = ContextVar("deadline", default=None)


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


@dataclass(frozen=True, slots=True)
class Bounds:
    """What each principal may have of one process; 0 sets no bound."""

    seconds: int = 0
    operations: int = 0
    subscriptions: int = 0
    rate: int = 0


class Shares:
    """How many of something each principal has now; more than `most` are refused."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._now: dict[str, int] = {}

    def take(self, principal: str) -> None:
        """One more, to be given back. Raises LimitExceeded."""
        now = self._now.get(principal, 0)
        if self._most and now >= self._most:
            raise LimitExceeded(
                f"You may have {self._most:,} {self._name} at a time; end one first.",
                self._name,
                self._most,
                self._most + 1,
                retry_after=1,
            )
        self._now[principal] = now + 1

    def give_back(self, principal: str) -> None:
        """One less."""
        left = self._now.pop(principal) - 1
        if left:
            self._now[principal] = left

    @property
    def taken(self) -> int:
        """How many all have together."""
        return sum(self._now.values())


class _Bucket:
    """What a principal may still ask for, as it was at that time."""

    __slots__ = ("at", "left")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at


class Rate:
    """How many operations a second each principal may ask for, ten seconds' worth of them at once;
    a token bucket."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._burst = most * _BURST_SECONDS
        self._buckets: Kept[str, _Bucket] = Kept(_MAX_PRINCIPALS, _MAX_PRINCIPALS)

    def take(self, principal: str, now: float) -> None:
        """One more, at this time. Raises LimitExceeded."""
        if not self._most:
            return
        bucket = self._buckets.get(principal)
        if bucket is None:
            bucket = _Bucket(self._burst, now)
            self._buckets.keep(principal, bucket, 1)
        bucket.left = min(bucket.left + (now - bucket.at) * self._most, self._burst)
        bucket.at = now
        if bucket.left < 1:
            raise LimitExceeded(
                f"You may ask for {self._most:,} operations a second; wait a little.",
                "rate",
                self._most,
                self._most + 1,
                retry_after=math.ceil((1 - bucket.left) / self._most),
            )
        bucket.left -= 1


class Admission:
    """The gates of one service, and what each principal may have of it."""

    def __init__(self, bounds: Bounds, introspection: bool = True) -> None:
        # Whether the schema may be asked for.
        self.introspection = introspection
        self.queries = Gate(MAX_QUERIES)
        self.mutations = Gate(MAX_MUTATIONS)
        self.subscriptions = Shares("subscriptions", bounds.subscriptions)
        self.operations = Shares("operations", bounds.operations)
        self._rate = Rate(bounds.rate)
        self._seconds = bounds.seconds or None

    def ask(self, principal: str) -> None:
        """A principal asks for something, whatever it is. Raises LimitExceeded when that is too
        often."""
        self._rate.take(principal, time.monotonic())

    @asynccontextmanager
    async def executing(self, principal: str, gate: Gate) -> AsyncIterator[None]:
        """The block executes an operation, when it is its turn.

        Raises LimitExceeded when the principal has too many already, and when it takes too long:
        then it is cancelled. Raises Unavailable as gates do.
        """
        self.operations.take(principal)
        deadline = asyncio.timeout(self._seconds)
        try:
            async with deadline, gate:
                _deadline.set(deadline)
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise self._too_long() from error
        finally:
            self.operations.give_back(principal)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Cancel the block when it takes too long, and raise LimitExceeded."""
        deadline = asyncio.timeout(self._seconds)
        try:
            async with deadline:
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise self._too_long() from error

    def _too_long(self) -> LimitExceeded:
        assert self._seconds is not None
        return LimitExceeded(
            f"The operation was ended after {self._seconds} seconds, which is as long as one may "
            "take. A change that was under way may have been made: repeat it with its idempotency "
            "key to know.",
            "seconds",
            self._seconds,
            self._seconds,
        )


@contextmanager
def unhurried() -> Iterator[None]:
    """The block takes as long as what it works on is large; its time does not count."""
    deadline = _deadline.get()
    ends = deadline.when() if deadline else None
    if deadline is None or ends is None:
        yield
        return
    clock = asyncio.get_running_loop().time
    began = clock()
    deadline.reschedule(None)
    try:
        yield
    finally:
        deadline.reschedule(ends + clock() - began)


class Admitted(SchemaExtension):
    """Executes a query or a mutation when it is its turn, over whichever transport it comes."""

    async def on_execute(self) -> AsyncIterator[None]:
        async with self.admitted():
            yield

    def admitted(self) -> AbstractAsyncContextManager[None]:
        """The block executes the operation. Raises as `Admission.executing` does."""
        execution = self.execution_context
        if execution.operation_type is OperationType.SUBSCRIPTION:
            return nullcontext()
        admission: Admission = execution.context.admission
        by_query = execution.operation_type is OperationType.QUERY
        gate = admission.queries if by_query else admission.mutations
        return admission.executing(execution.context.origin.actor, gate)
