"""Drift events as clients see them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry
from strawberry import Private
from strawberry.scalars import JSON

import schema.deployments
import schema.promotion
import schema.registry
from lifecycle.deployments import repository as deployments
from lifecycle.drift import repository, service
from lifecycle.drift.repository import DriftEventFilter
from lifecycle.drift.rules import (
    DegradationFigure,
    DegradationLimit,
    DriftAction,
    DriftOutcome,
    DriftStatus,
)
from lifecycle.drift.tables import DriftEventRow, DriftPolicyRow, DriftResponseRow
from lifecycle.errors import NotFound as Missing
from lifecycle.pages import PageRequest
from lifecycle.promotion import repository as promotion
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import DriftSeverity
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
from schema.loaded import loaded
from schema.nodes import Node
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.rows import OfRow, shown

if TYPE_CHECKING:
    from schema.deployments import Deployment
    from schema.promotion import Approval
    from schema.registry import ModelVersion, ModelVersionSelector


@strawberry.type(description="What is done about drift from a severity on.")
class DriftResponseRule:
    from_severity: DriftSeverity = strawberry.field(
        description="About events of this severity, and of all that are worse."
    )
    action: DriftAction = strawberry.field(description="What is done.")


@strawberry.type(description="From where on a figure that a deployment reports is degraded.")
class DegradationRule:
    figure: DegradationFigure = strawberry.field(description="Which of the reported figures.")
    metric: str | None = strawberry.field(
        description="The version's own metric that it is compared with, and the observed figure's "
        "key. Null where neither is needed."
    )
    limit: DegradationLimit = strawberry.field(description="What `value` says.")
    value: float = strawberry.field(description="Beyond this it is degraded.")
    severity: DriftSeverity = strawberry.field(description="That of the event that is recorded.")


@strawberry.type(
    description="What counts as degradation, and what is done about drift: a version of the policy "
    "of one model, or of the one for all models that have none of their own. It never changes; the "
    "newest version holds."
)
class DriftPolicy(Node, OfRow[DriftPolicyRow]):
    row: Private[DriftPolicyRow]
    model_name: str | None = shown(
        description="The model that it is for; null if for all without a policy of their own."
    )
    version: int = shown(description="Counts up from 1, for each model and for all.")
    responses: list[DriftResponseRule] | None = shown(
        lambda row: (
            None
            if row.responses is None
            else [
                DriftResponseRule(from_severity=rule.from_severity, action=rule.action)
                for rule in service.policy_of(row).responses
            ]
        ),
        description="What is done about an event, in this order; null where a model follows the "
        "general policy again.",
    )
    degradation: list[DegradationRule] | None = shown(
        lambda row: (
            None
            if row.degradation is None
            else [
                DegradationRule(
                    figure=rule.figure,
                    metric=rule.metric,
                    limit=rule.limit,
                    value=rule.value,
                    severity=rule.severity,
                )
                for rule in service.policy_of(row).degradation
            ]
        ),
        description="What is looked at in each report of a deployment; null like `responses`.",
    )
    reason: str = shown(description="Why it was made.")
    created_by: str = shown(description="Who made it.")
    created_at: datetime = shown(description="From when on it holds.")


@strawberry.type(description="What a policy had done about a drift event, and what came of it.")
class DriftResponse(OfRow[DriftResponseRow]):
    row: Private[DriftResponseRow]
    keys = ("approval_id",)
    action: DriftAction = shown(description="What was to be done.")
    outcome: DriftOutcome = shown(description="What came of it.")
    message: str = shown(description="The same in words.")
    at: datetime = shown(description="When that was.")

    @strawberry.field(
        description="The approval that became STALE, or the submission that people are to decide "
        "on; as it is now."
    )
    async def approval(
        self, info: Info
    ) -> Annotated["Approval", strawberry.lazy("schema.promotion")] | None:
        if self.row.approval_id is None:
            return None
        row = await info.context.loaders.load(promotion.approvals_by_ids, self.row.approval_id)
        return schema.promotion.Approval.from_row(row)

    deployment: Annotated["Deployment", strawberry.lazy("schema.deployments")] | None = loaded(
        deployments.by_ids,
        by="deployment_id",
        leaves=True,
        description="The deployment that a rollback made.",
    )


@strawberry.type(description="An observation that a version no longer behaves as it did.")
class DriftEvent(Node, OfRow[DriftEventRow]):
    row: Private[DriftEventRow]
    severity: DriftSeverity = shown(description="How bad it is.")
    status: DriftStatus = shown(description="What became of it.")
    metric: str = shown(description="What was measured, such as accuracy or psi.")
    feature: str | None = shown(description="The feature that drifted, if one did.")
    baseline_value: float | None = shown(description="What it used to be.")
    observed_value: float | None = shown(description="What it is.")
    threshold: float | None = shown(description="From where on it counts as drift.")
    method: str | None = shown(description="How it was measured.")
    description: str | None = shown(description="In words.")
    details: JSON | None = shown(description="Whatever else the monitor knows.")
    detected_at: datetime = shown(description="When it was observed.")
    created_by: str = shown(description="Who recorded it.")
    created_at: datetime = shown(description="When it was recorded.")
    updated_at: datetime = shown(description="When it last changed.")
    revision: int = shown(description="Counts changes; see `expectedRevision`.")
    acknowledged_by: str | None = shown(description="Who took notice.")
    acknowledged_at: datetime | None = shown(description="When that was.")
    resolved_by: str | None = shown(description="Who closed it.")
    resolved_at: datetime | None = shown(description="When that was.")
    resolution: str | None = shown(description="What was done about it.")
    dedup_key: str | None = shown(description="The reporter's own name of it.")

    model_version: Annotated["ModelVersion", strawberry.lazy("schema.registry")] = loaded(
        registry.versions_by_ids,
        by="model_version_id",
        leaves=True,
        description="The version that it was observed on.",
    )

    deployment: Annotated["Deployment", strawberry.lazy("schema.deployments")] | None = loaded(
        deployments.by_ids,
        by="deployment_id",
        leaves=True,
        description="The deployment that it was observed on, if it was on one.",
    )

    policy: DriftPolicy | None = loaded(
        repository.policies_by_ids,
        by="policy_id",
        leaves=True,
        description="The policy that held when it was recorded; null from before there were any.",
    )

    responses: list[DriftResponse] = loaded(
        repository.responses,
        by="id",
        description="What the policy had done about it, in order.",
    )


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
    dedup_key: str | None = strawberry.field(
        default=None,
        description="The reporter's own name of this observation. A second report under the same "
        "name about the same version, or with `inStage` the same model, gives the first one's "
        "event and does nothing, whatever else it says; but a report about PRODUCTION does not go "
        "by the name of one about another environment.",
    )


@strawberry.input(description="What is done about drift from a severity on.")
class DriftResponseRuleInput:
    from_severity: DriftSeverity = strawberry.field(
        description="About events of this severity, and of all that are worse."
    )
    action: DriftAction = strawberry.field(description="What is done; each action once.")


@strawberry.input(description="From where on a figure that a deployment reports is degraded.")
class DegradationRuleInput:
    figure: DegradationFigure = strawberry.field(description="Which of the reported figures.")
    metric: str | None = strawberry.field(
        default=None,
        description="The version's own metric to compare with, and the observed figure's key. Only "
        "a MAX_VALUE of another figure needs none.",
    )
    limit: DegradationLimit = strawberry.field(description="What `value` says.")
    value: float = strawberry.field(description="Beyond this it is degraded; not negative.")
    severity: DriftSeverity = strawberry.field(description="That of the event that is recorded.")


@strawberry.input(description="A new version of a drift policy.")
class SetDriftPolicyInput(WriteInput):
    model_name: str | None = strawberry.field(
        default=None,
        description="The model that it is for; by default all that have no policy of their own.",
    )
    responses: list[DriftResponseRuleInput] | None = strawberry.field(
        default=None,
        description="What is done about an event, in this order; without both lists the model "
        "follows the general policy again.",
    )
    degradation: list[DegradationRuleInput] | None = strawberry.field(
        default=None,
        description="What is looked at in each report of a deployment; at most 100 rules.",
    )
    reason: str = strawberry.field(description="Why; kept with the policy.")
    expected_version: int | None = strawberry.field(
        default=None,
        description="Refuse with StaleRevision if the policy's version is another one by now; 0 is "
        "none.",
    )


@strawberry.input(description="What became of a drift event; what is left out stays as it is.")
class UpdateDriftEventInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which event.")
    status: DriftStatus | None = strawberry.field(default=None, description="Its new status.")
    resolution: strawberry.Maybe[str | None] = strawberry.field(
        description="What was done about it."
    )


@strawberry.type(description="The event is recorded, and the policy's responses are done.")
class RecordDriftEventSuccess:
    drift_event: DriftEvent = strawberry.field(
        description="The event: OPEN, or MITIGATED when its deployment was rolled back."
    )
    duplicate: bool = strawberry.field(
        description="Whether it had been recorded before, so that this call changed nothing."
    )


@strawberry.type(description="The event was changed.")
class UpdateDriftEventSuccess:
    drift_event: DriftEvent = strawberry.field(description="The event as it is now.")


@strawberry.type(description="The policy holds from now on.")
class SetDriftPolicySuccess:
    drift_policy: DriftPolicy = strawberry.field(description="The new version.")


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
SetDriftPolicyResult = Annotated[
    SetDriftPolicySuccess
    | NotFound
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("SetDriftPolicyResult", description="What came of setDriftPolicy."),
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

    @strawberry.field(
        description="The drift policy that holds now: the model's own, or else the general one."
    )
    async def drift_policy(
        self,
        info: Info,
        model_name: Annotated[
            str | None, strawberry.argument(description="By default the general one.")
        ] = None,
    ) -> DriftPolicy:
        async with info.context.database.read() as session:
            if model_name is not None and not await registry.models_by_names(session, [model_name]):
                # Names are at most this long; what is sent may not be.
                raise Missing("model", model_name[:250], ("model_name",))
            row = await repository.policy_in_force(session, model_name)
        return DriftPolicy.from_row(row)

    @strawberry.field(
        description="All versions of a model's own drift policy, or of the general one, newest "
        "first."
    )
    async def drift_policies(
        self,
        info: Info,
        model_name: Annotated[
            str | None, strawberry.argument(description="By default those of the general one.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[DriftPolicy]:
        request = PageRequest.parse(first, after, last, before)
        return await listed(
            info,
            DriftPolicy.from_row,
            lambda session: repository.policies_page(session, model_name, request),
            lambda session: repository.policies_count(session, model_name),
        )


@strawberry.type
class DriftMutations:
    @strawberry.mutation(
        description="Record drift that was observed, and respond to it as the drift policy says."
    )
    async def record_drift_event(
        self, info: Info, input: Given[RecordDriftEventInput]
    ) -> RecordDriftEventResult:
        command = parse(service.RecordDriftEvent, input, deployment_id="Deployment")
        row = await info.context.write(service.record, command)
        return RecordDriftEventSuccess(
            drift_event=DriftEvent.from_row(row), duplicate=row.duplicate
        )

    @strawberry.mutation(description="Acknowledge, mitigate, resolve or dismiss drift.")
    async def update_drift_event(
        self, info: Info, input: Given[UpdateDriftEventInput]
    ) -> UpdateDriftEventResult:
        command = parse(service.UpdateDriftEvent, input, id="DriftEvent")
        row = await info.context.write(service.update, command)
        return UpdateDriftEventSuccess(drift_event=DriftEvent.from_row(row))

    @strawberry.mutation(
        description="Set what counts as degradation and what is done about drift, for "
        "administrators. It makes a new version of the policy, unless it says the same as before."
    )
    async def set_drift_policy(
        self, info: Info, input: Given[SetDriftPolicyInput]
    ) -> SetDriftPolicyResult:
        command = parse(service.SetDriftPolicy, input)
        row = await info.context.write(service.set_policy, command)
        return SetDriftPolicySuccess(drift_policy=DriftPolicy.from_row(row))
