"""Models on both sides. They are the same if they have the same name; here it never changes, and
one that is renamed in MLflow stays the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from lifecycle.database import ReadSession, WriteSession
from lifecycle.errors import NotFound
from lifecycle.registry import repository as registry
from lifecycle.registry import service
from lifecycle.registry.service import UpdateModel
from lifecycle.tracking import repository, rules
from lifecycle.tracking.client import AlreadyThere, Client, Missing, Refused
from lifecycle.tracking.rules import Changes, FieldRule, TrackedKind
from lifecycle.tracking.sides import (
    ID_TAG,
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


@dataclass(frozen=True, slots=True)
class _There:
    """`former` is the name that the model had there before it was renamed, if it was."""

    former: str | None


def rule_of(sync: Sync, field: str) -> FieldRule:
    """Who may change this field."""
    return FieldRule.THEIRS if field.startswith("tag:mlflow.") else FieldRule.EITHER


async def load(session: ReadSession, sync: Sync, id: UUID) -> Ours:
    """The model as it is here. Raises NotFound."""
    row = (await registry.models_by_ids(session, [id])).get(id)
    if row is None:
        raise NotFound("model", id)
    announced = {ID_TAG: str(id), "lifecycle.name": row.name}
    if row.owner:
        announced["lifecycle.owner"] = row.owner
    return Ours(id, fields_here(row.description, row.tags), announced, row.name)


async def fetch(sync: Sync, mlflow_id: str) -> Theirs:
    """The model as it is there. Raises Missing, also for a prompt."""
    found = await sync.client.model(mlflow_id)
    fields, announced = fields_there(found.description, found.tags)
    url = sync.client.model_url(mlflow_id)
    theirs = Theirs(mlflow_id, fields, announced, digest(found), url, _There(None))
    id = our_id(theirs)
    if id is None:
        return theirs
    async with sync.database.read() as session:
        known = await repository.mlflow_id_of(session, sync.server_id, TrackedKind.MODEL, id)
    if known in (None, mlflow_id):
        return theirs
    if await _is_there(sync.client, known):
        # Somebody has copied its tags; they do not make it ours.
        del announced[ID_TAG]
        return theirs
    return Theirs(mlflow_id, fields, announced, digest(found), url, _There(known))


async def create_there(sync: Sync, ours: Ours) -> str:
    """Make it there, or take the one that has its name. Raises Refused if that is a prompt."""
    name = rules.there_name(ours.facts)
    try:
        await sync.client.create_model(
            name,
            ours.fields.get("description", ""),
            {**rules.tags_in(ours.fields), **ours.announced},
        )
    except AlreadyThere:
        if not await _is_there(sync.client, name):
            raise Refused(
                f"MLflow has a prompt named {name}: rename it there, or the model cannot be."
            ) from None
    return name


async def create_here(session: WriteSession, sync: Sync, theirs: Theirs) -> UUID:
    """Make it here, or take the one that it was made from, or that has its name."""
    id = our_id(theirs)
    if id is not None and await registry.models_by_ids(session, [id]):
        if theirs.facts.former is not None:
            await repository.rename_model(
                session, sync.server_id, theirs.facts.former, theirs.mlflow_id
            )
        return id
    name = rules.here_name(theirs.mlflow_id)
    return (await service.ensure_model(session, sync.origin, name)).id


async def push(
    sync: Sync, ours: Ours, theirs: Theirs, changes: Changes, announced: Changes
) -> None:
    """Change it there."""
    name = theirs.mlflow_id
    if "description" in changes:
        await sync.client.update_model(name, changes["description"] or "")
    for key, value in (rules.tags_in(changes) | announced).items():
        if value is None:
            await sync.client.delete_model_tag(name, key)
        else:
            await sync.client.set_model_tag(name, key, value)


async def pull(
    session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
) -> None:
    """Change it here."""
    row = await registry.lock_model(session, id)
    values: dict[str, Any] = {"name": row.name}
    if "description" in changes:
        values["description"] = changes["description"]
    tags = tags_with(row.tags, changes)
    if tags != row.tags:
        values["tags"] = tags
    await service.update_model(session, sync.origin, checked(UpdateModel, **values))


async def exchange(
    sync: Sync, task: Task, ours: Ours, theirs: Theirs, through: int
) -> Mapping[str, Any]:
    """There is nothing that is only ever added."""
    return task.points_seen


async def _is_there(client: Client, name: str) -> bool:
    try:
        await client.model(name)
    except Missing:
        return False
    return True
