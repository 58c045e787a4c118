"""What can be done with runs. Each function is one use case in its caller's transaction.

Training code reports through `log_metrics`, `log_output` and `update`, whichever protocol it
speaks: from here a report reaches the database, and through the journal everybody who follows.
"""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import SYSTEM, Action
from lifecycle.commands import (
    BIGGEST,
    Command,
    Count,
    JsonObject,
    Line,
    Moment,
    Name,
    Pairs,
    Tags,
    Text,
)
from lifecycle.database import WriteSession, clock
from lifecycle.datasets import service as datasets
from lifecycle.errors import InvalidInput, NotFound, Path, check_revision
from lifecycle.experiments import repository as experiments
from lifecycle.experiments.rules import check_takes_runs
from lifecycle.journal import service as journal
from lifecycle.logs import repository as logs
from lifecycle.logs.repository import MAX_LINES, NewLine
from lifecycle.runs import metrics, repository, rules
from lifecycle.runs.metrics import MetricValue, Points
from lifecycle.runs.rules import ArtifactArea, RunStatus
from lifecycle.runs.tables import ArtifactRow, RunRow

MAX_POINTS = 10_000
# The journal keeps the latest value of each key of a call.
MAX_KEYS = 1_000
MAX_PATH_BYTES = 2_500
SWEEP = 100
# What the journal says of a new run.
_CREATED = (
    "experiment_id", "parent_id", "name", "status", "status_message", "params", "tags", "source",
    "git_commit", "dataset_facts", "started_at", "ended_at",
)  # fmt: skip
_SYSTEM = Origin.system("system:leases", "lease-sweep")

Step = Annotated[int, Field(ge=-BIGGEST - 1, le=BIGGEST)]


class NumberKind(StrEnum):
    """What a number is; those that are not FINITE have no value in JSON."""

    FINITE = "FINITE"
    NAN = "NAN"
    POSITIVE_INFINITY = "POSITIVE_INFINITY"
    NEGATIVE_INFINITY = "NEGATIVE_INFINITY"


_NUMBERS = {
    NumberKind.NAN: math.nan,
    NumberKind.POSITIVE_INFINITY: math.inf,
    NumberKind.NEGATIVE_INFINITY: -math.inf,
}


def number(value: float | None, kind: NumberKind | None) -> float:
    """The number that a client means by a value or a kind. Raises ValueError."""
    if kind in _NUMBERS and value is None:
        return _NUMBERS[kind]
    if value is None or kind in _NUMBERS:
        raise ValueError("give a value, or a kind other than FINITE, not both")
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewMetric(_Part):
    """One point; without a step it is at step 0, without a time it is now."""

    key: Name
    value: float | None = None
    kind: NumberKind | None = None
    step: Step = 0
    timestamp: Moment | None = None

    @model_validator(mode="after")
    def _has_a_number(self) -> Self:
        number(self.value, self.kind)
        return self


class NewSeries(_Part):
    """Points of one metric as columns of equal length."""

    key: Name
    steps: list[Step]
    values: list[float | None]
    kinds: list[NumberKind] | None = None
    timestamps: list[Moment] | None = None

    @model_validator(mode="after")
    def _is_rectangular(self) -> Self:
        for column in (self.values, self.kinds, self.timestamps):
            if column is not None and len(column) != len(self.steps):
                raise ValueError("steps, values, kinds and timestamps must be equally long")
        self.numbers()
        return self

    def numbers(self) -> list[float]:
        """The values with what is not finite put back. Raises ValueError."""
        if self.kinds is None and None not in self.values:
            return cast(list[float], self.values)
        kinds = self.kinds or [NumberKind.FINITE] * len(self.values)
        return [number(value, kind) for value, kind in zip(self.values, kinds, strict=True)]


def _indexable(value: str) -> str:
    # PostgreSQL takes 2,704 bytes for an entry of an index, the run's id included.
    if len(value.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"must not be longer than {MAX_PATH_BYTES:,} bytes")
    return value


