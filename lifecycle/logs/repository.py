"""All SQL about log lines."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import bindparam, insert, select

from lifecycle.commands import Line, Moment, Text
from lifecycle.database import ReadSession, WriteSession
from lifecycle.logs.tables import LogLineRow
from lifecycle.pages import Children, Listing, Ordering, Page, PageRequest, by_count

MAX_LINES = 1_000


class NewLine(BaseModel):
    """A line as its writer sends it; without a timestamp it gets the time of its arrival."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: Text
    level: Annotated[Line, Field(max_length=20), AfterValidator(str.upper)] = "INFO"
    timestamp: Moment | None = None


_LINES = Listing(
    select(LogLineRow), Ordering([by_count(LogLineRow.line)], "log"), LogLineRow.owner_id
)
_BETWEEN = Children(
    select(LogLineRow).where(LogLineRow.line.between(bindparam("first"), bindparam("last"))),
    LogLineRow.owner_id,
    LogLineRow.line,
)


async def append(
    session: WriteSession, owner_id: UUID, written: int, lines: Sequence[NewLine], now: datetime
) -> None:
    """Add lines to a log that has `written` lines. The caller holds the owner's row locked, and
    keeps the count."""
    await session.execute(
        insert(LogLineRow),
        [
            {
                "owner_id": owner_id,
                "line": number,
                "timestamp": line.timestamp or now,
                "level": line.level,
                "message": line.message,
            }
            for number, line in enumerate(lines, written + 1)
        ],
    )


async def pages(
    session: ReadSession, owner_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[LogLineRow]]:
    """A page of each owner's log."""
    return await _LINES.pages(session, owner_ids, request)


async def between(
    session: ReadSession, owner_ids: Sequence[UUID], first: int, last: int
) -> dict[UUID, list[LogLineRow]]:
    """The lines from `first` to `last` of each owner, in order."""
    return await _BETWEEN.fetch(session, owner_ids, {"first": first, "last": last})
