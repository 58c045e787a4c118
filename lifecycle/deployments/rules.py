"""Which status may follow which, and which version may run where."""

from enum import StrEnum

from lifecycle.errors import Conflict, Path
from lifecycle.registry.rules import Stage
from lifecycle.states import StateMachine


class Environment(StrEnum):
    DEVELOPMENT = "DEVELOPMENT"
    STAGING = "STAGING"
    PRODUCTION = "PRODUCTION"


class HealthStatus(StrEnum):
    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    UNHEALTHY = "UNHEALTHY"


class DeploymentStatus(StrEnum):
    PENDING = "PENDING"
    VALIDATING = "VALIDATING"
    DEPLOYING = "DEPLOYING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"
    ROLLBACK = "ROLLBACK"
    TERMINATED = "TERMINATED"


_S = DeploymentStatus
STATUS = StateMachine(
    {
        _S.PENDING: frozenset({_S.VALIDATING, _S.FAILED, _S.TERMINATED}),
        _S.VALIDATING: frozenset({_S.DEPLOYING, _S.FAILED, _S.TERMINATED}),
        _S.DEPLOYING: frozenset({_S.ACTIVE, _S.FAILED, _S.TERMINATED}),
        _S.ACTIVE: frozenset({_S.ROLLBACK, _S.FAILED, _S.TERMINATED}),
        _S.FAILED: frozenset({_S.ROLLBACK, _S.TERMINATED}),
        _S.ROLLBACK: frozenset({_S.TERMINATED}),
        _S.TERMINATED: frozenset(),
    }
)

# While it is one of these, a deployment serves its version or is about to.
LIVE = frozenset({_S.PENDING, _S.VALIDATING, _S.DEPLOYING, _S.ACTIVE})

# None: any stage will do.
STAGES: dict[Environment, frozenset[Stage] | None] = {
    Environment.DEVELOPMENT: None,
    Environment.STAGING: frozenset({Stage.STAGING, Stage.PRODUCTION}),
    Environment.PRODUCTION: frozenset({Stage.PRODUCTION}),
}

# Where a version has to go first so that rolling back to it is allowed.
ROLLBACK_STAGE = {Environment.STAGING: Stage.STAGING, Environment.PRODUCTION: Stage.PRODUCTION}


def check_takes_reports(status: DeploymentStatus) -> None:
    """Raise Conflict once the deployment has ended: only its log may still grow."""
    if status is _S.TERMINATED:
        raise Conflict("The deployment is TERMINATED; only its log may grow.", ("id",))


def allowed(stage: Stage, environment: Environment) -> bool:
    """Whether a version in this stage may run in this environment."""
    stages = STAGES[environment]
    return stages is None or stage in stages


def check_allowed(
    version: str, stage: Stage, environment: Environment, path: Path = ("model_version",)
) -> None:
    """Raise Conflict unless a version in this stage may run in this environment."""
    if not allowed(stage, environment):
        wanted = " or ".join(sorted(STAGES[environment] or ()))
        raise Conflict(
            f"Version {version} is in stage {stage}; to run in {environment} it must be in "
            f"{wanted}. Move it there with setStage first.",
            path,
        )
