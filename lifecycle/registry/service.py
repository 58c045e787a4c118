"""What can be done with models and versions as such; stages and checklists are promotion's."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm.attributes import flag_modified

from lifecycle.access.origin import Origin
from lifecycle.commands import Command, Count, JsonObject, Line, Name, Pairs, Text
from lifecycle.database import WriteSession
from lifecycle.errors import AlreadyExists, InvalidInput, NotFound, check_revision
from lifecycle.journal import service as journal
from lifecycle.registry import repository
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import DriftSeverity, Stage
from lifecycle.registry.tables import ModelRow, ModelVersionRow
from lifecycle.runs import metrics as run_metrics
from lifecycle.runs import repository as runs
from lifecycle.runs.metrics import MetricValue
from lifecycle.runs.service import NewMetric, number

_Metrics = Annotated[list[NewMetric], Field(max_length=1_000)]


class RegisterModelVersion(Command):
    """A new version of a model, which is made when there is none of that name.

    Without a version it gets the next number; without metrics, those of its run as they are now.
    """

    model_name: Name
    version: Name | None = None
    run_id: UUID | None = None
    description: Text | None = None
    framework: Name | None = None
    hyperparameters: JsonObject | None = None
    metrics: _Metrics | None = None
    tags: Pairs = {}
    artifact_path: Line | None = None
    size_bytes: Count | None = None
    checklist: Annotated[list[Line], Field(max_length=200)] = []


class UpdateModelVersion(Command):
    """Changes to a version: what is left out stays, tags and metrics are replaced."""

    model_version: VersionSelector
    description: Text | None = None
    framework: Name | None = None
    hyperparameters: JsonObject | None = None
    metrics: _Metrics = []
    tags: Pairs = {}
    artifact_path: Line | None = None
    size_bytes: Count | None = None
    expected_revision: int | None = None


class UpdateModel(Command):
    """Changes to a model: what is left out stays, tags are replaced."""

    name: Name
    description: Text | None = None
    owner: Name | None = None
    tags: Pairs = {}
    expected_revision: int | None = None


async def ensure_model(session: WriteSession, origin: Origin, name: str) -> ModelRow:
    """The model of this name, made if there is none, held until the transaction ends."""
    model, made = await repository.ensure_model(session, name, origin.actor)
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
    """Add a version; its history is the caller's. Raises AlreadyExists, NotFound.

    The caller holds the model locked, so that numbers have no gaps and no doubles.
    """
    if command.run_id and not await runs.by_ids(session, [command.run_id]):
        raise NotFound("run", "with this id", ("run_id",))
    if command.version:
        await _check_new(session, model, command.version)
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
        size_bytes=command.size_bytes,
        created_by=origin.actor,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    if command.metrics is not None:
        await repository.replace_metrics(session, row.id, _values(command.metrics))
    elif command.run_id:
        latest = await run_metrics.latest(session, [command.run_id], None)
        await repository.replace_metrics(session, row.id, latest.get(command.run_id, []))
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
        },
    )
    return row


async def update_version(
    session: WriteSession, origin: Origin, command: UpdateModelVersion
) -> ModelVersionRow:
    """Change a version. Raises NotFound, StaleRevision, InvalidInput."""
    row = await locked(session, command.model_version)
    check_revision(row.revision, command.expected_revision)
    changes = command.given(
        "description", "framework", "hyperparameters", "tags", "artifact_path", "size_bytes"
    )
    about: dict[str, Any] = {}
    if "metrics" in command.model_fields_set:
        values = _values(command.metrics)
        found = (await repository.metrics(session, [row.id])).get(row.id, [])
        # As text, because NaN does not equal itself.
        known = {m.key: (str(m.value), m.step, m.timestamp) for m in found}
        # A time that was not given is no change.
        times = {m.key: m.timestamp or known.get(m.key, (None,))[-1] for m in command.metrics}
        if {m.key: (str(m.value), m.step, times[m.key]) for m in values} != known:
            await repository.replace_metrics(session, row.id, values)
            # Metrics are rows of their own; this makes their change one of the version.
            changes["updated_at"] = datetime.now(UTC)
            about["metrics"] = sorted(m.key for m in values)
    await journal.change(session, origin, row, changes, about=about)
    return row


async def update_model(session: WriteSession, origin: Origin, command: UpdateModel) -> ModelRow:
    """Change a model. Raises NotFound, StaleRevision."""
    found = (await repository.models_by_names(session, [command.name])).get(command.name)
    if found is None:
        raise NotFound("model", command.name, ("name",))
    row = await repository.lock_model(session, found.id)
    check_revision(row.revision, command.expected_revision)
    await journal.change(session, origin, row, command.given("description", "owner", "tags"))
    return row


async def locked(session: WriteSession, selector: VersionSelector) -> ModelVersionRow:
    """The version that is meant, held until the transaction ends. Raises NotFound."""
    stage = selector.in_stage.stage if selector.in_stage else None
    while (found := await repository.find(session, selector)) is not None:
        row = (await repository.lock_versions(session, [found.id]))[found.id]
        # While this waited for the lock, another version may have become the one that is meant.
        if row.deleted_at is None and stage in (None, row.stage):
            return row
    raise NotFound("version", selector, ("model_version",))


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


def _values(metrics: list[NewMetric]) -> list[MetricValue]:
    keys = [metric.key for metric in metrics]
    if len(set(keys)) != len(keys):
        raise InvalidInput("Each metric can be given once.", ("metrics",))
    now = datetime.now(UTC)
    return [
        MetricValue(m.key, number(m.value, m.kind), m.step, m.timestamp or now) for m in metrics
    ]
