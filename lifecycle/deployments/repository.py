"""All SQL about deployments."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, select

from lifecycle.database import ReadSession, WriteSession
from lifecycle.deployments.rules import LIVE, DeploymentStatus, Environment
from lifecycle.deployments.tables import DeploymentRow, DeploymentTransitionRow
from lifecycle.pages import (
    Ordering,
    Page,
    PageRequest,
    by_id,
    by_time,
    fetch,
    fetch_all,
    fetch_each,
    total,
    totals,
)
from lifecycle.registry.tables import ModelVersionRow

_BY_IDS = select(DeploymentRow).where(DeploymentRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments; what is None or empty does not restrict."""

    model_name: str | None = None
    environments: tuple[Environment, ...] = ()
    statuses: tuple[DeploymentStatus, ...] = ()
    id: UUID | None = None


class DeploymentOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    UPDATED_AT = "UPDATED_AT"


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, DeploymentRow]:
    """The deployments among `ids`; those that do not exist are absent."""
    return {row.id: row for row in await session.scalars(_BY_IDS, {"ids": list(ids)})}


async def lock(session: WriteSession, id: UUID) -> DeploymentRow | None:
    """The deployment as it stands, held until the transaction ends."""
    return await session.get(
        DeploymentRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def rollback_target(session: ReadSession, bad: DeploymentRow) -> DeploymentRow | None:
    """Of the earlier deployments of the same model and environment, the last that came to be ACTIVE
    and HEALTHY, that neither failed nor was rolled back from, and whose version still exists."""
    spoilt = select(1).where(
        DeploymentTransitionRow.deployment_id == DeploymentRow.id,
        DeploymentTransitionRow.to_status.in_((DeploymentStatus.FAILED, DeploymentStatus.ROLLBACK)),
    )
    return await session.scalar(
        select(DeploymentRow)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .where(
            DeploymentRow.model_name == bad.model_name,
            DeploymentRow.environment == bad.environment,
            DeploymentRow.id != bad.id,
            DeploymentRow.created_at < bad.created_at,
            DeploymentRow.healthy_at.is_not(None),
            ModelVersionRow.deleted_at.is_(None),
            ~spoilt.exists(),
        )
        .order_by(DeploymentRow.healthy_at.desc(), DeploymentRow.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )


async def serving(
    session: ReadSession, version_id: UUID, environment: Environment
) -> DeploymentRow | None:
    """The last live deployment of a version in an environment."""
    return await session.scalar(
        select(DeploymentRow)
        .where(
            DeploymentRow.model_version_id == version_id,
            DeploymentRow.environment == environment,
            DeploymentRow.status.in_(sorted(LIVE)),
        )
        .order_by(DeploymentRow.created_at.desc(), DeploymentRow.id.desc())
        .limit(1)
    )


async def live_after(session: ReadSession, row: DeploymentRow) -> DeploymentRow | None:
    """The last deployment of the same model and environment that is live and later than this."""
    return await session.scalar(
        select(DeploymentRow)
        .where(
            DeploymentRow.model_name == row.model_name,
            DeploymentRow.environment == row.environment,
            DeploymentRow.created_at > row.created_at,
            DeploymentRow.status.in_(sorted(LIVE)),
        )
        .order_by(DeploymentRow.created_at.desc(), DeploymentRow.id.desc())
        .limit(1)
    )


def ordering(
    wanted: DeploymentFilter, order: tuple[tuple[DeploymentOrderField, bool], ...]
) -> Ordering:
    """The ordering of a list of deployments, newest first unless told otherwise."""
    order = order or ((DeploymentOrderField.CREATED_AT, True),)
    columns = {
        DeploymentOrderField.CREATED_AT: DeploymentRow.created_at,
        DeploymentOrderField.UPDATED_AT: DeploymentRow.updated_at,
    }
    keys = [by_time(columns[field], descending=down) for field, down in order]
    return Ordering(
        [*keys, by_id(DeploymentRow.id, descending=order[-1][1])], "deployments", wanted, order
    )


async def page(
    session: ReadSession,
    wanted: DeploymentFilter,
    order: tuple[tuple[DeploymentOrderField, bool], ...],
    request: PageRequest,
) -> Page[DeploymentRow]:
    """A page of all deployments that match."""
    statement = _matching(select(DeploymentRow), wanted)
    return await fetch(session, statement, ordering(wanted, order), request)


async def count(session: ReadSession, wanted: DeploymentFilter) -> int:
    """How many deployments match."""
    return await total(session, _matching(select(DeploymentRow), wanted))


async def pages_of_versions(
    session: ReadSession, version_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[DeploymentRow]]:
    """A page of each version's deployments, newest first."""
    return await fetch_each(
        session,
        version_ids,
        DeploymentRow,
        DeploymentRow.model_version_id,
        select(DeploymentRow),
        ordering(DeploymentFilter(), ()),
        request,
    )


async def counts_of_versions(session: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many deployments each version has had; versions without any are absent."""
    column = DeploymentRow.model_version_id
    return await totals(session, version_ids, column, select(DeploymentRow))


async def transitions(
    session: ReadSession, deployment_ids: Sequence[UUID]
) -> dict[UUID, list[DeploymentTransitionRow]]:
    """Each deployment's history, oldest first."""
    statement = select(DeploymentTransitionRow).order_by(DeploymentTransitionRow.id)
    column = DeploymentTransitionRow.deployment_id
    return await fetch_all(session, deployment_ids, column, statement)


def _matching(statement: Select[Any], wanted: DeploymentFilter) -> Select[Any]:
    if wanted.id is not None:
        statement = statement.where(DeploymentRow.id == wanted.id)
    if wanted.model_name is not None:
        statement = statement.where(DeploymentRow.model_name == wanted.model_name)
    if wanted.environments:
        statement = statement.where(DeploymentRow.environment.in_(wanted.environments))
    if wanted.statuses:
        statement = statement.where(DeploymentRow.status.in_(wanted.statuses))
    return statement
