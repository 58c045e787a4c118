"""What can be done with deployments. Each function is one use case in its caller's transaction.

Whoever changes a status holds the version's row before the deployment's, because the version
counts its live deployments.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.commands import Command, Count, Figures, Line, Name, Text
from lifecycle.database import WriteSession
from lifecycle.deployments import repository, rules
from lifecycle.deployments.rules import DeploymentStatus, Environment, HealthStatus
from lifecycle.deployments.tables import DeploymentRow, DeploymentTransitionRow
from lifecycle.errors import Conflict, NotFound, Path, check_revision
from lifecycle.journal import service as journal
from lifecycle.logs import repository as logs
from lifecycle.logs.repository import MAX_LINES, NewLine
from lifecycle.promotion import repository as policies
from lifecycle.promotion import service as promotion
from lifecycle.promotion.rules import StageCause
from lifecycle.registry import repository as registry
from lifecycle.registry import service as registry_service
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.tables import ModelVersionRow

STATUS_CHANGED = "deployment.status_changed"
HEALTH_CHANGED = "deployment.health_changed"
OUTPUT_LOGGED = "deployment.output_logged"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewEndpointConfig(_Part):
    """How the endpoint is to be run."""

    instances: Annotated[int, Field(ge=1, le=10_000)] = 1
    instance_type: Name | None = None
    auto_scaling: bool = False


class ReportedMetrics(_Part):
    """What the endpoint measured, and what was observed of it: figures such as accuracy."""

    request_count: Count
    error_rate: Annotated[float, Field(ge=0, le=1)]
    avg_latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    observed: Figures = {}


class CreateDeployment(Command):
    """A version for an environment."""

    model_version: VersionSelector
    environment: Environment
    endpoint: Line | None = None
    config: NewEndpointConfig = NewEndpointConfig()


class UpdateDeployment(Command):
    """A report about a deployment; what is left out stays."""

    id: UUID
    status: DeploymentStatus | None = None
    status_message: Text | None = None
    endpoint: Line | None = None
    health: HealthStatus | None = None
    metrics: ReportedMetrics | None = None
    log_lines: Annotated[list[NewLine], Field(max_length=MAX_LINES)] = []
    expected_revision: int | None = None


class RollbackDeployment(Command):
    """Replace a deployment by the last good one of another version before it."""

    id: UUID
    reason: Text | None = None
    expected_revision: int | None = None


class TerminateDeployment(Command):
    """End a deployment; its record stays."""

    id: UUID
    reason: Text | None = None
    expected_revision: int | None = None


async def create(session: WriteSession, origin: Origin, command: CreateDeployment) -> DeploymentRow:
    """Make a deployment. Raises NotFound, Forbidden, Conflict when the version may not run there,
    and ApprovalRequired when production wants a version whose approval is not in force."""
    version = await registry_service.locked(session, command.model_version)
    check(origin, Action.DEPLOY, version.model_id, environment=command.environment)
    rules.check_allowed(version.version, version.stage, command.environment)
    await _check_approved(session, version, command.environment, ("model_version",))
    return await _add(
        session,
        origin,
        version,
        DeploymentRow(
            environment=command.environment,
            endpoint=command.endpoint,
            **command.config.model_dump(),
        ),
    )


async def update(session: WriteSession, origin: Origin, command: UpdateDeployment) -> DeploymentRow:
    """Take a report about a deployment.

    Raises NotFound, Forbidden, StaleRevision, InvalidTransition, Conflict once it has ended or when
    it is to go on to DEPLOYING but its version has left the stages that may run there, and
    ApprovalRequired when that is production but the version is not approved any more.
    """
    row, version = await _locked(session, origin, command.id)
    check_revision(row.revision, command.expected_revision)
    now = await repository.moment(session, row)
    changes = command.given("endpoint", "status_message")
    if command.health is not None:
        changes["health"] = command.health
    if command.status is not None:
        if command.status is DeploymentStatus.DEPLOYING:
            rules.STATUS.check(row.status, command.status)
            # It may have been displaced, or taken out, since the deployment was made.
            path = ("status",)
            rules.check_allowed(version.version, version.stage, row.environment, path)
            await _check_approved(session, version, row.environment, path)
        await _change_status(session, origin, row, version, command.status, changes, now)
    elif changes or command.metrics is not None:
        rules.check_takes_reports(row.status)
        await _note_health(session, row, row.status, command.health)
        # An endpoint alone is nothing that those who follow the status are told.
        type = HEALTH_CHANGED if changes.keys() - {"endpoint"} else "deployment.updated"
        await journal.change(session, origin, row, changes, type=type, about=_about(row, changes))
    if command.metrics is not None:
        await _store_metrics(session, origin, row, command.metrics, now)
    if command.log_lines:
        await _add_lines(session, origin, row, command.log_lines, now)
    await session.flush()
    return row


async def terminate(
    session: WriteSession, origin: Origin, command: TerminateDeployment
) -> DeploymentRow:
    """End a deployment. Raises NotFound, Forbidden, StaleRevision, InvalidTransition when it has
    ended."""
    row, version = await _locked(session, origin, command.id)
    check_revision(row.revision, command.expected_revision)
    rules.STATUS.check(row.status, DeploymentStatus.TERMINATED, ("id",))
    await _change_status(
        session,
        origin,
        row,
        version,
        DeploymentStatus.TERMINATED,
        {"status_message": command.reason},
        await repository.moment(session, row),
        command.reason,
    )
    return row


async def roll_back(
    session: WriteSession, origin: Origin, command: RollbackDeployment
) -> DeploymentRow:
    """Make a new deployment from the last good one of another version, and set the old one to
    ROLLBACK.

    If the good version is no longer in a stage that may run there, it is brought back into it, and
    in production the present version makes way: stage and deployment go back together.
    Raises NotFound, Forbidden, StaleRevision, InvalidTransition, Conflict when there is no good one
    or when this one has been replaced already, ApprovalRequired as `create` does, and GateFailed
    when the policy of STAGING refuses what would come back there without an approval.
    """
    found = (await repository.by_ids(session, [command.id])).get(command.id)
    if found is None:
        raise NotFound("deployment", "with this id")
    [version] = (await registry.versions_by_ids(session, [found.model_version_id])).values()
    check_may_deploy(origin, found, version)
    await policies.hold_policies(session)
    target, locked = await _locked_target(session, found, version.model_id)
    row = await repository.lock(session, command.id)
    assert row is not None
    check_revision(row.revision, command.expected_revision)
    rules.STATUS.check(row.status, DeploymentStatus.ROLLBACK, ("id",))
    later = await repository.live_after(session, row)
    if later is not None:
        active = later.status == DeploymentStatus.ACTIVE
        instead = "it is the one to go back from" if active else "terminate it first"
        raise Conflict(
            f"A later deployment of {row.model_name} in {row.environment} is {later.status}, with "
            f"version {later.version}; {instead}.",
            ("id",),
        )
    if target is None:
        raise Conflict(
            f"No earlier deployment of another version of {row.model_name} in {row.environment} "
            "was ACTIVE and HEALTHY and can be gone back to. Another configuration of version "
            f"{row.version} is deployed with createDeployment.",
            ("id",),
        )
    good = locked[target.model_version_id]
    await _check_approved(session, good, row.environment, ("id",))
    if not rules.allowed(good.stage, row.environment):
        await promotion.move(
            session,
            origin,
            good,
            rules.ROLLBACK_STAGE[row.environment],
            StageCause.ROLLED_BACK,
            command.reason,
        )
    await _change_status(
        session,
        origin,
        row,
        locked[row.model_version_id],
        DeploymentStatus.ROLLBACK,
        {"status_message": command.reason},
        await repository.moment(session, row),
        command.reason,
    )
    return await _add(
        session,
        origin,
        good,
        DeploymentRow(
            environment=row.environment,
            endpoint=target.endpoint,
            instances=target.instances,
            instance_type=target.instance_type,
            auto_scaling=target.auto_scaling,
            rollback_from_id=row.id,
            status_message=command.reason,
        ),
        command.reason,
    )


async def _check_approved(
    session: WriteSession, version: ModelVersionRow, environment: Environment, path: Path
) -> None:
    """Nothing that is not approved at this very moment goes into production."""
    if environment is Environment.PRODUCTION:
        await promotion.check_approved(session, version, path)


def check_may_deploy(origin: Origin, row: DeploymentRow, version: ModelVersionRow) -> None:
    """Raise Forbidden for whoever may not change a deployment, which is of this version."""
    check(origin, Action.DEPLOY, version.model_id, environment=row.environment)


async def _locked(
    session: WriteSession, origin: Origin, id: UUID
) -> tuple[DeploymentRow, ModelVersionRow]:
    """A deployment and its version, held in the order that this module keeps to, for whoever may
    change it. Raises NotFound, Forbidden."""
    found = (await repository.by_ids(session, [id])).get(id)
    if found is None:
        raise NotFound("deployment", "with this id")
    versions = await registry.lock_versions(session, [found.model_version_id])
    version = versions[found.model_version_id]
    check_may_deploy(origin, found, version)
    row = await repository.lock(session, id)
    assert row is not None
    return row, version


async def _locked_target(
    session: WriteSession, bad: DeploymentRow, model_id: UUID
) -> tuple[DeploymentRow | None, dict[UUID, ModelVersionRow]]:
    """The deployment to go back to, and the versions concerned, all held along with their model.

    The target is looked for again once its version is held: it may have failed just before.
    """
    wanted = [bad.model_version_id]
    while True:
        locked = await promotion.lock_for_move(session, model_id, wanted)
        target = await repository.rollback_target(session, bad)
        if target is None or target.model_version_id in locked:
            return target, locked
        wanted.append(target.model_version_id)


async def _add(
    session: WriteSession,
    origin: Origin,
    version: ModelVersionRow,
    row: DeploymentRow,
    reason: str | None = None,
) -> DeploymentRow:
    row.model_version_id = version.id
    row.model_name = version.model_name
    row.version = version.version
    row.created_by = origin.actor
    row.created_at = repository.creation(row.model_name)
    session.add(row)
    registry_service.count_deployments(version, 1)
    await session.flush()
    await _note_transition(session, origin, row, None, row.created_at)
    await journal.append(
        session,
        origin,
        "deployment.created",
        row.id,
        after={
            **_about(row, {}),
            "endpoint": row.endpoint,
            "instances": row.instances,
            "instance_type": row.instance_type,
            "auto_scaling": row.auto_scaling,
            "rollback_from_id": row.rollback_from_id,
        },
        reason=reason,
    )
    return row


async def _change_status(
    session: WriteSession,
    origin: Origin,
    row: DeploymentRow,
    version: ModelVersionRow,
    status: DeploymentStatus,
    changes: dict[str, Any],
    now: datetime,
    reason: str | None = None,
) -> None:
    """Move a deployment to a new status, with the other fields that change along with it."""
    former = row.status
    rules.STATUS.check(former, status)
    changes = {"status_message": None, **changes, "status": status}
    if status is DeploymentStatus.ACTIVE and row.deployed_at is None:
        changes["deployed_at"] = now
    if status is DeploymentStatus.TERMINATED:
        changes["terminated_at"] = now
    await _note_health(session, row, status, changes.get("health", row.health))
    registry_service.count_deployments(version, (status in rules.LIVE) - (former in rules.LIVE))
    await journal.change(
        session,
        origin,
        row,
        changes,
        type=STATUS_CHANGED,
        about=_about(row, changes),
        reason=reason,
        at=now,
    )
    await _note_transition(session, origin, row, former, now)


async def _note_health(
    session: WriteSession,
    row: DeploymentRow,
    status: DeploymentStatus,
    health: HealthStatus | None,
) -> None:
    if (
        status is DeploymentStatus.ACTIVE
        and health is HealthStatus.HEALTHY
        and row.healthy_at is None
    ):
        row.healthy_at = await repository.healthy_moment(session, row)


async def _note_transition(
    session: WriteSession,
    origin: Origin,
    row: DeploymentRow,
    former: DeploymentStatus | None,
    at: datetime,
) -> None:
    session.add(
        DeploymentTransitionRow(
            deployment_id=row.id,
            from_status=former,
            to_status=row.status,
            at=at,
            actor=origin.actor,
            message=row.status_message,
        )
    )
    await session.flush()


async def _add_lines(
    session: WriteSession,
    origin: Origin,
    row: DeploymentRow,
    lines: Sequence[NewLine],
    now: datetime,
) -> None:
    first = row.log_lines + 1
    await logs.append(session, row.id, row.log_lines, lines, now)
    row.log_lines += len(lines)
    await journal.append(
        session,
        origin,
        OUTPUT_LOGGED,
        row.id,
        after={"first_line": first, "last_line": row.log_lines},
    )


async def _store_metrics(
    session: WriteSession,
    origin: Origin,
    row: DeploymentRow,
    metrics: ReportedMetrics,
    now: datetime,
) -> None:
    """Figures are reports, not decisions: they do not count as a revision."""
    after = metrics.model_dump(exclude_unset=True)
    before = {field: getattr(row, field) for field in after}
    for field, value in after.items():
        setattr(row, field, value)
    row.metrics_reported_at = now
    await session.flush()
    type = "deployment.metrics_reported"
    await journal.append(session, origin, type, row.id, before=before, after=after)


def _about(row: DeploymentRow, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What those who follow deployments need to know, and choose them by, after these changes."""
    return {
        "model_name": row.model_name,
        "version": row.version,
        "environment": row.environment,
        "status": changes.get("status", row.status),
        "health": changes.get("health", row.health),
        "message": changes.get("status_message", row.status_message),
    }
