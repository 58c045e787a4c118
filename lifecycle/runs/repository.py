"""All SQL about runs and their artifacts; metrics have a module of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Double,
    Select,
    Uuid,
    any_,
    bindparam,
    cast,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from lifecycle.database import ReadSession, WriteSession
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.logs.tables import LogLineRow
from lifecycle.pages import (
    Ordering,
    Page,
    PageRequest,
    SortKey,
    among,
    by_id,
    by_number,
    by_time,
    fetch,
    fetch_all,
    fetch_each,
    total,
    totals,
)
from lifecycle.runs.rules import RunStatus
from lifecycle.runs.tables import ArtifactRow, LatestMetricRow, RunRow

_BY_IDS = select(RunRow).where(RunRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
MAX_ARTIFACTS_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class MetricCondition:
    """The latest value of a metric lies between these bounds; NaN never does."""

    key: str
    gte: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; what is None or empty does not restrict. `param` and `tag` are (key, value)."""

    experiment_name: str | None = None
    statuses: tuple[RunStatus, ...] = ()
    created_by: str | None = None
    metric: MetricCondition | None = None
    param: tuple[str, str] | None = None
    tag: tuple[str, str] | None = None


class RunOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    UPDATED_AT = "UPDATED_AT"
    METRIC = "METRIC"


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One key of an ordering; `metric` names the metric that METRIC orders by."""

    field: RunOrderField
    descending: bool
    metric: str | None = None


_NAN = cast(literal("NaN"), Double)
_NEWEST_FIRST = (RunOrder(RunOrderField.CREATED_AT, descending=True),)


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, RunRow]:
    """The runs among `ids`; those that do not exist are absent."""
    return {row.id: row for row in await session.scalars(_BY_IDS, {"ids": list(ids)})}


async def lock(session: WriteSession, id: UUID) -> RunRow | None:
    """The run as it stands, held until the transaction ends."""
    return await session.get(
        RunRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def lock_silent(session: WriteSession, limit: int) -> Sequence[RunRow]:
    """Running runs whose lease has run out and that nobody else is changing now, held."""
    silent = RunRow.last_reported_at + func.make_interval(0, 0, 0, 0, 0, 0, RunRow.lease_seconds)
    rows = await session.scalars(
        select(RunRow)
        .where(RunRow.status == RunStatus.RUNNING, silent < func.clock_timestamp())
        .order_by(RunRow.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return rows.all()


async def page(
    session: ReadSession, wanted: RunFilter, order: tuple[RunOrder, ...], request: PageRequest
) -> Page[RunRow]:
    """A page of all runs that match."""
    statement = _matching(select(RunRow), wanted)
    return await fetch(session, statement, ordering(wanted, order), request)


async def pages_of_experiments(
    session: ReadSession,
    experiment_ids: Sequence[UUID],
    wanted: RunFilter,
    order: tuple[RunOrder, ...],
    request: PageRequest,
) -> dict[UUID, Page[RunRow]]:
    """A page of each experiment's runs that match."""
    return await fetch_each(
        session,
        experiment_ids,
        RunRow,
        RunRow.experiment_id,
        _matching(select(RunRow), wanted),
        ordering(wanted, order),
        request,
    )


async def count(session: ReadSession, wanted: RunFilter) -> int:
    """How many runs match."""
    return await total(session, _matching(select(RunRow), wanted))


async def counts_of_experiments(
    session: ReadSession, experiment_ids: Sequence[UUID], wanted: RunFilter
) -> dict[UUID, int]:
    """How many of each experiment's runs match; those that have none are absent."""
    statement = _matching(select(RunRow), wanted)
    return await totals(session, experiment_ids, RunRow.experiment_id, statement)


async def artifacts(session: ReadSession, run_ids: Sequence[UUID]) -> dict[UUID, list[ArtifactRow]]:
    """Each run's artifacts, by path."""
    statement = select(ArtifactRow).order_by(ArtifactRow.path)
    return await fetch_all(session, run_ids, ArtifactRow.run_id, statement)


async def artifacts_of_experiments(
    session: ReadSession, experiment_ids: Sequence[UUID]
) -> dict[UUID, Sequence[ArtifactRow]]:
    """The newest artifacts that each experiment's runs wrote, newest first, 1,000 at most."""
    return await _of_experiments(
        session,
        experiment_ids,
        ArtifactRow,
        ArtifactRow.run_id,
        (ArtifactRow.created_at, ArtifactRow.run_id, ArtifactRow.path),
        MAX_ARTIFACTS_SHOWN,
    )


