"""What can be done with models and versions as such; stages and checklists are promotion's."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, ValidationInfo, field_validator
from sqlalchemy.orm.attributes import flag_modified

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import SYSTEM, Action
from lifecycle.commands import (
    Command,
    Count,
    DistinctName,
    JsonObject,
    Line,
    Name,
    Tags,
    Text,
    pairs_to,
)
from lifecycle.database import WriteSession, clock
from lifecycle.errors import AlreadyExists, InvalidInput, NotFound, check_revision
from lifecycle.journal import service as journal
from lifecycle.registry import repository, rules
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import DriftSeverity, Stage
from lifecycle.registry.tables import ModelRow, ModelVersionRow
from lifecycle.runs import metrics as run_metrics
from lifecycle.runs import repository as runs
from lifecycle.runs.metrics import MetricValue, NewMetricValue
from lifecycle.runs.rules import MetricGoal, shown
from lifecycle.runs.service import NewMetric, number

_Metrics = Annotated[list[NewMetric], Field(max_length=1_000)]
_Goals = Annotated[dict[Name, MetricGoal], pairs_to("goal"), Field(max_length=1_000)]


class RegisterModelVersion(Command):
    """A new version of a model, which is made when there is none of that name.

    Without a version it gets the next number; without metrics, those of its run as they are now;
    without a digest or a size, those that its run has logged of the artifact at its path.
    """

    model_name: DistinctName
    version: DistinctName | None = None
    run_id: UUID | None = None
    description: Text | None = None
    framework: Name | None = None
    hyperparameters: JsonObject | None = None
    metrics: _Metrics | None = None
    tags: Tags = {}
    artifact_path: Line | None = None
    artifact_digest: Line | None = None
    size_bytes: Count | None = None
    checklist: Annotated[list[Line], Field(max_length=200)] = []


class ChangeOfVersion(Command):
    """What every change of a version takes."""

    # First, because the next is looked at in its light.
    expected_revision: int | None = None
    model_version: VersionSelector

    @field_validator("model_version")
    @classmethod
    def _is_one(cls, value: VersionSelector, info: ValidationInfo) -> VersionSelector:
        """Another version that has come into the stage since may have the same revision."""
        if value.in_stage is not None and info.data.get("expected_revision") is not None:
            raise ValueError(
                "must name the version by id, or by model and version, where expectedRevision is "
                "given: a revision is of one version"
            )
        return value


class UpdateModelVersion(ChangeOfVersion):
    """Changes to a version: what is left out stays, tags and metrics are replaced."""

    description: Text | None = None
    framework: Name | None = None
    hyperparameters: JsonObject | None = None
    metrics: _Metrics = []
    tags: Tags = {}
    artifact_path: Line | None = None
    artifact_digest: Line | None = None
    size_bytes: Count | None = None


class UpdateModel(Command):
    """Changes to a model: what is left out stays, tags and goals are replaced."""

    name: Name
    description: Text | None = None
    owner: Name | None = None
    tags: Tags = {}
    metric_goals: _Goals = {}
    expected_revision: int | None = None


async def hold_run(session: WriteSession, origin: Origin, command: RegisterModelVersion) -> None:
    """Hold the run that the version comes out of, before the model: whoever changes the run then
    finds the version, and makes its approval STALE.

    Raises NotFound, and Forbidden for whoever sees some models only and may only look at those that
    the run belongs to: a version shows its run, with all that is written to it later, to those who
    see its model. Who sees everything is trusted with it.
    """
    if command.run_id is None:
        return
    # Whoever may not register versions of the model at all keeps nobody waiting.
    name = command.model_name
    model = (await repository.models_by_names(session, [name])).get(name)
    if model is not None or session.visible is None:
        check(origin, Action.REGISTER, model.id if model is not None else None)
    if await runs.hold(session, command.run_id) is None:
        raise NotFound("run", "with this id", ("run_id",))
    if session.visible is None:
        return
    models = await repository.models_of_run(session, command.run_id)
    if not any(origin.rights.may(Action.REGISTER, id) for id in models):
        check(origin, Action.REGISTER, what="register versions of a run of other models")


async def ensure_model(session: WriteSession, origin: Origin, name: str) -> ModelRow:
    """The model of this name, made if there is none, held until the transaction ends: for whoever
    registers a version of it.

    Raises Forbidden, and NotFound where none is made: for those who see some models only, who would
    see whether there is one that they do not.
    """
    if session.visible is not None and not await repository.models_by_names(session, [name]):
        raise NotFound("model", name, ("model_name",))
    model, made = await repository.ensure_model(session, name, origin.actor)
    check(origin, Action.REGISTER, None if made else model.id)
    if made:
        await journal.append(session, origin, "model.created", model.id, after={"name": model.name})
    return model


async def add_version(
    session: WriteSession,
    origin: Origin,
    model: ModelRow,
    command: RegisterModelVersion,
    stage: Stage,
    now: datetime,
) -> ModelVersionRow:
    """Add a version; its history is the caller's. Raises AlreadyExists.

    The caller holds the run, and the model locked, so that numbers have no gaps and no doubles.
    """
    if command.version:
        await _check_new(session, model, command.version)
    artifact_digest, size_bytes = command.artifact_digest, command.size_bytes
    # What the service itself registers has its file elsewhere, whatever somebody has uploaded here.
    if not origin.actor.startswith(SYSTEM):
        artifact_digest, size_bytes = await _artifact(
            session, command.run_id, command.artifact_path, (artifact_digest, size_bytes)
        )
    row = ModelVersionRow(
        model_id=model.id,
        model_name=model.name,
        version=command.version or await _next_number(session, model),
        stage=stage,
        stage_changed_at=now,
        run_id=command.run_id,
        description=command.description,
        framework=command.framework,
        hyperparameters=command.hyperparameters,
        tags=command.tags,
        artifact_path=command.artifact_path,
        artifact_digest=artifact_digest,
        size_bytes=size_bytes,
        created_by=origin.actor,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    values: Sequence[MetricValue] = []
    if command.metrics is not None:
        values = await _values(session, command.metrics)
    elif command.run_id:
        latest = await run_metrics.latest(session, [command.run_id], None)
        values = latest.get(command.run_id, [])
    await repository.add_metrics(session, row.id, values)
    await journal.append(
        session,
        origin,
        "model_version.registered",
        row.id,
        after={
            "model_name": row.model_name,
            "version": row.version,
            "stage": row.stage,
            "run_id": row.run_id,
            "artifact_path": row.artifact_path,
            "artifact_digest": row.artifact_digest,
            "size_bytes": row.size_bytes,
            "metrics": _plain(values),
        },
    )
    return row


async def update_version(
    session: WriteSession, origin: Origin, row: ModelVersionRow, command: UpdateModelVersion
) -> None:
    """Change a version that the caller has locked, as somebody may. Raises InvalidInput."""
    changes = command.given(
        "description",
        "framework",
        "hyperparameters",
        "tags",
        "artifact_path",
        "artifact_digest",
        "size_bytes",
    )
    was: dict[str, Any] = {}
    about: dict[str, Any] = {}
    if "metrics" in command.model_fields_set:
        before, after = await _replace_metrics(session, row, command.metrics)
        if before or after:
            # Metrics are rows of their own; this makes their change one of the version.
            changes["updated_at"] = await clock(session)
            was, about = {"metrics": before}, {"metrics": after}
    await journal.change(session, origin, row, changes, was=was, about=about)


async def name_artifact(session: WriteSession, origin: Origin, row: ModelVersionRow) -> None:
    """Give a version that the caller has locked, and that names no digest of its artifact, what its
    run has logged of that since: for whoever has it decided about."""
    if row.artifact_digest is None:
        given = row.artifact_digest, row.size_bytes
        digest, size = await _artifact(session, row.run_id, row.artifact_path, given)
        changes = {"artifact_digest": digest, "size_bytes": size}
        await journal.change(session, origin, row, changes)


async def update_model(session: WriteSession, origin: Origin, command: UpdateModel) -> ModelRow:
    """Change a model. Raises NotFound, StaleRevision, Forbidden."""
    found = (await repository.models_by_names(session, [command.name])).get(command.name)
    if found is None:
        raise NotFound("model", command.name, ("name",))
    check(origin, Action.CHANGE, found.id)
    row = await repository.lock_model(session, found.id)
    check_revision(row.revision, command.expected_revision)
    changes = command.given("description", "owner", "tags", "metric_goals")
    await journal.change(session, origin, row, changes)
    return row


async def locked(session: WriteSession, selector: VersionSelector) -> ModelVersionRow:
    """The version that is meant, held until the transaction ends. Raises NotFound."""
    while (row := await repository.lock_version(session, selector)) is None:
        # While this waited, the one that was meant may have left the stage to another.
        if selector.in_stage is None or await repository.find(session, selector) is None:
            raise NotFound("version", selector, ("model_version",))
    return row


async def locked_with_model(session: WriteSession, selector: VersionSelector) -> ModelVersionRow:
    """The version that is meant, held until the transaction ends along with its model and the
    version that is in production: ready to be moved. Raises NotFound."""
    return await _with_model(session, selector, repository.lock_with_holder)


async def row_with_model(session: WriteSession, selector: VersionSelector) -> ModelVersionRow:
    """The same as a plain row: for whoever changes no attribute of it. Raises NotFound."""
    return await _with_model(session, selector, repository.row_with_holder)


async def _with_model(
    session: WriteSession,
    selector: VersionSelector,
    lock: Callable[
        [WriteSession, UUID, VersionSelector], Coroutine[Any, Any, ModelVersionRow | None]
    ],
) -> ModelVersionRow:
    model_id = await repository.lock_model_of(session, selector)
    row = await lock(session, model_id, selector) if model_id else None
    if row is None:
        raise NotFound("version", selector, ("model_version",))
    return row


def count_deployments(version: ModelVersionRow, difference: int) -> None:
    """Count live deployments of a version that the caller has locked. Only this service counts
    them: for clients the version has not changed, and not its revision nor its time of change."""
    version.live_deployments += difference
    flag_modified(version, "updated_at")


def count_drift(version: ModelVersionRow, severity: DriftSeverity, difference: int) -> None:
    """Count drift events that nobody closed, of a version that the caller has locked. As little a
    change of the version as its deployments are."""
    key = severity.value
    number = version.open_drift.get(key, 0) + difference
    others = {other: count for other, count in version.open_drift.items() if other != key}
    version.open_drift = {**others, key: number} if number else others
    flag_modified(version, "updated_at")


async def _check_new(session: WriteSession, model: ModelRow, version: str) -> None:
    if not await repository.taken_versions(session, model.name, [version]):
        return
    there = await repository.versions_by_names(session, model.name, [version])
    which = f"version {version} of model {model.name}"
    raise AlreadyExists(
        f"There is {which}." if there else f"There was {which}; its name is not used again.",
        ("version",),
    )


async def _next_number(session: WriteSession, model: ModelRow) -> str:
    """The next number that no client has taken for a version of its own naming."""
    number = model.last_number
    while True:
        candidates = [str(number + n) for n in range(1, 21)]
        taken = await repository.taken_versions(session, model.name, candidates)
        for candidate in candidates:
            number += 1
            if candidate not in taken:
                model.last_number = number
                # Counting is no change of the model itself.
                flag_modified(model, "updated_at")
                return candidate


async def _artifact(
    session: WriteSession,
    run_id: UUID | None,
    path: str | None,
    given: tuple[str | None, int | None],
) -> tuple[str | None, int | None]:
    """Digest and size of a version's artifact: as given, else as its run has logged them."""
    if run_id is None or path is None or None not in given:
        return given
    logged = await runs.artifact(session, run_id, path)
    return rules.completed(given, (logged.digest, logged.size_bytes)) if logged else given


