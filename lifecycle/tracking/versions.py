"""Versions on both sides. Stages are ours: in MLflow aliases and tags tell of them.

A stage or an alias that somebody changes in MLflow is a conflict here, and moves nothing. Only an
import takes stages over, in the name of an administrator.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson

from lifecycle.commands import fitting_tags
from lifecycle.database import ReadSession, WriteSession, savepoint
from lifecycle.deployments import repository as deployments
from lifecycle.errors import AlreadyExists, NotFound
from lifecycle.errors import Conflict as Impossible
from lifecycle.promotion import repository as promotion
from lifecycle.promotion import review
from lifecycle.promotion import service as promotion_service
from lifecycle.promotion.gates import ApprovalRequired, GateFailed
from lifecycle.promotion.review import DecideApproval
from lifecycle.promotion.rules import IN_FORCE, Decision
from lifecycle.promotion.service import SetStage
from lifecycle.registry import repository as registry
from lifecycle.registry import service as registry_service
from lifecycle.registry.repository import NameStage, VersionSelector
from lifecycle.registry.rules import Stage
from lifecycle.registry.service import RegisterModelVersion, UpdateModelVersion
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs import repository as run_repository
from lifecycle.runs.rules import shown
from lifecycle.runs.service import NewMetric, NumberKind
from lifecycle.tracking import repository, rules
from lifecycle.tracking.client import Client, Missing, Point, Refused, Version, named
from lifecycle.tracking.rules import MAX_OTHER_TAG, Changes, Conflict, FieldRule, TrackedKind
from lifecycle.tracking.sides import (
    ACTOR,
    ID_TAG,
    NotYet,
    Ours,
    Sync,
    Task,
    Theirs,
    checked,
    digest,
    fields_here,
    fields_there,
    our_id,
    tags_with,
)

_MODEL, _RUN, _VERSION = TrackedKind.MODEL, TrackedKind.RUN, TrackedKind.MODEL_VERSION
_ALIASES = {"production": Stage.PRODUCTION, "staging": Stage.STAGING}
_STAGES = {"Staging": Stage.STAGING, "Production": Stage.PRODUCTION, "Archived": Stage.ARCHIVED}
# What MLflow puts in place of what a deleted version had.
_REDACTED = "REDACTED-"
_MAX_SOURCE = 500
# So many metrics a version may be given.
_MAX_METRICS = 1_000
_KINDS = {
    "NaN": NumberKind.NAN,
    "Infinity": NumberKind.POSITIVE_INFINITY,
    "-Infinity": NumberKind.NEGATIVE_INFINITY,
}


@dataclass(frozen=True, slots=True)
class _Here:
    """`holders` are those versions that the aliases belong to."""

    row: ModelVersionRow
    holders: Mapping[str, ModelVersionRow]


@dataclass(frozen=True, slots=True)
class _There:
    """`run_id` is None also when the run is not there any more. `metrics` are the run's there, if
    they may not be here yet. `in_production` is which of the model's versions is to be in
    PRODUCTION by what MLflow says, if an import asks."""

    version: Version
    run_id: str | None
    metrics: Sequence[Point] | None = None
    in_production: str | None = None


def rule_of(sync: Sync, field: str) -> FieldRule:
    """Who may change this field."""
    if field.startswith("tag:mlflow."):
        return FieldRule.THEIRS
    if field == "stage":
        return FieldRule.WATCHED if sync.importing_for is None else FieldRule.ADOPTED
    if field.startswith("alias:") and sync.importing_for is None:
        return FieldRule.OURS
    return FieldRule.EITHER


async def load(session: ReadSession, sync: Sync, id: UUID) -> Ours:
    """The version as it is here, deleted or not. Raises NotFound."""
    row = (await registry.versions_by_ids(session, [id])).get(id)
    if row is None:
        raise NotFound("version", id)
    fields = fields_here(row.description, row.tags)
    if row.stage is not Stage.EXPERIMENTAL:
        fields["stage"] = row.stage.value
    holders = {}
    for alias, stage in _ALIASES.items():
        wanted = VersionSelector(in_stage=NameStage(model_name=row.model_name, stage=stage))
        if holder := await registry.find(session, wanted):
            holders[alias] = holder
            if holder.id == id:
                fields[f"alias:{alias}"] = "true"
    return Ours(id, fields, await _announced(session, row), _Here(row, holders))


async def fetch(sync: Sync, mlflow_id: str) -> Theirs:
    """The version as it is there. Raises Missing, also when another has its number now."""
    model, number = _split(mlflow_id)
    found = await sync.client.version(model, number)
    if found.source.startswith(_REDACTED):
        raise Missing(f"Version {number} of model {model} is deleted in MLflow.")
    fields, announced = fields_there(found.description, found.tags)
    for alias in found.aliases:
        if alias in _ALIASES:
            fields[f"alias:{alias}"] = "true"
        else:
            fields[f"tag:mlflow.alias.{alias}"] = "true"
    if found.stage in _STAGES:
        fields["stage"] = _STAGES[found.stage].value
    theirs = Theirs(
        mlflow_id,
        fields,
        announced,
        digest(found),
        sync.client.version_url(model, number),
        _There(found, found.run_id),
    )
    id = our_id(theirs)
    run_is_here = False
    async with sync.database.read() as session:
        known = await repository.progress_of(session, sync.server_id, _VERSION, mlflow_id)
        if id is not None:
            other = await repository.mlflow_id_of(session, sync.server_id, _VERSION, id)
            if other not in (None, mlflow_id):
                # MLflow copies versions with their tags; what is copied is not ours.
                del announced[ID_TAG]
        if found.run_id is not None:
            run_is_here = await repository.has_come_in(session, sync.server_id, _RUN, found.run_id)
    if known.get("created_at", found.created_at) != found.created_at:
        raise Missing(
            f"Version {number} of model {model} was deleted in MLflow; it is another now."
        )
    if found.run_id is not None and not known and not run_is_here:
        theirs = replace(theirs, facts=await _with_run(sync.client, found, found.run_id))
    if sync.importing_for is not None and _claims_production(fields):
        holder = await _in_production(sync.client, model)
        theirs = replace(theirs, facts=replace(theirs.facts, in_production=holder))
    return theirs


async def create_there(sync: Sync, ours: Ours) -> str:
    """Make it there, after its model, its run, and the versions that were registered before it, so
    that the numbers are the same as far as possible."""
    row: ModelVersionRow = ours.facts.row
    async with sync.database.read() as session:
        model = await repository.mlflow_id_of(session, sync.server_id, _MODEL, row.model_id)
        if model is None:
            raise NotYet(_MODEL, object_id=row.model_id)
        run_id = None
        if row.run_id is not None:
            run_id = await repository.mlflow_id_of(session, sync.server_id, _RUN, row.run_id)
            if run_id is None:
                raise NotYet(_RUN, object_id=row.run_id)
        earlier = await repository.earlier_version(session, sync.server_id, row)
        if earlier is not None:
            raise NotYet(_VERSION, object_id=earlier)
    found = await sync.client.find_version(model, str(ours.id))
    if found:
        # Copies have the same tags and higher numbers.
        return f"{model}/{min(int(version.number) for version in found)}"
    tags = {
        key: value
        for key, value in rules.tags_in(ours.fields).items()
        if rule_of(sync, f"tag:{key}") is FieldRule.EITHER
    }
    description = ours.fields.get("description", "")
    *candidates, last = _sources(row, run_id)
    for source in candidates:
        with suppress(Refused, Missing):
            number = await sync.client.create_version(
                model, source, run_id, description, {**tags, **ours.announced}
            )
            return f"{model}/{number}"
    number = await sync.client.create_version(
        model, last, run_id, description, {**tags, **ours.announced}
    )
    return f"{model}/{number}"


async def create_here(session: WriteSession, sync: Sync, theirs: Theirs) -> UUID:
    """Register it here, with its number as its version if no other has it, or take the one that it
    was made from."""
    found: _There = theirs.facts
    name, number = _split(theirs.mlflow_id)
    model_id = await repository.object_of(session, sync.server_id, _MODEL, name)
    if model_id is None:
        raise NotYet(_MODEL, mlflow_id=name)
    id = our_id(theirs)
    if id is not None:
        row = (await registry.versions_by_ids(session, [id])).get(id)
        if row is not None and row.model_id == model_id:
            return id
    run_id = None
    if found.run_id is not None:
        run_id = await repository.object_of(session, sync.server_id, _RUN, found.run_id)
        if run_id is None:
            raise NotYet(_RUN, mlflow_id=found.run_id)
    metrics = None
    if run_id is not None and found.metrics is not None:
        run = (await run_repository.by_ids(session, [run_id]))[run_id]
        # To a mirror anything may have been written: what the run has here counts.
        if await repository.made_there(session, sync.server_id, _RUN, run):
            metrics = [_metric(point) for point in found.metrics]
    model = (await registry.models_by_ids(session, [model_id]))[model_id]
    fields = {name: value for name, value in theirs.fields.items() if name.startswith("tag:")}
    command = checked(
        RegisterModelVersion,
        model_name=model.name,
        version=number,
        run_id=run_id,
        description=theirs.fields.get("description"),
        tags=fitting_tags(rules.with_changes({}, {**fields}, "tag:")),
        artifact_path=rules.here_line(found.version.source),
        metrics=metrics,
    )
    try:
        async with savepoint(session):
            return (await promotion_service.register(session, sync.origin, command)).id
    except AlreadyExists:
        command = command.model_copy(update={"version": None})
    return (await promotion_service.register(session, sync.origin, command)).id


async def push(
    sync: Sync, ours: Ours, theirs: Theirs, changes: Changes, announced: Changes
) -> None:
    """Change it there. An alias is not taken from it before another version has it. Raises NotYet
    when that is not there."""
    model, number = _split(theirs.mlflow_id)
    client = sync.client
    if "description" in changes:
        await client.update_version(model, number, changes["description"] or "")
    for key, value in (rules.tags_in(changes) | announced).items():
        if value is None:
            await client.delete_version_tag(model, number, key)
        else:
            await client.set_version_tag(model, number, key, value)
    for alias in _ALIASES:
        if f"alias:{alias}" not in changes:
            continue
        holder = ours.facts.holders.get(alias)
        if holder is None:
            await client.delete_alias(model, alias)
            continue
        async with sync.database.read() as session:
            there = await repository.mlflow_id_of(session, sync.server_id, _VERSION, holder.id)
        if there is None:
            raise NotYet(_VERSION, object_id=holder.id)
        await client.set_alias(model, alias, _split(there)[1])
        if holder.id != ours.id:
            # Or that one would find it without knowing that it is from us.
            known = sync.server_id, _VERSION, holder.id, f"alias:{alias}"
            await sync.database.write(partial(_agree, known=known))


async def pull(
    session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
) -> None:
    """Change it here; what is deleted here stays as it is. Stages are taken over on behalf of the
    administrator who imports, and never from what is in PRODUCTION here."""
    if "stage" in changes or any(f"alias:{alias}" in changes for alias in _ALIASES):
        await _take_over(session, sync, id, theirs, changes)
    row = (await registry.lock_versions(session, [id]))[id]
    if row.deleted_at is not None:
        return
    values: dict[str, Any] = {}
    if "description" in changes:
        values["description"] = changes["description"]
    tags = tags_with(row.tags, changes)
    if tags != row.tags:
        values["tags"] = tags
    if values:
        command = checked(UpdateModelVersion, model_version=VersionSelector(id=id), **values)
        await review.update_version(session, sync.origin, command)


async def exchange(
    sync: Sync, task: Task, ours: Ours, theirs: Theirs, through: int
) -> Mapping[str, Any]:
    """There is nothing that is only ever added; when it was made there tells it from another that
    comes to have its name and number."""
    return {"created_at": theirs.facts.version.created_at}


def explained(conflict: Conflict, ours: Ours, theirs: Theirs) -> Conflict:
    """The conflict, with what MLflow has and what is here in words if it is about a stage."""
    row: ModelVersionRow = ours.facts.row
    if conflict.field == "stage":
        there = f"In MLflow its stage is {theirs.facts.version.stage}"
        here = f"here it is in {row.stage}"
    elif conflict.field.startswith("alias:"):
        alias = conflict.field.removeprefix("alias:")
        on_it = "is on it" if conflict.theirs is not None else "is not on it any more"
        there = f"In MLflow the alias {alias} {on_it}"
        holder = ours.facts.holders.get(alias)
        if holder is None:
            here = f"here nothing is in {_ALIASES[alias]}"
        elif holder.id == row.id:
            here = f"here it is in {row.stage}"
        else:
            here = (
                f"here version {holder.version} is in {holder.stage}, and this one in {row.stage}"
            )
    else:
        return conflict
    return conflict._replace(reason=f"{there}; {here}. Stages change by setStage alone.")


async def _announced(session: ReadSession, row: ModelVersionRow) -> dict[str, str]:
    """All that MLflow has no place for, as tags."""
    told: dict[str, Any] = {
        "id": row.id,
        "version": row.version,
        "stage": row.stage,
        "approval": row.approval_status,
        "framework": row.framework,
        "artifact_path": row.artifact_path,
        "artifact_digest": row.artifact_digest,
        "size_bytes": row.size_bytes,
        "deleted": row.deleted_at,
    }
    if row.approval_status in IN_FORCE:
        approval = (await promotion.approvals(session, [row.id]))[row.id]
        told |= {"approved_by": approval.decided_by, "approved_at": approval.decided_at}
    for environment, deployment in (await deployments.live_of(session, row.id)).items():
        of_environment = f"deployment.{environment.lower()}"
        told[of_environment] = deployment.status
        told[f"{of_environment}.endpoint"] = deployment.endpoint
    metrics = (await registry.metrics(session, [row.id])).get(row.id, [])
    told["metrics"] = _json({metric.key: shown(metric.value) for metric in metrics})
    told["hyperparameters"] = _json(row.hyperparameters or {})
    return {
        f"lifecycle.{key}": rules.cut(_text(value), MAX_OTHER_TAG)
        for key, value in told.items()
        if value is not None
    }


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _json(values: Mapping[str, Any]) -> str | None:
    """As many of the values as a tag has room for, as JSON; None if there are none."""
    parts: list[str] = []
    room = MAX_OTHER_TAG - 2
    for key in sorted(values):
        part = orjson.dumps({key: values[key]}, option=orjson.OPT_SORT_KEYS).decode()[1:-1]
        room -= len(part) + 1
        if room < 0:
            break
        parts.append(part)
    return f"{{{','.join(parts)}}}" if parts else None


async def _agree(session: WriteSession, known: tuple[UUID, TrackedKind, UUID, str]) -> None:
    await repository.agree(session, *known)


def _split(mlflow_id: str) -> tuple[str, str]:
    """The model's name and the number."""
    model, _, number = mlflow_id.rpartition("/")
    return model, number


