"""Who is executed now, who waits, and who asks too much: a burst must not make every answer late,
and one principal must not take what all need.

Operations that run at the same time take turns, so each ends when nearly all do. A few at a time
are done together as soon, and most of them much earlier. Of those who wait, principals take turns,
and each principal's own come in their order.

What is counted here is counted by each process for itself. How large one operation may be is in
limits.py.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType

from lifecycle.database import SPARE, WRITERS
from lifecycle.errors import LimitExceeded, Unavailable
from lifecycle.kept import Kept
from lifecycle.turns import Turns

# How many are executed by one process.
MAX_QUERIES = 16
# Each holds a connection that writes, and may wait long for a lock; queries do not wait for it.
MAX_MUTATIONS = WRITERS
# New documents, each of which takes what a processor can give to Python.
MAX_READINGS = 1
# Items of subscriptions: what one waits for is soon there, and most of it is Python.
MAX_ITEMS = 2

# Of what is received, executed and sent at the same time.
MAX_HELD = 256 * 1024 * 1024
# Of each request, which most of them do not exceed.
FREE = 16 * 1024

MAX_WAITING = 1_000
MAX_SECONDS = 10

# Whoever has kept the loop for so long rests, so that others have some turns of it before the next.
_LONG_SECONDS = 0.1
_REST_SECONDS = 0.05

# Of so many principals it is known how much they have asked lately.
_MAX_PRINCIPALS = 10_000
# So many seconds' worth may come at once, after a pause.
_BURST_SECONDS = 10


class Gate(Turns):
    """Operations are let in, or refused when too many wait, or wait too long."""

    async def enter(self, principal: str) -> None:
        """Be let in, at once or when it is the principal's turn. Raises Unavailable after
        MAX_SECONDS, and where MAX_WAITING wait: to whoever comes, or to the last of whoever has
        most in line."""
        if self.enters(principal):
            return
        if self.waiting >= MAX_WAITING and not self.makes_room_for(principal):
            raise _full()
        try:
            let_in = await self.wait(principal, MAX_SECONDS)
        except TimeoutError:
            message = "Too many operations were before this one; try again."
            raise Unavailable(message) from None
        if not let_in:
            raise _full()


def _full() -> Unavailable:
    return Unavailable("Too many operations wait already; try again.")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What each principal may have of one process; 0 sets no bound."""

    seconds: int = 0
    operations: int = 0
    subscriptions: int = 0
    websockets: int = 0
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


class Seat:
    """An open websocket. It counts for its address until it is known whose it is, and for the
    principal then; to be left when it has ended. Raises LimitExceeded."""

    def __init__(self, newcomers: Shares, known: Shares, address: str) -> None:
        newcomers.take(address)
        self._taken, self._whose = newcomers, address
        self._known = known

    def belongs_to(self, principal: str) -> None:
        """It is known now whose it is. Raises LimitExceeded."""
        self._known.take(principal)
        self.leave()
        self._taken, self._whose = self._known, principal

    def leave(self) -> None:
        """The websocket has ended."""
        self._taken.give_back(self._whose)


class Room:
    """How many bytes a process holds of what it was sent and has not answered, and of answers that
    nobody has taken. Each principal may have as many as are free still, so who takes all that they
    can leaves as much to others."""

    def __init__(self, most: int = MAX_HELD) -> None:
        self._most = most
        # How many there are in all.
        self.held = 0
        self._by: dict[str, int] = {}

    def take(self, principal: str, size: int) -> None:
        """So many more, to be given back. Raises LimitExceeded."""
        by, free = self._by.get(principal, 0) + size, self._most - self.held - size
        if by > free:
            most = self._most // 2
            raise LimitExceeded(
                f"What one sends at the same time may take {most:,} bytes of memory, of which "
                "JSON takes several times its length, and less where others send much. Send less "
                "at once, or wait a little.",
                "memory",
                most,
                by,
                retry_after=1,
            )
        self._by[principal] = by
        self.held += size

    def give_back(self, principal: str, size: int) -> None:
        """So many less."""
        self.held -= size
        left = self._by.pop(principal) - size
        if left:
            self._by[principal] = left


class Held:
    """What is held of one request or message of a principal, until it is let go or the block ends.
    Beyond FREE it counts."""

    __slots__ = ("_beyond", "_principal", "_room", "_size")

    def __init__(self, room: Room, principal: str) -> None:
        self._room = room
        self._principal = principal
        self._size = self._beyond = 0

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def add(self, size: int) -> None:
        """So many bytes of it more. Raises LimitExceeded."""
        self._size += size
        more = self._size - FREE - self._beyond
        if more > 0:
            self._room.take(self._principal, more)
            self._beyond += more

    def add_parsed(self, json: bytes | str) -> None:
        """What is going to be made of it, too, about as large as Python has it. Raises
        LimitExceeded."""
        if len(json) > FREE:
            begin = ("[", "{", ",") if isinstance(json, str) else (b"[", b"{", b",")
            lists, objects, values = map(json.count, begin)  # type: ignore[arg-type]
            self.add(64 * lists + 192 * objects + 32 * values)

    def let_go(self) -> None:
        """It is held no longer."""
        if self._beyond:
            self._room.give_back(self._principal, self._beyond)
        self._size = self._beyond = 0


