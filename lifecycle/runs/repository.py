"""All SQL about runs and their artifacts; metrics have a module of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Double,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from lifecycle.database import ReadSession, WriteSession
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.logs.tables import LogLineRow
from lifecycle.pages import (
    Children,
    Listing,
    Lookup,
    Ordering,
    Page,
    PageRequest,
    SortKey,
    among,
    by_id,
    by_number,
    by_time,
    listing,
)
from lifecycle.runs.rules import ArtifactArea, RunStatus
from lifecycle.runs.tables import ArtifactRow, LatestMetricRow, RunRow

_BY_IDS = Lookup(RunRow, RunRow.id)
_ARTIFACTS = Children(select(ArtifactRow), ArtifactRow.run_id, ArtifactRow.path)
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
    """No UPDATED_AT: an index on it would have to be changed by every report of every run."""

    CREATED_AT = "CREATED_AT"
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
    return await _BY_IDS.fetch(session, ids)


async def lock(session: WriteSession, id: UUID) -> RunRow | None:
    """The run as it stands, held until the transaction ends."""
    return await session.get(
        RunRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def hold(session: WriteSession, id: UUID) -> RunRow | None:
    """The run as it stands; nobody changes it until the transaction ends.

    Not shared with others who hold it: they would go past whoever waits to change it, for ever.
    """
    return await session.get(
        RunRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


# Said by its name and not by a parameter, so that PostgreSQL knows that the index serves it.
_RUNNING: ColumnElement[RunStatus] = literal_column(f"'{RunStatus.RUNNING}'")


async def lock_silent(session: WriteSession, limit: int) -> Sequence[RunRow]:
    """Running runs whose lease has run out and that nobody else is changing now, held."""
    silent = RunRow.last_reported_at + func.make_interval(0, 0, 0, 0, 0, 0, RunRow.lease_seconds)
    rows = await session.scalars(
        select(RunRow)
        .where(RunRow.status == _RUNNING, silent < func.clock_timestamp())
        .order_by(RunRow.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return rows.all()


@listing
def _listing(wanted: RunFilter, order: tuple[RunOrder, ...], parent: Any = None) -> Listing[RunRow]:
    """Newest first unless told otherwise."""
    order = order or _NEWEST_FIRST
    keys = [*map(_sort_key, order), by_id(RunRow.id, descending=order[-1].descending)]
    ordering = Ordering(keys, wanted, order)
    return Listing(_matching(select(RunRow), wanted), ordering, parent)


async def page(
    session: ReadSession, wanted: RunFilter, order: tuple[RunOrder, ...], request: PageRequest
) -> Page[RunRow]:
    """A page of all runs that match."""
    return await _listing(wanted, order).page(session, request)


async def pages_of_experiments(
    session: ReadSession,
    experiment_ids: Sequence[UUID],
    wanted: RunFilter,
    order: tuple[RunOrder, ...],
    request: PageRequest,
) -> dict[UUID, Page[RunRow]]:
    """A page of each experiment's runs that match."""
    listing = _listing(wanted, order, RunRow.experiment_id)
    return await listing.pages(session, experiment_ids, request)


async def pages_of_data_sets(
    session: ReadSession,
    data_set_ids: Sequence[UUID],
    wanted: RunFilter,
    order: tuple[RunOrder, ...],
    request: PageRequest,
) -> dict[UUID, Page[RunRow]]:
    """A page of the runs on each data set that match."""
    return await _listing(wanted, order, RunRow.data_set_id).pages(session, data_set_ids, request)


async def count(session: ReadSession, wanted: RunFilter) -> int:
    """How many runs match."""
    return await _listing(wanted, ()).count(session)


async def counts_of_experiments(
    session: ReadSession, experiment_ids: Sequence[UUID], wanted: RunFilter
) -> dict[UUID, int]:
    """How many of each experiment's runs match; those that have none are absent."""
    return await _listing(wanted, (), RunRow.experiment_id).counts(session, experiment_ids)


async def counts_of_data_sets(
    session: ReadSession, data_set_ids: Sequence[UUID], wanted: RunFilter
) -> dict[UUID, int]:
    """How many of the runs on each data set match; those that have none are absent."""
    return await _listing(wanted, (), RunRow.data_set_id).counts(session, data_set_ids)


async def artifacts(session: ReadSession, run_ids: Sequence[UUID]) -> dict[UUID, list[ArtifactRow]]:
    """Each run's artifacts, by path."""
    return await _ARTIFACTS.fetch(session, run_ids)


