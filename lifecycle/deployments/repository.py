"""All SQL about deployments."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Select, any_, bindparam, func, or_, select, text
from sqlalchemy.dialects.postgresql import distinct_on

from lifecycle.database import ReadSession, WriteSession
from lifecycle.deployments.rules import LIVE, DeploymentStatus, Environment
from lifecycle.deployments.tables import DeploymentRow, DeploymentTransitionRow
from lifecycle.pages import (
    PARENTS,
    Children,
    Listing,
    Lookup,
    Ordering,
    Page,
    PageRequest,
    among,
    by_id,
    by_time,
    listing,
)
from lifecycle.promotion import repository as promotion
from lifecycle.promotion.rules import IN_FORCE
from lifecycle.promotion.tables import ApprovalRow
from lifecycle.registry.rules import Stage
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs.tables import RunRow
from lifecycle.statements import Prepared

_BY_IDS = Lookup(DeploymentRow, DeploymentRow.id)
_TRANSITIONS = Children(
    select(DeploymentTransitionRow),
    DeploymentTransitionRow.deployment_id,
    DeploymentTransitionRow.id,
)


def _after(column: Any, which: Any) -> Select[datetime]:
    """Now, or after the last of these, if the clock was set back."""
    last = func.max(column) + text("interval '1 microsecond'")
    return select(func.greatest(func.clock_timestamp(), last)).where(which)


_CHANGED = Prepared(
    _after(
        DeploymentTransitionRow.at, DeploymentTransitionRow.deployment_id == bindparam("deployment")
    )
)
_HEALTHY = Prepared(
    _after(DeploymentRow.healthy_at, DeploymentRow.model_name == bindparam("model_name"))
)


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
    return await _BY_IDS.fetch(session, ids)


async def lock(session: WriteSession, id: UUID) -> DeploymentRow | None:
    """The deployment as it stands, held until the transaction ends."""
    return await session.get(
        DeploymentRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def moment(session: WriteSession, row: DeploymentRow) -> datetime:
    """When a deployment changes now: after all its changes of status. The caller holds it."""
    now: datetime
    (now,) = await session.fetch(_CHANGED, {"deployment": row.id})
    return now


async def healthy_moment(session: WriteSession, row: DeploymentRow) -> datetime:
    """When a deployment comes to be good now: after all others of its model."""
    now: datetime
    (now,) = await session.fetch(_HEALTHY, {"model_name": row.model_name})
    return now


def creation(model_name: str) -> Any:
    """When a deployment of this model is made now, after all others: for the statement that stores
    it."""
    return _after(
        DeploymentRow.created_at, DeploymentRow.model_name == model_name
    ).scalar_subquery()


async def rollback_target(session: ReadSession, bad: DeploymentRow) -> DeploymentRow | None:
    """Of the earlier deployments of the model in the same environment, of other versions that are
    not the same content, the last that came to be ACTIVE and HEALTHY, that neither failed nor was
    rolled back from, and whose version still exists; in production one of a version whose approval
    is in force, for what was in production before, and not overruled goes before all others."""
    was_there = select(1).where(
        ApprovalRow.model_version_id == ModelVersionRow.id,
        ApprovalRow.superseded_at.is_(None),
        promotion.was_let_in(ApprovalRow),
    )
    approved = (
        among(ModelVersionRow.approval_status, IN_FORCE)
        & was_there.exists()
        & ~promotion.is_overruled(ModelVersionRow.id)
    )
    spoilt = select(1).where(
        DeploymentTransitionRow.deployment_id == DeploymentRow.id,
        among(
            DeploymentTransitionRow.to_status, (DeploymentStatus.FAILED, DeploymentStatus.ROLLBACK)
        ),
    )
    return await session.fetch_one(
        select(DeploymentRow)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .where(
            DeploymentRow.model_name == bad.model_name,
            DeploymentRow.environment == bad.environment,
            # It is the version that is bad, however it was deployed, or registered.
            DeploymentRow.model_version_id != bad.model_version_id,
            ~promotion.is_the_same_as(bad.model_version_id),
            DeploymentRow.created_at < bad.created_at,
            DeploymentRow.healthy_at.is_not(None),
            ModelVersionRow.deleted_at.is_(None),
            ~spoilt.exists(),
        )
        .order_by(
            *([approved.desc()] if bad.environment is Environment.PRODUCTION else []),
            DeploymentRow.healthy_at.desc(),
            DeploymentRow.id.desc(),
        )
        .limit(1)
        .execution_options(populate_existing=True)
    )


async def changed_in_production(
    session: ReadSession, shown: Sequence[tuple[UUID, str | None, str | None]]
) -> dict[tuple[UUID, str | None, str | None], bool]:
    """Those of these versions, which are in production or still live there, that are not what was
    let in there any more. Each comes with path and digest of its file as somebody has read them:
    before this looks it may have become another, or have become again what it was."""
    live = select(1).where(
        DeploymentRow.model_version_id == ModelVersionRow.id,
        DeploymentRow.environment == Environment.PRODUCTION,
        among(DeploymentRow.status, sorted(LIVE)),
    )
    there = await session.fetch(
        select(ModelVersionRow.id).where(
            among(ModelVersionRow.id, [id for id, _, _ in shown]),
            or_(ModelVersionRow.stage == Stage.PRODUCTION, live.exists()),
        )
    )
    let_in = await promotion.files_let_in(session, there)
    return {each: True for each in shown if each[0] in there and let_in.get(each[0]) != each[1:]}


async def serving(
    session: ReadSession, version_id: UUID, environment: Environment
) -> DeploymentRow | None:
    """The last live deployment of a version in an environment."""
    return await session.fetch_one(
        select(DeploymentRow)
        .where(
            DeploymentRow.model_version_id == version_id,
            DeploymentRow.environment == environment,
            among(DeploymentRow.status, sorted(LIVE)),
        )
        .order_by(DeploymentRow.created_at.desc(), DeploymentRow.id.desc())
        .limit(1)
    )


async def live_of(session: ReadSession, version_id: UUID) -> dict[Environment, DeploymentRow]:
    """The last live deployment of a version in each environment that has one."""
    rows = await session.fetch(
        select(DeploymentRow)
        .ext(distinct_on(DeploymentRow.environment))
        .where(
            DeploymentRow.model_version_id == version_id,
            among(DeploymentRow.status, sorted(LIVE)),
        )
        .order_by(
            DeploymentRow.environment, DeploymentRow.created_at.desc(), DeploymentRow.id.desc()
        )
    )
    return {row.environment: row for row in rows}


async def live_after(session: ReadSession, row: DeploymentRow) -> DeploymentRow | None:
    """The last deployment of the same model and environment that is live and later than this."""
    return await session.fetch_one(
        select(DeploymentRow)
        .where(
            DeploymentRow.model_name == row.model_name,
            DeploymentRow.environment == row.environment,
            DeploymentRow.created_at > row.created_at,
            among(DeploymentRow.status, sorted(LIVE)),
        )
        .order_by(DeploymentRow.created_at.desc(), DeploymentRow.id.desc())
        .limit(1)
    )


def _matching(statement: Select[Any], wanted: DeploymentFilter) -> Select[Any]:
    if wanted.id is not None:
        statement = statement.where(DeploymentRow.id == wanted.id)
    if wanted.model_name is not None:
        statement = statement.where(DeploymentRow.model_name == wanted.model_name)
    if wanted.environments:
        statement = statement.where(among(DeploymentRow.environment, wanted.environments))
    if wanted.statuses:
        statement = statement.where(among(DeploymentRow.status, wanted.statuses))
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


_TIMES = {
    DeploymentOrderField.CREATED_AT: DeploymentRow.created_at,
    DeploymentOrderField.UPDATED_AT: DeploymentRow.updated_at,
}


def _ordering(
    wanted: DeploymentFilter, order: tuple[tuple[DeploymentOrderField, bool], ...] = ()
) -> Ordering:
    """Newest first unless told otherwise."""
    order = order or ((DeploymentOrderField.CREATED_AT, True),)
    keys = [by_time(_TIMES[field], descending=down) for field, down in order]
    last = by_id(DeploymentRow.id, descending=order[-1][1])
    return Ordering([*keys, last], "deployments", wanted, order)


@listing
def _listing(
    wanted: DeploymentFilter, order: tuple[tuple[DeploymentOrderField, bool], ...]
) -> Listing[DeploymentRow]:
    return Listing(_matching(select(DeploymentRow), wanted), _ordering(wanted, order))


_OF_VERSIONS = Listing(
    select(DeploymentRow), _ordering(DeploymentFilter()), DeploymentRow.model_version_id
)


async def page(
    session: ReadSession,
    wanted: DeploymentFilter,
    order: tuple[tuple[DeploymentOrderField, bool], ...],
    request: PageRequest,
) -> Page[DeploymentRow]:
    """A page of all deployments that match."""
    return await _listing(wanted, order).page(session, request)


async def count(session: ReadSession, wanted: DeploymentFilter) -> int:
    """How many deployments match."""
    return await _listing(wanted, ()).count(session)


async def pages_of_versions(
    session: ReadSession, version_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[DeploymentRow]]:
    """A page of each version's deployments, newest first."""
    return await _OF_VERSIONS.pages(session, version_ids, request)