class _Bucket:
    """What a principal may still ask for, as it was at that time."""

    __slots__ = ("at", "left")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at


class Rate:
    """How many of something a second each may do, ten seconds' worth of them at once; a token
    bucket. `says` completes "You may"."""

    def __init__(self, name: str, says: str, most: int) -> None:
        self._name = name
        self._says = says
        self._most = most
        self._burst = most * _BURST_SECONDS
        self._buckets: Kept[str, _Bucket] = Kept(_MAX_PRINCIPALS, _MAX_PRINCIPALS)

    def take(self, whose: str) -> None:
        """One more, now. Raises LimitExceeded."""
        if not self._most:
            return
        now = time.monotonic()
        bucket = self._buckets.get(whose)
        if bucket is None:
            bucket = _Bucket(self._burst, now)
            self._buckets.keep(whose, bucket, 1)
        bucket.left = min(bucket.left + (now - bucket.at) * self._most, self._burst)
        bucket.at = now
        if bucket.left < 1:
            raise LimitExceeded(
                f"You may {self._says.format(self._most)} a second; wait a little.",
                self._name,
                self._most,
                self._most + 1,
                retry_after=math.ceil((1 - bucket.left) / self._most),
            )
        bucket.left -= 1

    def give_back(self, whose: str) -> None:
        """One that is not to count."""
        bucket = self._buckets.get(whose)
        if bucket is not None:
            bucket.left += 1


@lru_cache(1_000)
def network_of(host: str) -> str:
    """What an address counts as: of IPv6 everybody has so many that it is those of one network."""
    try:
        address = ip_address(host)
    except ValueError:  # a socket in the file system
        return host
    return host if address.version == 4 else str(ip_network((host, 64), strict=False))


class _Clock:
    """Ends what takes longer than so many seconds; None for nothing. One timer is enough for all,
    because who came first is the first whose time is over."""

    def __init__(self, seconds: int | None) -> None:
        self.seconds = seconds
        self._watched: set[_Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: "_Deadline", loop: asyncio.AbstractEventLoop) -> None:
        """End it in time, unless it is left alone by then."""
        self._watched.add(deadline)
        if self._timer is None:
            self._timer = loop.call_at(deadline.ends, self._look, loop)

    def leave_alone(self, deadline: "_Deadline") -> None:
        """It is over, or its time does not count."""
        self._watched.discard(deadline)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for deadline in [each for each in self._watched if each.ends <= now]:
            self._watched.discard(deadline)
            deadline.pass_by()
        if self._watched:
            next_end = min(each.ends for each in self._watched)
            self._timer = loop.call_at(next_end, self._look, loop)


class _Deadline:
    """The block is cancelled when it takes too long, and raises LimitExceeded then; otherwise as
    asyncio.timeout, which sets a timer for each."""

    __slots__ = ("_cancelling", "_clock", "_passed", "_task", "ends")

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._passed = False
        self.ends = math.inf

    async def __aenter__(self) -> None:
        self._begin()

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._end(error)

    def _begin(self) -> None:
        seconds = self._clock.seconds
        if seconds is None:
            return
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        loop = asyncio.get_running_loop()
        self.ends = loop.time() + seconds
        self._clock.watch(self, loop)

    def _end(self, error: BaseException | None) -> None:
        self._clock.leave_alone(self)
        if not self._passed or self._task.uncancel() > self._cancelling:
            return
        if isinstance(error, asyncio.CancelledError):
            assert self._clock.seconds is not None
            raise _too_long(self._clock.seconds) from error

    def pass_by(self) -> None:
        """It is too late."""
        self._passed = True
        self._task.cancel()

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """The time of the block does not count."""
        if self.ends == math.inf or self._passed:
            yield
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._clock.leave_alone(self)
        try:
            yield
        finally:
            self.ends += loop.time() - began
            self._clock.watch(self, loop)


# By when the operation that is executed has to be over.
_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