async def artifacts_by_path(
    session: ReadSession, places: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], ArtifactRow]:
    """The artifacts that runs wrote at exactly these paths; those that do not exist are absent."""
    wanted = (
        func.unnest(
            literal([run_id for run_id, _ in places], ARRAY(Uuid)),
            literal([path for _, path in places], ARRAY(Text)),
        )
        .table_valued(column("run_id", Uuid), column("path", Text), name="wanted")
        .render_derived()
    )
    belongs = (ArtifactRow.run_id == wanted.c.run_id) & (ArtifactRow.path == wanted.c.path)
    rows = await session.fetch(select(ArtifactRow).join(wanted, belongs))
    return {(row.run_id, row.path): row for row in rows}


async def artifact(session: ReadSession, run_id: UUID, path: str) -> ArtifactRow | None:
    """The artifact that a run wrote at exactly this path."""
    statement = select(ArtifactRow).where(ArtifactRow.run_id == run_id, ArtifactRow.path == path)
    return await session.fetch_one(statement)


async def artifacts_of_experiments(
    session: ReadSession, experiment_ids: Sequence[UUID]
) -> dict[UUID, list[ArtifactRow]]:
    """The newest artifacts that each experiment's runs wrote, newest first, 1,000 at most."""
    within = (ArtifactRow.created_at, ArtifactRow.path)
    order = (ArtifactRow.created_at, ArtifactRow.run_id, ArtifactRow.path)
    belongs = ArtifactRow.run_id == RunRow.id
    return await _newest(
        session, experiment_ids, ArtifactRow, belongs, within, order, MAX_ARTIFACTS_SHOWN
    )


async def log_of_experiments(
    session: ReadSession, experiment_ids: Sequence[UUID], last: int
) -> dict[UUID, list[LogLineRow]]:
    """The newest lines that each experiment's runs wrote, newest first."""
    within = (LogLineRow.line,)
    order = (LogLineRow.timestamp, LogLineRow.owner_id, LogLineRow.line)
    belongs = LogLineRow.owner_id == RunRow.id
    return await _newest(session, experiment_ids, LogLineRow, belongs, within, order, last)


async def _newest(
    session: ReadSession,
    experiment_ids: Sequence[UUID],
    entity: Any,
    belongs: ColumnElement[bool],
    within: Sequence[Any],
    order: Sequence[Any],
    limit: int,
) -> dict[UUID, list[Any]]:
    """The last rows that each experiment's runs have. Only the last of each run are looked at, by
    the order that they have `within` it, so that the cost does not grow with all that was written.
    """
    ids = bindparam("ids", list(experiment_ids), ARRAY(Uuid))
    experiment = func.unnest(ids).column_valued("experiment")
    last_keys = [key.desc() for key in within]
    of_run = select(entity).where(belongs).order_by(*last_keys).limit(limit).lateral("of_run")
    newest = (
        select(of_run)
        .select_from(RunRow)
        .join(of_run, true())
        .where(RunRow.experiment_id == experiment)
        .order_by(*(of_run.c[key.key].desc() for key in order))
        .limit(limit)
        .lateral("newest")
    )
    rows = await session.fetch(
        select(experiment, aliased(entity, newest))
        .join(newest, true())
        .order_by(*(newest.c[key.key].desc() for key in order))
    )
    found: dict[UUID, list[Any]] = {}
    for id, row in rows:
        found.setdefault(id, []).append(row)
    return found


async def artifacts_at(
    session: ReadSession, run_id: UUID, paths: Sequence[str]
) -> Sequence[ArtifactRow]:
    """Those of a run's artifacts that have one of these paths, by path."""
    statement = select(ArtifactRow).where(
        ArtifactRow.run_id == run_id, ArtifactRow.path == any_(literal(list(paths), ARRAY(Text)))
    )
    return await session.fetch(statement.order_by(ArtifactRow.path))


async def has_content(session: ReadSession, area: ArtifactArea, digest: str) -> bool:
    """Whether any artifact has its content in this area, by this digest."""
    found = select(1).where(ArtifactRow.area == area, ArtifactRow.digest == digest).limit(1)
    return bool(await session.fetch(found))


async def store_artifacts(
    session: WriteSession, run_id: UUID, artifacts: Sequence[dict[str, Any]]
) -> None:
    """Add artifacts to a run, or replace those of the same path."""
    statement = insert(ArtifactRow)
    given = statement.excluded
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["run_id", "path"],
            set_={field: given[field] for field in ("name", "size_bytes", "digest", "area")},
        ),
        [{"run_id": run_id, **artifact} for artifact in artifacts],
    )


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
    return by_time(RunRow.created_at, descending=order.descending)


def _matching(statement: Select[Any], wanted: RunFilter) -> Select[Any]:
    if wanted.experiment_name is not None:
        named = select(ExperimentRow.id).where(ExperimentRow.name == wanted.experiment_name)
        statement = statement.where(RunRow.experiment_id == named.scalar_subquery())
    if wanted.statuses:
        statement = statement.where(among(RunRow.status, wanted.statuses))
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
