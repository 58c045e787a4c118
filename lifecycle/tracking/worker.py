"""The mirror at work: tells MLflow what the journal says, and takes in what has changed there.

Any number of processes may run one for the same server. What is to be done is in the database, so
a worker that is killed loses nothing. While MLflow does not answer, nothing counts as a failure of
the objects that wait.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import structlog

from lifecycle.database import Database, WriteSession, clock
from lifecycle.errors import Unavailable
from lifecycle.journal import repository as journal
from lifecycle.journal.feed import Feed
from lifecycle.tracking import outbox, repository
from lifecycle.tracking.client import Client, Denied, MlflowError, Unreachable
from lifecycle.tracking.following import Follower
from lifecycle.tracking.reconcile import LEASE_SECONDS, fail, hand_back, kept, settle
from lifecycle.tracking.rules import Settled, TrackedKind
from lifecycle.tracking.sides import Sync, origin_of

_log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
_HANDS = 4
# How often MLflow is asked whether it is there: when it is, and at most when it is not.
_ASK_SECONDS = 15.0
_LONGEST_SILENCE = 15.0
# How often it is asked what has changed there of what is on both sides, when it is not followed.
_LOOK_SECONDS = 60.0
# After a look that failed.
_LOOK_PAUSE = 5.0
# Between attempts when something is wrong that is not MLflow.
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Round:
    """Something that a worker has done: `poll`, `journal`, `look`, or an `item`, of which it says
    the kind and what came of it. It took so many seconds."""

    what: str
    seconds: float
    kind: TrackedKind | None = None
    settled: Settled | None = None


# Told of each round; must not block.
Watch: TypeAlias = Callable[[Round], None]

# One step of what is done for ever; says whether another is due at once.
_Step: TypeAlias = Callable[[Sync], Awaitable[bool]]


class Worker:
    """Keeps an MLflow server and this service the same, until `run` is cancelled.

    `follow` is how many seconds there are between looks at what begins in MLflow; None leaves that
    alone, and only what is on both sides is looked at.
    """

    def __init__(
        self,
        database: Database,
        client: Client,
        follow: float | None = None,
        watch: Watch = lambda _: None,
    ) -> None:
        self._database = database
        self._watch = watch
        self._client = client
        self._follow = follow
        self._every = follow or _LOOK_SECONDS
        self._behind, self._due, self._look_due = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._answering, self._silent = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; whatever goes wrong is logged, kept, and tried again."""
        server_id = await self._begin()
        sync = Sync(self._database, self._client, server_id, origin_of(server_id))
        follower = Follower(sync, new=self._follow is not None, every=self._every)

        async def look(sync: Sync) -> bool:
            return await self._look(sync, follower)

        async with asyncio.TaskGroup() as tasks:

            def start(name: str, step: _Step, called: asyncio.Event | None = None) -> None:
                tasks.create_task(_forever(step, sync, called), name=f"mlflow-{name}")

            start("poll", self._poll)
            start("ask", self._ask)
            start("journal", self._read_journal, self._behind)
            start("look", look, self._look_due)
            for n in range(_HANDS):
                start(f"hand-{n}", self._work, self._due)

    async def _begin(self) -> UUID:
        while True:
            try:
                return await self._database.write(self._introduce)
            except Unavailable as error:
                _log.warning("mlflow.database_unavailable", error=str(error))
            except Exception:  # whatever it is, it is to begin in the end
                _log.exception("mlflow.not_begun")
            await asyncio.sleep(_LONGEST_PAUSE)

    async def _introduce(self, session: WriteSession) -> UUID:
        """The server's id. When it hears of us for the first time, everything is told."""
        id = await repository.know_server(session, self._client.uri)
        server = await repository.lock_server(session, id, wait=True)
        assert server is not None
        if server.position is None:
            # First, so that what is written in the meantime is told once more, and not left out.
            server.position = (await journal.head(session)).position
            await repository.want_all(session, id)
        return id

    async def _poll(self, sync: Sync) -> bool:
        """Call those who have something to do. All that idling costs is this one statement."""
        began = time.monotonic()
        async with self._database.read() as session:
            calls = await repository.calls(session, sync.server_id, self._every)
        self._watch(Round("poll", time.monotonic() - began))
        if calls.behind:
            self._behind.set()
        if calls.look:
            self._look_due.set()
        if calls.due:
            self._due.set()
        await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _read_journal(self, sync: Sync) -> bool:
        """Have a look taken at whatever the journal says has changed."""
        began = time.monotonic()
        if await self._database.write(lambda session: outbox.read(session, sync)):
            self._watch(Round("journal", time.monotonic() - began))
            self._due.set()
            return True
        return False

    async def _ask(self, sync: Sync) -> bool:
        """Ask whether MLflow answers, and keep the answer for everybody to see."""
        silence = 1.0
        while not await self._answers(sync):
            await asyncio.sleep(silence)
            silence = min(silence * 2, _LONGEST_SILENCE)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASK_SECONDS):
                await self._silent.wait()
        return True

    async def _answers(self, sync: Sync) -> bool:
        error = version = None
        try:
            version = await self._client.server_version()
        except MlflowError as found:
            error = str(found)
        if error is None and not self._answering.is_set():
            _log.info("mlflow.answers", uri=self._client.uri, version=version)
            self._answering.set()
            self._silent.clear()
        elif error is not None and not self._silent.is_set():
            _log.warning("mlflow.silent", uri=self._client.uri, error=error)
            self._answering.clear()
            self._silent.set()

        async def record(session: WriteSession) -> None:
            await repository.record_answer(session, sync.server_id, version, error)

        await self._database.write(record)
        return error is None

    async def _look(self, sync: Sync, follower: Follower) -> bool:
        """Have a look taken at whatever has changed in MLflow, if that is due."""
        await self._answering.wait()
        id = sync.server_id

        async def take(
            session: WriteSession,
        ) -> tuple[datetime | None, datetime | None, datetime] | None:
            server = await repository.take_look(session, id, self._every, LEASE_SECONDS)
            if server is None:
                return None
            return server.looked_at, server.compared_at, await clock(session)

        due = await self._database.write(take)
        if due is None:
            return False
        looked_at, compared_at, now = due
        done, compared, pause = None, False, _LOOK_PAUSE
        began = time.monotonic()
        try:
            async with kept(
                self._database, lambda session: repository.keep_look(session, id, LEASE_SECONDS)
            ):
                compared = await follower.look(looked_at, compared_at, now)
            done, pause = now, 0.0
        except MlflowError as error:
            _log.warning("mlflow.look_failed", error=str(error))
            await self._answers(sync)
        finally:
            self._watch(Round("look", time.monotonic() - began))
            await self._database.write(
                lambda session: repository.looked(session, id, done, compared=compared, pause=pause)
            )
        self._due.set()
        return False

    async def _work(self, sync: Sync) -> bool:
        """Reconcile one object that is due."""
        await self._answering.wait()
        task = await self._database.write(
            lambda session: repository.take(session, sync.server_id, LEASE_SECONDS)
        )
        if task is None:
            return False
        began = time.monotonic()
        try:
            settled = await settle(sync, task)
        except (Unreachable, Denied) as error:
            # Whose fault it is shows in whether MLflow answers at all.
            if await self._answers(sync):
                await fail(sync, task, error)
                settled = Settled.FAILED
            else:
                await hand_back(sync, task, error)
                settled = Settled.LATER
        self._watch(Round("item", time.monotonic() - began, task.kind, settled))
        return True