class _Turn(_Deadline):
    """The block is an operation of a principal, which is executed when it is its turn."""

    __slots__ = ("_gate", "_let_in_at", "_operations", "_principal", "_turned")

    def __init__(self, clock: _Clock, operations: Shares, gate: Gate, principal: str) -> None:
        super().__init__(clock)
        self._operations = operations
        self._gate = gate
        self._principal = principal

    async def __aenter__(self) -> None:
        self._operations.take(self._principal)
        self._begin()
        try:
            await self._gate.enter(self._principal)
        except BaseException as error:
            self._operations.give_back(self._principal)
            self._end(error)
            raise
        _deadline.set(self)
        loop = asyncio.get_running_loop()
        self._let_in_at = loop.time()
        self._turned = loop.call_soon(self._has_turned)

    def _has_turned(self) -> None:
        self._let_in_at = math.inf

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        # What has waited for nothing has kept all others from theirs.
        self._turned.cancel()
        if asyncio.get_running_loop().time() - self._let_in_at > _LONG_SECONDS:
            self._gate.rest(self._principal, _REST_SECONDS)
        self._gate.leave(self._principal)
        self._operations.give_back(self._principal)
        self._end(error)


class Admission:
    """The gates of one service, and what each principal may have of it."""

    def __init__(self, bounds: Bounds, introspection: bool = True) -> None:
        # Whether the schema may be asked for.
        self.introspection = introspection
        self.queries = Gate(MAX_QUERIES, beyond=MAX_QUERIES)
        self.mutations = Gate(MAX_MUTATIONS, beyond=SPARE)
        self.readings = Gate(MAX_READINGS, beyond=MAX_READINGS)
        self.items = Turns(MAX_ITEMS, beyond=MAX_ITEMS)
        # Reads them while others are executed.
        self.reader = ThreadPoolExecutor(MAX_READINGS, "documents")
        self.subscriptions = Shares("subscriptions", bounds.subscriptions)
        self.operations = Shares("operations", bounds.operations)
        self.websockets = Shares("websockets", bounds.websockets)
        self.newcomers = Shares("websockets before connection_init", bounds.websockets)
        self.room = Room()
        self._rate = Rate("rate", "ask for {:,} operations", bounds.rate)
        self._clock = _Clock(bounds.seconds or None)

    def ask(self, principal: str) -> None:
        """A principal asks for something, whatever it is. Raises LimitExceeded when that is too
        often."""
        self._rate.take(principal)

    def seat(self, host: str) -> Seat:
        """For a websocket that comes from there. Raises LimitExceeded."""
        return Seat(self.newcomers, self.websockets, network_of(host))

    def executing(self, principal: str, gate: Gate) -> AbstractAsyncContextManager[None]:
        """The block executes an operation, when it is its turn.

        Raises LimitExceeded when the principal has too many already, and when it takes too long:
        then it is cancelled. Raises Unavailable as gates do.
        """
        return _Turn(self._clock, self.operations, gate, principal)

    @asynccontextmanager
    async def reading(self, principal: str) -> AsyncIterator[None]:
        """The block reads a document, when it is the principal's turn. Raises Unavailable as gates
        do."""
        await self.readings.enter(principal)
        try:
            yield
        finally:
            self.readings.leave(principal)

    @asynccontextmanager
    async def item(self, principal: str) -> AsyncIterator[None]:
        """The block executes an item of a subscription, when it is the principal's turn, however
        long that takes. Raises LimitExceeded when the block takes too long."""
        if not self.items.enters(principal):
            await self.items.wait(principal)
        try:
            async with _Deadline(self._clock):
                yield
        finally:
            # Not before the loop has turned: most take no turn of it, and a thousand that are begun
            # together would come in one after the other while everybody else waits.
            asyncio.get_running_loop().call_soon(self.items.leave, principal)


def _too_long(seconds: int) -> LimitExceeded:
    return LimitExceeded(
        f"The operation was ended after {seconds} seconds, which is as long as one may take. A "
        "change that was under way may have been made: repeat it with its idempotency key to know.",
        "seconds",
        seconds,
        seconds,
    )


def unhurried() -> AbstractContextManager[None]:
    """The block takes as long as what it works on is large; its time does not count."""
    deadline = _deadline.get()
    return nullcontext() if deadline is None else deadline.put_off()


class Admitted(SchemaExtension):
    """Executes a query or a mutation when it is its turn, over whichever transport it comes."""

    async def on_execute(self) -> AsyncIterator[None]:
        async with self.admitted():
            yield

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """The block executes the operation, by the rights that there are when it begins. Raises as
        `Admission.executing` does, and Unauthenticated."""
        execution = self.execution_context
        if execution.operation_type is OperationType.SUBSCRIPTION:
            yield
            return
        context = execution.context
        admission: Admission = context.admission
        by_query = execution.operation_type is OperationType.QUERY
        gate = admission.queries if by_query else admission.mutations
        async with admission.executing(context.counted_as, gate):
            await context.go_by_present_rights()
            yield
