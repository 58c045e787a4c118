"""What can be done with uploads. Each function is one use case in its caller's transaction; what
has to be asked of the storage before and after is in `transfers`."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.artifacts import repository, rules
from lifecycle.artifacts.tables import ArtifactUploadRow
from lifecycle.commands import Command, Name
from lifecycle.database import WriteSession, clock
from lifecycle.errors import Conflict, NotFound
from lifecycle.journal import service as journal
from lifecycle.runs import repository as run_repository
from lifecycle.runs import service as runs
from lifecycle.runs.rules import ArtifactArea
from lifecycle.runs.service import ArtifactPath, NewArtifact, UpdateRun


def _size(value: int) -> int:
    if value > rules.MAX_BYTES:
        raise ValueError(
            f"must not be larger than {rules.MAX_BYTES:,} bytes, the most that is taken at once"
        )
    return value


def _digest(value: str) -> str:
    if not rules.DIGEST.fullmatch(value):
        raise ValueError("must be sha256: and 64 hexadecimal digits in small letters")
    return value


class BeginArtifactUpload(Command):
    """Announce a file of a run."""

    run_id: UUID
    path: ArtifactPath
    name: Name
    area: ArtifactArea = ArtifactArea.INTERNAL
    size_bytes: Annotated[int, Field(ge=0), AfterValidator(_size)]
    digest: Annotated[str, AfterValidator(_digest)]


class CompleteArtifactUpload(Command):
    """Say that the bytes are there."""

    id: UUID


async def begin(
    session: WriteSession, origin: Origin, command: BeginArtifactUpload
) -> ArtifactUploadRow:
    """Take note of an upload. Raises NotFound, Forbidden."""
    if not await run_repository.by_ids(session, [command.run_id]):
        raise NotFound("run", "with this id", ("run_id",))
    check(origin, Action.LOG)
    now = await clock(session)
    announced = command.model_dump(include={"path", "name", "area", "size_bytes", "digest"})
    row = ArtifactUploadRow(
        run_id=command.run_id,
        **announced,
        expires_at=now + timedelta(hours=rules.UPLOAD_HOURS),
        remains_until=now + timedelta(hours=rules.REMAINS_HOURS),
        created_by=origin.actor,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    await journal.append(
        session, origin, "run.artifact_upload_begun", command.run_id, after=announced
    )
    return row


async def complete(
    session: WriteSession, origin: Origin, command: CompleteArtifactUpload
) -> ArtifactUploadRow:
    """Log what was uploaded as an artifact of its run; once it is, doing it again changes nothing.

    The content is at its place already. Raises NotFound, Forbidden, Conflict when the upload has
    expired.
    """
    row = await repository.lock(session, command.id)
    if row is None:
        raise NotFound("artifact upload", "with this id")
    check(origin, Action.LOG)
    if row.completed_at is not None:
        return row
    now = await clock(session)
    if row.expires_at < now:
        raise Conflict("The upload has expired; begin it anew.", ("id",))
    artifact = NewArtifact(
        name=row.name, path=row.path, size_bytes=row.size_bytes, digest=row.digest, area=row.area
    )
    await runs.update(session, origin, UpdateRun(id=row.run_id, artifacts=[artifact]))
    row.completed_at = now
    await session.flush()
    return row
