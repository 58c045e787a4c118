"""All SQL about trusted documents."""

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from lifecycle.database import ReadSession, WriteSession
from lifecycle.documents.tables import TrustedDocumentRow
from lifecycle.statements import Prepared

_TEXT = Prepared(select(TrustedDocumentRow.text).where(TrustedDocumentRow.id == bindparam("id")))
_ALL = Prepared(
    select(TrustedDocumentRow.id, TrustedDocumentRow.operations).order_by(
        TrustedDocumentRow.operations, TrustedDocumentRow.id
    )
)


async def text(session: ReadSession, id: str) -> str | None:
    """The text of a document, if it is registered."""
    found: str | None = await session.fetch_one(_TEXT, {"id": id})
    return found


async def listed(session: ReadSession) -> list[tuple[str, str]]:
    """The id of each document, and its operations, by which they are in order."""
    return [(id, operations) for id, operations in await session.fetch(_ALL)]


async def add(session: WriteSession, rows: Sequence[TrustedDocumentRow]) -> None:
    """Register these; those that are there already stay as they are."""
    for row in rows:
        values = {"id": row.id, "text": row.text, "operations": row.operations}
        await session.execute(insert(TrustedDocumentRow).values(values).on_conflict_do_nothing())


async def remove(session: WriteSession, ids: Sequence[str]) -> set[str]:
    """Remove those of these that are there, and give their ids."""
    removed = await session.execute(
        delete(TrustedDocumentRow)
        .where(TrustedDocumentRow.id.in_(ids))
        .returning(TrustedDocumentRow.id)
    )
    return set(removed.scalars())
