"""What can be done with drift: events, the responses to them, degradation, and the policies that
say when and how. Each function is one use case in its caller's transaction.

Whoever records an event holds the model and the version, in this order, before any deployment: the
responses may move both.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Self
from uuid import UUID

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import SYSTEM, Action
from lifecycle.commands import Command, JsonObject, Moment, Name, Text
from lifecycle.database import WriteSession, clock, savepoint
from lifecycle.deployments import repository as deployments
from lifecycle.deployments import service as deployments_service
from lifecycle.deployments.rules import LIVE, DeploymentStatus, Environment
from lifecycle.deployments.service import RollbackDeployment, UpdateDeployment
from lifecycle.deployments.tables import DeploymentRow
from lifecycle.drift import repository, rules
from lifecycle.drift.rules import (
    DegradationFigure,
    DegradationLimit,
    DegradationRule,
    DriftAction,
    DriftOutcome,
    DriftStatus,
    Finding,
    Reported,
    ResponseRule,
)
from lifecycle.drift.tables import DriftEventRow, DriftPolicyRow, DriftResponseRow
from lifecycle.errors import InvalidInput, LifecycleError, NotFound, check_revision
from lifecycle.journal import service as journal
from lifecycle.promotion import repository as policies
from lifecycle.promotion import review
from lifecycle.promotion import service as promotion
from lifecycle.promotion.rules import OPEN
from lifecycle.registry import repository as registry
from lifecycle.registry import service as registry_service
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import DriftSeverity
from lifecycle.registry.tables import ModelVersionRow

_log = structlog.get_logger(__name__)

_Figure = Annotated[float, Field(allow_inf_nan=False)]

# Who does what a policy says.
ACTOR = "system:drift"


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
    dedup_key: Name | None = None


class UpdateDriftEvent(Command):
    """What became of it."""

    id: UUID
    status: DriftStatus | None = None
    resolution: Text | None = None
    expected_revision: int | None = None


class NewDegradationRule(BaseModel):
    """One limit of a reported figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    figure: DegradationFigure
    metric: Name | None = None
    limit: DegradationLimit
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    severity: DriftSeverity

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        DegradationRule(**self.model_dump())
        return self


class SetDriftPolicy(Command):
    """A new version of a policy: of one model, or of all that have none of their own. Without rules
    a model follows the general policy again."""

    model_name: Name | None = None
    responses: Annotated[list[ResponseRule], AfterValidator(rules.unique_actions)] | None = None
    degradation: Annotated[list[NewDegradationRule], Field(max_length=100)] | None = None
    reason: Text
    expected_version: int | None = None


async def record(session: WriteSession, origin: Origin, command: RecordDriftEvent) -> DriftEventRow:
    """Record drift, log a warning, and respond as the policy says; of a report that was recorded
    before, by its dedup key, only give the event. A response that cannot be made fails alone.

    Raises NotFound, Forbidden, InvalidInput when the deployment is of another version or the dedup
    key of another environment.
    """
    await policies.hold_policies(session)
    try:
        version = await registry_service.locked_with_model(session, command.model_version)
    except NotFound:
        # Deleted, or moved out of the stage that it was meant by: perhaps because of this report.
        if (known := await _recorded(session, command)) is None:
            raise
        id = known.model_version_id
        of = (await registry.versions_by_ids(session, [id]))[id]
        check(origin, Action.REPORT_DRIFT, of.model_id)
        return known
    check(origin, Action.REPORT_DRIFT, version.model_id)
    # Of two at once the second waits for the locks, and then finds what the first has recorded.
    if (known := await _recorded(session, command)) is not None:
        await _check_heard(session, known, command)
        return known
    if command.deployment_id is not None:
        found = await deployments.by_ids(session, [command.deployment_id])
        if command.deployment_id not in found:
            raise NotFound("deployment", "with this id", ("deployment_id",))
        if found[command.deployment_id].model_version_id != version.id:
            raise InvalidInput("The deployment runs another version.", ("deployment_id",))
    affected = await _affected(session, command.deployment_id)
    check(origin, Action.REPORT_DRIFT, version.model_id, environment=affected)
    row = DriftEventRow(
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
        dedup_key=command.dedup_key,
    )
    policy = await repository.policy_in_force(session, version.model_name)
    await _add(session, origin, origin, version, policy, row)
    return row