ArtifactPath = Annotated[Line, AfterValidator(_indexable)]


class NewArtifact(_Part):
    """A file that the run wrote; `area` is for those whose content is kept there, by its digest."""

    name: Name
    path: ArtifactPath
    size_bytes: Count | None = None
    digest: Line | None = None
    area: ArtifactArea | None = None


class LogRun(Command):
    """A whole run, or its beginning. The lease says how long its writer may be silent."""

    experiment_name: Name
    name: Name | None = None
    status: RunStatus = RunStatus.RUNNING
    status_message: Text | None = None
    params: Pairs = {}
    metrics: Annotated[list[NewMetric], Field(max_length=MAX_KEYS)] = []
    tags: Tags = {}
    artifacts: Annotated[list[NewArtifact], Field(max_length=1_000)] = []
    source: Line | None = None
    git_commit: Name | None = None
    dataset_facts: JsonObject | None = None
    parent_id: UUID | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    lease_seconds: Annotated[int, Field(ge=1, le=7 * 86_400)] = 3_600


class UpdateRun(Command):
    """A report about a run: what is left out stays, tags and facts are replaced, the rest is
    added."""

    id: UUID
    name: Name | None = None
    status: RunStatus | None = None
    status_message: Text | None = None
    params: Pairs = {}
    dataset_facts: JsonObject | None = None
    metrics: Annotated[list[NewMetric], Field(max_length=MAX_KEYS)] = []
    tags: Tags = {}
    artifacts: Annotated[list[NewArtifact], Field(max_length=1_000)] = []
    ended_at: Moment | None = None
    expected_revision: int | None = None


class LogMetrics(Command):
    """Points of several metrics, at most 10,000 in all."""

    run_id: UUID
    series: Annotated[list[NewSeries], Field(max_length=MAX_KEYS)]

    @model_validator(mode="after")
    def _is_not_too_much(self) -> Self:
        if sum(len(series.steps) for series in self.series) > MAX_POINTS:
            raise ValueError(f"must not have more than {MAX_POINTS:,} points in all")
        return self


class LogRunOutput(Command):
    """Lines for the run's log."""

    run_id: UUID
    lines: Annotated[list[NewLine], Field(min_length=1, max_length=MAX_LINES)]


async def log_run(session: WriteSession, origin: Origin, command: LogRun) -> RunRow:
    """Record a run. Raises NotFound, Conflict, InvalidInput, Forbidden."""
    experiment = await experiments.hold(session, command.experiment_name)
    if experiment is None:
        raise NotFound("experiment", command.experiment_name, ("experiment_name",))
    check(origin, Action.LOG)
    check_takes_runs(experiment.name, experiment.status)
    rules.check_params({}, command.params)
    if command.status not in rules.INITIAL:
        raise InvalidInput(f"A run cannot begin as {command.status}.", ("status",))
    now = await clock(session)
    started = command.started_at or (None if command.status is RunStatus.PENDING else now)
    ended = None
    if command.status in rules.ENDED:
        ended = command.ended_at or max(now, started or now)
    elif command.ended_at is not None:
        raise InvalidInput(f"A run that is {command.status} has not ended.", ("ended_at",))
    if started and ended and ended < started:
        raise InvalidInput("A run cannot end before it started.", ("ended_at",))
    if command.parent_id and not await repository.by_ids(session, [command.parent_id]):
        raise NotFound("run", "with this id", ("parent_id",))
    row = RunRow(
        experiment_id=experiment.id,
        parent_id=command.parent_id,
        name=command.name,
        status=command.status,
        status_message=command.status_message,
        params=command.params,
        tags=command.tags,
        source=command.source,
        git_commit=command.git_commit,
        dataset_facts=command.dataset_facts,
        data_set_id=await datasets.of_facts(session, origin, command.dataset_facts),
        started_at=started,
        ended_at=ended,
        lease_seconds=command.lease_seconds,
        last_reported_at=now,
        created_by=origin.actor,
    )
    session.add(row)
    await session.flush()
    await journal.append(
        session,
        origin,
        "run.created",
        row.id,
        after={field: getattr(row, field) for field in _CREATED},
    )
    await _add_results(session, origin, row, command.metrics, command.artifacts)
    return row


