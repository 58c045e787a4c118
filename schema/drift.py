"""Drift events as clients see them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self
from uuid import UUID

import strawberry
from strawberry import Private
from strawberry.scalars import JSON

import schema.deployments
import schema.registry
from lifecycle.drift import repository, service
from lifecycle.drift.repository import DriftEventFilter
from lifecycle.drift.rules import DriftStatus
from lifecycle.drift.tables import DriftEventRow
from lifecycle.pages import PageRequest
from lifecycle.registry.rules import DriftSeverity
from schema import ids
from schema.context import Info
from schema.errors import (
    IdempotencyConflict,
    InvalidInput,
    InvalidTransition,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import ChangeInput, Given, WriteInput, choices, parse
from schema.nodes import Node
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.scalars import as_json

if TYPE_CHECKING:
    from schema.deployments import Deployment
    from schema.registry import ModelVersion, ModelVersionSelector


@strawberry.type(description="An observation that a version no longer behaves as it did.")
class DriftEvent(Node):
    severity: DriftSeverity = strawberry.field(description="How bad it is.")
    status: DriftStatus = strawberry.field(description="What became of it.")
    metric: str = strawberry.field(description="What was measured, such as accuracy or psi.")
    feature: str | None = strawberry.field(description="The feature that drifted, if one did.")
    baseline_value: float | None = strawberry.field(description="What it used to be.")
    observed_value: float | None = strawberry.field(description="What it is.")
    threshold: float | None = strawberry.field(description="From where on it counts as drift.")
    method: str | None = strawberry.field(description="How it was measured.")
    description: str | None = strawberry.field(description="In words.")
    details: JSON | None = strawberry.field(description="Whatever else the monitor knows.")
    detected_at: datetime = strawberry.field(description="When it was observed.")
    created_by: str = strawberry.field(description="Who recorded it.")
    created_at: datetime = strawberry.field(description="When it was recorded.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
    revision: int = strawberry.field(description="Counts changes; see `expectedRevision`.")
    acknowledged_by: str | None = strawberry.field(description="Who took notice.")
    acknowledged_at: datetime | None = strawberry.field(description="When that was.")
    resolved_by: str | None = strawberry.field(description="Who closed it.")
    resolved_at: datetime | None = strawberry.field(description="When that was.")
    resolution: str | None = strawberry.field(description="What was done about it.")
    version_key: Private[UUID]
    deployment_key: Private[UUID | None]

    @classmethod
    def from_row(cls, row: DriftEventRow) -> Self:
        return cls(
            id=ids.encode("DriftEvent", row.id),
            severity=row.severity,
            status=row.status,
            metric=row.metric,
            feature=row.feature,
            baseline_value=row.baseline_value,
            observed_value=row.observed_value,
            threshold=row.threshold,
            method=row.method,
            description=row.description,
            details=as_json(row.details),
            detected_at=row.detected_at,
            created_by=row.created_by,
            created_at=row.created_at,
            updated_at=row.updated_at,
            revision=row.revision,
            acknowledged_by=row.acknowledged_by,
            acknowledged_at=row.acknowledged_at,
            resolved_by=row.resolved_by,
            resolved_at=row.resolved_at,
            resolution=row.resolution,
            version_key=row.model_version_id,
            deployment_key=row.deployment_id,
        )

    @strawberry.field(description="The version that it was observed on.")
    async def model_version(
        self, info: Info
    ) -> Annotated["ModelVersion", strawberry.lazy("schema.registry")]:
        version = await schema.registry.version_by_id(info, self.version_key)
        assert version is not None
        return version

    @strawberry.field(description="The deployment that it was observed on, if it was on one.")
    async def deployment(
        self, info: Info
    ) -> Annotated["Deployment", strawberry.lazy("schema.deployments")] | None:
        return await schema.deployments.deployment_by_id(info, self.deployment_key)


@strawberry.input(name="DriftEventFilter", description="What is left out does not restrict.")
class DriftEventFilterInput:
    model_name: str | None = strawberry.field(
        default=None, description="Of the model of exactly this name."
    )
    severities: list[DriftSeverity] | None = strawberry.field(
        default=None, description="Any of these."
    )
    statuses: list[DriftStatus] | None = strawberry.field(default=None, description="Any of these.")


@strawberry.input(description="What a monitor observed.")
class RecordDriftEventInput(WriteInput):
    model_version: Annotated["ModelVersionSelector", strawberry.lazy("schema.registry")] = (
        strawberry.field(description="Which version.")
    )
    deployment_id: strawberry.ID | None = strawberry.field(
        default=None, description="On which of its deployments."
    )
    severity: DriftSeverity = strawberry.field(description="How bad it is.")
    metric: str = strawberry.field(description="What was measured, such as accuracy or psi.")
    feature: str | None = strawberry.field(default=None, description="The feature that drifted.")
    baseline_value: float | None = strawberry.field(default=None, description="What it used to be.")
    observed_value: float | None = strawberry.field(default=None, description="What it is.")
    threshold: float | None = strawberry.field(
        default=None, description="From where on it counts as drift."
    )
    method: str | None = strawberry.field(default=None, description="How it was measured.")
    description: str | None = strawberry.field(default=None, description="In words.")
    details: JSON | None = strawberry.field(default=None, description="A JSON object.")
    detected_at: datetime | None = strawberry.field(default=None, description="By default now.")


@strawberry.input(description="What became of a drift event; what is left out stays as it is.")
class UpdateDriftEventInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which event.")
    status: DriftStatus | None = strawberry.field(default=None, description="Its new status.")
    resolution: strawberry.Maybe[str | None] = strawberry.field(
        description="What was done about it."
    )


@strawberry.type(description="The event is recorded; it is OPEN.")
class RecordDriftEventSuccess:
    drift_event: DriftEvent = strawberry.field(description="The new event.")


@strawberry.type(description="The event was changed.")
class UpdateDriftEventSuccess:
    drift_event: DriftEvent = strawberry.field(description="The event as it is now.")


RecordDriftEventResult = Annotated[
    RecordDriftEventSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("RecordDriftEventResult", description="What came of recordDriftEvent."),
]
UpdateDriftEventResult = Annotated[
    UpdateDriftEventSuccess
    | NotFound
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("UpdateDriftEventResult", description="What came of updateDriftEvent."),
]


async def event_by_id(info: Info, id: UUID | None) -> DriftEvent | None:
    """A drift event, or None."""
    row = await info.context.loaders.load(repository.by_ids, id) if id else None
    return DriftEvent.from_row(row) if row else None


@strawberry.type
class DriftQueries:
    @strawberry.field(description="Drift events, newest first.")
    async def drift_events(
        self,
        info: Info,
        filter: Annotated[
            DriftEventFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[DriftEvent]:
        request = PageRequest.parse(first, after, last, before)
        given = filter or DriftEventFilterInput()
        wanted = DriftEventFilter(
            given.model_name, choices(given.severities), choices(given.statuses)
        )
        return await listed(
            info,
            DriftEvent.from_row,
            lambda session: repository.page(session, wanted, request),
            lambda session: repository.count(session, wanted),
        )


@strawberry.type
class DriftMutations:
    @strawberry.mutation(description="Record drift that was observed.")
    async def record_drift_event(
        self, info: Info, input: Given[RecordDriftEventInput]
    ) -> RecordDriftEventResult:
        command = parse(service.RecordDriftEvent, input, deployment_id="Deployment")
        row = await info.context.write(service.record, command)
        return RecordDriftEventSuccess(drift_event=DriftEvent.from_row(row))

    @strawberry.mutation(description="Acknowledge, mitigate, resolve or dismiss drift.")
    async def update_drift_event(
        self, info: Info, input: Given[UpdateDriftEventInput]
    ) -> UpdateDriftEventResult:
        command = parse(service.UpdateDriftEvent, input, id="DriftEvent")
        row = await info.context.write(service.update, command)
        return UpdateDriftEventSuccess(drift_event=DriftEvent.from_row(row))