def _sources(row: ModelVersionRow, run_id: str | None) -> list[str]:
    """What MLflow may take as the source of a version, the best first; the last it takes always."""
    sources = []
    path = row.artifact_path
    try:
        scheme = urlsplit(path or "").scheme
    except ValueError:  # what nobody can read is nobody's source
        scheme, path = "", None
    # A model of MLflow 3 is refused as a source, and is an internal error to 2.22.
    if path is not None and scheme:
        sources += [] if path.startswith("models:/m-") else [path]
    elif path is not None and run_id is not None:
        sources.append(f"runs:/{run_id}/{path.lstrip('/')}")
    return [
        *(source for source in sources if len(source) <= _MAX_SOURCE),
        f"lifecycle:/model-versions/{row.id}",
    ]


async def _with_run(client: Client, version: Version, run_id: str) -> _There:
    try:
        run = await client.run(run_id)
    except Missing:
        return _There(version, None)
    if run.deleted:
        return _There(version, None)
    return _There(version, run_id, [*run.metrics.values()][:_MAX_METRICS])


def _metric(point: Point) -> NewMetric:
    name = shown(point.value)
    return checked(
        NewMetric,
        key=rules.here_key(point.key),
        value=None if isinstance(name, str) else name,
        kind=_KINDS.get(name) if isinstance(name, str) else None,
        step=point.step,
        timestamp=rules.moment(point.timestamp),
    )