async def counts_of_versions(session: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many deployments each version has had; versions without any are absent."""
    return await _OF_VERSIONS.counts(session, version_ids)


async def pages_affected_by_runs(
    session: ReadSession,
    run_ids: Sequence[UUID],
    statuses: tuple[DeploymentStatus, ...],
    request: PageRequest,
) -> dict[UUID, Page[DeploymentRow]]:
    """A page of the deployments of what came out of each run or its parts, newest first, deleted
    versions included."""
    return await _affected_by(RunRow.id, statuses).pages(session, run_ids, request)


async def counts_affected_by_runs(
    session: ReadSession, run_ids: Sequence[UUID], statuses: tuple[DeploymentStatus, ...]
) -> dict[UUID, int]:
    """How many those are; runs without any are absent."""
    return await _affected_by(RunRow.id, statuses).counts(session, run_ids)


async def pages_affected_by_data_sets(
    session: ReadSession,
    data_set_ids: Sequence[UUID],
    statuses: tuple[DeploymentStatus, ...],
    request: PageRequest,
) -> dict[UUID, Page[DeploymentRow]]:
    """The same for the runs on each data set, and their parts."""
    return await _affected_by(RunRow.data_set_id, statuses).pages(session, data_set_ids, request)


async def counts_affected_by_data_sets(
    session: ReadSession, data_set_ids: Sequence[UUID], statuses: tuple[DeploymentStatus, ...]
) -> dict[UUID, int]:
    """How many those are; data sets without any are absent."""
    return await _affected_by(RunRow.data_set_id, statuses).counts(session, data_set_ids)


async def transitions(
    session: ReadSession, deployment_ids: Sequence[UUID]
) -> dict[UUID, list[DeploymentTransitionRow]]:
    """Each deployment's history, oldest first."""
    return await _TRANSITIONS.fetch(session, deployment_ids)


@listing
def _affected_by(root: Any, statuses: tuple[DeploymentStatus, ...]) -> Listing[DeploymentRow]:
    """For each root, which runs have in this column, the deployments of the versions that came out
    of those runs, or of runs that are parts of them, at whatever depth.

    An index finds them, but none gives them in their order: all that a root affects are sorted.
    """
    roots = (
        select(root.label("root"), RunRow.id.label("run_id"))
        .where(root == any_(PARENTS))
        .cte("runs", recursive=True)
    )
    part = select(roots.c.root, RunRow.id).join(RunRow, RunRow.parent_id == roots.c.run_id)
    runs = roots.union(part)
    statement = (
        select(DeploymentRow)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .join(runs, runs.c.run_id == ModelVersionRow.run_id)
    )
    wanted = DeploymentFilter(statuses=statuses)
    return Listing(_matching(statement, wanted), _ordering(wanted), runs.c.root)
