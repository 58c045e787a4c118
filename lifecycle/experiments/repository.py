"""All SQL about experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select

from lifecycle.database import ReadSession, WriteSession
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.pages import (
    Listing,
    Lookup,
    Ordering,
    Page,
    PageRequest,
    among,
    by_id,
    by_text,
    by_time,
    listing,
)

_BY_IDS = Lookup(ExperimentRow, ExperimentRow.id)
_BY_NAMES = Lookup(ExperimentRow, ExperimentRow.name)


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
    return await _BY_IDS.fetch(session, ids)


async def by_names(session: ReadSession, names: Sequence[str]) -> dict[str, ExperimentRow]:
    """The experiments among `names`; those that do not exist are absent."""
    return await _BY_NAMES.fetch(session, names)


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


@listing
def _listing(
    wanted: ExperimentFilter, order: tuple[tuple[ExperimentOrderField, bool], ...]
) -> Listing[ExperimentRow]:
    order = order or ((ExperimentOrderField.CREATED_AT, True),)
    keys = [_KEYS[field](down) for field, down in order]
    ordering = Ordering(
        [*keys, by_id(ExperimentRow.id, descending=order[-1][1])], "experiments", wanted, order
    )
    return Listing(_matching(select(ExperimentRow), wanted), ordering)


async def page(
    session: ReadSession,
    wanted: ExperimentFilter,
    order: tuple[tuple[ExperimentOrderField, bool], ...],
    request: PageRequest,
) -> Page[ExperimentRow]:
    """A page of the experiments; `order` is pairs of field and descending."""
    return await _listing(wanted, order).page(session, request)


async def count(session: ReadSession, wanted: ExperimentFilter) -> int:
    """How many experiments match."""
    return await _listing(wanted, ()).count(session)


def _matching(statement: Select[Any], wanted: ExperimentFilter) -> Select[Any]:
    if wanted.owner is not None:
        statement = statement.where(ExperimentRow.owner == wanted.owner)
    if wanted.statuses:
        statement = statement.where(among(ExperimentRow.status, wanted.statuses))
    if wanted.name_contains:
        # In collation "C", which the column has, only A to Z have small letters.
        name = ExperimentRow.name.collate("default")
        statement = statement.where(name.icontains(wanted.name_contains, autoescape=True))
    return statement
