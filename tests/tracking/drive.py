"""An MLflow server and this service, kept the same step by step: a test says what is looked at."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TypeVar
from uuid import UUID, uuid4

from sqlalchemy import select

from lifecycle.database import Database, WriteSession
from lifecycle.journal.tables import EventRow
from lifecycle.tracking import reconcile, repository
from lifecycle.tracking.client import Client
from lifecycle.tracking.importing import in_the_name_of
from lifecycle.tracking.rules import Conflict as Difference
from lifecycle.tracking.rules import Resolution, TrackedKind, settle
from lifecycle.tracking.sides import Sync, origin_of
from lifecycle.tracking.tables import MlflowItemRow
from schema import ids
from tests.client import PATIENCE

T = TypeVar("T")


class Mirror:
    """What is on both sides for one test; nobody else looks at it."""

    def __init__(self, sync: Sync, importing_for: str | None = None) -> None:
        self.sync, self.database, self.client = sync, sync.database, sync.client
        self._importing_for = importing_for

    @classmethod
    async def begin(cls, database: Database, client: Client, name: str) -> "Mirror":
        """One for the server that the client asks, under a name that no other test has."""

        async def know(session: WriteSession) -> UUID:
            return await repository.know_server(session, f"{client.uri}/{name}")

        id = await database.write(know)
        return cls(Sync(database, client, id, origin_of(id)))

    def importing(self, administrator: str = "admin") -> "Mirror":
        """The same, on behalf of somebody who imports."""
        return Mirror(replace(self.sync, writes=False, mirrored=False), administrator)

    async def do(self, function: Callable[..., Awaitable[T]], *args: object, **kwargs: object) -> T:
        """Call a function of the repository in a transaction."""
        return await self.database.write(lambda session: function(session, *args, **kwargs))

    async def ours(self, kind: TrackedKind, id: UUID) -> MlflowItemRow:
        """How one of our objects stands, after it and what it waits for have been looked at."""
        await self.numbered()
        await self.do(repository.want_ours, self.sync.server_id, [(kind, id)])
        await self.settle()
        return await self.item(kind, id)

    async def theirs(self, kind: TrackedKind, mlflow_id: str) -> MlflowItemRow | None:
        """How one of MLflow's objects stands then; None if it is not to be known."""
        await self.numbered()
        whose, server = self._importing_for, self.sync.server_id
        async with in_the_name_of(whose, self.database, server) if whose else nullcontext():
            await self.do(
                repository.want_theirs,
                server,
                kind,
                {mlflow_id: f"another digest: {uuid4()}"},
                new=True,
                importing_for=whose,
            )
            await self.settle()
        id = await self.here(kind, mlflow_id)
        return None if id is None else await self.item(kind, id)

    async def settle(self) -> None:
        """Reconcile whatever is due, until nothing is. Raises what is not an object's fault."""
        while task := await self.do(repository.take, self.sync.server_id, 60.0):
            try:
                await reconcile.settle(self.sync, task)
            except Exception as error:
                await reconcile.hand_back(self.sync, task, error)
                raise

    async def here(self, kind: TrackedKind, mlflow_id: str) -> UUID | None:
        """Our id for one of MLflow's objects."""
        async with self.database.read() as session:
            return await repository.object_of(session, self.sync.server_id, kind, mlflow_id)

    async def there(self, kind: TrackedKind, id: UUID) -> str:
        """MLflow's id for one of our objects."""
        async with self.database.read() as session:
            found = await repository.mlflow_id_of(session, self.sync.server_id, kind, id)
        assert found is not None
        return found

    async def item(self, kind: TrackedKind, id: UUID) -> MlflowItemRow:
        """How one of our objects stands."""
        async with self.database.read() as session:
            (found,) = await session.fetch(
                select(MlflowItemRow).where(
                    MlflowItemRow.server_id == self.sync.server_id,
                    MlflowItemRow.kind == kind,
                    MlflowItemRow.object_id == id,
                )
            )
            return found

    async def items(self) -> list[MlflowItemRow]:
        """All that is known of."""
        async with self.database.read() as session:
            rows = await session.fetch(
                select(MlflowItemRow).where(MlflowItemRow.server_id == self.sync.server_id)
            )
            return [*rows]

    async def retry(self, item: MlflowItemRow) -> MlflowItemRow:
        """How an object stands that has failed and waits, after it was looked at now."""

        async def hurry(session: WriteSession) -> None:
            row = await session.get_one(MlflowItemRow, item.id)
            row.attempts, row.due_at = 0, None

        await self.database.write(hurry)
        assert item.object_id is not None
        return await self.ours(item.kind, item.object_id)

    async def resolve(self, item: MlflowItemRow, resolution: Resolution) -> MlflowItemRow:
        """Decide all conflicts of an object, and look at it again."""
        base = dict(item.base)
        for conflict in item.conflicts:
            agreed = settle({}, Difference(**conflict), resolution)
            base[conflict["field"]] = list(agreed)

        async def keep(session: WriteSession) -> None:
            row = await session.get_one(MlflowItemRow, item.id)
            row.base = base

        await self.database.write(keep)
        assert item.object_id is not None
        return await self.ours(item.kind, item.object_id)

    async def numbered(self) -> None:
        """Until the journal has given all that was written its place."""
        deadline = time.monotonic() + PATIENCE
        while True:
            async with self.database.read() as session:
                pending = select(EventRow.id).where(EventRow.position.is_(None)).limit(1)
                if not await session.fetch(pending):
                    return
            assert time.monotonic() < deadline, "the journal stands still"
            await asyncio.sleep(0.01)


def global_id(type: str, item: MlflowItemRow) -> str:
    """The id of an object that is here, as clients know it."""
    assert item.object_id is not None
    return ids.encode(type, item.object_id)


def differences(item: MlflowItemRow) -> list[tuple[str, str | None, str | None, str | None]]:
    """The conflicts of an object: field, what it is here, what there, and why, if it says so."""
    return [
        (each["field"], each["ours"], each["theirs"], each["reason"]) for each in item.conflicts
    ]
