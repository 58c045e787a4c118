"""All SQL about data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import insert

from lifecycle.database import ReadSession, WriteSession
from lifecycle.datasets.rules import DataSetName
from lifecycle.datasets.tables import DataSetRow
from lifecycle.pages import (
    Listing,
    Lookup,
    Ordering,
    Page,
    PageRequest,
    by_id,
    by_time,
    listing,
)
from lifecycle.statements import Prepared

_BY_IDS = Lookup(DataSetRow, DataSetRow.id)
_WANTED = (
    func.unnest(bindparam("names", type_=ARRAY(Text)), bindparam("digests", type_=ARRAY(Text)))
    .table_valued(column("name", Text), column("digest", Text), name="wanted")
    .render_derived()
)
_BY_NAMES = Prepared(
    select(DataSetRow).join(
        _WANTED,
        (DataSetRow.name == _WANTED.c.name)
        & DataSetRow.digest.is_not_distinct_from(_WANTED.c.digest),
    )
)


@dataclass(frozen=True, slots=True)
class DataSetFilter:
    """Which data sets; what is None does not restrict."""

    name: str | None = None


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, DataSetRow]:
    """The data sets among `ids`; those that do not exist are absent."""
    return await _BY_IDS.fetch(session, ids)


async def by_names(
    session: ReadSession, names: Sequence[DataSetName]
) -> dict[DataSetName, DataSetRow]:
    """The data sets of exactly these names and digests; those that do not exist are absent."""
    columns = {
        "names": [key.name for key in names],
        "digests": [key.digest for key in names],
    }
    rows = await session.fetch(_BY_NAMES, columns)
    return {DataSetName(row.name, row.digest): row for row in rows}


async def add(session: WriteSession, wanted: DataSetName, actor: str) -> UUID | None:
    """Make the data set, and return its id; None if it is there by now. Whoever makes the same at
    the same time is waited for."""
    return await session.scalar(
        insert(DataSetRow)
        .values(name=wanted.name, digest=wanted.digest, created_by=actor)
        .on_conflict_do_nothing()
        .returning(DataSetRow.id)
    )


@listing
def _listing(wanted: DataSetFilter) -> Listing[DataSetRow]:
    ordering = Ordering([by_time(DataSetRow.created_at), by_id(DataSetRow.id)], "data sets", wanted)
    return Listing(_matching(select(DataSetRow), wanted), ordering)


async def page(
    session: ReadSession, wanted: DataSetFilter, request: PageRequest
) -> Page[DataSetRow]:
    """A page of all data sets that match, newest first."""
    return await _listing(wanted).page(session, request)


async def count(session: ReadSession, wanted: DataSetFilter) -> int:
    """How many data sets match."""
    return await _listing(wanted).count(session)


def _matching(statement: Select[Any], wanted: DataSetFilter) -> Select[Any]:
    if wanted.name is not None:
        statement = statement.where(DataSetRow.name == wanted.name)
    return statement
