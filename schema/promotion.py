"""Stages, their history and checklists as clients see them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self
from uuid import UUID

import strawberry
from strawberry import Private

import schema.registry
from lifecycle.promotion import repository, service
from lifecycle.promotion.rules import ChecklistStatus, StageCause
from lifecycle.promotion.tables import ChecklistItemRow, StageAssignmentRow
from lifecycle.registry.rules import Stage
from schema import ids
from schema.context import Info
from schema.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    InvalidTransition,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import ChangeInput, Given, parse

if TYPE_CHECKING:
    from schema.registry import ModelVersion, ModelVersionSelector


@strawberry.type(description="A version was in a stage for a time.")
class StageAssignment:
    stage: Stage = strawberry.field(description="The stage.")
    valid_from: datetime = strawberry.field(description="From this moment on,")
    valid_to: datetime | None = strawberry.field(
        description="until just before this one; null while it lasts."
    )
    actor: str = strawberry.field(description="Who moved it there.")
    reason: str | None = strawberry.field(description="Why, as the actor says.")
    cause: StageCause = strawberry.field(description="Why, as the service knows.")
    version_key: Private[UUID]

    @classmethod
    def from_row(cls, row: StageAssignmentRow) -> Self:
        return cls(
            stage=row.stage,
            valid_from=row.valid_from,
            valid_to=row.valid_to,
            actor=row.actor,
            reason=row.reason,
            cause=row.cause,
            version_key=row.model_version_id,
        )

    @strawberry.field(description="The version, even if it has since been deleted.")
    async def model_version(
        self, info: Info
    ) -> Annotated["ModelVersion", strawberry.lazy("schema.registry")]:
        return await _version(info, self.version_key)


@strawberry.type(description="One thing to be checked before a version goes on.")
class ChecklistItem:
    id: strawberry.ID = strawberry.field(description="For markChecklistItem.")
    title: str = strawberry.field(description="What is to be checked.")
    status: ChecklistStatus = strawberry.field(description="What was decided.")
    note: str | None = strawberry.field(description="What was remarked.")
    decided_by: str | None = strawberry.field(description="Who decided.")
    decided_at: datetime | None = strawberry.field(description="When that was.")

    @classmethod
    def from_row(cls, row: ChecklistItemRow) -> Self:
        return cls(
            id=ids.encode("ChecklistItem", row.id),
            title=row.title,
            status=row.status,
            note=row.note,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
        )


_Selector = Annotated["ModelVersionSelector", strawberry.lazy("schema.registry")]


@strawberry.input(description="A version and the stage that it should be in.")
class SetStageInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    stage: Stage = strawberry.field(description="Where it should go.")
    reason: str | None = strawberry.field(default=None, description="Why; kept in the history.")


@strawberry.input(description="One more thing to check.")
class AppendChecklistItemInput(ChangeInput):
    model_version: _Selector = strawberry.field(description="Which version.")
    title: str = strawberry.field(description="What is to be checked.")


@strawberry.input(description="A decision about an item.")
class MarkChecklistItemInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which item.")
    status: ChecklistStatus = strawberry.field(description="PENDING opens it again.")
    note: str | None = strawberry.field(
        default=None, description="A remark on this decision; the former one goes with its own."
    )


@strawberry.type
class _AboutVersion:
    """A success that shows the version as it is after the commit: by a field of its own, so that a
    read that fails then does not make the change look undone."""

    version_key: Private[UUID]

    @strawberry.field(description="The version as it is now.")
    async def model_version(
        self, info: Info
    ) -> Annotated["ModelVersion", strawberry.lazy("schema.registry")]:
        return await _version(info, self.version_key)


@strawberry.type(description="The version is in its new stage.")
class SetStageSuccess(_AboutVersion):
    entry_key: Private[UUID]

    @strawberry.field(description="The versions that it replaced, which are ARCHIVED now.")
    async def displaced(
        self, info: Info
    ) -> list[Annotated["ModelVersion", strawberry.lazy("schema.registry")]]:
        displaced = await info.context.loaders.load(repository.displaced_by, self.entry_key)
        return [await _version(info, id) for id in displaced or ()]


@strawberry.type(description="The item is on the list.")
class AppendChecklistItemSuccess(_AboutVersion):
    checklist_item: ChecklistItem = strawberry.field(description="The new item.")


@strawberry.type(description="The item is marked.")
class MarkChecklistItemSuccess(_AboutVersion):
    checklist_item: ChecklistItem = strawberry.field(description="The item as it is now.")


SetStageResult = Annotated[
    SetStageSuccess
    | NotFound
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("SetStageResult", description="What came of setStage."),
]
AppendChecklistItemResult = Annotated[
    AppendChecklistItemSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("AppendChecklistItemResult", description="What came of appendChecklistItem."),
]
MarkChecklistItemResult = Annotated[
    MarkChecklistItemSuccess
    | NotFound
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("MarkChecklistItemResult", description="What came of markChecklistItem."),
]


async def _version(info: Info, id: UUID) -> "ModelVersion":
    version = await schema.registry.version_by_id(info, id)
    assert version is not None
    return version


@strawberry.type
class PromotionMutations:
    @strawberry.mutation(
        description="Move a version to another stage. One that it displaces from PRODUCTION is "
        "ARCHIVED in the same moment."
    )
    async def set_stage(self, info: Info, input: Given[SetStageInput]) -> SetStageResult:
        command = parse(service.SetStage, input)
        entry = await info.context.write(service.set_stage, command)
        return SetStageSuccess(version_key=entry.model_version_id, entry_key=entry.id)

    @strawberry.mutation(description="Add an item at the end of a version's checklist.")
    async def append_checklist_item(
        self, info: Info, input: Given[AppendChecklistItemInput]
    ) -> AppendChecklistItemResult:
        command = parse(service.AppendChecklistItem, input)
        row = await info.context.write(service.append_item, command)
        return AppendChecklistItemSuccess(
            checklist_item=ChecklistItem.from_row(row),
            version_key=row.model_version_id,
        )

    @strawberry.mutation(description="Approve or reject an item of a checklist, or open it again.")
    async def mark_checklist_item(
        self, info: Info, input: Given[MarkChecklistItemInput]
    ) -> MarkChecklistItemResult:
        command = parse(service.MarkChecklistItem, input, id="ChecklistItem")
        row = await info.context.write(service.mark_item, command)
        return MarkChecklistItemSuccess(
            checklist_item=ChecklistItem.from_row(row),
            version_key=row.model_version_id,
        )