async def update(session: WriteSession, origin: Origin, command: UpdateRun) -> RunRow:
    """Take a report about a run.

    Raises NotFound, StaleRevision, InvalidTransition, InvalidInput, Forbidden, and Conflict when it
    would change a parameter.

    Whoever reports is alive: a run that was thought LOST is RUNNING again before anything else.
    """
    if command.ended_at is not None and command.status not in rules.ENDED:
        raise InvalidInput("The end of a run comes with the status that ends it.", ("ended_at",))
    row, revived = await _reporting(session, origin, command.id, command.expected_revision)
    if revived and command.status is RunStatus.LOST:
        # It was lost already; this is no report of its writer.
        rules.STATUS.check(RunStatus.LOST, command.status)
    rules.check_params(row.params, command.params)
    changes = command.given("name", "tags", "status_message", "dataset_facts")
    changes["params"] = row.params | command.params
    if "dataset_facts" in changes:
        changes["data_set_id"] = await datasets.of_facts(session, origin, command.dataset_facts)
    if command.status is None or (revived and command.status is RunStatus.RUNNING):
        await journal.change(session, origin, row, changes)
    else:
        changes |= _status_change(row, command.status, command.ended_at)
        await journal.change(session, origin, row, changes, type="run.status_changed")
    await _add_results(session, origin, row, command.metrics, command.artifacts)
    return row


async def log_metrics(session: WriteSession, origin: Origin, command: LogMetrics) -> RunRow:
    """Store points of a run's metrics; repeating it changes nothing. Raises NotFound,
    Forbidden."""
    row, _ = await _reporting(session, origin, command.run_id, path=("run_id",))
    points = [
        Points(series.key, series.steps, series.numbers(), series.timestamps)
        for series in command.series
        if series.steps
    ]
    await _store_points(session, origin, row, points)
    return row


async def log_output(session: WriteSession, origin: Origin, command: LogRunOutput) -> RunRow:
    """Add lines to a run's log. Raises NotFound, Forbidden."""
    row, _ = await _reporting(session, origin, command.run_id, path=("run_id",))
    first = row.log_lines + 1
    await logs.append(session, row.id, row.log_lines, command.lines, row.last_reported_at)
    row.log_lines += len(command.lines)
    await session.flush()
    await journal.append(
        session,
        origin,
        "run.output_logged",
        row.id,
        after={"first_line": first, "last_line": row.log_lines},
    )
    return row


async def mark_lost(session: WriteSession) -> int:
    """Mark runs whose writer has been silent for longer than its lease, each of them once.

    Any number of processes may do so at the same time. Returns how many were marked.
    """
    rows = await repository.lock_silent(session, SWEEP)
    for row in rows:
        await journal.change(
            session,
            _SYSTEM,
            row,
            {
                "status": RunStatus.LOST,
                "status_message": f"Nothing was heard of it for {row.lease_seconds} seconds.",
            },
            type="run.status_changed",
        )
    return len(rows)


async def locked(session: WriteSession, origin: Origin, id: UUID, path: Path = ("id",)) -> RunRow:
    """The run that somebody writes to, held until the transaction ends. Raises NotFound,
    Forbidden."""
    row = await repository.lock(session, id)
    if row is None:
        raise NotFound("run", "with this id", path)
    check(origin, Action.LOG)
    return row


