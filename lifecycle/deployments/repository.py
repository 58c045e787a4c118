"""All SQL about deployments."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CTE, ColumnElement, Select, Uuid, any_, bindparam, select
from sqlalchemy.dialects.postgresql import distinct_on

from lifecycle.database import ReadSession, WriteSession
from lifecycle.deployments.rules import LIVE, DeploymentStatus, Environment
from lifecycle.deployments.tables import DeploymentRow, DeploymentTransitionRow
from lifecycle.pages import (
    Ordering,
    Page,
    PageRequest,
    among,
    by_id,
    by_time,
    fetch,
    fetch_all,
    fetch_each,
    total,
    totals,
)
from lifecycle.promotion.rules import IN_FORCE
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs.tables import RunRow

_BY_IDS = select(DeploymentRow).where(DeploymentRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments; what is None or empty does not restrict. `active_at` is a moment at which
    they were ACTIVE."""

    model_name: str | None = None
    environments: tuple[Environment, ...] = ()
    statuses: tuple[DeploymentStatus, ...] = ()
    id: UUID | None = None
    active_at: datetime | None = None


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
    and HEALTHY, that neither failed nor was rolled back from, and whose version still exists; in
    production one of a version whose approval is in force before all others."""
    approved = ModelVersionRow.approval_status.in_(IN_FORCE).desc()
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
        .order_by(
            *([approved] if bad.environment is Environment.PRODUCTION else []),
            DeploymentRow.healthy_at.desc(),
            DeploymentRow.id.desc(),
        )
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


async def live_of(session: ReadSession, version_id: UUID) -> dict[Environment, DeploymentRow]:
    """The last live deployment of a version in each environment that has one."""
    rows = await session.scalars(
        select(DeploymentRow)
        .ext(distinct_on(DeploymentRow.environment))
        .where(
            DeploymentRow.model_version_id == version_id,
            DeploymentRow.status.in_(sorted(LIVE)),
        )
        .order_by(
            DeploymentRow.environment, DeploymentRow.created_at.desc(), DeploymentRow.id.desc()
        )
    )
    return {row.environment: row for row in rows}


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


async def pages_affected_by_runs(
    session: ReadSession,
    run_ids: Sequence[UUID],
    statuses: tuple[DeploymentStatus, ...],
    request: PageRequest,
) -> dict[UUID, Page[DeploymentRow]]:
    """A page of the deployments of what came out of each run or its parts, newest first, deleted
    versions included."""
    affected = _by_runs(run_ids, statuses)
    return await _affected_pages(session, run_ids, affected, statuses, request)


async def counts_affected_by_runs(
    session: ReadSession, run_ids: Sequence[UUID], statuses: tuple[DeploymentStatus, ...]
) -> dict[UUID, int]:
    """How many those are; runs without any are absent."""
    root, statement = _by_runs(run_ids, statuses)
    return await totals(session, run_ids, root, statement)


async def pages_affected_by_data_sets(
    session: ReadSession,
    data_set_ids: Sequence[UUID],
    statuses: tuple[DeploymentStatus, ...],
    request: PageRequest,
) -> dict[UUID, Page[DeploymentRow]]:
    """The same for the runs on each data set, and their parts."""
    affected = _by_data_sets(data_set_ids, statuses)
    return await _affected_pages(session, data_set_ids, affected, statuses, request)


async def counts_affected_by_data_sets(
    session: ReadSession, data_set_ids: Sequence[UUID], statuses: tuple[DeploymentStatus, ...]
) -> dict[UUID, int]:
    """How many those are; data sets without any are absent."""
    root, statement = _by_data_sets(data_set_ids, statuses)
    return await totals(session, data_set_ids, root, statement)


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
    if wanted.active_at is not None:
        statement = statement.where(
            # Follows from the other condition, but is found by the index that lists go by.
            DeploymentRow.created_at <= wanted.active_at,
            _status_at(wanted.active_at) == DeploymentStatus.ACTIVE,
        )
    return statement


def _status_at(moment: datetime) -> Any:
    """What a deployment's status was: the last that it had come to, at this moment or before."""
    return (
        select(DeploymentTransitionRow.to_status)
        .where(
            DeploymentTransitionRow.deployment_id == DeploymentRow.id,
            DeploymentTransitionRow.at <= moment,
        )
        .order_by(DeploymentTransitionRow.at.desc(), DeploymentTransitionRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def _affected_by(
    roots: CTE, statuses: tuple[DeploymentStatus, ...]
) -> tuple[ColumnElement[UUID], Select[Any]]:
    """For each root the deployments of the versions that came out of its runs, or of runs that are
    parts of those, at whatever depth, and the column that says which root it is.

    An index finds them, but none gives them in their order: all that a root affects are sorted.
    """
    part = select(roots.c.root, RunRow.id).join(RunRow, RunRow.parent_id == roots.c.run)
    runs = roots.union(part)
    statement = (
        select(DeploymentRow)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .join(runs, runs.c.run == ModelVersionRow.run_id)
    )
    return runs.c.root, _matching(statement, DeploymentFilter(statuses=statuses))


def _by_runs(
    ids: Sequence[UUID], statuses: tuple[DeploymentStatus, ...]
) -> tuple[ColumnElement[UUID], Select[Any]]:
    roots = select(RunRow.id.label("root"), RunRow.id.label("run")).where(among(RunRow.id, ids))
    return _affected_by(roots.cte("runs", recursive=True), statuses)


def _by_data_sets(
    ids: Sequence[UUID], statuses: tuple[DeploymentStatus, ...]
) -> tuple[ColumnElement[UUID], Select[Any]]:
    column = RunRow.data_set_id
    roots = select(column.label("root"), RunRow.id.label("run")).where(among(column, ids))
    return _affected_by(roots.cte("runs", recursive=True), statuses)


async def _affected_pages(
    session: ReadSession,
    ids: Sequence[UUID],
    affected: tuple[ColumnElement[UUID], Select[Any]],
    statuses: tuple[DeploymentStatus, ...],
    request: PageRequest,
) -> dict[UUID, Page[DeploymentRow]]:
    root, statement = affected
    order = ordering(DeploymentFilter(statuses=statuses), ())
    return await fetch_each(session, ids, DeploymentRow, root, statement, order, request)
