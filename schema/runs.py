"""Runs as clients see them."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import strawberry
from strawberry import Private
from strawberry.scalars import JSON

import schema.datasets
import schema.deployments
import schema.experiments
import schema.registry
import schema.tracking
from lifecycle.access.rules import known_as
from lifecycle.datasets import repository as datasets
from lifecycle.deployments import repository as deployments
from lifecycle.errors import InvalidInput as InvalidArgument
from lifecycle.errors import NotFound as Missing
from lifecycle.experiments import repository as experiments
from lifecycle.journal.feed import Happened
from lifecycle.journal.repository import EventFilter
from lifecycle.logs import repository as logs
from lifecycle.pages import PageRequest
from lifecycle.promotion import review
from lifecycle.registry import repository as registry
from lifecycle.runs import metrics, repository, service
from lifecycle.runs.metrics import MetricValue, NewMetricValue
from lifecycle.runs.repository import MetricCondition, RunFilter, RunOrder, RunOrderField
from lifecycle.runs.rules import ArtifactArea, RunStatus
from lifecycle.runs.service import NumberKind
from lifecycle.runs.tables import ArtifactRow, RunRow
from lifecycle.tracking.rules import TrackedKind
from schema import ids, journal, links
from schema.context import Context, Info
from schema.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    InvalidTransition,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.impact import affected
from schema.inputs import ChangeInput, Given, WriteInput, choices, parse
from schema.journal import CaughtUp, CursorExpired, Heartbeat
from schema.loaded import Further, found, loaded
from schema.logs import LogConnection, LogLine, LogLineInput, lines_of, log_connection
from schema.metrics import Metric, MetricInput, MetricSeries, metrics_of
from schema.nodes import Node, Tag, TagInput, tags_of
from schema.pagination import (
    After,
    Before,
    Connection,
    First,
    Last,
    OrderDirection,
    directions,
    listed,
)
from schema.rows import OfRow, shown
from schema.scalars import BigInt

if TYPE_CHECKING:
    from schema.datasets import DataSet
    from schema.deployments import Deployment
    from schema.experiments import Experiment
    from schema.registry import ModelVersion
    from schema.tracking import MlflowLink


_LINES_SHOWN = 100
_POINTS_SHOWN = 1000


@strawberry.type(description="A parameter of a run.")
class Param:
    key: str = strawberry.field(description="Unique in the run.")
    value: str = strawberry.field(description="As text.")


@strawberry.input(description="A parameter of a run.")
class ParamInput:
    key: str = strawberry.field(description="Unique in the run.")
    value: str = strawberry.field(description="As text.")


@strawberry.type(description="A file that a run wrote.")
class Artifact(OfRow[ArtifactRow]):
    row: Private[ArtifactRow]
    keys = ("area", "digest", "name", "path", "run_id")
    name: str = shown(description="For people.")
    path: str = shown(description="Where it lies; unique in the run.")
    size_bytes: BigInt | None = shown(
        description="How large it is.",
    )
    digest: str | None = shown(description="A digest of its content.")
    area: ArtifactArea | None = shown(
        description="Where its content is kept; null if it was only described."
    )

    @strawberry.field(
        description="Where its content can be read: for 15 minutes, without anything else; of a "
        "run that came from MLflow at MLflow, as it lets one. Null if it was only described."
    )
    async def download_url(self, info: Info) -> str | None:
        if self.area is None:
            return await schema.tracking.file_of(info, self.row.run_id, self.path)
        return await links.download_url(info.context, self.area, self.digest, self.name)


@strawberry.input(description="A file that a run wrote.")
class ArtifactInput:
    name: str = strawberry.field(description="For people.")
    path: str = strawberry.field(description="Where it lies; unique in the run.")
    size_bytes: BigInt | None = strawberry.field(default=None, description="How large it is.")
    digest: str | None = strawberry.field(
        default=None, description="A digest of its content, such as sha256:…."
    )


def _keys(
    keys: Annotated[
        list[str] | None, strawberry.argument(description="Only these; by default all.")
    ] = None,
) -> Further:
    """Which metrics."""
    return Further((None if keys is None else tuple(sorted(set(keys))),))


@strawberry.type(description="One attempt in an experiment.")
class Run(Node, OfRow[RunRow]):
    row: Private[RunRow]
    keys = ("id", "log_lines")
    name: str | None = shown(description="Need not be unique.")
    status: RunStatus = shown(description="Where it stands.")
    status_message: str | None = shown(description="Why it stands there.")
    params: list[Param] = shown(
        lambda row: [Param(key=key, value=row.params[key]) for key in sorted(row.params)],
        description="What it was run with, by key.",
    )
    tags: list[Tag] = shown(
        lambda row: tags_of(row.tags), needs=("tags",), description="Labels, by key."
    )
    source: str | None = shown(description="What was run, such as a script or a job.")
    git_commit: str | None = shown(description="The commit of the code.")
    dataset_facts: JSON | None = shown(
        description="What is known of the data: name, digest, sizes, number of features, dates, ….",
    )
    created_by: str = shown(description="Who logged it.")
    created_at: datetime = shown(description="When it was logged.")
    started_at: datetime | None = shown(description="When it began to run.")
    ended_at: datetime | None = shown(description="When it ended.")
    duration_seconds: float | None = shown(
        lambda row: (
            (row.ended_at - row.started_at).total_seconds()
            if row.started_at and row.ended_at
            else None
        ),
        description="From its start to its end.",
    )
    last_reported_at: datetime = shown(description="When its writer was last heard of.")
    lease_seconds: int = shown(description="How long its writer may be silent.")
    updated_at: datetime = shown(description="When it last changed.")
    revision: int = shown(
        description="Counts changes, though not points and log lines; see `expectedRevision`."
    )

    experiment: Annotated["Experiment", strawberry.lazy("schema.experiments")] = loaded(
        experiments.by_ids,
        by="experiment_id",
        leaves=True,
        description="The experiment it belongs to.",
    )

    parent: Annotated["Run", strawberry.lazy("schema.runs")] | None = loaded(
        repository.by_ids,
        by="parent_id",
        leaves=True,
        description="The run that it is a part of.",
    )

    data_set: Annotated["DataSet", strawberry.lazy("schema.datasets")] | None = loaded(
        datasets.by_ids,
        by="data_set_id",
        leaves=True,
        description="The data set that `datasetFacts` names, if they name one.",
    )

    metrics: list[Metric] = loaded(
        metrics.latest,
        by="id",
        given=_keys,
        leaves=True,
        description="The latest value of each metric, by key.",
    )

    @strawberry.field(description="Metrics over time, sampled evenly; unknown ones are left out.")
    async def metric_history(
        self,
        info: Info,
        keys: Annotated[list[str], strawberry.argument(description="Which; at most 100.")],
        max_points: Annotated[
            int | None,
            strawberry.argument(description="Points per metric, 2 to 10,000; by default 1,000."),
        ] = 1000,
    ) -> list[MetricSeries]:
        max_points = _POINTS_SHOWN if max_points is None else max_points
        if not 2 <= max_points <= 10_000:
            raise InvalidArgument("Ask for 2 to 10,000 points.", ("max_points",))
        if len(keys) > 100:
            raise InvalidArgument("Ask for at most 100 metrics.", ("keys",))
        wanted = tuple(sorted(set(keys)))
        found = await info.context.loaders.load(metrics.history, self.row.id, wanted, max_points)
        return [MetricSeries.from_series(series) for series in found or ()]

    artifacts: list[Artifact] = loaded(
        repository.artifacts,
        by="id",
        leaves=True,
        description="The files that it wrote, by path.",
    )

    @strawberry.field(description="What it printed, oldest first.")
    async def logs(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> LogConnection:
        return await log_connection(
            info, self.row.id, self.row.log_lines, first, after, last, before
        )

    @strawberry.field(description="How it stands with MLflow.")
    async def mlflow(
        self, info: Info
    ) -> Annotated["MlflowLink", strawberry.lazy("schema.tracking")]:
        return await schema.tracking.link_of(info, TrackedKind.RUN, self.row.id)

    model_versions: list[Annotated["ModelVersion", strawberry.lazy("schema.registry")]] = loaded(
        registry.versions_of_runs,
        by="id",
        description="The versions that came out of it, oldest first.",
    )

    affected_deployments: Connection[
        Annotated["Deployment", strawberry.lazy("schema.deployments")]
    ] = loaded(
        deployments.pages_affected_by_runs,
        by="id",
        given=affected,
        counts=deployments.counts_affected_by_runs,
        description="The deployments of what came out of it and of the runs that are parts of it, "
        "newest first.",
    )


@strawberry.input(description="A bound on the latest value of a metric; NaN is never within.")
class MetricConditionInput:
    key: str = strawberry.field(description="The metric's name.")
    gte: float | None = strawberry.field(default=None, description="At least this.")
    lte: float | None = strawberry.field(default=None, description="At most this.")


@strawberry.input(description="A parameter with a value.")
class ParamConditionInput:
    key: str = strawberry.field(description="The parameter's name.")
    equals: str = strawberry.field(description="Exactly this value.")


@strawberry.input(description="A tag with a value.")
class TagConditionInput:
    key: str = strawberry.field(description="The tag's name.")
    equals: str = strawberry.field(description="Exactly this value.")


@strawberry.input(name="RunFilter", description="What is left out does not restrict.")
class RunFilterInput:
    experiment_name: str | None = strawberry.field(
        default=None, description="Of the experiment of exactly this name."
    )
    statuses: list[RunStatus] | None = strawberry.field(default=None, description="Any of these.")
    created_by: str | None = strawberry.field(default=None, description="Logged by this actor.")
    metric: MetricConditionInput | None = strawberry.field(
        default=None, description="With a metric within bounds."
    )
    param: ParamConditionInput | None = strawberry.field(
        default=None, description="With this parameter."
    )
    tag: TagConditionInput | None = strawberry.field(default=None, description="With this tag.")


@strawberry.input(
    name="RunOrder",
    description="One key of an ordering. Runs without the metric come last either way.",
)
class RunOrderInput:
    field: RunOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )
    metric: str | None = strawberry.field(
        default=None, description="The metric that METRIC orders by: its latest value."
    )


@strawberry.input(description="A run, or its beginning.")
class LogRunInput(WriteInput):
    experiment_name: str = strawberry.field(description="The experiment; it must exist.")
    name: str | None = strawberry.field(default=None, description="Need not be unique.")
    status: RunStatus = strawberry.field(
        default=RunStatus.RUNNING, description="Any but LOST; COMPLETED for a run that is over."
    )
    status_message: str | None = strawberry.field(default=None, description="Why it is so.")
    params: list[ParamInput] | None = strawberry.field(
        default=None,
        description="Run with these, at most 1,000 at once; a run has at most 2,000, of 250,000 "
        "characters in all.",
    )
    metrics: list[MetricInput] | None = strawberry.field(
        default=None,
        description="First points of its metrics, at most 1,000.",
    )
    tags: list[TagInput] | None = strawberry.field(
        default=None, description="Labels, at most 1,000, of 250,000 characters in all."
    )
    artifacts: list[ArtifactInput] | None = strawberry.field(
        default=None, description="Files that it wrote."
    )
    source: str | None = strawberry.field(default=None, description="What was run.")
    git_commit: str | None = strawberry.field(default=None, description="The commit of the code.")
    dataset_facts: JSON | None = strawberry.field(
        default=None,
        description="A JSON object: sizes, number of features, dates, …. A `name`, and perhaps a "
        "`digest`, of up to 250 characters say which data set it is.",
    )
    parent_id: strawberry.ID | None = strawberry.field(
        default=None, description="The run that it is a part of."
    )
    started_at: datetime | None = strawberry.field(default=None, description="By default now.")
    ended_at: datetime | None = strawberry.field(
        default=None, description="Of a run that is over; by default now."
    )
    lease_seconds: int | None = strawberry.field(
        default=None,
        description="How long its writer may be silent while it is RUNNING before it is LOST, in "
        "seconds, up to 7 days; by default 3,600. It is found out within some seconds.",
    )


@strawberry.input(description="A report about a run; what is left out stays as it is.")
class UpdateRunInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which run.")
    name: strawberry.Maybe[str | None] = strawberry.field(description="Need not be unique.")
    status: RunStatus | None = strawberry.field(default=None, description="Its new status.")
    status_message: strawberry.Maybe[str | None] = strawberry.field(description="Why it is so.")
    params: list[ParamInput] | None = strawberry.field(
        default=None,
        description="Further parameters, within the same bounds; those that it has cannot change.",
    )
    dataset_facts: strawberry.Maybe[JSON | None] = strawberry.field(
        description="All that is known of the data from now on, a JSON object; `name` and `digest` "
        "say which data set it is, which only who administrates everything does once a version of "
        "the run, or of its parts, has been in PRODUCTION, or one of its parts is submitted or "
        "approved."
    )
    metrics: list[MetricInput] | None = strawberry.field(
        default=None, description="Further points of its metrics."
    )
    tags: list[TagInput] | None = strawberry.field(
        default=None,
        description="All its labels from now on, at most 1,000, of 250,000 characters in all.",
    )
    artifacts: list[ArtifactInput] | None = strawberry.field(
        default=None, description="Further files; one of the same path is replaced."
    )
    ended_at: datetime | None = strawberry.field(
        default=None, description="When it ended, with a status that says so; by default now."
    )


@strawberry.input(description="Points of one metric as columns of equal length.")
class MetricSeriesInput:
    key: str = strawberry.field(description="The metric's name.")
    steps: list[BigInt] = strawberry.field(description="The steps.")
    values: list[float | None] = strawberry.field(
        description="The numbers; null where `kinds` says what it is instead."
    )
    kinds: list[NumberKind] | None = strawberry.field(
        default=None, description="Needed only if some are not finite."
    )
    timestamps: list[datetime] | None = strawberry.field(
        default=None,
        description="When each was measured. Without them a point is known by its step alone: "
        "sent again, it replaces the one that is there.",
    )


@strawberry.input(
    description="Points of a run's metrics, at most 10,000 in all, of at most 1,000 metrics."
)
class LogMetricsInput(WriteInput):
    run_id: strawberry.ID = strawberry.field(description="Which run.")
    series: list[MetricSeriesInput] = strawberry.field(description="The points by metric.")


@strawberry.input(description="What a run printed.")
class LogRunOutputInput(WriteInput):
    run_id: strawberry.ID = strawberry.field(description="Which run.")
    lines: list[LogLineInput] = strawberry.field(description="1 to 1,000 lines, in their order.")


@strawberry.type(description="The run was logged.")
class LogRunSuccess:
    run: Run = strawberry.field(description="The new run.")


@strawberry.type(description="The run was changed.")
class UpdateRunSuccess:
    run: Run = strawberry.field(description="The run as it is now.")


@strawberry.type(description="The points are stored.")
class LogMetricsSuccess:
    run: Run = strawberry.field(description="The run as it is now.")


@strawberry.type(description="The lines are stored.")
class LogRunOutputSuccess:
    run: Run = strawberry.field(description="The run as it is now.")


LogRunResult = Annotated[
    LogRunSuccess | NotFound | Conflict | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("LogRunResult", description="What came of logRun."),
]
UpdateRunResult = Annotated[
    UpdateRunSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("UpdateRunResult", description="What came of updateRun."),
]
LogMetricsResult = Annotated[
    LogMetricsSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("LogMetricsResult", description="What came of logMetrics."),
]
LogRunOutputResult = Annotated[
    LogRunOutputSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("LogRunOutputResult", description="What came of logRunOutput."),
]


@strawberry.type(description="Points of a run's metrics arrived.")
class RunMetricsEvent:
    cursor: str = strawberry.field(description="Resume after this one to miss nothing.")
    run_id: strawberry.ID = strawberry.field(description="The run.")
    metrics: list[Metric] = strawberry.field(
        description="The latest value of each metric that was reported."
    )
    at: datetime = strawberry.field(description="When they arrived.")


@strawberry.type(description="A run printed something.")
class RunOutputEvent:
    cursor: str = strawberry.field(description="Resume after this one to miss nothing.")
    run_id: strawberry.ID = strawberry.field(description="The run.")
    key: Private[UUID]
    first_line: Private[int]
    last_line: Private[int]

    @strawberry.field(description="What it printed.")
    async def lines(self, info: Info) -> list[LogLine]:
        rows = await info.context.loaders.load(
            logs.between, self.key, self.first_line, self.last_line
        )
        return lines_of(rows)


@strawberry.type(description="A run's status changed, or this is what it is at the start.")
class RunStatusEvent:
    cursor: str = strawberry.field(description="Resume after this one to miss nothing.")
    run_id: strawberry.ID = strawberry.field(description="The run.")
    from_: RunStatus | None = strawberry.field(
        name="from", description="The former status; null if this is the present state."
    )
    to: RunStatus = strawberry.field(description="The status.")
    at: datetime = strawberry.field(description="When it became so.")


RunProgressEvent = RunMetricsEvent | RunOutputEvent | RunStatusEvent
RunProgressItem = Annotated[
    RunMetricsEvent | RunOutputEvent | RunStatusEvent | CaughtUp | Heartbeat | CursorExpired,
    strawberry.union("RunProgressItem", description="What runProgress sends."),
]


async def run_by_id(info: Info, id: UUID | None) -> Run | None:
    """A run, or None."""
    row = await info.context.loaders.load(repository.by_ids, id) if id else None
    return Run.from_row(row) if row else None


def run_filter(given: RunFilterInput | None) -> RunFilter:
    """The filter that a client means."""
    if given is None:
        return RunFilter()
    metric = given.metric
    return RunFilter(
        experiment_name=given.experiment_name,
        statuses=choices(given.statuses),
        created_by=given.created_by and known_as(given.created_by),
        metric=MetricCondition(metric.key, metric.gte, metric.lte) if metric else None,
        param=(given.param.key, given.param.equals) if given.param else None,
        tag=(given.tag.key, given.tag.equals) if given.tag else None,
    )


def run_order(given: Sequence[RunOrderInput] | None) -> tuple[RunOrder, ...]:
    """The ordering that a client means. Raises InvalidInput."""
    pairs = directions(given)
    for key in given or ():
        if (key.field is RunOrderField.METRIC) != (key.metric is not None):
            raise InvalidArgument("METRIC, and only METRIC, needs a metric.", ("order_by",))
    return tuple(
        RunOrder(field, descending, key.metric)
        for (field, descending), key in zip(pairs, given or (), strict=True)
    )


@strawberry.type
class RunQueries:
    run: Run | None = found(
        repository.by_ids, key=ids.of("Run"), leaves=True, description="One run, or null."
    )

    @strawberry.field(description="Runs of all experiments, newest first unless ordered otherwise.")
    async def runs(
        self,
        info: Info,
        filter: Annotated[
            RunFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            list[RunOrderInput] | None,
            strawberry.argument(description="The first key decides, then the second, …."),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Run]:
        request = PageRequest.parse(first, after, last, before)
        wanted, order = run_filter(filter), run_order(order_by)
        return await listed(
            info,
            Run.from_row,
            lambda session: repository.page(session, wanted, order, request),
            lambda session: repository.count(session, wanted),
        )


@strawberry.type
class RunMutations:
    @strawberry.mutation(description="Record a run, as a whole or as it begins.")
    async def log_run(self, info: Info, input: Given[LogRunInput]) -> LogRunResult:
        command = parse(service.LogRun, input, parent_id="Run")
        row = await info.context.write(service.log_run, command)
        return LogRunSuccess(run=Run.from_row(row))

    @strawberry.mutation(description="Report on a run: status, metrics, tags, artifacts.")
    async def update_run(self, info: Info, input: Given[UpdateRunInput]) -> UpdateRunResult:
        command = parse(service.UpdateRun, input, id="Run")
        row = await info.context.write(review.update_run, command)
        return UpdateRunSuccess(run=Run.from_row(row))

    @strawberry.mutation(
        description="Store points of a run's metrics, also after it has ended. Sent again, they "
        "change nothing."
    )
    async def log_metrics(self, info: Info, input: Given[LogMetricsInput]) -> LogMetricsResult:
        command = parse(service.LogMetrics, input, run_id="Run")
        row = await info.context.write(service.log_metrics, command)
        return LogMetricsSuccess(run=Run.from_row(row))

    @strawberry.mutation(description="Add lines to a run's log.")
    async def log_run_output(
        self, info: Info, input: Given[LogRunOutputInput]
    ) -> LogRunOutputResult:
        command = parse(service.LogRunOutput, input, run_id="Run")
        row = await info.context.write(service.log_output, command)
        return LogRunOutputSuccess(run=Run.from_row(row))


_STATUS = frozenset({"run.created", "run.status_changed"})
_FOLLOWED = _STATUS | {"run.metrics_logged", "run.output_logged"}


@strawberry.type
class RunSubscriptions:
    @strawberry.subscription(
        description="A run as it goes on: status, metrics, output. With a cursor: everything after "
        "it, CaughtUp, then what happens. Without: the present state, CaughtUp, then what happens."
    )
    async def run_progress(
        self,
        info: Info,
        run_id: Annotated[strawberry.ID, strawberry.argument(description="Which run.")],
        after: Annotated[
            str | None, strawberry.argument(description="The last cursor that was received.")
        ] = None,
    ) -> AsyncIterator[RunProgressItem]:
        key = ids.decode("Run", run_id, ("run_id",))
        if await run_by_id(info, key) is None:
            raise Missing("run", "with this id", ("run_id",))
        wanted = EventFilter("run", _FOLLOWED, key)
        present = _present(info.context, key)
        return journal.follow(info.context, wanted, after, present, _item)


async def _present(context: Context, key: UUID) -> AsyncIterator[RunProgressEvent]:
    """What a run is like at the start of a subscription: status, latest metrics, last lines.

    Who is cut off in the middle has not seen it all: the cursor means to start anew.
    """
    async with context.database.read() as session:
        row = (await repository.by_ids(session, [key]))[key]
        latest = await metrics.latest(session, [key], None)
    cursor, id = context.feed.cursor(None), ids.encode("Run", key)
    yield RunStatusEvent(cursor=cursor, run_id=id, from_=None, to=row.status, at=row.updated_at)
    if key in latest:
        shown = metrics_of(latest[key])
        yield RunMetricsEvent(cursor=cursor, run_id=id, metrics=shown, at=row.updated_at)
    if row.log_lines:
        first = max(1, row.log_lines - _LINES_SHOWN + 1)
        yield RunOutputEvent(
            cursor=cursor, run_id=id, key=key, first_line=first, last_line=row.log_lines
        )


def _item(happened: Happened) -> RunProgressEvent:
    event, cursor = happened.event, happened.cursor
    id = ids.encode("Run", event.subject_id)
    if event.type == "run.metrics_logged":
        return RunMetricsEvent(
            cursor=cursor,
            run_id=id,
            metrics=[Metric.from_row(_metric(plain)) for plain in event.after["metrics"]],
            at=event.at,
        )
    if event.type == "run.output_logged":
        return RunOutputEvent(
            cursor=cursor,
            run_id=id,
            key=event.subject_id,
            first_line=event.after["first_line"],
            last_line=event.after["last_line"],
        )
    former = event.before.get("status")
    return RunStatusEvent(
        cursor=cursor,
        run_id=id,
        from_=RunStatus(former) if former else None,
        to=RunStatus(event.after["status"]),
        at=event.at,
    )


def _metric(plain: Sequence[Any]) -> MetricValue:
    """A metric as the journal keeps it; what is not finite is kept as text."""
    key, value, step, timestamp = plain
    return NewMetricValue(key, float(value), step, datetime.fromisoformat(timestamp))
