"""The journal as it goes on, for the subscribers of one process.

One task per process holds one connection: it listens, is the sequencer when nobody else is, tells
the sequencer about commits when somebody else is, and hands new events to the subscribers. The
table is the truth; notifications only wake, and a slow poll stands in for lost ones.
"""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from math import inf
from typing import Any, Self, TypeAlias, TypeVar, cast

import structlog

from lifecycle.access.visibility import MODELS_OF, Unrestrictable
from lifecycle.database import IDLE_SECONDS, Database, Models
from lifecycle.errors import InvalidInput, Unavailable
from lifecycle.journal import repository, sequencer
from lifecycle.journal.repository import Event, EventFilter

_log = structlog.get_logger(__name__)

Made = TypeVar("Made")

_POLL_SECONDS = 1.0
# Wake-ups that come closer together than this are one.
_COALESCE_SECONDS = 0.003
_RECONNECT_SECONDS = 0.5
# A round that takes longer than this is stuck, as happens when the network is gone.
_ROUND_SECONDS = 10.0
# What is handed out is read on another connection: meanwhile nothing is heard on this one.
_HAND_OUT_SECONDS = IDLE_SECONDS / 2
_FAREWELL_SECONDS = 1.0
_PAGE = 500
# A subscriber that lags further behind reads from the table again instead of from memory.
_MAILBOX = 1000


class CursorExpired(Exception):
    """What came after the cursor is no longer kept, or it is a cursor of another journal; `oldest`
    is the first position that works, if that is known."""

    def __init__(self, oldest: int | None = None) -> None:
        self.oldest = oldest
        super().__init__(oldest)


