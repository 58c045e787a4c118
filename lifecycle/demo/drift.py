"""How far a feature has moved between two samples. Pure functions on arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp  # type: ignore[import-untyped]

Values = NDArray[np.float64]

ACTION_THRESHOLD = 0.25
_SEVERITIES = ((1.0, "CRITICAL"), (ACTION_THRESHOLD, "HIGH"), (0.1, "MEDIUM"), (0.0, "LOW"))
_EMPTY = 1e-4  # the logarithm of 0 has no value


def population_stability_index(baseline: Values, observed: Values, bins: int = 10) -> float:
    """Return the PSI: the sum over bins of (o - b) * ln(o / b), where b and o are the shares of
    the baseline and of the observed sample in that bin.

    The bins hold equal shares of the baseline; equal quantiles fall together, so a baseline with
    few distinct values has fewer bins. The outer bins are open: no observed value is lost. An
    empty bin counts as a share of 0.0001. Raises ValueError when a sample is empty.

    Source: N. Siddiqi, Credit Risk Scorecards (Wiley, 2006), where the rule of thumb comes from
    too: below 0.1 no shift, from 0.25 on a large one. The sum itself is the divergence J(1, 2) of
    S. Kullback and R. A. Leibler, On Information and Sufficiency (1951).
    """
    if not len(baseline) or not len(observed):
        raise ValueError("an empty sample has no distribution")
    quantiles = np.quantile(baseline, np.linspace(0, 1, bins + 1)[1:-1])
    edges = np.unique(quantiles)
    b, o = _shares(baseline, edges), _shares(observed, edges)
    return float(np.sum((o - b) * np.log(o / b)))


def _shares(sample: Values, edges: Values) -> Values:
    counts = np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(edges) + 1)
    shares: Values = np.maximum(counts / len(sample), _EMPTY)
    return shares


def severity(psi: float) -> str:
    """Return the DriftSeverity of a PSI: Siddiqi's two limits, and 1.0 for what is beyond doubt."""
    return next(name for limit, name in _SEVERITIES if psi >= limit)


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature: its PSI, and what sampling alone gives (`psi_by_chance`)."""

    feature: str
    psi: float
    psi_by_chance: float
    ks_statistic: float
    ks_p_value: float
    baseline_mean: float
    observed_mean: float


def by_feature(
    names: Sequence[str], baseline: Values, held_out: Values, observed: Values
) -> list[FeatureDrift]:
    """Compare matrices column by column; the worst feature by PSI comes first.

    `held_out` comes from the population of `baseline`: its PSI is the noise to judge by.
    """
    drifts = []
    for column, name in enumerate(names):
        before, now = baseline[:, column], observed[:, column]
        ks = ks_2samp(before, now)
        drifts.append(
            FeatureDrift(
                feature=name,
                psi=population_stability_index(before, now),
                psi_by_chance=population_stability_index(before, held_out[:, column]),
                ks_statistic=float(ks.statistic),
                ks_p_value=float(ks.pvalue),
                baseline_mean=float(before.mean()),
                observed_mean=float(now.mean()),
            )
        )
    return sorted(drifts, key=lambda drift: drift.psi, reverse=True)
