"""Log lines of runs and deployments as clients see them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import strawberry
from strawberry import Private

from lifecycle.logs import repository
from lifecycle.logs.tables import LogLineRow
from lifecycle.pages import PageRequest
from schema.context import Info
from schema.pagination import Connection
from schema.rows import OfRow, shown
from schema.scalars import BigInt


@strawberry.type(description="A line of a log.")
class LogLine(OfRow[LogLineRow]):
    row: Private[LogLineRow]
    line: BigInt = shown(description="Counts from 1, per run or deployment.")
    timestamp: datetime = shown(description="When it was written.")
    level: str = shown(description="DEBUG, INFO, WARNING, ERROR or the writer's own.")
    message: str = shown(description="What was written.")


@strawberry.input(description="A line for a log.")
class LogLineInput:
    message: str = strawberry.field(description="At most 20,000 characters.")
    level: str = strawberry.field(default="INFO", description="DEBUG, INFO, WARNING, ERROR, ….")
    timestamp: datetime | None = strawberry.field(
        default=None, description="When it was written; by default when it arrives."
    )


@strawberry.type(description="A page of a log.")
class LogConnection(Connection[LogLine]): ...


async def log_connection(
    info: Info,
    owner_id: UUID,
    written: int,
    first: int | None,
    after: str | None,
    last: int | None,
    before: str | None,
) -> LogConnection:
    """A page of a log that has `written` lines."""
    request = PageRequest.parse(first, after, last, before)
    page = await info.context.loaders.load(repository.pages, owner_id, request)
    assert page is not None

    async def count() -> int:
        return written

    return LogConnection(nodes=lines_of(page.rows), page=page, count=count)


def lines_of(rows: Sequence[LogLineRow] | None) -> list[LogLine]:
    """Rows as lines."""
    return [LogLine.from_row(row) for row in rows or ()]
