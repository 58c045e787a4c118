"""Experiments on both sides. They are the same if they have the same name."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from lifecycle.database import ReadSession, WriteSession
from lifecycle.errors import NotFound
from lifecycle.experiments import repository, service
from lifecycle.experiments.service import CreateExperiment, UpdateExperiment
from lifecycle.tracking import rules
from lifecycle.tracking.client import AlreadyThere, Missing, Refused
from lifecycle.tracking.rules import MAX_OTHER_TAG, Changes, FieldRule
from lifecycle.tracking.sides import (
    ID_TAG,
    OURS,
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
_FIELDS = {"description": _NOTE}


def rule_of(sync: Sync, field: str) -> FieldRule:
    """Who may change this field."""
    if field == "name":
        return FieldRule.OURS
    return FieldRule.THEIRS if field.startswith("tag:mlflow.") else FieldRule.EITHER


async def load(session: ReadSession, sync: Sync, id: UUID) -> Ours:
    """The experiment as it is here. An empty value is none: MLflow cannot always remove one."""
    row = (await repository.by_ids(session, [id])).get(id)
    if row is None:
        raise NotFound("experiment", id)
    fields = {"name": row.name, "description": row.description or ""}
    announced = {ID_TAG: str(row.id), "lifecycle.status": row.status.value}
    if row.owner:
        announced["lifecycle.owner"] = row.owner
    for key, value in row.tags.items():
        there = rules.there_key(key)
        if there.startswith(OURS):
            announced.setdefault(there, rules.cut(value, MAX_OTHER_TAG))
        else:
            fields[f"tag:{there}"] = rules.cut(value, MAX_OTHER_TAG)
    fields["description"] = rules.cut(fields["description"], MAX_OTHER_TAG)
    return Ours(id, _not_empty(fields), _not_empty(announced), row)


async def fetch(sync: Sync, mlflow_id: str) -> Theirs:
    """The experiment as it is there."""
    found = await sync.client.experiment(mlflow_id)
    if found.deleted:
        raise Missing(f"Experiment {found.name} is deleted in MLflow.")
    announced = {key: value for key, value in found.tags.items() if key.startswith(OURS)}
    fields = {
        "name": rules.here_title(found.name, f"MLflow experiment {found.id}"),
        "description": rules.here_text(found.tags.get(_NOTE, "")),
    }
    for key, value in found.tags.items():
        if key not in announced and key != _NOTE:
            fields[f"tag:{key}"] = rules.here_text(value)
    return Theirs(
        mlflow_id,
        _not_empty(fields),
        _not_empty(announced),
        digest(found),
        sync.client.experiment_url(mlflow_id),
        found,
    )


async def create_there(sync: Sync, ours: Ours) -> str:
    """Make it there, or take the one that has its name. Raises Refused if that is deleted."""
    name, stamp = ours.fields["name"], {ID_TAG: str(ours.id)}
    found = await sync.client.experiment_named(name)
    if found is None:
        try:
            return await sync.client.create_experiment(name, stamp)
        except AlreadyThere:
            # Somebody was faster, or a request that was not answered has been carried out.
            found = await sync.client.experiment_named(name)
            if found is None:
                raise
    if found.deleted:
        raise Refused(
            f"MLflow has a deleted experiment {name}: restore it there, or remove it for good."
        )
    if ID_TAG not in found.tags:
        await sync.client.set_experiment_tag(found.id, ID_TAG, stamp[ID_TAG])
    return found.id


async def create_here(session: WriteSession, sync: Sync, theirs: Theirs) -> UUID:
    """Make it here, or take the one that it was made from, or that has its name."""
    known = our_id(theirs)
    if known is not None and await repository.by_ids(session, [known]):
        return known
    name = theirs.fields["name"]
    named = (await repository.by_names(session, [name])).get(name)
    if named is not None:
        return named.id
    command = checked(CreateExperiment, name=name)
    return (await service.create(session, sync.origin, command)).id


async def push(
    sync: Sync, ours: Ours, theirs: Theirs, changes: Changes, announced: Changes
) -> None:
    """Change it there."""
    name = changes.get("name")
    if name is not None:
        await sync.client.rename_experiment(theirs.mlflow_id, name)
    tags = {
        _FIELDS.get(field, field.removeprefix("tag:")): value
        for field, value in changes.items()
        if field != "name"
    }
    for key, value in (tags | announced).items():
        if value is None:
            await sync.client.delete_experiment_tag(theirs.mlflow_id, key)
        else:
            await sync.client.set_experiment_tag(theirs.mlflow_id, key, value)


async def pull(
    session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
) -> None:
    """Change it here."""
    found = (await repository.by_ids(session, [id]))[id]
    row = await repository.lock(session, found.name)
    assert row is not None
    values: dict[str, Any] = {"name": row.name}
    if "description" in changes:
        values["description"] = changes["description"]
    tags = tags_with(row.tags, changes)
    if tags != row.tags:
        values["tags"] = tags
    await service.update(session, sync.origin, checked(UpdateExperiment, **values))


async def exchange(
    sync: Sync, task: Task, ours: Ours, theirs: Theirs, through: int
) -> Mapping[str, Any]:
    """There is nothing that is only ever added."""
    return task.points_seen


def _not_empty(values: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}
