"""The mirror at work: tells MLflow what the journal says, and takes in what has changed there.

Any number of processes may run one for the same server. What is to be done is in the database, so
a worker that is killed loses nothing. While MLflow does not answer, nothing counts as a failure of
the objects that wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import structlog

from lifecycle.database import Database, WriteSession, clock
from lifecycle.errors import LifecycleError, Unavailable
from lifecycle.journal import repository as journal
from lifecycle.journal.feed import Feed
from lifecycle.tracking import outbox, repository
from lifecycle.tracking.client import Client, Denied, MlflowError, Unreachable
from lifecycle.tracking.following import Follower
from lifecycle.tracking.reconcile import LEASE_SECONDS, fail, hand_back, settle
from lifecycle.tracking.sides import Sync, origin_of

_log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
_HANDS = 4
# How often MLflow is asked whether it is there: when it is, and at most when it is not.
_ASK_SECONDS = 15.0
_LONGEST_SILENCE = 30.0
# How often it is asked what has changed there of what is on both sides, when it is not followed.
_LOOK_SECONDS = 60.0
_LOOK_LEASE = 600.0


class Worker:
    """Keeps an MLflow server and this service the same, until `run` is cancelled.

    `follow` is how many seconds there are between looks at what begins in MLflow; None leaves that
    alone, and only what is on both sides is looked at.
    """

    def __init__(self, database: Database, client: Client, follow: float | None = None) -> None:
        self._database = database
        self._client = client
        self._follow = follow
        self._woken = asyncio.Event()
        self._answering = asyncio.Event()
        self._answering.set()
        self._silent = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; whatever goes wrong is logged, kept, and tried again."""
        server_id = await self._begin()
        sync = Sync(self._database, self._client, server_id, origin_of(server_id))
        follower = Follower(sync, new=self._follow is not None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forever(self._read_journal, sync), name="mlflow-journal")
            tasks.create_task(self._forever(self._ask, sync), name="mlflow-ask")
            tasks.create_task(
                self._forever(lambda sync: self._look(sync, follower), sync), name="mlflow-look"
            )
            for n in range(_HANDS):
                tasks.create_task(self._forever(self._work, sync), name=f"mlflow-{n}")

    async def _begin(self) -> UUID:
        while True:
            try:
                return await self._database.write(self._introduce)
            except LifecycleError as error:
                _log.warning("mlflow.not_begun", error=str(error))
                await asyncio.sleep(_POLL_SECONDS)

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

    async def _forever(self, step: Callable[[Sync], Awaitable[bool]], sync: Sync) -> None:
        """Repeat a step, with a pause whenever it says that there is nothing to do."""
        while True:
            busy = False
            try:
                busy = await step(sync)
            except Unavailable as error:
                _log.warning("mlflow.database_unavailable", error=str(error))
            except Exception:  # whatever it is, the next step is due
                _log.exception("mlflow.failed")
            if not busy:
                self._woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._woken.wait()

    async def _read_journal(self, sync: Sync) -> bool:
        """Have a look taken at whatever the journal says has changed."""

        async with self._database.read() as session:
            if not await repository.is_behind(session, sync.server_id):
                return False
        if await self._database.write(lambda session: outbox.read(session, sync)):
            self._woken.set()
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
        elif error is not None and self._answering.is_set():
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
        every = self._follow or _LOOK_SECONDS

        async def take(session: WriteSession) -> Any:
            server = await repository.take_look(session, sync.server_id, every, _LOOK_LEASE)
            return server and (server.looked_at, server.compared_at, await clock(session))

        due = await self._database.write(take)
        if due is None:
            return False
        looked_at, compared_at, now = due
        done, compared = None, False
        try:
            compared = await follower.look(looked_at, compared_at, now)
            done = now
        except MlflowError as error:
            _log.warning("mlflow.look_failed", error=str(error))
        finally:
            await self._database.write(
                lambda session: repository.looked(session, sync.server_id, done, compared=compared)
            )
        self._woken.set()
        return False

    async def _work(self, sync: Sync) -> bool:
        """Reconcile one object that is due."""
        await self._answering.wait()
        task = await self._database.write(
            lambda session: repository.take(session, sync.server_id, LEASE_SECONDS)
        )
        if task is None:
            return False
        try:
            await settle(sync, task)
        except (Unreachable, Denied) as error:
            # Whose fault it is shows in whether MLflow answers at all.
            if await self._answers(sync):
                await fail(sync, task, error)
            else:
                await hand_back(sync, task, error)
        return True


@asynccontextmanager
async def running(database: Database, uri: str, follow: float | None) -> AsyncIterator[None]:
    """A worker for the MLflow server at this address while the block lasts."""
    client = Client(uri)
    work = asyncio.create_task(Worker(database, client, follow).run(), name="mlflow-worker")
    try:
        yield
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await client.close()


async def alone(database_url: str, uri: str, follow: float | None) -> None:
    """A worker in a process of its own, until cancelled."""
    database = Database(database_url)
    try:
        # What it writes is to reach those who follow the journal at once, whoever serves them.
        async with Feed(database).running(), running(database, uri, follow):
            await asyncio.Event().wait()
    finally:
        await database.close()