async def _reporting(
    session: WriteSession,
    origin: Origin,
    id: UUID,
    expected_revision: int | None = None,
    path: Path = ("id",),
) -> tuple[RunRow, bool]:
    """The run whose writer reports, locked, its lease renewed, and whether it had been LOST and is
    RUNNING again. What the service itself brings to somebody's run is no report of its writer."""
    row = await locked(session, origin, id, path)
    check_revision(row.revision, expected_revision)
    if origin.actor.startswith(SYSTEM) and origin.actor != row.created_by:
        return row, False
    row.last_reported_at = await clock(session)
    lost = row.status is RunStatus.LOST
    if lost:
        await journal.change(
            session,
            origin,
            row,
            {"status": RunStatus.RUNNING, "status_message": None},
            type="run.status_changed",
        )
    return row, lost


def _status_change(row: RunRow, wanted: RunStatus, ended_at: datetime | None) -> dict[str, Any]:
    """What changes with the status. Raises InvalidTransition, InvalidInput."""
    rules.STATUS.check(row.status, wanted)
    changes: dict[str, Any] = {"status": wanted}
    now = row.last_reported_at
    if wanted is RunStatus.RUNNING and row.started_at is None:
        changes["started_at"] = now
    if wanted in rules.ENDED:
        # The clock of the host that said when the run started may be ahead.
        changes["ended_at"] = ended_at or max(now, row.started_at or now)
        if row.started_at and changes["ended_at"] < row.started_at:
            raise InvalidInput("A run cannot end before it started.", ("ended_at",))
    return changes


async def _add_results(
    session: WriteSession,
    origin: Origin,
    row: RunRow,
    new_metrics: list[NewMetric],
    artifacts: list[NewArtifact],
) -> None:
    if new_metrics:
        points = [
            Points(
                metric.key,
                [metric.step],
                [number(metric.value, metric.kind)],
                [metric.timestamp] if metric.timestamp else None,
            )
            for metric in new_metrics
        ]
        await _store_points(session, origin, row, points)
    if artifacts:
        # The last one wins; PostgreSQL refuses to update a row twice in one statement.
        by_path = {artifact.path: artifact for artifact in artifacts}
        former = await repository.artifacts_at(session, row.id, sorted(by_path))
        for artifact in former:
            given = by_path[artifact.path]
            same = (given.digest, given.size_bytes) == (artifact.digest, artifact.size_bytes)
            if given.area is None and same:
                # It is described again, and its content is where it was.
                by_path[artifact.path] = given.model_copy(update={"area": artifact.area})
        plain = [
            {**by_path[path].model_dump(), "created_at": row.last_reported_at}
            for path in sorted(by_path)
        ]
        await repository.store_artifacts(session, row.id, plain)
        await journal.append(
            session,
            origin,
            "run.artifacts_logged",
            row.id,
            before={"artifacts": [_described(artifact) for artifact in former]},
            after={"artifacts": [by_path[path].model_dump() for path in sorted(by_path)]},
        )


async def _store_points(
    session: WriteSession, origin: Origin, row: RunRow, points: list[Points]
) -> None:
    if not points:
        return
    latest = await metrics.log(session, row.id, row.experiment_id, points)
    if not latest:
        return
    await journal.append(
        session,
        origin,
        "run.metrics_logged",
        row.id,
        after={
            "metrics": [_plain(metric) for metric in latest],
            "points": sum(len(series.steps) for series in points),
            "steps": _reach(points),
        },
    )


def _reach(points: list[Points]) -> dict[str, list[int]]:
    """The lowest and the highest step of each key, for whoever passes the points on."""
    found: dict[str, list[int]] = {}
    for series in points:
        steps = [*series.steps, *found.get(series.key, ())]
        found[series.key] = [min(steps), max(steps)]
    return found


def _described(artifact: ArtifactRow) -> dict[str, Any]:
    """An artifact for the journal, as its writer described it."""
    return {field: getattr(artifact, field) for field in NewArtifact.model_fields}


def _plain(metric: MetricValue) -> list[Any]:
    """A metric for the journal."""
    return [metric.key, rules.shown(metric.value), metric.step, metric.timestamp]
