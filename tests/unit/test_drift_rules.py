"""What may become of a drift event, what is degradation, and what is done about either."""

import math

import pytest

from lifecycle.drift.rules import (
    CLOSED,
    STATUS,
    DegradationFigure,
    DegradationLimit,
    DegradationRule,
    DriftAction,
    DriftStatus,
    Finding,
    Policy,
    Reported,
    ResponseRule,
    degradation,
    respond,
    unique_actions,
)
from lifecycle.errors import InvalidTransition
from lifecycle.registry.rules import DriftSeverity

FOLLOWING = {
    "OPEN": {"ACKNOWLEDGED", "MITIGATED", "RESOLVED", "FALSE_POSITIVE"},
    "ACKNOWLEDGED": {"MITIGATED", "RESOLVED", "FALSE_POSITIVE"},
    "MITIGATED": {"RESOLVED", "FALSE_POSITIVE"},
    "RESOLVED": set(),
    "FALSE_POSITIVE": set(),
}


@pytest.mark.parametrize("current", DriftStatus)
@pytest.mark.parametrize("wanted", DriftStatus)
def test_drift_goes_on_towards_its_end_and_never_back(
    current: DriftStatus, wanted: DriftStatus
) -> None:
    if wanted in FOLLOWING[current]:
        STATUS.check(current, wanted)
        return

    with pytest.raises(InvalidTransition) as refusal:
        STATUS.check(current, wanted)

    assert (refusal.value.current, refusal.value.wanted) == (current, wanted)
    assert refusal.value.allowed == sorted(FOLLOWING[current])


def test_closed_are_those_after_which_nothing_comes() -> None:
    assert {status for status in DriftStatus if not STATUS.following[status]} == CLOSED


# Responses.

LOW, MEDIUM, HIGH, CRITICAL = DriftSeverity
MARK_STALE, OPEN_REVIEW, ROLL_BACK = DriftAction


@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        (LOW, []),
        (MEDIUM, [MARK_STALE]),
        (HIGH, [OPEN_REVIEW, MARK_STALE]),
        (CRITICAL, [ROLL_BACK, OPEN_REVIEW, MARK_STALE]),
    ],
)
def test_each_action_is_taken_from_its_severity_on_in_the_order_of_the_policy(
    severity: DriftSeverity, expected: list[DriftAction]
) -> None:
    policy = Policy(
        (
            ResponseRule(CRITICAL, ROLL_BACK),
            ResponseRule(HIGH, OPEN_REVIEW),
            ResponseRule(MEDIUM, MARK_STALE),
        ),
        (),
    )

    assert respond(policy, severity) == expected
    assert respond(Policy((), ()), severity) == []


def test_an_action_is_in_one_rule_only() -> None:
    rules = [ResponseRule(LOW, ROLL_BACK), ResponseRule(HIGH, MARK_STALE)]

    assert unique_actions(rules) == rules
    with pytest.raises(ValueError, match="each action can be named once"):
        unique_actions([*rules, ResponseRule(CRITICAL, ROLL_BACK)])


# Degradation.

ERROR_RATE, AVG_LATENCY_MS, OBSERVED = DegradationFigure
MAX_RATIO, MAX_INCREASE, MAX_DECREASE, MAX_VALUE = DegradationLimit


def found(rule: DegradationRule, own: float | None, observed: float | None) -> list[Finding]:
    """What a rule about the figure or metric m finds, given the version's own and what was
    reported, if they are there."""
    reported = Reported(
        error_rate=observed if observed is not None and rule.figure is ERROR_RATE else 0.0,
        avg_latency_ms=observed if observed is not None and rule.figure is AVG_LATENCY_MS else 0.0,
        observed={"m": observed} if observed is not None and rule.figure is OBSERVED else {},
    )
    return degradation(Policy((), (rule,)), reported, {} if own is None else {"m": own})