async def report(session: WriteSession, origin: Origin, command: UpdateDeployment) -> DeploymentRow:
    """Take a report about a deployment. Figures in it that are worse than the policy allows are
    recorded as drift, which is responded to.

    Raises what `deployments.service.update` raises.
    """
    degraded = await _degraded(session, origin, command)
    if degraded is None:
        return await deployments_service.update(session, origin, command)
    version_id, *_ = degraded
    await policies.hold_policies(session)
    [version] = (await registry.versions_by_ids(session, [version_id])).values()
    locked = await promotion.lock_for_move(session, version.model_id, [version_id])
    # Again: while this waited, others may have reported the same, or changed what counts.
    degraded = await _degraded(session, origin, command)
    row = await deployments_service.update(session, origin, command)
    if degraded is None or row.status not in LIVE:
        return row
    _, policy, findings = degraded
    system = Origin.system(ACTOR, origin.request_id, origin.idempotency_key)
    # The worst first: what is done about it is not done again about the others, while everybody who
    # changes the model waits.
    answered: dict[DriftAction, DriftEventRow] = {}
    for finding in sorted(findings, key=lambda each: len(rules.as_severe(each.severity))):
        event = DriftEventRow(
            deployment_id=row.id,
            severity=finding.severity,
            metric=finding.name,
            baseline_value=finding.baseline,
            observed_value=finding.observed,
            threshold=finding.threshold,
            method="degradation",
            description=finding.message,
            detected_at=await clock(session),
        )
        await _add(session, system, origin, locked[version_id], policy, event, answered)
    return row


async def update(session: WriteSession, origin: Origin, command: UpdateDriftEvent) -> DriftEventRow:
    """Acknowledge or close an event. Raises NotFound, Forbidden, StaleRevision,
    InvalidTransition."""
    found = (await repository.by_ids(session, [command.id])).get(command.id)
    if found is None:
        raise NotFound("drift event", "with this id")
    # The version counts its open events.
    version_id = found.model_version_id
    version = (await registry.lock_versions(session, [version_id]))[version_id]
    row = await repository.lock(session, command.id)
    assert row is not None
    affected = await _affected(session, row.deployment_id)
    check(origin, Action.HANDLE_DRIFT, version.model_id, environment=affected)
    check_revision(row.revision, command.expected_revision)
    changes: dict[str, Any] = command.given("resolution")
    if command.status is not None:
        rules.STATUS.check(row.status, command.status)
        changes["status"] = command.status
        if command.status is DriftStatus.ACKNOWLEDGED:
            changes |= {"acknowledged_by": origin.actor, "acknowledged_at": await clock(session)}
        if command.status in rules.CLOSED:
            changes |= {"resolved_by": origin.actor, "resolved_at": await clock(session)}
            registry_service.count_drift(version, row.severity, -1)
    await journal.change(session, origin, row, changes)
    return row


async def _check_heard(
    session: WriteSession, known: DriftEventRow, command: RecordDriftEvent
) -> None:
    """Raise InvalidInput if a report about PRODUCTION has the name of one about another
    environment: whoever may report only there is not to have it unheard."""
    ids = [id for id in (known.deployment_id, command.deployment_id) if id is not None]
    found = await deployments.by_ids(session, ids)
    shows: dict[UUID | None, Environment] = {None: Environment.PRODUCTION}
    shows |= {id: row.environment for id, row in found.items()}
    of_production = shows.get(command.deployment_id) is Environment.PRODUCTION
    if of_production and shows[known.deployment_id] is not Environment.PRODUCTION:
        raise InvalidInput(
            "A report about another environment has this name; give another.", ("dedup_key",)
        )


async def _affected(session: WriteSession, deployment_id: UUID | None) -> Environment:
    """Where it shows. Without a deployment that is PRODUCTION: there the policy may have something
    rolled back because of it."""
    if deployment_id is None:
        return Environment.PRODUCTION
    return (await deployments.by_ids(session, [deployment_id]))[deployment_id].environment


async def set_policy(
    session: WriteSession, origin: Origin, command: SetDriftPolicy
) -> DriftPolicyRow:
    """Make a new version of a policy, unless it would say the same; what was done under former ones
    keeps them.

    Raises NotFound, InvalidInput, StaleRevision when the policy has another version by now, and
    Forbidden for everybody but administrators, of the model or of everything.
    """
    name, model_id = command.model_name, None
    if name is not None:
        found = await registry.models_by_names(session, [name])
        if name not in found:
            raise NotFound("model", name, ("model_name",))
        model_id = found[name].id
    check(origin, Action.ADMINISTER, model_id, what="set a drift policy")
    _check_whole(command)
    await policies.hold_policies_alone(session, model_id)
    last = await repository.last_policy(session, name)
    number = last.version if last else 0
    check_revision(number, command.expected_version, ("expected_version",))
    wanted = command.model_dump(mode="json", include={"responses", "degradation"})
    if last is not None and wanted == {key: getattr(last, key) for key in wanted}:
        return last
    row = DriftPolicyRow(
        model_name=name,
        version=number + 1,
        reason=command.reason,
        created_by=origin.actor,
        **wanted,
    )
    session.add(row)
    await session.flush()
    await journal.append(
        session,
        origin,
        "drift_policy.set",
        row.id,
        before=_content(last) if last else None,
        after={**_content(row), "policy_version": row.version},
        reason=command.reason,
    )
    return row


