"""The demo's measures of drift, on values that can be worked out by hand."""

from math import inf, log

import numpy as np
import pytest

from lifecycle.demo.drift import by_feature, population_stability_index, severity

BASELINE = np.arange(1000, dtype=float)


def test_a_sample_has_not_drifted_from_itself() -> None:
    assert population_stability_index(BASELINE, BASELINE) == 0
    assert population_stability_index(BASELINE, np.random.default_rng(1).permutation(BASELINE)) == 0


def test_the_size_of_a_sample_does_not_count() -> None:
    assert population_stability_index(BASELINE, np.repeat(BASELINE, 3)) == pytest.approx(0)


def test_two_bins_give_the_sum_by_hand() -> None:
    baseline = np.array([0.0] * 50 + [1.0] * 50)
    observed = np.array([0.0] * 20 + [1.0] * 80)

    psi = population_stability_index(baseline, observed, bins=2)

    assert psi == pytest.approx((0.2 - 0.5) * log(0.2 / 0.5) + (0.8 - 0.5) * log(0.8 / 0.5))


def test_bins_without_observations_count_as_a_small_share() -> None:
    observed = np.full(200, 2000.0)  # all in the last of ten bins

    psi = population_stability_index(BASELINE, observed)

    empty = (1e-4 - 0.1) * log(1e-4 / 0.1)
    assert psi == pytest.approx(9 * empty + (1 - 0.1) * log(1 / 0.1))
    assert psi < inf


def test_values_beyond_the_baseline_fall_into_the_outer_bins() -> None:
    beyond = BASELINE.copy()
    beyond[:100], beyond[-100:] = -1e9, 1e9

    assert population_stability_index(BASELINE, beyond) == pytest.approx(0)


def test_a_baseline_of_few_values_has_fewer_bins() -> None:
    constant = np.zeros(100)

    assert population_stability_index(constant, np.zeros(7)) == 0
    assert population_stability_index(constant, np.ones(7)) > 1


def test_an_empty_sample_is_refused() -> None:
    nothing = np.array([])

    for baseline, observed in ((nothing, BASELINE), (BASELINE, nothing)):
        with pytest.raises(ValueError, match="empty"):
            population_stability_index(baseline, observed)


@pytest.mark.parametrize(
    ("psi", "expected"),
    [(0.0, "LOW"), (0.1, "MEDIUM"), (0.249, "MEDIUM"), (0.25, "HIGH"), (1.0, "CRITICAL")],
)
def test_severity_begins_at_its_limit(psi: float, expected: str) -> None:
    assert severity(psi) == expected


def test_the_worst_feature_comes_first() -> None:
    baseline = np.column_stack([BASELINE, BASELINE])
    observed = np.column_stack([BASELINE, BASELINE + 500])

    worst, other = by_feature(["still", "moved"], baseline, baseline, observed)

    assert (worst.feature, other.feature) == ("moved", "still")
    assert worst.ks_statistic == pytest.approx(0.5)
    assert (worst.baseline_mean, worst.observed_mean) == (499.5, 999.5)
    assert (other.psi, worst.psi_by_chance) == (0, 0)
