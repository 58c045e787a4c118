"""What a worker keeps of an MLflow server, for tests that need none which answers."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import update

from lifecycle.database import Database, WriteSession
from lifecycle.tracking import repository
from lifecycle.tracking.rules import Agreed, Conflict, SyncState, TrackedKind
from lifecycle.tracking.sides import Task
from lifecycle.tracking.tables import MlflowItemRow
from schema import ids

# Where nobody is.
MLFLOW = "http://mlflow.invalid"

_KINDS = {
    "Experiment": TrackedKind.EXPERIMENT,
    "Run": TrackedKind.RUN,
    "Model": TrackedKind.MODEL,
    "ModelVersion": TrackedKind.MODEL_VERSION,
}


@dataclass(frozen=True)
class Mirror:
    """A server that is known, and a worker's hand on its items."""

    database: Database
    server_id: UUID
    uri: str

    async def wanted(self, object: str) -> str:
        """The id of a new item for an object that is to be in MLflow."""
        kind, id = ids.split(object)
        await self.database.write(
            lambda session: repository.want_ours(session, self.server_id, [(_KINDS[kind], id)])
        )
        async with self.database.read() as session:
            found = await repository.items_of_objects(session, [(_KINDS[kind], id)], self.uri)
        return ids.encode("MlflowItem", found[_KINDS[kind], id].id)

    async def take(self, item: str) -> Task:
        """Take a due item, as a worker does. What is due before it stays so."""

        async def take(session: WriteSession) -> Task:
            before = []
            while True:
                task = await repository.take(session, self.server_id, 600)
                assert task is not None, "It is not due."
                if task.id == ids.decode("MlflowItem", item):
                    break
                before.append(task.id)
            await session.execute(
                update(MlflowItemRow)
                .where(MlflowItemRow.id.in_(before))
                .values(lease_id=None, lease_until=None)
            )
            return task

        return await self.database.write(take)

    async def put_back(
        self, task: Task, due_in: float | None = None, *, conflicts: Any = (), **values: Any
    ) -> None:
        """Put it back as it stands then, as a worker does."""
        values["conflicts"] = [Conflict(*each)._asdict() for each in conflicts]
        await self.database.write(
            lambda session: repository.put_back(session, task, due_in, **values)
        )

    async def item(
        self,
        object: str,
        state: SyncState = SyncState.IN_SYNC,
        *,
        mlflow_id: str | None = None,
        due_in: float | None = None,
        **values: Any,
    ) -> str:
        """The id of a new item for an object, brought to a state."""
        item = await self.wanted(object)
        task = await self.take(item)
        if mlflow_id is not None:
            await self.database.write(
                lambda session: repository.link(session, task, mlflow_id=mlflow_id)
            )
        await self.put_back(task, due_in, state=state, **values)
        return item

    async def only_there(self, kind: TrackedKind, mlflow_id: str) -> None:
        """An object that has been seen in MLflow, and is to come in."""
        await self.database.write(
            lambda session: repository.want_theirs(
                session, self.server_id, kind, {mlflow_id: "digest"}, new=True
            )
        )

    async def answered(self, version: str | None, error: str | None = None) -> None:
        """The server has been asked whether it is there."""
        await self.database.write(
            lambda session: repository.record_answer(session, self.server_id, version, error)
        )

    async def row(self, item: str) -> MlflowItemRow:
        """What is kept of an item."""
        id = ids.decode("MlflowItem", item)
        async with self.database.read() as session:
            return (await repository.items_by_ids(session, [id]))[id]


async def a_mirror(database: Database, uri: str = MLFLOW) -> Mirror:
    """The server at an address, made known if it is not."""
    return Mirror(
        database, await database.write(lambda session: repository.know_server(session, uri)), uri
    )


def agreed(row: MlflowItemRow) -> dict[str, Agreed]:
    """What each field was on both sides when they last agreed."""
    return {name: Agreed(*pair) for name, pair in row.base.items()}
