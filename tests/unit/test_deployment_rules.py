"""Which status may follow which, and which version may run where."""

import pytest

from lifecycle.deployments.rules import (
    LIVE,
    ROLLBACK_STAGE,
    STATUS,
    DeploymentStatus,
    Environment,
    allowed,
    check_allowed,
    check_takes_reports,
)
from lifecycle.errors import Conflict, InvalidTransition
from lifecycle.registry.rules import Stage

# The contract's table, as it is written there.
FOLLOWING = {
    "PENDING": {"VALIDATING", "FAILED", "TERMINATED"},
    "VALIDATING": {"DEPLOYING", "FAILED", "TERMINATED"},
    "DEPLOYING": {"ACTIVE", "FAILED", "TERMINATED"},
    "ACTIVE": {"ROLLBACK", "FAILED", "TERMINATED"},
    "FAILED": {"ROLLBACK", "TERMINATED"},
    "ROLLBACK": {"TERMINATED"},
    "TERMINATED": set(),
}


@pytest.mark.parametrize("current", DeploymentStatus)
@pytest.mark.parametrize("wanted", DeploymentStatus)
def test_a_status_is_followed_by_those_of_the_contract_and_no_others(
    current: DeploymentStatus, wanted: DeploymentStatus
) -> None:
    if wanted in FOLLOWING[current]:
        STATUS.check(current, wanted)
        return

    with pytest.raises(InvalidTransition) as refusal:
        STATUS.check(current, wanted)

    assert (refusal.value.current, refusal.value.wanted) == (current, wanted)
    assert refusal.value.allowed == sorted(FOLLOWING[current])
    assert refusal.value.path == ("status",)


def test_a_refusal_says_in_words_what_is_allowed() -> None:
    with pytest.raises(InvalidTransition) as refusal:
        STATUS.check(DeploymentStatus.PENDING, DeploymentStatus.ACTIVE)

    assert str(refusal.value) == (
        "PENDING cannot become ACTIVE; allowed next: FAILED, TERMINATED, VALIDATING."
    )


@pytest.mark.parametrize("wanted", DeploymentStatus)
def test_terminated_is_final(wanted: DeploymentStatus) -> None:
    with pytest.raises(InvalidTransition, match="allowed next: nothing: it is final"):
        STATUS.check(DeploymentStatus.TERMINATED, wanted)


@pytest.mark.parametrize("status", DeploymentStatus)
def test_reports_are_taken_until_the_deployment_has_ended(status: DeploymentStatus) -> None:
    if status is not DeploymentStatus.TERMINATED:
        check_takes_reports(status)
        return

    with pytest.raises(Conflict, match="only its log may grow"):
        check_takes_reports(status)


def test_what_has_stopped_to_be_live_never_becomes_live_again() -> None:
    for status in set(DeploymentStatus) - LIVE:
        assert not STATUS.following[status] & LIVE


@pytest.mark.parametrize(
    ("environment", "stages"),
    [
        (Environment.DEVELOPMENT, set(Stage)),
        (Environment.STAGING, {Stage.STAGING, Stage.PRODUCTION}),
        (Environment.PRODUCTION, {Stage.PRODUCTION}),
    ],
)
def test_an_environment_takes_versions_of_certain_stages(
    environment: Environment, stages: set[Stage]
) -> None:
    assert {stage for stage in Stage if allowed(stage, environment)} == stages


def test_a_version_in_the_wrong_stage_is_told_which_one_it_needs() -> None:
    with pytest.raises(Conflict) as refusal:
        check_allowed("7", Stage.ARCHIVED, Environment.STAGING)

    assert str(refusal.value) == (
        "Version 7 is in stage ARCHIVED; to run in STAGING it must be in PRODUCTION or STAGING. "
        "Move it there with setStage first."
    )
    assert refusal.value.path == ("model_version",)


def test_a_rollback_brings_the_version_into_a_stage_that_may_run_there() -> None:
    for environment in Environment:
        anywhere = all(allowed(stage, environment) for stage in Stage)
        assert anywhere or allowed(ROLLBACK_STAGE[environment], environment)