async def _forever(step: _Step, sync: Sync, called: asyncio.Event | None) -> None:
    """Repeat a step for as long as it has something to do, and whenever it is called."""
    pause = 0.0
    while True:
        if called is not None:
            await called.wait()
        try:
            busy = await step(sync)
            pause = 0.0
            if called is not None and not busy:
                called.clear()
            continue
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, the next step is due
            task = asyncio.current_task()
            if task is None or task.cancelling():
                # Its own end, or what went wrong on the way out and took the place of that.
                raise asyncio.CancelledError from None
            if isinstance(error, Unavailable):
                _log.warning("mlflow.database_unavailable", error=str(error))
            else:
                _log.exception("mlflow.failed")
        pause = min(2 * pause + _POLL_SECONDS, _LONGEST_PAUSE)
        await asyncio.sleep(pause)


@asynccontextmanager
async def running(
    database: Database, uri: str, follow: float | None, watch: Watch = lambda _: None
) -> AsyncIterator[None]:
    """A worker for the MLflow server at this address while the block lasts."""
    client = Client(uri)
    worker = Worker(database, client, follow, watch)
    work = asyncio.create_task(worker.run(), name="mlflow-worker")
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])
        await client.close()


async def alone(
    database_url: str, uri: str, follow: float | None, watch: Watch = lambda _: None
) -> None:
    """A worker in a process of its own, until cancelled."""
    database = Database(database_url)
    try:
        # What it writes is to reach those who follow the journal at once, whoever serves them.
        async with Feed(database).running(), running(database, uri, follow, watch):
            await asyncio.Event().wait()
    finally:
        await database.close()
