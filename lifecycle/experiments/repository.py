"""All SQL about experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, Uuid, any_, bindparam, select

from lifecycle.database import ReadSession, WriteSession
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.pages import Ordering, Page, PageRequest, by_id, by_text, by_time, fetch, total

# Built once, so that SQLAlchemy compiles it once; ANY, so that PostgreSQL plans it once.
_BY_IDS = select(ExperimentRow).where(ExperimentRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
_BY_NAMES = select(ExperimentRow).where(
    ExperimentRow.name == any_(bindparam("names", type_=ARRAY(Text)))
)


@dataclass(frozen=True, slots=True)
class ExperimentFilter:
    """Which experiments; what is None or empty does not restrict."""

    owner: str | None = None
    statuses: tuple[ExperimentStatus, ...] = ()
    name_contains: str | None = None


class ExperimentOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    UPDATED_AT = "UPDATED_AT"
    NAME = "NAME"


_KEYS: dict[ExperimentOrderField, Any] = {
    ExperimentOrderField.CREATED_AT: lambda down: by_time(
        ExperimentRow.created_at, descending=down
    ),
    ExperimentOrderField.UPDATED_AT: lambda down: by_time(
        ExperimentRow.updated_at, descending=down
    ),
    ExperimentOrderField.NAME: lambda down: by_text(ExperimentRow.name, descending=down),
}


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, ExperimentRow]:
    """The experiments among `ids`; those that do not exist are absent."""
    return {row.id: row for row in await session.scalars(_BY_IDS, {"ids": list(ids)})}


async def by_names(session: ReadSession, names: Sequence[str]) -> dict[str, ExperimentRow]:
    """The experiments among `names`; those that do not exist are absent."""
    return {row.name: row for row in await session.scalars(_BY_NAMES, {"names": list(names)})}


async def lock(session: WriteSession, name: str) -> ExperimentRow | None:
    """The experiment as it stands, held until the transaction ends."""
    return await session.scalar(
        select(ExperimentRow).where(ExperimentRow.name == name).with_for_update(key_share=True)
    )


async def hold(session: WriteSession, name: str) -> ExperimentRow | None:
    """The experiment as it stands; nobody changes it until the transaction ends, but others may
    hold it too."""
    return await session.scalar(
        select(ExperimentRow).where(ExperimentRow.name == name).with_for_update(read=True)
    )


async def page(
    session: ReadSession,
    wanted: ExperimentFilter,
    order: Sequence[tuple[ExperimentOrderField, bool]],
    request: PageRequest,
) -> Page[ExperimentRow]:
    """A page of the experiments; `order` is pairs of field and descending."""
    order = order or ((ExperimentOrderField.CREATED_AT, True),)
    keys = [_KEYS[field](down) for field, down in order]
    ordering = Ordering(
        [*keys, by_id(ExperimentRow.id, descending=order[-1][1])], "experiments", wanted, order
    )
    return await fetch(session, _matching(select(ExperimentRow), wanted), ordering, request)


async def count(session: ReadSession, wanted: ExperimentFilter) -> int:
    """How many experiments match."""
    return await total(session, _matching(select(ExperimentRow), wanted))


def _matching(statement: Select[Any], wanted: ExperimentFilter) -> Select[Any]:
    if wanted.owner is not None:
        statement = statement.where(ExperimentRow.owner == wanted.owner)
    if wanted.statuses:
        statement = statement.where(ExperimentRow.status.in_(wanted.statuses))
    if wanted.name_contains:
        # In collation "C", which the column has, only A to Z have small letters.
        name = ExperimentRow.name.collate("default")
        statement = statement.where(name.icontains(wanted.name_contains, autoescape=True))
    return statement