def _claims_production(fields: Mapping[str, str | None]) -> bool:
    return fields.get("stage") == Stage.PRODUCTION or bool(fields.get("alias:production"))


async def _in_production(client: Client, model: str) -> str | None:
    """The number of the version that is in production by what MLflow says: of several the one that
    has the alias, else the one that was changed last."""
    claiming = [
        version
        async for page in client.versions(named(model))
        for version in page
        if version.model_name == model
        and (version.stage == "Production" or "production" in version.aliases)
    ]
    if not claiming:
        return None
    last = max(claiming, key=lambda v: ("production" in v.aliases, v.updated_at, int(v.number)))
    return last.number


async def _take_over(
    session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
) -> None:
    """Move a version to the stage that it has in MLflow, as the administrator who imports.

    Raises Conflict when that would move what is in PRODUCTION here, and what the moves raise.
    """
    assert sync.importing_for is not None
    origin = replace(sync.origin, actor=sync.importing_for)
    version: Version = theirs.facts.version
    # Whoever decides by policies holds them first.
    await promotion.hold_policies(session)
    if (await registry.versions_by_ids(session, [id]))[id].deleted_at is not None:
        return
    where = VersionSelector(id=id)
    row = await registry_service.locked_with_model(session, where)
    wanted = _wanted(row.stage, changes, theirs.facts)
    if wanted is row.stage:
        return
    if row.stage is Stage.PRODUCTION:
        raise Impossible(
            "In MLflow it is not in production any more; here it is. "
            "What is in PRODUCTION here is moved by setStage alone."
        )
    reason = f"{_standing(version)} on MLflow at {sync.client.uri} when it was imported."

    async def move_to(stage: Stage) -> None:
        command = SetStage(model_version=where, stage=stage, reason=reason)
        await promotion_service.set_stage(session, origin, command)

    if wanted is Stage.PRODUCTION:
        made_there = await repository.made_there(session, sync.server_id, _VERSION, row)
        runs = await run_repository.by_ids(session, [row.run_id] if row.run_id else [])
        for run in runs.values():
            made_there &= await repository.made_there(session, sync.server_id, _RUN, run)
        if not made_there:
            # Who writes to a mirror would have it let in by the administrator's BYPASS.
            raise Impossible(
                "In MLflow it is in production; it, or the run that it came out of, was not made "
                "there, so it comes into PRODUCTION by setStage alone."
            )
        if not await promotion.is_known_from_the_beginning(session, row):
            raise Impossible(
                "In MLflow it is in production; the journal does not know any more how it, or the "
                "run that it came out of, began, and so not who has changed it here, so it comes "
                "into PRODUCTION by setStage alone."
            )
        if {*await promotion.changers(session, row)} - {ACTOR}:
            # Nor what somebody has made of it here, which MLflow says nothing of.
            raise Impossible(
                "In MLflow it is in production; it, or the run that it came out of, was changed "
                "here, so it comes into PRODUCTION by setStage alone."
            )
        facts = (await promotion.facts(session, [row]))[id]
        if await promotion.was_refused(session, row) or await promotion.waits_for_people(
            session, row, facts.evidence_digest
        ):
            # Who imports has not seen what people have said to it, nor what it has become since.
            raise Impossible(
                "In MLflow it is in production; here nobody has approved what it is since that was "
                "rejected or taken back, or drift opened a review of it."
            )
        holder = (await registry.holders(session, [row.model_id])).get(row.model_id)
        if holder is not None:
            raise Impossible(
                f"In MLflow it is in production; here version {holder.version} is. "
                "What is in PRODUCTION here is replaced by setStage alone."
            )
        if row.approval_status in IN_FORCE:
            # What is decided comes in by that, if the policies let it.
            ways = [stage for stage in (Stage.STAGING, wanted) if stage is not row.stage]
            with suppress(GateFailed, ApprovalRequired):
                async with savepoint(session):
                    for stage in ways:
                        await move_to(stage)
                return
        bypass = DecideApproval(model_version=where, decision=Decision.BYPASS, notes=reason)
        await review.decide(session, origin, bypass)
    await move_to(wanted)


def _wanted(current: Stage, changes: Changes, found: _There) -> Stage:
    """The stage that these changes ask for. Of several versions that are in production there, all
    but one are archived. An alias that is gone says only that it is in production no more."""
    asked = {changes.get("stage")}
    asked |= {stage.value for alias, stage in _ALIASES.items() if changes.get(f"alias:{alias}")}
    if Stage.PRODUCTION in asked and found.in_production == found.version.number:
        return Stage.PRODUCTION
    if Stage.STAGING in asked:
        return Stage.STAGING
    if asked & {Stage.PRODUCTION, Stage.ARCHIVED}:
        return Stage.ARCHIVED
    if "stage" in changes or ("alias:production" in changes and current is Stage.PRODUCTION):
        return Stage.EXPERIMENTAL
    return current


def _standing(version: Version) -> str:
    """What MLflow says about a version, for the history and the audit log."""
    said = [f"in stage {version.stage}"] if version.stage in _STAGES else []
    said += [f"with alias {alias}" for alias in version.aliases if alias in _ALIASES]
    text = " and ".join(said or ["without a stage"])
    return text[0].upper() + text[1:]
