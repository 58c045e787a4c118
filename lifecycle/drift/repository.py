"""All SQL about drift events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, select

from lifecycle.database import ReadSession, WriteSession
from lifecycle.drift.rules import DriftStatus
from lifecycle.drift.tables import DriftEventRow
from lifecycle.pages import (
    Ordering,
    Page,
    PageRequest,
    by_id,
    by_time,
    fetch,
    fetch_each,
    total,
    totals,
)
from lifecycle.registry.rules import DriftSeverity

_BY_IDS = select(DriftEventRow).where(DriftEventRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))


@dataclass(frozen=True, slots=True)
class DriftEventFilter:
    """Which events; what is None or empty does not restrict."""

    model_name: str | None = None
    severities: tuple[DriftSeverity, ...] = ()
    statuses: tuple[DriftStatus, ...] = ()


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, DriftEventRow]:
    """The events among `ids`; those that do not exist are absent."""
    return {row.id: row for row in await session.scalars(_BY_IDS, {"ids": list(ids)})}


async def lock(session: WriteSession, id: UUID) -> DriftEventRow | None:
    """The event as it stands, held until the transaction ends."""
    return await session.get(
        DriftEventRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


def ordering(wanted: DriftEventFilter) -> Ordering:
    """The ordering of a list of events, newest first."""
    return Ordering(
        [by_time(DriftEventRow.created_at), by_id(DriftEventRow.id)], "drift events", wanted
    )


async def page(
    session: ReadSession, wanted: DriftEventFilter, request: PageRequest
) -> Page[DriftEventRow]:
    """A page of all events that match."""
    return await fetch(session, _matching(select(DriftEventRow), wanted), ordering(wanted), request)


async def count(session: ReadSession, wanted: DriftEventFilter) -> int:
    """How many events match."""
    return await total(session, _matching(select(DriftEventRow), wanted))


async def pages_of_versions(
    session: ReadSession, version_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[DriftEventRow]]:
    """A page of each version's events."""
    return await _pages(session, version_ids, DriftEventRow.model_version_id, request)


async def pages_of_deployments(
    session: ReadSession, deployment_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[DriftEventRow]]:
    """A page of each deployment's events."""
    return await _pages(session, deployment_ids, DriftEventRow.deployment_id, request)


async def counts_of_versions(session: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many events each version has; those without any are absent."""
    column = DriftEventRow.model_version_id
    return await totals(session, version_ids, column, select(DriftEventRow))


async def counts_of_deployments(
    session: ReadSession, deployment_ids: Sequence[UUID]
) -> dict[UUID, int]:
    """How many events each deployment has; those without any are absent."""
    column = DriftEventRow.deployment_id
    return await totals(session, deployment_ids, column, select(DriftEventRow))


async def _pages(
    session: ReadSession, parents: Sequence[UUID], column: Any, request: PageRequest
) -> dict[UUID, Page[DriftEventRow]]:
    return await fetch_each(
        session,
        parents,
        DriftEventRow,
        column,
        select(DriftEventRow),
        ordering(DriftEventFilter()),
        request,
    )


def _matching(statement: Select[Any], wanted: DriftEventFilter) -> Select[Any]:
    if wanted.model_name is not None:
        statement = statement.where(DriftEventRow.model_name == wanted.model_name)
    if wanted.severities:
        statement = statement.where(DriftEventRow.severity.in_(wanted.severities))
    if wanted.statuses:
        statement = statement.where(DriftEventRow.status.in_(wanted.statuses))
    return statement
