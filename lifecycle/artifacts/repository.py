"""All SQL about uploads."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, column, func, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from lifecycle.artifacts.tables import ArtifactUploadRow
from lifecycle.database import ReadSession, WriteSession

# How long who removes what is left of an upload has for it, before another tries.
_REMOVAL = timedelta(minutes=10)


async def by_id(session: ReadSession, id: UUID) -> ArtifactUploadRow | None:
    """The upload, or None."""
    return await session.fetch_one(select(ArtifactUploadRow).where(ArtifactUploadRow.id == id))


async def completed(
    session: ReadSession, files: Sequence[tuple[UUID, str, str]]
) -> dict[tuple[UUID, str, str], ArtifactUploadRow]:
    """The last completed uploads of these files, each a run, a path and a digest, whatever has come
    to the path since; those that were never uploaded there are absent."""
    wanted = (
        func.unnest(
            literal([run_id for run_id, _, _ in files], ARRAY(Uuid)),
            literal([path for _, path, _ in files], ARRAY(Text)),
            literal([digest for _, _, digest in files], ARRAY(Text)),
        )
        .table_valued(
            column("run_id", Uuid), column("path", Text), column("digest", Text), name="wanted"
        )
        .render_derived()
    )
    row = ArtifactUploadRow
    file = (row.run_id, row.path, row.digest)
    belongs = (
        (row.run_id == wanted.c.run_id)
        & (row.path == wanted.c.path)
        & (row.digest == wanted.c.digest)
    )
    rows = await session.fetch(
        select(row)
        .ext(distinct_on(*file))
        .join(wanted, belongs)
        .where(row.completed_at.is_not(None))
        .order_by(*file, row.completed_at.desc(), row.id.desc())
    )
    return {(row.run_id, row.path, row.digest): row for row in rows}


async def lock(session: WriteSession, id: UUID) -> ArtifactUploadRow | None:
    """The upload as it stands, held until the transaction ends."""
    return await session.get(
        ArtifactUploadRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def claim_remains(session: WriteSession, limit: int) -> Sequence[ArtifactUploadRow]:
    """Uploads of which something may be left that nobody needs any more. Nobody else is given them
    for some minutes; whoever has removed it says so by `nothing_remains`."""
    due = (
        select(ArtifactUploadRow.id)
        .where(ArtifactUploadRow.remains_until < func.clock_timestamp())
        .order_by(ArtifactUploadRow.remains_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = await session.scalars(
        update(ArtifactUploadRow)
        .where(ArtifactUploadRow.id.in_(due))
        .values(remains_until=func.clock_timestamp() + _REMOVAL)
        .returning(ArtifactUploadRow)
    )
    return rows.all()


async def nothing_remains(session: WriteSession, id: UUID) -> None:
    """Nothing is left of this upload but what it led to."""
    await session.execute(
        update(ArtifactUploadRow).where(ArtifactUploadRow.id == id).values(remains_until=None)
    )
