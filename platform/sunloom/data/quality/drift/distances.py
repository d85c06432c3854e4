"""Evidently's statistics of one column, computed directly and without loading it.

On Evidently's binning where the statistic has one (``psi.BINNING``). Null, NaN and infinite values
are left out of both samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from sunloom.data.quality.drift.psi import (
    FloatArray,
    fill_zeros,
    finite_values,
    population_stability_index,
    shares,
)

_LEAST_SCALE = 0.001


def column_distance(method: str, reference: pl.Series, current: pl.Series) -> float:
    """How far ``current`` has moved from ``reference``.

    Args:
        method: ``psi``, ``jensenshannon``, ``kl_div``; for numbers ``wasserstein`` (in standard
            deviations of the reference) and ``ks`` (a p-value: small where they differ) as well.
        reference: Values taken as normal.
        current: Values judged.

    Raises:
        DataError: A sample has no value.
    """
    return _METHODS[method](reference, current)


def relative_entropy(one: FloatArray, other: FloatArray) -> float:
    """Of ``one`` from ``other``, cells that are empty in ``one`` aside."""
    there = one > 0
    return float((one[there] * np.log(one[there] / other[there])).sum())


def _jensenshannon(reference: pl.Series, current: pl.Series) -> float:
    found = shares(reference, current)
    middle = (found.reference + found.current) / 2
    sides = (found.reference, found.current)
    return float(np.sqrt(max(sum(relative_entropy(side, middle) for side in sides) / 2, 0.0)))


def _kl_div(reference: pl.Series, current: pl.Series) -> float:
    found = shares(reference, current)
    before, after = fill_zeros(found.reference), fill_zeros(found.current)
    return relative_entropy(before / before.sum(), after / after.sum())


def _wasserstein(reference: pl.Series, current: pl.Series) -> float:
    from scipy.stats import wasserstein_distance

    before, after = finite_values(reference), finite_values(current)
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
