"""Deployments as clients see them, and their live status."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry
from strawberry import Private

import schema.drift
import schema.registry
import schema.tracking
from lifecycle.deployments import repository, service
from lifecycle.deployments.repository import DeploymentFilter, DeploymentOrderField
from lifecycle.deployments.rules import DeploymentStatus, Environment, HealthStatus
from lifecycle.deployments.tables import DeploymentRow, DeploymentTransitionRow
from lifecycle.drift import repository as drift
from lifecycle.drift import service as drift_service
from lifecycle.errors import NotFound as Missing
from lifecycle.journal.feed import Happened
from lifecycle.journal.repository import EventFilter
from lifecycle.pages import MAX_SIZE, PageRequest
from lifecycle.registry import repository as registry
from lifecycle.tracking.rules import TrackedKind
from schema import ids, journal
from schema.context import Context, Info
from schema.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    InvalidTransition,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import ChangeInput, Given, WriteInput, choices, moment, parse
from schema.journal import CaughtUp, CursorExpired, Heartbeat
from schema.loaded import forward, found, loaded
from schema.logs import LogConnection, LogLineInput, log_connection
from schema.nodes import Node
from schema.pagination import (
    After,
    Before,
    Connection,
    First,
    Last,
    OrderDirection,
    directions,
    listed,
)
from schema.rows import OfRow, shown
from schema.scalars import BigInt

if TYPE_CHECKING:
    from schema.drift import DriftEvent
    from schema.promotion import ApprovalRequired, GateFailed
    from schema.registry import ModelVersion, ModelVersionSelector
    from schema.tracking import MlflowLink


@strawberry.type(description="How the endpoint is to be run.")
class EndpointConfig:
    instances: int = strawberry.field(description="How many of them.")
    instance_type: str | None = strawberry.field(description="Of what kind.")
    auto_scaling: bool = strawberry.field(description="Whether their number follows the load.")


@strawberry.type(description="A figure that was measured while the version was at work.")
class ObservedFigure:
    key: str = strawberry.field(description="Its name, such as accuracy.")
    value: float = strawberry.field(description="What it was.")


@strawberry.type(description="What the endpoint measured, as it last reported.")
class DeploymentMetrics:
    request_count: BigInt = strawberry.field(description="Requests answered.")
    error_rate: float = strawberry.field(description="The part of them that failed, 0 to 1.")
    avg_latency_ms: float = strawberry.field(description="Mean time to answer, in milliseconds.")
    observed: list[ObservedFigure] = strawberry.field(
        description="Further figures, by key: those of the last report that had any."
    )
    reported_at: datetime | None = strawberry.field(description="Null before the first report.")


@strawberry.type(description="A deployment came from one status to another.")
class DeploymentTransition(OfRow[DeploymentTransitionRow]):
    row: Private[DeploymentTransitionRow]
    from_: DeploymentStatus | None = shown(
        lambda row: row.from_status,
        name="from",
        description="The former status; null for the first.",
    )
    to: DeploymentStatus = shown(lambda row: row.to_status, description="The new status.")
    at: datetime = shown(description="When that was.")
    actor: str = shown(description="Who reported or decided it.")
    message: str | None = shown(description="What was said about it.")


@strawberry.type(description="One version in one environment.")
class Deployment(Node, OfRow[DeploymentRow]):
    row: Private[DeploymentRow]
    keys = ("id", "log_lines", "model_version_id")
    model_name: str = shown(description="The model's name.")
    version: str = shown(description="The version that runs.")
    environment: Environment = shown(description="Where it runs.")
    status: DeploymentStatus = shown(description="Where it stands.")
    status_message: str | None = shown(description="Why it stands there.")
    health: HealthStatus = shown(description="What was last reported.")
    endpoint: str | None = shown(description="The URL that serves it, once known.")
    config: EndpointConfig = shown(
        lambda row: EndpointConfig(
            instances=row.instances, instance_type=row.instance_type, auto_scaling=row.auto_scaling
        ),
        description="How it is to be run.",
    )
    metrics: DeploymentMetrics = shown(
        lambda row: DeploymentMetrics(
            request_count=BigInt(row.request_count),
            error_rate=row.error_rate,
            avg_latency_ms=row.avg_latency_ms,
            observed=[
                ObservedFigure(key=key, value=row.observed[key]) for key in sorted(row.observed)
            ],
            reported_at=row.metrics_reported_at,
        ),
        description="What it measured.",
    )
    created_by: str = shown(description="Who made it.")
    created_at: datetime = shown(description="When it was made.")
    updated_at: datetime = shown(description="When it last changed.")
    deployed_at: datetime | None = shown(description="When it first became ACTIVE.")
    terminated_at: datetime | None = shown(description="When it was TERMINATED.")
    revision: int = shown(
        description="Counts changes, though not figures and log lines; see `expectedRevision`."
    )

    model_version: Annotated["ModelVersion", strawberry.lazy("schema.registry")] = loaded(
        registry.versions_by_ids,
        by="model_version_id",
        leaves=True,
        description="The version that runs, even if it has since been deleted.",
    )

    @strawberry.field(
        description="How its version stands with MLflow, where a deployment is told of as a tag."
    )
    async def mlflow(
        self, info: Info
    ) -> Annotated["MlflowLink", strawberry.lazy("schema.tracking")]:
        return await schema.tracking.link_of(
            info, TrackedKind.MODEL_VERSION, self.row.model_version_id
        )

    @strawberry.field(description="What it printed, oldest first.")
    async def logs(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> LogConnection:
        return await log_connection(
            info, self.row.id, self.row.log_lines, first, after, last, before
        )

    rollback_from: Annotated["Deployment", strawberry.lazy("schema.deployments")] | None = loaded(
        repository.by_ids,
        by="rollback_from_id",
        leaves=True,
        description="The deployment that this one replaced by rolling back.",
    )

    cause: Annotated["DriftEvent", strawberry.lazy("schema.drift")] | None = loaded(
        drift.causes_of_deployments,
        by="id",
        description="The drift event whose response made this deployment, if it was made by one.",
    )

    status_history: list[DeploymentTransition] = loaded(
        repository.transitions,
        by="id",
        description="All its changes of status, oldest first.",
    )

    drift_events: Connection[Annotated["DriftEvent", strawberry.lazy("schema.drift")]] = loaded(
        drift.pages_of_deployments,
        by="id",
        given=forward,
        counts=drift.counts_of_deployments,
        leaves=True,
        description="Drift that was observed on it, newest first.",
    )


@strawberry.input(name="DeploymentFilter", description="What is left out does not restrict.")
class DeploymentFilterInput:
    model_name: str | None = strawberry.field(
        default=None, description="Of the model of exactly this name."
    )
    environments: list[Environment] | None = strawberry.field(
        default=None, description="In any of these."
    )
    statuses: list[DeploymentStatus] | None = strawberry.field(
        default=None, description="Any of these."
    )
    active_at: datetime | None = strawberry.field(
        default=None,
        description="Which were ACTIVE at this moment, whatever they are now. One that ceased to "
        "be ACTIVE at exactly this moment is not among them; in the future it is now.",
    )


@strawberry.input(name="DeploymentOrder", description="One key of an ordering.")
class DeploymentOrderInput:
    field: DeploymentOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )


@strawberry.input(description="How the endpoint is to be run.")
class EndpointConfigInput:
    instances: int = strawberry.field(default=1, description="How many; at least 1.")
    instance_type: str | None = strawberry.field(default=None, description="Of what kind.")
    auto_scaling: bool = strawberry.field(
        default=False, description="Whether their number follows the load."
    )


@strawberry.input(description="A figure that was measured while the version was at work.")
class ObservedFigureInput:
    key: str = strawberry.field(description="Its name, such as accuracy.")
    value: float = strawberry.field(description="What it was; a finite number.")


@strawberry.input(
    description="What the endpoint measured. Figures that are worse than the drift policy allows "
    "are recorded as a drift event, with all that follows from it."
)
class DeploymentMetricsInput:
    request_count: BigInt = strawberry.field(description="Requests answered; not negative.")
    error_rate: float = strawberry.field(description="The part of them that failed, 0 to 1.")
    avg_latency_ms: float = strawberry.field(description="Mean time to answer, in milliseconds.")
    observed: list[ObservedFigureInput] | None = strawberry.field(
        default=None, description="Further figures, such as accuracy; by default as they are."
    )


_Selector = Annotated["ModelVersionSelector", strawberry.lazy("schema.registry")]


@strawberry.input(description="A version for an environment.")
class CreateDeploymentInput(WriteInput):
    model_version: _Selector = strawberry.field(
        description="Which version; there is no default such as the latest."
    )
    environment: Environment = strawberry.field(description="Where it is to run.")
    endpoint: str | None = strawberry.field(default=None, description="The URL, if known.")
    config: EndpointConfigInput | None = strawberry.field(
        default=None, description="By default one instance without scaling."
    )


@strawberry.input(description="A report about a deployment; what is left out stays as it is.")
class UpdateDeploymentInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which deployment.")
    status: DeploymentStatus | None = strawberry.field(default=None, description="Its new status.")
    status_message: strawberry.Maybe[str | None] = strawberry.field(description="Why it is so.")
    endpoint: strawberry.Maybe[str | None] = strawberry.field(description="The URL that serves it.")
    health: HealthStatus | None = strawberry.field(default=None, description="How it is.")
    metrics: DeploymentMetricsInput | None = strawberry.field(
        default=None, description="What it measured."
    )
    log_lines: list[LogLineInput] | None = strawberry.field(
        default=None, description="What it printed; at most 1,000 lines."
    )


@strawberry.input(description="A deployment to go back from.")
class RollbackDeploymentInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="The bad deployment.")
    reason: str | None = strawberry.field(default=None, description="Why; kept in the history.")


@strawberry.input(description="A deployment to end.")
class TerminateDeploymentInput(ChangeInput):
    id: strawberry.ID = strawberry.field(description="Which deployment.")
    reason: str | None = strawberry.field(default=None, description="Why; kept in the history.")


@strawberry.type(description="The deployment was made; it is PENDING.")
class CreateDeploymentSuccess:
    deployment: Deployment = strawberry.field(description="The new deployment.")


@strawberry.type(description="The report was taken.")
class UpdateDeploymentSuccess:
    deployment: Deployment = strawberry.field(description="The deployment as it is now.")


@strawberry.type(description="The last good deployment is being made again.")
class RollbackDeploymentSuccess:
    deployment: Deployment = strawberry.field(
        description="The new deployment; its `rollbackFrom` is the bad one, now in ROLLBACK."
    )


@strawberry.type(description="The deployment has ended; its record stays.")
class TerminateDeploymentSuccess:
    deployment: Deployment = strawberry.field(description="The deployment as it was left.")


_ApprovalRequired = Annotated["ApprovalRequired", strawberry.lazy("schema.promotion")]
_GateFailed = Annotated["GateFailed", strawberry.lazy("schema.promotion")]
CreateDeploymentResult = Annotated[
    CreateDeploymentSuccess
    | NotFound
    | Conflict
    | _ApprovalRequired
    | InvalidInput
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("CreateDeploymentResult", description="What came of createDeployment."),
]
UpdateDeploymentResult = Annotated[
    UpdateDeploymentSuccess
    | NotFound
    | Conflict
    | _ApprovalRequired
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("UpdateDeploymentResult", description="What came of updateDeployment."),
]
RollbackDeploymentResult = Annotated[
    RollbackDeploymentSuccess
    | NotFound
    | Conflict
    | _GateFailed
    | _ApprovalRequired
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("RollbackDeploymentResult", description="What came of rollbackDeployment."),
]
TerminateDeploymentResult = Annotated[
    TerminateDeploymentSuccess
    | NotFound
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("TerminateDeploymentResult", description="What came of terminateDeployment."),
]


@strawberry.type(
    description="A deployment's status or health changed, or this is what it is at the start."
)
class DeploymentStatusEvent:
    cursor: str = strawberry.field(description="Resume after this one to miss nothing.")
    from_: DeploymentStatus | None = strawberry.field(
        name="from", description="The former status; null for the first, and for a present state."
    )
    to: DeploymentStatus = strawberry.field(description="The status after the change.")
    health: HealthStatus = strawberry.field(description="The health after the change.")
    message: str | None = strawberry.field(description="What was said about it.")
    at: datetime = strawberry.field(description="When that was.")
    actor: str = strawberry.field(description="Who reported or decided it.")
    deployment_key: Private[UUID]

    @strawberry.field(description="The deployment as it is now, which may be further on.")
    async def deployment(self, info: Info) -> Deployment:
        deployment = await deployment_by_id(info, self.deployment_key)
        assert deployment is not None
        return deployment


DeploymentStatusItem = Annotated[
    DeploymentStatusEvent | CaughtUp | Heartbeat | CursorExpired,
    strawberry.union("DeploymentStatusItem", description="What deploymentStatus sends."),
]


async def deployment_by_id(info: Info, id: UUID | None) -> Deployment | None:
    """A deployment, or None."""
    row = await info.context.loaders.load(repository.by_ids, id) if id else None
    return Deployment.from_row(row) if row else None


@strawberry.type
class DeploymentQueries:
    deployment: Deployment | None = found(
        repository.by_ids,
        key=ids.of("Deployment"),
        leaves=True,
        description="One deployment, or null.",
    )

    @strawberry.field(description="Deployments, newest first unless ordered otherwise.")
    async def deployments(
        self,
        info: Info,
        filter: Annotated[
            DeploymentFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            list[DeploymentOrderInput] | None,
            strawberry.argument(description="The first key decides, then the second, …."),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Deployment]:
        request = PageRequest.parse(first, after, last, before)
        given = filter or DeploymentFilterInput()
        wanted = DeploymentFilter(
            given.model_name,
            choices(given.environments),
            choices(given.statuses),
            active_at=moment(given.active_at, ("filter", "active_at")),
        )
        order = directions(order_by)
        return await listed(
            info,
            Deployment.from_row,
            lambda session: repository.page(session, wanted, order, request),
            lambda session: repository.count(session, wanted),
        )


@strawberry.type
class DeploymentMutations:
    @strawberry.mutation(
        description="Deploy a version. Refused with Conflict when its stage does not allow it."
    )
    async def create_deployment(
        self, info: Info, input: Given[CreateDeploymentInput]
    ) -> CreateDeploymentResult:
        command = parse(service.CreateDeployment, input)
        row = await info.context.write(service.create, command)
        return CreateDeploymentSuccess(deployment=Deployment.from_row(row))

    @strawberry.mutation(description="Report what became of a deployment, and how it is.")
    async def update_deployment(
        self, info: Info, input: Given[UpdateDeploymentInput]
    ) -> UpdateDeploymentResult:
        command = parse(service.UpdateDeployment, input, id="Deployment")
        row = await info.context.write(drift_service.report, command)
        return UpdateDeploymentSuccess(deployment=Deployment.from_row(row))

    @strawberry.mutation(
        description="Replace a deployment by the last one of another version, of another content, "
        "of the model in the same environment that was ACTIVE and HEALTHY. Its version's stage "
        "comes back with it: that takes out of PRODUCTION whatever is there, also what was "
        "promoted since and is not deployed. A former configuration of the same version comes back "
        "with `createDeployment`."
    )
    async def rollback_deployment(
        self, info: Info, input: Given[RollbackDeploymentInput]
    ) -> RollbackDeploymentResult:
        command = parse(service.RollbackDeployment, input, id="Deployment")
        row = await info.context.write(service.roll_back, command)
        return RollbackDeploymentSuccess(deployment=Deployment.from_row(row))

    @strawberry.mutation(description="End a deployment.")
    async def terminate_deployment(
        self, info: Info, input: Given[TerminateDeploymentInput]
    ) -> TerminateDeploymentResult:
        command = parse(service.TerminateDeployment, input, id="Deployment")
        row = await info.context.write(service.terminate, command)
        return TerminateDeploymentSuccess(deployment=Deployment.from_row(row))


# What is over is shown only to those who ask for it by its id.
_SHOWN = tuple(status for status in DeploymentStatus if status is not DeploymentStatus.TERMINATED)
_FOLLOWED = frozenset({"deployment.created", service.STATUS_CHANGED, service.HEALTH_CHANGED})


@strawberry.type
class DeploymentSubscriptions:
    @strawberry.subscription(
        description="Status and health of deployments as they change. With a cursor: everything "
        "after it, CaughtUp, then what happens. Without: the present state of those that are not "
        "TERMINATED, or of the one that is named, CaughtUp, then what happens."
    )
    async def deployment_status(
        self,
        info: Info,
        deployment_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Only this one.")
        ] = None,
        model_name: Annotated[
            str | None, strawberry.argument(description="Only of this model.")
        ] = None,
        environment: Annotated[
            Environment | None, strawberry.argument(description="Only in this environment.")
        ] = None,
        after: Annotated[
            str | None, strawberry.argument(description="The last cursor that was received.")
        ] = None,
    ) -> AsyncIterator[DeploymentStatusItem]:
        key = ids.decode("Deployment", deployment_id, ("deployment_id",)) if deployment_id else None
        if key is not None and await deployment_by_id(info, key) is None:
            raise Missing("deployment", "with this id", ("deployment_id",))
        chosen = {"model_name": model_name, "environment": environment}
        wanted = EventFilter(
            "deployment",
            _FOLLOWED,
            key,
            tuple((name, str(value)) for name, value in chosen.items() if value is not None),
        )
        shown = DeploymentFilter(
            model_name,
            (environment,) if environment else (),
            () if key else _SHOWN,
            key,
        )
        present = _present(info.context, shown)
        return journal.follow(info.context, wanted, after, present, _item)


async def _present(
    context: Context, shown: DeploymentFilter
) -> AsyncIterator[DeploymentStatusEvent]:
    """The last change of each deployment, oldest deployment first.

    Who is cut off in the middle has not seen them all: their cursor means to start anew.
    """
    cursor = context.feed.cursor(None)
    order = ((DeploymentOrderField.CREATED_AT, False),)
    request = PageRequest(MAX_SIZE)
    while True:
        async with context.database.read() as session:
            page = await repository.page(session, shown, order, request)
            changes = await repository.transitions(session, [row.id for row in page.rows])
        for row in page.rows:
            last = changes[row.id][-1]
            yield DeploymentStatusEvent(
                cursor=cursor,
                from_=None,
                to=row.status,
                health=row.health,
                message=row.status_message,
                at=last.at,
                actor=last.actor,
                deployment_key=row.id,
            )
        if not page.has_next:
            return
        request = PageRequest(MAX_SIZE, page.cursor(len(page.rows) - 1))


def _item(happened: Happened) -> DeploymentStatusEvent:
    event = happened.event
    former = event.before.get("status")
    status = DeploymentStatus(event.after["status"])
    if event.type == service.HEALTH_CHANGED:
        former = status
    return DeploymentStatusEvent(
        cursor=happened.cursor,
        from_=DeploymentStatus(former) if former else None,
        to=status,
        health=HealthStatus(event.after["health"]),
        message=event.after["message"],
        at=event.at,
        actor=event.actor,
        deployment_key=event.subject_id,
    )