def _check_whole(command: SetDriftPolicy) -> None:
    if (command.responses is None) != (command.degradation is None):
        raise InvalidInput(
            "Give responses and degradation, or neither: a policy is set as a whole.",
            ("degradation" if command.degradation is None else "responses",),
        )
    if command.responses is None and command.model_name is None:
        raise InvalidInput("The general policy needs rules; none is [].", ("responses",))


def policy_of(row: DriftPolicyRow) -> rules.Policy:
    """What the rules decide by."""
    return rules.Policy(
        tuple(
            ResponseRule(DriftSeverity(rule["from_severity"]), DriftAction(rule["action"]))
            for rule in row.responses or ()
        ),
        tuple(
            DegradationRule(
                DegradationFigure(rule["figure"]),
                DegradationLimit(rule["limit"]),
                rule["value"],
                DriftSeverity(rule["severity"]),
                rule["metric"],
            )
            for rule in row.degradation or ()
        ),
    )


def _content(row: DriftPolicyRow) -> dict[str, Any]:
    fields = ("model_name", "version", "responses", "degradation")
    return {field: getattr(row, field) for field in fields}


async def _recorded(session: WriteSession, command: RecordDriftEvent) -> DriftEventRow | None:
    if command.dedup_key is None:
        return None
    return await repository.reported(session, command.model_version, command.dedup_key)


async def _degraded(
    session: WriteSession, origin: Origin, command: UpdateDeployment
) -> tuple[UUID, DriftPolicyRow, list[Finding]] | None:
    """The version, its policy and what a report finds, if it finds anything that is not known: most
    reports do not, and need no lock of the model. Raises Forbidden."""
    found = (await deployments.by_ids(session, [command.id])).get(command.id)
    if command.metrics is None or found is None or found.status not in LIVE:
        return None
    [version] = (await registry.versions_by_ids(session, [found.model_version_id])).values()
    deployments_service.check_may_deploy(origin, found, version)
    policy = await repository.policy_in_force(session, version.model_name)
    own = (await registry.metrics(session, [version.id])).get(version.id, [])
    figures = command.metrics
    findings = rules.degradation(
        policy_of(policy),
        Reported(figures.error_rate, figures.avg_latency_ms, figures.observed),
        {metric.key: metric.value for metric in own},
    )
    findings = await _unknown(session, found.id, findings)
    return (version.id, policy, findings) if findings else None


async def _unknown(
    session: WriteSession, deployment_id: UUID, findings: Sequence[Finding]
) -> list[Finding]:
    """The findings about which there is no event that is as severe and still open."""
    if not findings:
        return []
    names = [finding.name for finding in findings]
    known = await repository.unclosed(session, deployment_id, names)
    return [
        finding
        for finding in findings
        if not any(
            name == finding.name and severity in rules.as_severe(finding.severity)
            for name, severity in known
        )
    ]


async def _add(
    session: WriteSession,
    origin: Origin,
    reporter: Origin,
    version: ModelVersionRow,
    policy: DriftPolicyRow,
    row: DriftEventRow,
    answered: dict[DriftAction, DriftEventRow] | None = None,
) -> None:
    """Record an event of a version that the caller holds along with its model, and respond as far
    as who has reported it may have that done. What was `answered` by an action about another event
    of the same report is not again."""
    row.model_version_id = version.id
    row.model_name = version.model_name
    row.policy_id = policy.id
    row.created_by = origin.actor
    row.duplicate = False
    session.add(row)
    registry_service.count_drift(version, row.severity, 1)
    await session.flush()
    facts = {
        "model_name": row.model_name,
        "version": version.version,
        "severity": row.severity,
        "metric": row.metric,
        "feature": row.feature,
    }
    await journal.append(session, origin, "drift_event.recorded", row.id, after=facts)
    session.once_committed(lambda: _log.warning("drift.recorded", **facts))
    system = Origin.system(ACTOR, origin.request_id, origin.idempotency_key, row.id)
    answered = {} if answered is None else answered
    for action in rules.respond(policy_of(policy), row.severity):
        response = (
            await _response(session, system, reporter, version, row, action)
            if answered.setdefault(action, row) is row
            else DriftResponseRow(
                outcome=DriftOutcome.NOTHING_TO_DO,
                message=f"See {answered[action].metric}, which the same report has found, too.",
            )
        )
        await _record_response(session, system, row, action, response)


