"""Runs on both sides, with all that is written to them while they last.

Points, files and log lines are only ever added. Ours go there as the journal tells of them; theirs
are read where the latest point of a metric is another one than was seen. Files come last, because
what MLflow keeps them in may be out of order while the rest is not.

What approvals rest on, that is parameters, points, files, data set and status, comes in of runs
that were made there alone: whoever writes to the mirror of a run that was made here, or on another
server, is not its writer. Nor is a run that was made here alive for what else comes in of it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError

from lifecycle.commands import JsonObject, fitting_tags
from lifecycle.database import ReadSession, WriteSession
from lifecycle.datasets.rules import named
from lifecycle.errors import Conflict, NotFound
from lifecycle.experiments import repository as experiments
from lifecycle.journal import repository as journal
from lifecycle.logs import repository as logs
from lifecycle.promotion import review
from lifecycle.runs import metrics, repository, service
from lifecycle.runs.rules import ENDED, RunStatus, fitting_params
from lifecycle.runs.service import (
    MAX_KEYS,
    MAX_PATH_BYTES,
    MAX_POINTS,
    LogMetrics,
    LogRun,
    NewArtifact,
    NewSeries,
    NumberKind,
    UpdateRun,
)
from lifecycle.runs.tables import RunRow
from lifecycle.tracking import repository as tracking
from lifecycle.tracking import rules
from lifecycle.tracking.client import Dataset, File, Missing, MlflowError, Point, Run
from lifecycle.tracking.repository import NewPoint, News
from lifecycle.tracking.rules import (
    MAX_PARAM,
    MAX_RUN_TAG,
    Changes,
    FieldRule,
    TrackedKind,
    there_key,
)
from lifecycle.tracking.sides import (
    ID_TAG,
    OURS,
    Incomplete,
    NotYet,
    Ours,
    Sync,
    Task,
    Theirs,
    checked,
    digest,
    our_id,
    tags_with,
)

_NOTE = "mlflow.note.content"
_SOURCE = "mlflow.source.name"
_COMMIT = "mlflow.source.git.commit"
_PARENT = "mlflow.parentRunId"
_MODELS = "mlflow.log-model.history"
# What fields say, and what is given at the beginning and does not change any more.
_NO_TAGS = frozenset({"mlflow.runName", _NOTE, _SOURCE, _COMMIT, _PARENT, _MODELS})
_FACTS = "lifecycle.dataset_facts"

_A_MIRROR = "The run was not made there, so what is written to its mirror does not count."

# Whoever writes to MLflow does not know of leases.
_LEASE_SECONDS = 7 * 86_400
_PAIRS = 1_000
_PAGE = 5_000
# Of so many metrics points are read at once; each costs a look into the index.
_METRICS_AT_ONCE = 50
_ALL_STEPS = (-(2**63), 2**63 - 1)

_FOLDER = "lifecycle/"
_ARTIFACTS = f"{_FOLDER}artifacts.json"
_LINES = 1_000
_LINE_LENGTH = 2_000

_MAX_DIGEST = 36
_MAX_SOURCE = 60_000
_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(JsonObject)


@dataclass(frozen=True, slots=True)
class _There:
    """A run in MLflow, and its parent, if that is there."""

    run: Run
    parent: str | None


def rule_of(sync: Sync, field: str) -> FieldRule:
    """Who may change this field."""
    if field == "status":
        return FieldRule.FORWARD
    if field == "dataset" or field.startswith("param:"):
        return FieldRule.ONCE
    return FieldRule.THEIRS if field.startswith("tag:mlflow.") else FieldRule.EITHER


def withheld(ours: Ours, merged: rules.Merge) -> list[rules.Conflict]:
    """What of a merge must not come in, because the run was not made there: as conflicts."""
    if ours.made_there:
        return []
    found = []
    for name, their in merged.pull.items():
        if name in ("status", "dataset") or name.startswith("param:"):
            rule = FieldRule.OURS if name == "status" else FieldRule.ONCE
            found.append(rules.Conflict(name, ours.fields.get(name), their, _A_MIRROR, rule))
    # Theirs cannot be taken, also where both have changed it.
    return found + [
        conflict._replace(rule=FieldRule.OURS)
        for conflict in merged.conflicts
        if conflict.field == "status"
    ]


async def load(session: ReadSession, sync: Sync, id: UUID) -> Ours:
    """The run as it is here."""
    row = (await repository.by_ids(session, [id])).get(id)
    if row is None:
        raise NotFound("run", id)
    fields = {"status": rules.there_status(row.status)}
    if row.name:
        fields["name"] = row.name
    if row.status_message:
        fields["description"] = rules.cut(row.status_message, MAX_RUN_TAG)
    dataset = _dataset_of(row.dataset_facts)
    if dataset is not None:
        fields["dataset"] = _identity(dataset.name, dataset.digest)
    for key, value in row.params.items():
        fields[f"param:{there_key(key)}"] = rules.cut(value, MAX_PARAM)
    announced = {
        ID_TAG: str(row.id),
        "lifecycle.status": row.status.value,
        "lifecycle.created_by": row.created_by,
    }
    if row.dataset_facts is not None:
        announced[_FACTS] = rules.cut(orjson.dumps(row.dataset_facts).decode(), MAX_RUN_TAG)
    for key, value in row.tags.items():
        there = there_key(key)
        if there.startswith(OURS):
            announced.setdefault(there, rules.cut(value, MAX_RUN_TAG))
        elif there not in _NO_TAGS:
            fields[f"tag:{there}"] = rules.cut(value, MAX_RUN_TAG)
    return Ours(id, fields, announced, row)


async def fetch(sync: Sync, mlflow_id: str) -> Theirs:
    """The run as it is there."""
    run = await sync.client.run(mlflow_id)
    if run.deleted:
        raise Missing(f"Run {run.name or run.id} is deleted in MLflow.")
    announced = {key: value for key, value in run.tags.items() if key.startswith(OURS)}
    fields = {"status": rules.there_status(rules.here_status(run.status))}
    name = rules.here_line(run.name, rules.MAX_NAME)
    # MLflow has no run without a name.
    if name is not None and name != announced.get(ID_TAG):
        fields["name"] = name
    if run.tags.get(_NOTE):
        fields["description"] = rules.here_text(run.tags[_NOTE])
    dataset = _used_by(run)
    if dataset is not None:
        fields["dataset"] = _identity(dataset.name, dataset.digest)
    for key, value in run.params.items():
        fields[f"param:{key}"] = rules.here_text(value)
    for key, value in run.tags.items():
        if key not in announced and key not in _NO_TAGS:
            fields[f"tag:{key}"] = rules.here_text(value)
    return Theirs(
        mlflow_id,
        fields,
        announced,
        digest(run),
        sync.client.run_url(run.experiment_id, run.id),
        _There(run, await _parent_of(sync, run)),
        {key: _mark(point) for key, point in run.metrics.items()},
    )


async def create_there(sync: Sync, ours: Ours) -> str:
    """Make it there, unless a former attempt has. MLflow makes it RUNNING, which must not pass for
    news when it is not even that here."""
    row: RunRow = ours.facts
    async with sync.database.read() as session:
        experiment = await tracking.mlflow_id_of(
            session, sync.server_id, TrackedKind.EXPERIMENT, row.experiment_id
        )
        parent = row.parent_id and await tracking.mlflow_id_of(
            session, sync.server_id, TrackedKind.RUN, row.parent_id
        )
    if experiment is None:
        raise NotYet(TrackedKind.EXPERIMENT, object_id=row.experiment_id)
    if row.parent_id is not None and parent is None:
        raise NotYet(TrackedKind.RUN, object_id=row.parent_id)
    given = {ID_TAG: str(row.id), _SOURCE: row.source, _COMMIT: row.git_commit, _PARENT: parent}
    started = None if row.started_at is None else rules.milliseconds(row.started_at)
    known = await sync.client.find_run(experiment, str(row.id))
    found = sorted(run.id for run in known if not run.deleted)
    id = (
        found[0]
        if found
        else await sync.client.create_run(
            experiment,
            ours.fields.get("name", str(row.id)),
            started,
            {key: rules.cut(value, MAX_RUN_TAG) for key, value in given.items() if value},
        )
    )
    if row.status is RunStatus.PENDING:
        await _push_status(sync, row, id, ours.fields["status"])
    return id


async def create_here(session: WriteSession, sync: Sync, theirs: Theirs) -> UUID:
    """Make it here, or take the one that it was made from. Raises Conflict when that has another
    one there: it may be a second one that was made because the first was slow to come."""
    there: _There = theirs.facts
    run = there.run
    known = our_id(theirs)
    if known is not None and await repository.by_ids(session, [known]):
        other = await tracking.mlflow_id_of(session, sync.server_id, TrackedKind.RUN, known)
        if other not in (None, theirs.mlflow_id):
            raise Conflict(
                f"Its tag {ID_TAG} names a run that is mirrored as {other}: delete it in MLflow, "
                "or remove the tag, and try again."
            )
        return known
    experiment_id = await tracking.object_of(
        session, sync.server_id, TrackedKind.EXPERIMENT, run.experiment_id
    )
    if experiment_id is None:
        raise NotYet(TrackedKind.EXPERIMENT, mlflow_id=run.experiment_id)
    parent_id = there.parent and await tracking.object_of(
        session, sync.server_id, TrackedKind.RUN, there.parent
    )
    if there.parent is not None and parent_id is None:
        raise NotYet(TrackedKind.RUN, mlflow_id=there.parent)
    experiment = (await experiments.by_ids(session, [experiment_id]))[experiment_id]
    status = rules.here_status(run.status)
    started = run.started_at if run.started_at is not None else run.ended_at
    values: dict[str, Any] = {
        "experiment_name": experiment.name,
        "name": theirs.fields.get("name"),
        "status": status,
        "status_message": theirs.fields.get("description"),
        "params": _first(_new_params({}, theirs.fields).items()),
        "tags": fitting_tags(rules.with_changes({}, theirs.fields, "tag:")),
        "source": rules.here_line(run.tags.get(_SOURCE, "")),
        "git_commit": rules.here_line(run.tags.get(_COMMIT, ""), rules.MAX_NAME),
        "dataset_facts": _facts_of(_used_by(run)),
        "parent_id": parent_id,
        "started_at": None if started is None else rules.moment(started),
        "lease_seconds": _LEASE_SECONDS,
    }
    if status in ENDED and run.ended_at is not None:
        # Each is by the clock of another machine.
        values["ended_at"] = rules.moment(max(run.ended_at, started or run.ended_at))
    return (await service.log_run(session, sync.origin, checked(LogRun, **values))).id


async def push(
    sync: Sync, ours: Ours, theirs: Theirs, changes: Changes, announced: Changes
) -> None:
    """Change it there; its status at last."""
    row: RunRow = ours.facts
    tags = dict(announced)
    params: dict[str, str] = {}
    for field, value in changes.items():
        if field == "description":
            tags[_NOTE] = value
        elif field.startswith("tag:"):
            tags[field.removeprefix("tag:")] = value
        elif field.startswith("param:") and value is not None:
            params[field.removeprefix("param:")] = value
    id = theirs.mlflow_id
    await sync.client.log(id, [], params, {k: v for k, v in tags.items() if v is not None})
    for key in (key for key, value in tags.items() if value is None):
        await sync.client.delete_run_tag(id, key)
    dataset = _dataset_of(row.dataset_facts)
    if changes.get("dataset") is not None and dataset is not None:
        await sync.client.log_dataset(id, dataset)
    if "name" in changes:
        await sync.client.update_run(id, None, None, changes["name"] or str(row.id))
    status = changes.get("status")
    if status is not None:
        await _push_status(sync, row, id, status)


async def pull(
    session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
) -> None:
    """Change it here; of a run that was made there as a report of its writer would."""
    there: _There = theirs.facts
    row = await repository.lock(session, id)
    if row is None:
        raise NotFound("run", id)
    values: dict[str, Any] = {}
    if "name" in changes:
        values["name"] = changes["name"]
    if "description" in changes:
        values["status_message"] = changes["description"]
    if changes.get("dataset") is not None:
        values["dataset_facts"] = (row.dataset_facts or {}) | (_facts_of(_used_by(there.run)) or {})
    tags = tags_with(row.tags, changes)
    if tags != row.tags:
        values["tags"] = tags
    params = _new_params(row.params, changes)
    while len(params) > _PAIRS:
        some = _first(params.items())
        await review.update_run(session, sync.origin, checked(UpdateRun, id=id, params=some))
        params = {key: value for key, value in params.items() if key not in some}
    if params:
        values["params"] = params
    status = changes.get("status")
    if status is not None:
        values["status"] = rules.here_status(status)
        if row.status is RunStatus.PENDING and values["status"] is RunStatus.COMPLETED:
            begun = checked(UpdateRun, id=id, status=RunStatus.RUNNING)
            row = await review.update_run(session, sync.origin, begun)
        if values["status"] in ENDED and there.run.ended_at is not None:
            ended = rules.moment(there.run.ended_at)
            values["ended_at"] = max(ended, row.started_at or ended)
    await review.update_run(session, sync.origin, checked(UpdateRun, id=id, **values))


async def exchange(
    sync: Sync, task: Task, ours: Ours, theirs: Theirs, through: int
) -> Mapping[str, Any]:
    """Bring over points, files and log lines.

    What is remembered: `points`, of each metric the latest point there, and whether any has come
    from there; `ended`, that those were read from the beginning when the run had ended; `told`, how
    far the journal has been told of in files; `listed`, when files there were listed.
    """
    there: _There = theirs.facts
    progress = dict(task.points_seen)
    points = dict(progress.get("points", {}))
    ended = rules.here_status(there.run.status) in ENDED
    if ours.made_there:
        again = ended and not progress.get("ended")
        await _take_points(sync, ours.id, there.run, points, again=again)
    else:
        _note(points, there.run.metrics.values())
    if sync.writes:
        news = await _news(sync, ours.facts, task.position, through)
        await _give_points(sync, ours.id, there.run.id, news, points)
    progress |= {"points": points, "ended": ended}
    try:
        if sync.writes:
            told = progress.get("told", min(task.position, 0))
            if told != task.position:
                news = await _news(sync, ours.facts, told, through)
            await _give_files(sync, ours.id, there.run.id, news)
            progress["told"] = through
        listed = _listing(there.run)
        if ours.made_there and progress.get("listed") != listed:
            await _take_files(sync, ours.id, await sync.client.files(there.run.id))
            progress["listed"] = listed
    except MlflowError as error:
        raise Incomplete(progress, error) from error
    return progress


# Points.


async def _take_points(
    sync: Sync, run_id: UUID, run: Run, points: dict[str, Any], *, again: bool
) -> None:
    """Log here what there is new of the metrics whose latest point is another one than was seen,
    and, `again`, whatever was left out of those that have come in before: who logs late at an
    earlier step does not change the latest point."""
    changed = {
        key: latest
        for key, latest in run.metrics.items()
        if (seen := points.get(key)) is None or seen[:3] != _mark(latest) or (again and seen[3])
    }
    if not changed:
        return
    async with sync.database.read() as session:
        ours = (await metrics.latest(session, [run_id], None)).get(run_id, [])
    keys = rules.keys_there(metric.key for metric in ours)
    taken: set[str] = set()
    waiting: list[NewPoint] = []
    metrics_waiting = 0
    for key in changed:
        seen = points.get(key)
        from_step = None if seen is None or again else seen[0]
        here = keys.setdefault(key, rules.here_key(key))
        metrics_waiting += 1
        async for page in sync.client.history(run.id, key, from_step):
            waiting += (NewPoint(here, p.step, rules.moment(p.timestamp), p.value) for p in page)
            while len(waiting) > MAX_POINTS:
                some = _of_one_time(waiting[:MAX_POINTS])
                taken |= await _log_here(sync, run_id, some)
                del waiting[: len(some)]
        if metrics_waiting == MAX_KEYS:
            taken |= await _log_here(sync, run_id, waiting)
            waiting, metrics_waiting = [], 0
    taken |= await _log_here(sync, run_id, waiting)
    for key, latest in changed.items():
        before = key in points and points[key][3]
        points[key] = [*_mark(latest), before or keys[key] in taken]


def _of_one_time(points: list[NewPoint]) -> list[NewPoint]:
    """The points without the last ones, if those might go on in what follows: which of one step
    and time are new is decided of all of them at once."""
    last = points[-1][:3]
    end = len(points)
    while end and points[end - 1][:3] == last:
        end -= 1
    return points[: end or len(points)]


async def _log_here(sync: Sync, run_id: UUID, points: Sequence[NewPoint]) -> set[str]:
    """Log those of the points that are new, and return of which metrics there were any."""
    if not points:
        return set()

    async def log(session: WriteSession) -> set[str]:
        new = await tracking.points_not_here(session, run_id, points)
        series = [
            _series(key, [*of_key]) for key, of_key in groupby(new, key=lambda point: point.key)
        ]
        if series:
            command = checked(LogMetrics, run_id=run_id, series=series)
            await service.log_metrics(session, sync.origin, command)
        return {each.key for each in series}

    return await sync.database.write(log)


def _series(key: str, points: Sequence[NewPoint]) -> NewSeries:
    kinds = [_kind(point.value) for point in points]
    return NewSeries(
        key=key,
        steps=[point.step for point in points],
        values=[
            point.value if kind is NumberKind.FINITE else None
            for point, kind in zip(points, kinds, strict=True)
        ],
        kinds=kinds,
        timestamps=[point.timestamp for point in points],
    )


def _kind(value: float) -> NumberKind:
    if math.isnan(value):
        return NumberKind.NAN
    if math.isinf(value):
        return NumberKind.POSITIVE_INFINITY if value > 0 else NumberKind.NEGATIVE_INFINITY
    return NumberKind.FINITE


async def _news(sync: Sync, row: RunRow, after: int, through: int) -> News:
    """What was written here since; everything, if the journal does not go back so far."""
    async with sync.database.read() as session:
        if (await journal.head(session)).trimmed_through <= after and after >= 0:
            echo = sync.origin.request_id
            return await tracking.news_of_run(session, row.id, after, through, echo)
        known = (await metrics.latest(session, [row.id], None)).get(row.id, [])
    return News({metric.key: _ALL_STEPS for metric in known}, 1, artifacts=True)


async def _give_points(
    sync: Sync, run_id: UUID, mlflow_id: str, news: News, points: dict[str, Any]
) -> None:
    """Log there what was written here, and remember what the latest points there are then, unless
    somebody else writes them, too."""
    wanted = [(key, *steps) for key, steps in sorted(news.steps.items())]
    last: NewPoint | None = None
    sent: list[Point] = []
    while wanted or sent:
        if not wanted or len(sent) >= _PAGE:
            await sync.client.log(mlflow_id, sent, {}, {})
            _note(points, sent)
            sent = []
            continue
        some = wanted[:_METRICS_AT_ONCE]
        async with sync.database.read() as session:
            page = await tracking.points_of_run(session, run_id, some, last, _PAGE)
        sent += (
            Point(there_key(p.key), p.value, p.step, rules.milliseconds(p.timestamp)) for p in page
        )
        if len(page) < _PAGE:
            wanted, last = wanted[_METRICS_AT_ONCE:], None
        else:
            last = page[-1]
            wanted = wanted[[key for key, *_ in some].index(last.key) :]


def _note(points: dict[str, Any], sent: Iterable[Point]) -> None:
    for point in sent:
        seen = points.setdefault(point.key, [*_mark(point), False])
        if _rank(_mark(point)) > _rank(seen):
            seen[:3] = _mark(point)


def _mark(point: Point) -> list[Any]:
    return [point.step, point.timestamp, repr(point.value)]


def _rank(mark: Sequence[Any]) -> tuple[int, int, float]:
    """The latest point is the one of the highest rank, to MLflow as here; NaN counts as zero."""
    value = float(mark[2])
    return mark[0], mark[1], 0.0 if math.isnan(value) else value


# Files.


async def _give_files(sync: Sync, run_id: UUID, mlflow_id: str, news: News) -> None:
    """Write there what artifacts there are here, and those parts of the log that have grown."""
    if news.artifacts:
        async with sync.database.read() as session:
            rows = (await repository.artifacts(session, [run_id])).get(run_id, [])
        described = [
            {field: getattr(row, field) for field in NewArtifact.model_fields} for row in rows
        ]
        if described:
            written = orjson.dumps(described, option=orjson.OPT_INDENT_2).decode()
            await sync.client.write_text(mlflow_id, _ARTIFACTS, written)
    if news.first_line is None:
        return
    part = (news.first_line - 1) // _LINES
    while True:
        async with sync.database.read() as session:
            lines = (
                await logs.between(session, [run_id], part * _LINES + 1, (part + 1) * _LINES)
            ).get(run_id, [])
        written = "".join(
            f"{line.timestamp.isoformat()} {line.level} {rules.cut(line.message, _LINE_LENGTH)}\n"
            for line in lines
        )
        part += 1
        await sync.client.write_text(mlflow_id, f"{_FOLDER}output/{part:06}.log", written)
        if len(lines) < _LINES:
            return


def _listing(run: Run) -> str:
    """Another one when files may have come: listing them all takes a request for each folder."""
    when = "ended" if rules.here_status(run.status) in ENDED else "begun"
    return digest([when, run.tags.get(_MODELS)])


async def _take_files(sync: Sync, run_id: UUID, files: Iterable[File]) -> None:
    """Add what files there are to the artifacts here. What is described here stays as it is,
    unless nobody knows its digest."""
    given = {
        file.path: file
        for file in files
        if not file.path.startswith(_FOLDER)
        and rules.here_line(file.path) == file.path
        and len(file.path.encode()) <= MAX_PATH_BYTES
    }

    async def add(session: WriteSession) -> None:
        # Held, so that nothing is described between the look and the writing.
        await repository.lock(session, run_id)
        known = {row.path: row for row in await repository.artifacts_at(session, run_id, [*given])}
        new = [
            NewArtifact(
                name=rules.here_line(path.rpartition("/")[2], rules.MAX_NAME) or "file",
                path=path,
                size_bytes=file.size_bytes,
            )
            for path, file in given.items()
            if path not in known
            or (known[path].digest is None and known[path].size_bytes != file.size_bytes)
        ]
        if new:
            await review.update_run(
                session, sync.origin, checked(UpdateRun, id=run_id, artifacts=new)
            )

    if given:
        await sync.database.write(add)


# Data sets.


def _used_by(run: Run) -> Dataset | None:
    """The data set that the run was trained on, or the first of those that it used."""
    trained = (used for used in run.datasets if used.context in ("train", "training"))
    return next(trained, run.datasets[0] if run.datasets else None)


def _identity(name: str, digest: str) -> str:
    return orjson.dumps({"name": name, "digest": digest}).decode()


def _dataset_of(facts: Mapping[str, Any] | None) -> Dataset | None:
    """What MLflow can know of the data set that facts name, if they name one."""
    found = named(facts)
    if facts is None or found is None:
        return None
    said = orjson.dumps(facts).decode()
    source = facts.get("source") or facts.get("uri") or found.name
    text = source if isinstance(source, str) else orjson.dumps(source).decode()
    kind = facts.get("source_type")
    return Dataset(
        name=found.name,
        # MLflow wants one.
        digest=(found.digest or "unknown")[:_MAX_DIGEST],
        source_type=kind[:_MAX_DIGEST] if isinstance(kind, str) and kind else "lifecycle",
        source=rules.cut(text, _MAX_SOURCE),
        profile=said if len(said) <= _MAX_SOURCE else None,
        context="training",
    )


def _facts_of(dataset: Dataset | None) -> dict[str, Any] | None:
    """What MLflow knows of a data set, as far as facts may say it."""
    if dataset is None:
        return None
    facts = {
        "name": rules.here_text(dataset.name),
        "digest": rules.here_text(dataset.digest),
        "source_type": rules.here_text(dataset.source_type),
    }
    more = {"source": dataset.source, "profile": dataset.profile, "context": dataset.context}
    for name, text in more.items():
        if text:
            try:
                facts = _JSON.validate_python(facts | {name: _read(text)})
            except ValidationError:
                continue
    return facts


def _read(text: str) -> Any:
    """The JSON that a text is, if it is some."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


# The rest.


async def _parent_of(sync: Sync, run: Run) -> str | None:
    """The run that this one is nested in, if it is there. That is looked at once."""
    parent = run.tags.get(_PARENT)
    if parent is None or parent == run.id:
        return None
    async with sync.database.read() as session:
        if await tracking.object_of(session, sync.server_id, TrackedKind.RUN, run.id):
            return parent
    try:
        return None if (await sync.client.run(parent)).deleted else parent
    except Missing:
        return None


async def _push_status(sync: Sync, row: RunRow, mlflow_id: str, status: str) -> None:
    ended = None if row.ended_at is None else rules.milliseconds(row.ended_at)
    await sync.client.update_run(mlflow_id, status, ended, None)


def _new_params(known: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The parameters among these changes that a run here has not yet, as many as it may have."""
    merged = rules.with_changes(known, changes, "param:")
    new = {key: value for key, value in merged.items() if known.get(key) != value}
    return fitting_params(known, new)


def _first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """As many as a command takes."""
    return dict(islice(pairs, _PAIRS))
