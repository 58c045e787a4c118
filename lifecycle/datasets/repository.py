"""All SQL about data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from lifecycle.database import ReadSession, WriteSession
from lifecycle.datasets.rules import DataSetName
from lifecycle.datasets.tables import DataSetRow
from lifecycle.pages import Ordering, Page, PageRequest, by_id, by_time, fetch, total

_BY_IDS = select(DataSetRow).where(DataSetRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))


@dataclass(frozen=True, slots=True)
class DataSetFilter:
    """Which data sets; what is None does not restrict."""

    name: str | None = None


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, DataSetRow]:
    """The data sets among `ids`; those that do not exist are absent."""
    return {row.id: row for row in await session.scalars(_BY_IDS, {"ids": list(ids)})}


async def by_names(
    session: ReadSession, names: Sequence[DataSetName]
) -> dict[DataSetName, DataSetRow]:
    """The data sets of exactly these names and digests; those that do not exist are absent."""
    known = [key for key in names if key.digest is not None]
    plain = [key.name for key in names if key.digest is None]
    rows = await session.scalars(
        select(DataSetRow).where(
            tuple_(DataSetRow.name, DataSetRow.digest).in_(known)
            | (DataSetRow.name.in_(plain) & DataSetRow.digest.is_(None))
        )
    )
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


async def page(
    session: ReadSession, wanted: DataSetFilter, request: PageRequest
) -> Page[DataSetRow]:
    """A page of all data sets that match, newest first."""
    ordering = Ordering([by_time(DataSetRow.created_at), by_id(DataSetRow.id)], "data sets", wanted)
    return await fetch(session, _matching(select(DataSetRow), wanted), ordering, request)


async def count(session: ReadSession, wanted: DataSetFilter) -> int:
    """How many data sets match."""
    return await total(session, _matching(select(DataSetRow), wanted))


def _matching(statement: Select[Any], wanted: DataSetFilter) -> Select[Any]:
    if wanted.name is not None:
        statement = statement.where(DataSetRow.name == wanted.name)
    return statement