async def _response(
    session: WriteSession,
    system: Origin,
    reporter: Origin,
    version: ModelVersionRow,
    event: DriftEventRow,
    action: DriftAction,
) -> DriftResponseRow:
    """Do one thing about an event."""
    try:
        async with savepoint(session):
            if action is not DriftAction.ROLL_BACK and await policies.has_been_in_production(
                session, version.id
            ):
                # Wherever it was seen; what is rolled back is only where that was.
                check(
                    reporter,
                    Action.REPORT_DRIFT,
                    version.model_id,
                    environment=Environment.PRODUCTION,
                    what="change the approval of what is or was in PRODUCTION by drift",
                )
            return await _RESPONSES[action](session, system, version, event)
    except LifecycleError as error:
        return DriftResponseRow(outcome=DriftOutcome.FAILED, message=str(error))


async def _record_response(
    session: WriteSession,
    system: Origin,
    event: DriftEventRow,
    action: DriftAction,
    response: DriftResponseRow,
) -> None:
    """Record what came of it."""
    response.drift_event_id = event.id
    response.action = action
    response.at = await clock(session)
    session.add(response)
    await session.flush()
    await journal.append(
        session,
        system,
        "drift_event.responded",
        event.id,
        after={
            "action": action,
            "outcome": response.outcome,
            "message": response.message,
            "approval_id": response.approval_id,
            "deployment_id": response.deployment_id,
        },
    )
    if action is DriftAction.ROLL_BACK and response.outcome is DriftOutcome.DONE:
        await journal.change(session, system, event, {"status": DriftStatus.MITIGATED})


async def _mark_stale(
    session: WriteSession, system: Origin, version: ModelVersionRow, event: DriftEventRow
) -> DriftResponseRow:
    former = version.approval_status
    approval = await review.mark_stale(session, system, version, _reason(event), event.id)
    if approval is None:
        return DriftResponseRow(
            outcome=DriftOutcome.NOTHING_TO_DO, message=f"Version {version.version} is {former}."
        )
    return DriftResponseRow(
        outcome=DriftOutcome.DONE,
        message=f"Version {version.version} was {former}, and is STALE.",
        approval_id=approval.id,
    )


async def _open_review(
    session: WriteSession, system: Origin, version: ModelVersionRow, event: DriftEventRow
) -> DriftResponseRow:
    """A review that the service has opened already goes on: whoever wants it begun anew has the
    approval marked STALE first. What somebody has submitted does not: they could submit it again,
    and the policy decide."""
    status = version.approval_status
    former = await policies.present_approval(session, version.id)
    goes_on = former is not None and former.submitted_by.startswith(SYSTEM) and status in OPEN
    if goes_on or not rules.reviewable(version.stage, status):
        return DriftResponseRow(
            outcome=DriftOutcome.NOTHING_TO_DO,
            message=f"Version {version.version} is {version.stage} and {status}.",
        )
    approval = await review.open_review(session, system, version, _reason(event), event.id)
    return DriftResponseRow(
        outcome=DriftOutcome.DONE,
        message=f"Version {version.version} waits for people to decide, in NEEDS_REVIEW.",
        approval_id=approval.id,
    )


async def _roll_back(
    session: WriteSession, system: Origin, version: ModelVersionRow, event: DriftEventRow
) -> DriftResponseRow:
    """What was seen on one deployment is answered where that is; else production goes back."""
    if event.deployment_id is None:
        bad = await deployments.serving(session, version.id, Environment.PRODUCTION)
        missing = f"Version {version.version} has no live deployment in PRODUCTION."
    else:
        bad = (await deployments.by_ids(session, [event.deployment_id]))[event.deployment_id]
        missing = f"The deployment is {bad.status}."
        # It is the version that is bad: of several deployments the last is gone back from.
        last = await deployments.live_after(session, bad) if bad.status in LIVE else None
        if last and (last.model_version_id, last.status) == (version.id, DeploymentStatus.ACTIVE):
            bad = last
    if bad is None or bad.status not in LIVE:
        return DriftResponseRow(outcome=DriftOutcome.NOTHING_TO_DO, message=missing)
    command = RollbackDeployment(id=bad.id, reason=_reason(event))
    new = await deployments_service.roll_back(session, system, command)
    return DriftResponseRow(
        outcome=DriftOutcome.DONE,
        message=f"In {bad.environment} version {bad.version} makes way for version {new.version}.",
        deployment_id=new.id,
    )


def _reason(event: DriftEventRow) -> str:
    where = f"{event.metric} of {event.feature}" if event.feature else event.metric
    return f"Drift of {where}, {event.severity}."


_Response = Callable[
    [WriteSession, Origin, ModelVersionRow, DriftEventRow], Awaitable[DriftResponseRow]
]
_RESPONSES: dict[DriftAction, _Response] = {
    DriftAction.MARK_STALE: _mark_stale,
    DriftAction.OPEN_REVIEW: _open_review,
    DriftAction.ROLL_BACK: _roll_back,
}
