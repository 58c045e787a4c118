"""What takes the storage and the database, one after the other: no transaction is open while a
store is asked."""

from contextlib import suppress
from functools import partial
from uuid import UUID

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.artifacts import repository
from lifecycle.artifacts.service import BeginArtifactUpload
from lifecycle.artifacts.storage import Storage
from lifecycle.artifacts.tables import ArtifactUploadRow
from lifecycle.database import Database
from lifecycle.errors import InvalidInput, NotFound, Unavailable
from lifecycle.runs import repository as runs
from lifecycle.runs.rules import ArtifactArea

# How many uploads are cleared away at a time.
SWEEP = 20


async def prepare(
    database: Database, storage: Storage, origin: Origin, command: BeginArtifactUpload
) -> bool:
    """Before an upload begins: whether such content is kept already, and that may be known.

    Raises NotFound, Forbidden, Unavailable, and InvalidInput when there is content with this digest
    that has another size.
    """
    async with database.read() as session:
        if not await runs.by_ids(session, [command.run_id]):
            raise NotFound("run", "with this id", ("run_id",))
    check(origin, Action.LOG)
    if not await is_known(database, command.area, command.digest):
        return False
    found = await storage.stored(command.area, command.digest)
    if found not in (None, command.size_bytes):
        raise InvalidInput(f"The content with this digest has {found:,} bytes.", ("size_bytes",))
    return found is not None


async def receive(database: Database, storage: Storage, origin: Origin, id: UUID) -> None:
    """Before an upload is complete: keep its content. Nothing to do where that has been done.

    Raises NotFound, Forbidden, Unavailable, and Conflict when what was uploaded is not what was
    announced.
    """
    async with database.read() as session:
        row = await repository.by_id(session, id)
    if row is None:
        raise NotFound("artifact upload", "with this id")
    check(origin, Action.LOG)
    if row.completed_at is None:
        known = await is_known(database, row.area, row.digest)
        await storage.receive(
            row.area,
            row.id.hex,
            row.size_bytes,
            row.digest,
            principal=origin.actor,
            known=known,
        )


async def is_known(database: Database, area: ArtifactArea, digest: str) -> bool:
    """Whether it may be told that content with this digest is kept: whoever sees some models only
    and no artifact that has it must have the bytes."""
    if database.visible is None:
        return True
    async with database.read() as session:
        return await runs.has_content(session, area, digest)


async def clear(storage: Storage, row: ArtifactUploadRow) -> None:
    """After an upload is complete: remove what it does not need any more. What cannot be removed
    now is removed by `sweep`."""
    with suppress(Unavailable):
        await storage.discard(row.area, row.id.hex)


async def sweep(database: Database, storage: Storage) -> int:
    """Remove what is left of uploads that are over, completed or not. Any number of processes may
    do so at the same time. Returns how many it was."""
    rows = await database.write(lambda session: repository.claim_remains(session, SWEEP))
    for row in rows:
        await storage.discard(row.area, row.id.hex)
        await database.write(partial(repository.nothing_remains, id=row.id))
    return len(rows)