async def log_of_experiments(
    session: ReadSession, experiment_ids: Sequence[UUID], last: int
) -> dict[UUID, Sequence[LogLineRow]]:
    """The newest lines that each experiment's runs wrote, newest first."""
    return await _of_experiments(
        session,
        experiment_ids,
        LogLineRow,
        LogLineRow.owner_id,
        (LogLineRow.timestamp, LogLineRow.owner_id, LogLineRow.line),
        last,
    )


async def _of_experiments(
    session: ReadSession,
    experiment_ids: Sequence[UUID],
    entity: Any,
    run_column: Any,
    order: Sequence[Any],
    limit: int,
) -> dict[UUID, Sequence[Any]]:
    rank = (
        func.row_number()
        .over(partition_by=RunRow.experiment_id, order_by=[key.desc() for key in order])
        .label("rank")
    )
    ranked = (
        select(RunRow.experiment_id.label("parent"), rank, entity)
        .join(RunRow, RunRow.id == run_column)
        .where(among(RunRow.experiment_id, experiment_ids))
        .subquery()
    )
    rows = await session.execute(
        select(ranked.c.parent, aliased(entity, ranked))
        .where(ranked.c.rank <= limit)
        .order_by(ranked.c.parent, ranked.c.rank)
    )
    found: dict[UUID, list[Any]] = {}
    for parent, row in rows:
        found.setdefault(parent, []).append(row)
    return dict(found)


async def store_artifacts(
    session: WriteSession, run_id: UUID, artifacts: Sequence[dict[str, Any]]
) -> None:
    """Add artifacts to a run, or replace those of the same path."""
    statement = insert(ArtifactRow)
    given = statement.excluded
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["run_id", "path"],
            set_={"name": given.name, "size_bytes": given.size_bytes, "digest": given.digest},
        ),
        [{"run_id": run_id, **artifact} for artifact in artifacts],
    )


def ordering(wanted: RunFilter, order: tuple[RunOrder, ...]) -> Ordering:
    """The ordering of a list of runs, newest first unless told otherwise."""
    order = order or _NEWEST_FIRST
    keys = [_sort_key(key) for key in order]
    return Ordering([*keys, by_id(RunRow.id, descending=order[-1].descending)], wanted, order)


def _sort_key(order: RunOrder) -> SortKey:
    if order.field is RunOrderField.METRIC:
        value = (
            select(LatestMetricRow.value)
            .where(LatestMetricRow.run_id == RunRow.id, LatestMetricRow.key == order.metric)
            .scalar_subquery()
        )
        # PostgreSQL puts NaN above all numbers: a run with it, or without the metric, comes last
        # either way.
        return by_number(func.coalesce(-value if order.descending else value, _NAN, type_=Double()))
    columns = {
        RunOrderField.CREATED_AT: RunRow.created_at,
        RunOrderField.UPDATED_AT: RunRow.updated_at,
    }
    return by_time(columns[order.field], descending=order.descending)


def _matching(statement: Select[Any], wanted: RunFilter) -> Select[Any]:
    if wanted.experiment_name is not None:
        named = select(ExperimentRow.id).where(ExperimentRow.name == wanted.experiment_name)
        statement = statement.where(RunRow.experiment_id == named.scalar_subquery())
    if wanted.statuses:
        statement = statement.where(RunRow.status.in_(wanted.statuses))
    if wanted.created_by is not None:
        statement = statement.where(RunRow.created_by == wanted.created_by)
    if wanted.param is not None:
        statement = statement.where(RunRow.params.contains(dict([wanted.param])))
    if wanted.tag is not None:
        statement = statement.where(RunRow.tags.contains(dict([wanted.tag])))
    if wanted.metric is not None:
        found = select(1).where(
            LatestMetricRow.run_id == RunRow.id,
            LatestMetricRow.key == wanted.metric.key,
            LatestMetricRow.value != _NAN,
        )
        if wanted.metric.gte is not None:
            found = found.where(LatestMetricRow.value >= wanted.metric.gte)
        if wanted.metric.lte is not None:
            found = found.where(LatestMetricRow.value <= wanted.metric.lte)
        statement = statement.where(found.exists())
    return statement
