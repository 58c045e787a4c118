"""What can be done with drift events. Each function is one use case in its caller's transaction."""

from typing import Annotated, Any
from uuid import UUID

import structlog
from pydantic import Field

from lifecycle.access.origin import Origin
from lifecycle.commands import Command, JsonObject, Moment, Name, Text
from lifecycle.database import WriteSession, clock, once_committed
from lifecycle.deployments import repository as deployments
from lifecycle.drift import repository, rules
from lifecycle.drift.rules import DriftStatus
from lifecycle.drift.tables import DriftEventRow
from lifecycle.errors import InvalidInput, NotFound, check_revision
from lifecycle.journal import service as journal
from lifecycle.registry import service as registry
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import DriftSeverity

_log = structlog.get_logger(__name__)

_Figure = Annotated[float, Field(allow_inf_nan=False)]


class RecordDriftEvent(Command):
    """What a monitor observed."""

    model_version: VersionSelector
    deployment_id: UUID | None = None
    severity: DriftSeverity
    metric: Name
    feature: Name | None = None
    baseline_value: _Figure | None = None
    observed_value: _Figure | None = None
    threshold: _Figure | None = None
    method: Name | None = None
    description: Text | None = None
    details: JsonObject | None = None
    detected_at: Moment | None = None


class UpdateDriftEvent(Command):
    """What became of it."""

    id: UUID
    status: DriftStatus | None = None
    resolution: Text | None = None
    expected_revision: int | None = None


async def record(session: WriteSession, origin: Origin, command: RecordDriftEvent) -> DriftEventRow:
    """Record drift, and log a warning. Raises NotFound, InvalidInput when the deployment is of
    another version."""
    # Held, so that what is decided about the version elsewhere sees this event or waits for it.
    version = await registry.locked(session, command.model_version)
    if command.deployment_id is not None:
        found = await deployments.by_ids(session, [command.deployment_id])
        if command.deployment_id not in found:
            raise NotFound("deployment", "with this id", ("deployment_id",))
        if found[command.deployment_id].model_version_id != version.id:
            raise InvalidInput("The deployment runs another version.", ("deployment_id",))
    row = DriftEventRow(
        model_version_id=version.id,
        model_name=version.model_name,
        deployment_id=command.deployment_id,
        severity=command.severity,
        metric=command.metric,
        feature=command.feature,
        baseline_value=command.baseline_value,
        observed_value=command.observed_value,
        threshold=command.threshold,
        method=command.method,
        description=command.description,
        details=command.details,
        detected_at=command.detected_at or await clock(session),
        created_by=origin.actor,
    )
    session.add(row)
    await session.flush()
    facts = {
        "model_name": row.model_name,
        "version": version.version,
        "severity": row.severity,
        "metric": row.metric,
        "feature": row.feature,
    }
    await journal.append(session, origin, "drift_event.recorded", row.id, after=facts)
    once_committed(session, lambda: _log.warning("drift.recorded", **facts))
    return row


async def update(session: WriteSession, origin: Origin, command: UpdateDriftEvent) -> DriftEventRow:
    """Acknowledge or close an event. Raises NotFound, StaleRevision, InvalidTransition."""
    row = await repository.lock(session, command.id)
    if row is None:
        raise NotFound("drift event", "with this id")
    check_revision(row.revision, command.expected_revision)
    changes: dict[str, Any] = command.given("resolution")
    if command.status is not None:
        rules.STATUS.check(row.status, command.status)
        changes["status"] = command.status
        if command.status is DriftStatus.ACKNOWLEDGED:
            changes |= {"acknowledged_by": origin.actor, "acknowledged_at": await clock(session)}
        if command.status in rules.CLOSED:
            changes |= {"resolved_by": origin.actor, "resolved_at": await clock(session)}
    await journal.change(session, origin, row, changes)
    return row
