"""Evidently's statistics of one column, computed directly and without loading it.

On Evidently's binning where the statistic has one (``psi.BINNING``). Null, NaN and infinite values
are ignored in both samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.data.quality.drift.psi import (
    fill_zeros,
    finite_values,
    population_stability_index,
    shares,
)

_LEAST_SCALE = 0.001


def column_distance(method: str, reference: pl.Series, current: pl.Series) -> float:
    """Distance of ``current`` from ``reference``.

    Args:
        method: ``psi``, ``jensenshannon``, ``kl_div``; for numbers ``wasserstein`` (in standard
            deviations of the reference) and ``ks`` (a p-value: small where they differ) as well.
        reference: Values taken as normal.
        current: Values compared with them.

    Raises:
        DataError: A sample has no value.
    """
    return _METHODS[method](reference, current)


def relative_entropy(distribution: FloatArray, base: FloatArray) -> float:
    """Kullback-Leibler divergence of ``distribution`` from ``base``, without its empty bins."""
    # p log p tends to 0 with p, but NumPy's 0 * log(0) is NaN.
    filled = distribution > 0
    return float((distribution[filled] * np.log(distribution[filled] / base[filled])).sum())


def jensen_shannon_distance(reference: FloatArray, current: FloatArray) -> float:
    """Jensen-Shannon distance of two distributions over the same bins."""
    middle = (reference + current) / 2
    divergence = relative_entropy(reference, middle) + relative_entropy(current, middle)
    # Rounding may leave equal distributions a hair below zero, which has no root.
    return float(np.sqrt(max(divergence / 2, 0.0)))


def _jensenshannon(reference: pl.Series, current: pl.Series) -> float:
    both = shares(reference, current)
    return jensen_shannon_distance(both.reference, both.current)


def _kl_div(reference: pl.Series, current: pl.Series) -> float:
    both = shares(reference, current)
    before, after = fill_zeros(both.reference), fill_zeros(both.current)
    # Filled bins raise the sums above 1: normalised, as by scipy's entropy, which Evidently calls.
    return relative_entropy(before / before.sum(), after / after.sum())


def _wasserstein(reference: pl.Series, current: pl.Series) -> float:
    from scipy.stats import wasserstein_distance

    before, after = finite_values(reference), finite_values(current)
    # A constant reference has no scale of its own: Evidently's floor keeps the quotient finite.
    return float(wasserstein_distance(before, after)) / max(float(before.std()), _LEAST_SCALE)


def _ks(reference: pl.Series, current: pl.Series) -> float:
    from scipy.stats import ks_2samp

    return float(ks_2samp(finite_values(reference), finite_values(current)).pvalue)


_METHODS: Mapping[str, Callable[[pl.Series, pl.Series], float]] = {
    "psi": population_stability_index,
    "jensenshannon": _jensenshannon,
    "kl_div": _kl_div,
    "wasserstein": _wasserstein,
    "ks": _ks,
}