@pytest.mark.parametrize(
    ("figure", "limit", "value", "own", "at", "beyond"),
    [
        (AVG_LATENCY_MS, MAX_RATIO, 1.5, 100.0, 150.0, 150.01),
        (AVG_LATENCY_MS, MAX_RATIO, 1.1, 3.0, 3.3, 3.3000001),
        (AVG_LATENCY_MS, MAX_INCREASE, 20.0, 100.0, 120.0, 120.5),
        (AVG_LATENCY_MS, MAX_VALUE, 250.0, None, 250.0, 251.0),
        (ERROR_RATE, MAX_VALUE, 0.05, None, 0.05, 0.0501),
        (ERROR_RATE, MAX_INCREASE, 0.2, 0.1, 0.3, 0.31),
        (OBSERVED, MAX_DECREASE, 0.05, 0.80, 0.75, 0.7499),
        # As binary fractions these would be beyond the limit: 0.17 - 0.05 is 0.12000000000000001.
        (OBSERVED, MAX_DECREASE, 0.05, 0.17, 0.12, 0.1199),
        (OBSERVED, MAX_DECREASE, 0.0, 0.9, 0.9, 0.8999),
        (OBSERVED, MAX_VALUE, 0.0, None, 0.0, 1e-9),
        (OBSERVED, MAX_INCREASE, 0.1, -0.2, -0.1, -0.09),
        (OBSERVED, MAX_DECREASE, 1.0, -1e308, -1e308, -1.1e308),
    ],
)
def test_a_figure_is_degraded_beyond_its_limit_and_not_at_it(
    figure: DegradationFigure,
    limit: DegradationLimit,
    value: float,
    own: float | None,
    at: float,
    beyond: float,
) -> None:
    metric = "m" if own is not None or figure is OBSERVED else None
    rule = DegradationRule(figure, limit, value, HIGH, metric)

    assert found(rule, own, at) == []
    [finding] = found(rule, own, beyond)

    assert (finding.severity, finding.baseline, finding.observed) == (HIGH, own, beyond)
    assert finding.name == ("m" if figure is OBSERVED else figure.lower())
    assert own == -1e308 or finding.threshold == at


@pytest.mark.parametrize("figure", [AVG_LATENCY_MS, OBSERVED])
@pytest.mark.parametrize("limit", [MAX_RATIO, MAX_INCREASE, MAX_DECREASE])
@pytest.mark.parametrize("own", [None, math.nan, math.inf, -math.inf])
def test_a_version_without_a_finite_figure_of_its_own_is_not_judged_by_it(
    figure: DegradationFigure, limit: DegradationLimit, own: float | None
) -> None:
    rule = DegradationRule(figure, limit, 0.0, HIGH, "m")

    for observed in (0.0, 1e308, math.nan):
        assert found(rule, own, observed) == []


@pytest.mark.parametrize("observed", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_observed_as_a_finite_number_says_nothing(observed: float | None) -> None:
    for limit in DegradationLimit:
        rule = DegradationRule(OBSERVED, limit, 0.0, HIGH, "m")
        assert found(rule, 0.5, observed) == []


@pytest.mark.parametrize("own", [0.0, -1.0])
def test_there_is_no_ratio_to_nothing_or_less(own: float) -> None:
    assert found(DegradationRule(OBSERVED, MAX_RATIO, 1.5, HIGH, "m"), own, 1.0) == []


def test_of_a_figure_the_worst_is_found_whatever_the_order() -> None:
    some = DegradationRule(AVG_LATENCY_MS, MAX_RATIO, 1.5, MEDIUM, "m")
    much = DegradationRule(AVG_LATENCY_MS, MAX_RATIO, 3.0, CRITICAL, "m")
    other = DegradationRule(ERROR_RATE, MAX_VALUE, 0.5, LOW)
    reported = Reported(error_rate=0.6, avg_latency_ms=400.0, observed={})

    for rules in ((some, much, other), (much, some, other)):
        findings = degradation(Policy((), rules), reported, {"m": 100.0})
        assert [(f.name, f.severity, f.threshold) for f in findings] == [
            ("avg_latency_ms", CRITICAL, 300.0),
            ("error_rate", LOW, 0.5),
        ]


def test_a_finding_says_what_it_is_in_words() -> None:
    said = {
        MAX_RATIO: "m is 9.0: more than 1.5 times the version's own m of 1.0.",
        MAX_INCREASE: "m is 9.0: more than 1.5 above the version's own m of 1.0.",
        MAX_VALUE: "m is 9.0: more than the 1.5 that are allowed.",
    }
    for limit, message in said.items():
        [finding] = found(DegradationRule(OBSERVED, limit, 1.5, HIGH, "m"), 1.0, 9.0)
        assert finding.message == message
    [finding] = found(DegradationRule(OBSERVED, MAX_DECREASE, 1.5, HIGH, "m"), 1.0, -9.0)
    assert finding.message == "m is -9.0: less than 1.5 below the version's own m of 1.0."


def test_a_limit_that_could_not_be_judged_is_no_rule() -> None:
    for limit in (MAX_RATIO, MAX_INCREASE, MAX_DECREASE):
        with pytest.raises(ValueError, match=f"{limit} needs the version's metric"):
            DegradationRule(AVG_LATENCY_MS, limit, 1.0, LOW)
    with pytest.raises(ValueError, match="an OBSERVED figure needs its name"):
        DegradationRule(OBSERVED, MAX_VALUE, 1.0, LOW)
