"""What moves a version along: registration, stages, checklists, deletion.

Whoever changes a stage holds the model's row first and then the versions', in order of id, so
that the stages of one model change one after the other.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from lifecycle.access.origin import Origin
from lifecycle.commands import Command, Line, Text
from lifecycle.database import WriteSession, clock
from lifecycle.errors import Conflict, InUse, NotFound, check_revision
from lifecycle.journal import service as journal
from lifecycle.promotion import repository, rules
from lifecycle.promotion.rules import ChecklistStatus, StageCause
from lifecycle.promotion.tables import ChecklistItemRow, StageAssignmentRow
from lifecycle.registry import repository as registry
from lifecycle.registry import service as registry_service
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import Stage
from lifecycle.registry.service import RegisterModelVersion
from lifecycle.registry.tables import ModelVersionRow

MAX_ITEMS = 200


class SetStage(Command):
    """Ask for another stage."""

    model_version: VersionSelector
    stage: Stage
    reason: Text | None = None
    expected_revision: int | None = None


class DeleteModelVersion(Command):
    """Take a version out of the registry."""

    model_version: VersionSelector
    reason: Text | None = None
    expected_revision: int | None = None


class AppendChecklistItem(Command):
    """One more thing to check."""

    model_version: VersionSelector
    title: Line
    expected_revision: int | None = None


class MarkChecklistItem(Command):
    """Decide an item, or open it again."""

    id: UUID
    status: ChecklistStatus
    note: Text | None = None
    expected_revision: int | None = None


async def register(
    session: WriteSession, origin: Origin, command: RegisterModelVersion
) -> ModelVersionRow:
    """Register a version, with its first stage and its checklist.

    Raises AlreadyExists, NotFound, InvalidInput.
    """
    model = await registry_service.ensure_model(session, origin, command.model_name)
    now = await repository.moment(session, model.id)
    version = await registry_service.add_version(
        session, origin, model, command, Stage.EXPERIMENTAL, now
    )
    session.add(_entry(version, origin, StageCause.REGISTERED, None, now))
    session.add_all(
        ChecklistItemRow(
            model_version_id=version.id, place=place, title=title, created_by=origin.actor
        )
        for place, title in enumerate(command.checklist, 1)
    )
    await session.flush()
    return version


async def set_stage(session: WriteSession, origin: Origin, command: SetStage) -> StageAssignmentRow:
    """Move a version to another stage; what it replaces in production is archived with it.

    Raises NotFound, StaleRevision, InvalidTransition.
    """
    version = await locked_with_model(session, command.model_version)
    check_revision(version.revision, command.expected_revision)
    return await move(session, origin, version, command.stage, StageCause.REQUESTED, command.reason)


async def move(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    stage: Stage,
    cause: StageCause,
    reason: str | None,
) -> StageAssignmentRow:
    """Move a version that the caller has locked along with its model: the one door to a stage.

    A version that is displaced from production is archived in the same moment. Raises
    InvalidTransition.
    """
    rules.check_move(version.stage, stage, cause)
    displaced = None
    if stage is Stage.PRODUCTION:
        holder = await registry.in_production(session, version.model_id)
        if holder is not None:
            displaced = (await registry.lock_versions(session, [holder]))[holder]
    moment = await repository.moment(session, version.model_id)
    pushed_out = None
    if displaced is not None:
        pushed_out = await _record(
            session,
            origin,
            displaced,
            Stage.ARCHIVED,
            StageCause.DISPLACED,
            f"Displaced by version {version.version}.",
            moment,
        )
    entry = await _record(session, origin, version, stage, cause, reason, moment)
    if pushed_out is not None:
        pushed_out.replaced_by_id = entry.id
        await session.flush()
    return entry


async def delete(
    session: WriteSession, origin: Origin, command: DeleteModelVersion
) -> ModelVersionRow:
    """Delete a version: from then on it is in no stage; its history and name stay.

    Raises NotFound, StaleRevision, InUse.
    """
    version = await locked_with_model(session, command.model_version)
    check_revision(version.revision, command.expected_revision)
    path = ("model_version",)
    if version.live_deployments:
        raise InUse(
            f"Version {version.version} is deployed; terminate its deployments first.", path
        )
    if version.stage is Stage.PRODUCTION:
        raise InUse(f"Version {version.version} is in PRODUCTION; move it to ARCHIVED first.", path)
    if version.stage is not Stage.ARCHIVED:
        await move(session, origin, version, Stage.ARCHIVED, StageCause.REQUESTED, command.reason)
    moment = await repository.moment(session, version.model_id)
    await repository.close_entry(session, version.id, moment)
    await journal.change(
        session,
        origin,
        version,
        {"deleted_at": moment},
        type="model_version.deleted",
        about={"model_name": version.model_name, "version": version.version},
        reason=command.reason,
    )
    return version


async def append_item(
    session: WriteSession, origin: Origin, command: AppendChecklistItem
) -> ChecklistItemRow:
    """Add an item at the end of a version's checklist.

    Raises NotFound, StaleRevision, Conflict when the list is full.
    """
    version = await registry_service.locked(session, command.model_version)
    check_revision(version.revision, command.expected_revision)
    place = await repository.last_place(session, version.id) + 1
    if place > MAX_ITEMS:
        raise Conflict(f"A checklist has at most {MAX_ITEMS} items.", ("title",))
    item = ChecklistItemRow(
        model_version_id=version.id, place=place, title=command.title, created_by=origin.actor
    )
    session.add(item)
    await session.flush()
    await _item_changed(session, origin, version, item, "model_version.checklist_item_appended")
    return item


async def mark_item(
    session: WriteSession, origin: Origin, command: MarkChecklistItem
) -> ChecklistItemRow:
    """Approve or reject an item, or set it back to PENDING. Raises NotFound, StaleRevision."""
    item = await repository.item(session, command.id)
    if item is None:
        raise NotFound("checklist item", "with this id")
    id = item.model_version_id
    version = (await registry.lock_versions(session, [id]))[id]
    if version.deleted_at is not None:
        raise NotFound("checklist item", "with this id")
    check_revision(version.revision, command.expected_revision)
    item = await repository.item(session, command.id)
    assert item is not None
    if (item.status, item.note) == (command.status, command.note):
        return item
    before = {"status": item.status, "note": item.note}
    now = await clock(session)
    decided = command.status is not ChecklistStatus.PENDING
    item.status = command.status
    item.note = command.note
    item.decided_by = origin.actor if decided else None
    item.decided_at = now if decided else None
    await session.flush()
    type = "model_version.checklist_item_marked"
    await _item_changed(session, origin, version, item, type, before)
    return item


async def lock_for_move(
    session: WriteSession, model_id: UUID, ids: Iterable[UUID]
) -> dict[UUID, ModelVersionRow]:
    """A model and some of its versions, held in the order that this module keeps to."""
    await registry.lock_model(session, model_id)
    holder = await registry.in_production(session, model_id)
    return await registry.lock_versions(session, [*ids, *([holder] if holder else [])])


async def locked_with_model(session: WriteSession, selector: VersionSelector) -> ModelVersionRow:
    """The version that is meant, held until the transaction ends along with its model and the
    version in production. Raises NotFound."""
    found = await registry.find(session, selector)
    if found is not None:
        await registry.lock_model(session, found.model_id)
        # Again: with the model held, nothing moves between this and the decision.
        found = await registry.find(session, selector)
    if found is None:
        raise NotFound("version", selector, ("model_version",))
    return (await lock_for_move(session, found.model_id, [found.id]))[found.id]


async def _record(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    stage: Stage,
    cause: StageCause,
    reason: str | None,
    moment: datetime,
) -> StageAssignmentRow:
    """Close the version's entry in the history and open the next one at the same moment."""
    await repository.close_entry(session, version.id, moment)
    await journal.change(
        session,
        origin,
        version,
        {"stage": stage, "stage_changed_at": moment},
        type="model_version.stage_changed",
        about={"model_name": version.model_name, "version": version.version, "cause": cause},
        reason=reason,
    )
    entry = _entry(version, origin, cause, reason, moment)
    entry.follows = moment
    session.add(entry)
    await session.flush()
    return entry


def _entry(
    version: ModelVersionRow, origin: Origin, cause: StageCause, reason: str | None, now: datetime
) -> StageAssignmentRow:
    return StageAssignmentRow(
        id=uuid7(),
        model_id=version.model_id,
        model_version_id=version.id,
        stage=version.stage,
        valid_from=now,
        actor=origin.actor,
        reason=reason,
        cause=cause,
    )


async def _item_changed(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    item: ChecklistItemRow,
    type: str,
    before: dict[str, Any] | None = None,
) -> None:
    """An item belongs to its version: its change counts as one of the version."""
    version.revision += 1
    await session.flush()
    about = {"item_id": item.id, "title": item.title}
    now = {"status": item.status, "note": item.note}
    await journal.append(session, origin, type, version.id, before=before, after=about | now)