class News:
    """What reaches all who follow, as the same object: so what is made of it for them can be made
    once. `cursor` resumes after it."""

    def __init__(self, position: int, cursor: str) -> None:
        self.position = position
        self.cursor = cursor
        self._made: dict[Callable[..., Any], Any] = {}

    def once(self, make: Callable[[Self], Made]) -> Made:
        """What this function makes of it, the same object for all who ask."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(Made, self._made[make])


class Happened(News):
    """An event."""

    def __init__(self, event: Event, cursor: str) -> None:
        super().__init__(event.position, cursor)
        self.event = event


class Silence(News):
    """Nothing happened for a while."""

    def __init__(self, position: int, cursor: str) -> None:
        super().__init__(position, cursor)
        self.at = datetime.now(UTC)


_News: TypeAlias = Happened | Silence
# Begins what subscribers need for news; they are woken when it is done, in whichever way.
Prepare: TypeAlias = Callable[[_News], "asyncio.Future[Any]"]
# Which events, of what exists for which models, and what is prepared.
_Wanted: TypeAlias = tuple[EventFilter, Models, Prepare | None]


class Feed:
    """Follows the journal in one process; `follow` is for subscribers.

    `heartbeat` is the longest silence in seconds that a subscriber sees.
    """

    def __init__(self, database: Database, heartbeat: float = 15.0) -> None:
        self.heartbeat = heartbeat
        self.head = 0
        self._journal = ""
        self._page = _PAGE
        self._database = database
        self._mailboxes: dict[_Wanted, set[_Mailbox]] = {}
        self._deserted = asyncio.Event()
        self._deserted.set()
        self._woken = asyncio.Event()
        self._committed = False
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Feed"]:
        """Follow the journal while the block lasts; subscribers end when it does."""
        async with self._database.read() as session:
            head = await repository.head(session)
        self.head, self._journal = head.position, head.journal_id.hex[:12]
        self._database.after_commit = self._on_commit
        tasks = [
            asyncio.create_task(self._run(), name="journal-feed"),
            asyncio.create_task(self._break_silence(), name="journal-silence"),
        ]
        try:
            yield self
        finally:
            self.close()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def close(self) -> None:
        """End all subscriptions with Unavailable; they may be resumed with another process."""
        self._closing = True
        for mailbox in self._all():
            mailbox.ring()

    async def drain(self) -> None:
        """End all subscriptions, and give them a moment to tell their clients."""
        self.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._deserted.wait()

    @property
    def subscribers(self) -> int:
        """How many follow the journal now."""
        return sum(map(len, self._mailboxes.values()))

    @contextmanager
    def follow(
        self,
        wanted: EventFilter,
        database: Database | None = None,
        prepare: Prepare | None = None,
    ) -> Iterator["Follower"]:
        """Events from now on; what came before is at hand through `Follower.replay`. Only those of
        what exists in the database of whoever follows. Those who have alike what they want, what
        exists and what is prepared are woken together."""
        database = database or self._database
        visible = database.visible
        if visible is not None and wanted.subject_kind not in MODELS_OF:
            raise Unrestrictable(f"Nothing says by which models {wanted.subject_kind} is visible.")
        mailbox = _Mailbox(wanted)
        alike = self._mailboxes.setdefault((wanted, visible, prepare), set())
        alike.add(mailbox)
        self._deserted.clear()
        try:
            yield Follower(self, database, mailbox)
        finally:
            alike.discard(mailbox)
            if not alike:
                self._mailboxes.pop((wanted, visible, prepare), None)
            if not self._mailboxes:
                self._deserted.set()

    def cursor(self, position: int | None) -> str:
        """The cursor of a position; that of None means: start anew with the present state."""
        place = "start" if position is None else position
        return urlsafe_b64encode(f"{self._journal}:{place}".encode()).decode()

    def resume(self, cursor: str) -> int | None:
        """The position of a cursor, None to start anew. Raises CursorExpired when it is of another
        journal, InvalidInput when it is none at all."""
        try:
            journal, _, place = urlsafe_b64decode(cursor.encode()).decode().partition(":")
        except ValueError:
            place = ""
        if place != "start" and not (place.isdecimal() and place.isascii() and len(place) <= 18):
            raise InvalidInput("This is not a cursor of a subscription.", ("after",))
        if journal != self._journal:
            raise CursorExpired
        return None if place == "start" else int(place)

    def check_open(self) -> None:
        """Raise Unavailable once the process is shutting down."""
        if self._closing:
            raise Unavailable("The server is shutting down; resume after the last cursor.")

    def _on_commit(self) -> None:
        self._committed = True
        self._woken.set()

    def _on_notification(self, connection: Any, sender: int, *_: Any) -> None:
        # What this process has told the others it has dealt with itself.
        if sender != connection.get_server_pid():
            self._woken.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # whatever it is, the journal goes on
                _log.warning("journal.connection_lost", error=repr(error))
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        """One connection's life; raises when it is lost."""
        connection = await self._database.connect("journal")
        try:
            await connection.add_listener(sequencer.CHANNEL, self._on_notification)
            leading = False
            while True:
                # Before anything is looked at: what comes later is for the next round.
                self._woken.clear()
                committed, self._committed = self._committed, False
                async with asyncio.timeout(_ROUND_SECONDS):
                    leading = leading or await sequencer.elect(connection)
                    if leading:
                        if await sequencer.number(connection) == sequencer.BATCH:
                            self._woken.set()
                    elif committed:
                        await connection.execute("SELECT pg_notify($1, '')", sequencer.CHANNEL)
                await self._hand_out()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._woken.wait()
                await asyncio.sleep(_COALESCE_SECONDS)
        finally:
            connection.terminate()

    async def _hand_out(self) -> None:
        """Bring the subscribers up to the head of the journal, or as far as there is time for: the
        next round goes on there, and with less at once if this was too much."""
        begun = self.head
        try:
            async with asyncio.timeout(_HAND_OUT_SECONDS):
                await self._read()
        except TimeoutError:
            if self.head == begun:
                self._page = max(self._page // 4, 1)
                _log.warning("journal.slow", position=begun, page=self._page)
            self._woken.set()

    async def _read(self) -> None:
        async with self._database.read() as session:
            head = (await repository.head(session)).position
            while self.head < head and self._mailboxes:
                types, narrowed = self._followed(), self._narrowed()
                events = await repository.between(session, types, self.head, head, self._page)
                models = await repository.models_of(session, events) if narrowed and events else {}
                if not self._followed() <= types or self._narrowed() > narrowed:
                    continue  # somebody came meanwhile who wants more, or sees some models only
                for event in events:
                    happened = Happened(event, self.cursor(event.position))
                    of = models.get(event.subject_id, frozenset())
                    for (wanted, visible, prepare), mailboxes in self._mailboxes.items():
                        if wanted.matches(event) and (visible is None or visible & of):
                            _put(happened, mailboxes, prepare)
                self.head = events[-1].position if events else head
                self._page = min(self._page * 2, _PAGE)
            self.head = head

    def _followed(self) -> frozenset[str]:
        """The types of events that anybody wants."""
        return frozenset[str]().union(*(wanted.types for wanted, _, _ in self._mailboxes))

    def _narrowed(self) -> bool:
        """Whether anybody follows who sees some models only."""
        return any(visible is not None for _, visible, _ in self._mailboxes)

    async def _break_silence(self) -> None:
        """Tell those who have waited for long that nothing has happened: all in one look, because a
        timer for each would have to be set anew with each event."""
        loop = asyncio.get_running_loop()
        while True:
            pause = min(self.heartbeat / 2, _POLL_SECONDS)
            await asyncio.sleep(pause)
            silence = Silence(self.head, self.cursor(self.head))
            # The next look would be too late for them.
            due = loop.time() + pause - self.heartbeat
            for (_, _, prepare), mailboxes in self._mailboxes.items():
                bored = [each for each in mailboxes if each.waiting_since <= due]
                _put(silence, bored, prepare)

    def _all(self) -> Iterator["_Mailbox"]:
        return chain.from_iterable(self._mailboxes.values())


class _Mailbox:
    """What one subscriber has not taken yet, at most so many; then it is only told that it missed
    some, and reads them from the table."""

    # There are thousands.
    __slots__ = ("_loop", "_rung", "missed", "news", "waiting_since", "wanted")

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.news: deque[_News] = deque()
        self.missed = False
        self.waiting_since = inf
        self._loop = asyncio.get_running_loop()
        self._rung: asyncio.Future[None] | None = None

    def put(self, news: _News) -> bool:
        """Whether the subscriber is to be woken for it. It is awake, or will be soon, if there was
        something before."""
        waits = not (self.news or self.missed)
        if len(self.news) < _MAILBOX and not self.missed:
            self.news.append(news)
        else:
            self.news.clear()
            self.missed = True
        self.waiting_since = inf
        return waits

    def ring(self) -> None:
        """Wake the subscriber, if it waits."""
        self.waiting_since = inf
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)

    async def rung(self) -> None:
        # Not asyncio.Event, in which each subscriber would hold room for many that wait.
        self._rung = self._loop.create_future()
        self.waiting_since = self._loop.time()
        await self._rung


