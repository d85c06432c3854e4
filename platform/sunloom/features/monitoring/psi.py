"""The population stability index, computed directly.

On one named binning, that of Evidently: equally wide bins by Sturges' rule over both samples
together, or one cell a value where the reference has at most 20 of them. An empty cell counts as
1e-4, or as a millionth of the sample's smallest share where that share is not above 1e-4.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.errors import DataError

BINNING = "sturges-both-samples, zero=1e-4, values up to 20"
"""Name of the binning, stored beside every PSI."""

_MAX_VALUES = 20
_ZERO = 1e-4

FloatArray = NDArray[np.float64]


def population_stability_index(reference: pl.Series, current: pl.Series) -> float:
    """How far ``current`` has moved from ``reference``; 0 is equal.

    Null, NaN and infinite values are left out of both samples.

    Raises:
        DataError: A sample has no finite value.
    """
    before, after = _finite(reference), _finite(current)
    expected, actual = _shares(before, after)
    expected, actual = _fill_zeros(expected), _fill_zeros(actual)
    return float(((expected - actual) * np.log(expected / actual)).sum())


def _finite(sample: pl.Series) -> FloatArray:
    values = sample.cast(pl.Float64).drop_nulls().to_numpy()
    finite: FloatArray = values[np.isfinite(values)]
    if not len(finite):
        raise DataError(f"The feature {sample.name!r} has no value to compare.", param=sample.name)
    return finite


def _shares(before: FloatArray, after: FloatArray) -> tuple[FloatArray, FloatArray]:
    values = np.unique(before)
    if len(values) > _MAX_VALUES:
        edges = np.histogram_bin_edges(np.concatenate([before, after]), bins="sturges")
        return _histogram(before, edges), _histogram(after, edges)
    cells = np.union1d(values, after)
    return _counts(before, cells), _counts(after, cells)


def _histogram(sample: FloatArray, edges: FloatArray) -> FloatArray:
    return np.asarray(np.histogram(sample, edges)[0] / len(sample))


def _counts(sample: FloatArray, cells: FloatArray) -> FloatArray:
    return np.bincount(np.searchsorted(cells, sample), minlength=len(cells)) / len(sample)


def _fill_zeros(shares: FloatArray) -> FloatArray:
    smallest = float(shares[shares != 0].min())
    return np.where(shares == 0, smallest / 1e6 if smallest <= _ZERO else _ZERO, shares)