async def _replace_metrics(
    session: WriteSession, row: ModelVersionRow, metrics: list[NewMetric]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make these the metrics of a version that the caller has locked; what changed, before and
    after, for the journal."""
    found = (await repository.metrics(session, [row.id])).get(row.id, [])
    measured = {(m.key, shown(m.value), m.step): m.timestamp for m in found}
    timed = {metric.key for metric in metrics if metric.timestamp}
    # The figure that is there already, without a time, is the one that was measured then.
    values = [
        m._replace(timestamp=measured.get((m.key, shown(m.value), m.step), m.timestamp))
        if m.key not in timed
        else m
        for m in await _values(session, metrics)
    ]
    before, after = rules.changed(_plain(found), _plain(values))
    if before or after:
        await repository.remove_metrics(session, row.id)
        await repository.add_metrics(session, row.id, values)
    return before, after


def _plain(metrics: Sequence[MetricValue]) -> dict[str, Any]:
    """Metrics for the journal, by key."""
    return {
        m.key: {"value": shown(m.value), "step": m.step, "timestamp": m.timestamp} for m in metrics
    }


async def _values(session: WriteSession, metrics: list[NewMetric]) -> list[NewMetricValue]:
    keys = [metric.key for metric in metrics]
    if len(set(keys)) != len(keys):
        raise InvalidInput("Each metric can be given once.", ("metrics",))
    # How old a figure is, is told by the same clock.
    now = await clock(session)
    return [
        NewMetricValue(m.key, number(m.value, m.kind), m.step, m.timestamp or now) for m in metrics
    ]