def _put(news: _News, mailboxes: Iterable[_Mailbox], prepare: Prepare | None) -> None:
    """Give it to those who are alike, and wake them when it is prepared for them."""
    woken = [mailbox for mailbox in mailboxes if mailbox.put(news)]

    def wake(_: object = None) -> None:
        for mailbox in woken:
            mailbox.ring()

    if not woken or prepare is None:
        wake()
        return
    try:
        prepare(news).add_done_callback(wake)
    except Exception:  # whoever takes the news meets it again
        wake()


class Follower:
    """One subscriber's way through the journal: `replay` to catch up, then `live`.

    `position` is that of the last event given; resuming after it misses nothing. Both raise
    CursorExpired when the events that come next are no longer kept.
    """

    def __init__(self, feed: Feed, database: Database, mailbox: _Mailbox) -> None:
        self.position = feed.head
        self._known: frozenset[int] = frozenset()
        self._feed = feed
        self._database = database
        self._mailbox = mailbox

    async def expect_known(self) -> None:
        """For those who read the present state next: what it shows for certain, because it has
        happened by now, is left out of `live`."""
        async with self._database.read() as session:
            wanted = self._mailbox.wanted
            self._known = await repository.ids_beyond(session, wanted, self.position)

    async def replay(self, after: int) -> AsyncIterator[Happened]:
        """What happened after this position, up to now."""
        through = self.position
        async with self._database.read() as session:
            head = await repository.head(session)
        # A position that was never given comes from another database, or from before a restore.
        if after > head.position:
            raise CursorExpired(head.trimmed_through)
        self.position = after
        async for happened in self._read(through):
            yield happened
        # The cursor may have come from a process that was ahead of this one.
        self.position = max(through, after)

    async def live(self) -> AsyncIterator[_News]:
        """What happens from now on, the same objects for all who follow; and when nothing does for
        the time of a heartbeat, that.

        Raises Unavailable when the process shuts down.
        """
        mailbox, feed = self._mailbox, self._feed
        while True:
            feed.check_open()
            if mailbox.missed:
                mailbox.missed = False
                async for happened in self._read(feed.head):
                    if happened.event.id not in self._known:
                        yield happened
            while mailbox.news:
                news = mailbox.news.popleft()
                if isinstance(news, Silence):
                    # Whoever resumed here after being with a process that was ahead is ahead still.
                    if news.position >= self.position:
                        self.position = news.position
                    else:
                        news = Silence(self.position, feed.cursor(self.position))
                    yield news
                elif news.position > self.position:
                    self.position = news.position
                    if news.event.id not in self._known:
                        yield news
            if mailbox.missed or mailbox.news:
                continue
            feed.check_open()
            await mailbox.rung()

    async def _read(self, through: int) -> AsyncIterator[Happened]:
        while True:
            events: Sequence[Event]
            async with self._database.read() as session:
                events = await repository.between(
                    session, self._mailbox.wanted, self.position, through, _PAGE
                )
                # Looked up last: what has been removed by then may be missing among the events.
                trimmed = (await repository.head(session)).trimmed_through
            if self.position < trimmed:
                raise CursorExpired(trimmed)
            for event in events:
                self.position = event.position
                yield Happened(event, self._feed.cursor(event.position))
            if len(events) < _PAGE:
                self.position = max(self.position, through)
                return
