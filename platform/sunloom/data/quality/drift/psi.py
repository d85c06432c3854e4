"""The population stability index, computed directly.

On one named binning, that of Evidently: equally wide bins by Sturges' rule over both samples
together, or one bin a value where the reference has at most 20 of them, and for text and truth
values. An empty bin counts as 1e-4, or as a millionth of the sample's smallest share where that
share is not above 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError

BINNING = "sturges-both-samples, zero=1e-4, values up to 20"
"""Name of the binning, stored beside every PSI."""

_MAX_VALUES = 20
_ZERO = 1e-4


@dataclass(frozen=True)
class Shares:
    """Two samples on the same bins.

    Attributes:
        cells: Edges of the bins (one more than there are shares), or the values.
        reference, current: Share of each sample in each bin.
    """

    cells: NDArray[np.generic]
    reference: FloatArray
    current: FloatArray


def population_stability_index(reference: pl.Series, current: pl.Series) -> float:
    """Distance of ``current`` from ``reference``; 0 is equal.

    Null, NaN and infinite values are ignored in both samples.

    Raises:
        DataError: A sample has no value.
    """
    both = shares(reference, current)
    return stability_index(both.reference, both.current)


def stability_index(expected: FloatArray, actual: FloatArray) -> float:
    """The index of two distributions over the same bins; empty bins are filled."""
    before, after = fill_zeros(expected), fill_zeros(actual)
    return float(((before - after) * np.log(before / after)).sum())


def shares(reference: pl.Series, current: pl.Series) -> Shares:
    """Both samples on Evidently's bins.

    Raises:
        DataError: A sample has no value.
    """
    if not reference.dtype.is_numeric():
        return _category_shares(reference, current)
    before, after = finite_values(reference), finite_values(current)
    values = _few_values(before)
    edges = _sturges_edges(before, after) if values is None else None
    if edges is not None:
        return Shares(edges, _bin_shares(before, edges), _bin_shares(after, edges))
    cells = np.union1d(before if values is None else values, after)
    return Shares(cells, _value_shares(before, cells), _value_shares(after, cells))


def _sturges_edges(before: FloatArray, after: FloatArray) -> FloatArray | None:
    """As ``numpy.histogram_bin_edges`` of both samples together, without joining them.

    None where the values are too close together, or too far apart, for floats to divide.
    """
    low, high = min(before.min(), after.min()), max(before.max(), after.max())
    with np.errstate(over="ignore", invalid="ignore"):
        # Sturges' rule, of the rows of both samples together.
        width = (high - low) / (np.log2(len(before) + len(after)) + 1.0)
        if not np.isfinite(width):
            return None
        edges = np.linspace(low, high, int(np.ceil((high - low) / width)) + 1)
    return edges if (np.diff(edges) > 0).all() else None


def _few_values(sample: FloatArray) -> FloatArray | None:
    """The distinct values where they are at most 20."""
    # The first rows rule out most columns without a sort of all of them.
    if len(np.unique(sample[:1000])) > _MAX_VALUES:
        return None
    values: FloatArray = np.unique(sample)
    return values if len(values) <= _MAX_VALUES else None


def has_value(sample: pl.Series) -> bool:
    """Whether there is anything to compare; of numbers, a finite one."""
    if not sample.dtype.is_numeric():
        return sample.null_count() < len(sample)
    return bool(sample.cast(pl.Float64).is_finite().any())


def finite_values(sample: pl.Series) -> FloatArray:
    """The numbers of a sample, without null, NaN and infinite ones.

    Raises:
        DataError: There is none.
    """
    values = sample.cast(pl.Float64).drop_nulls().to_numpy()
    finite: FloatArray = values[np.isfinite(values)]
    if not len(finite):
        raise _no_value_error(sample)
    return finite


def _no_value_error(sample: pl.Series) -> DataError:
    return DataError(f"The feature {sample.name!r} has no value to compare.", param=sample.name)


def _bin_shares(sample: FloatArray, edges: FloatArray) -> FloatArray:
    # Given a number of bins and a range, numpy counts without sorting, into the same bins.
    counts = np.histogram(sample, len(edges) - 1, (edges[0], edges[-1]))[0]
    return np.asarray(counts / len(sample))


def _value_shares(sample: FloatArray, values: FloatArray) -> FloatArray:
    # Every value of the sample is a cell, so searchsorted finds its own index.
    return np.bincount(np.searchsorted(values, sample), minlength=len(values)) / len(sample)


def _category_shares(reference: pl.Series, current: pl.Series) -> Shares:
    counts = []
    for sample in (reference, current):
        texts = sample.drop_nulls().cast(pl.String)
        if texts.is_empty():
            raise _no_value_error(sample)
        counts.append(texts.alias("cell").value_counts(normalize=True, name="share"))
    # Full: a value of one sample alone counts as an empty bin of the other.
    both = counts[0].join(counts[1], on="cell", how="full", coalesce=True).sort("cell")
    before, after = (both[name].fill_null(0.0).to_numpy() for name in ("share", "share_right"))
    return Shares(both["cell"].to_numpy(), before, after)


def fill_zeros(shares: FloatArray) -> FloatArray:
    """The shares, with the value that stands for an empty bin."""
    smallest = float(shares[shares != 0].min())
    # Evidently's own rule: a logarithm needs a number, and 1e-4 must stay below every real share.
    return np.where(shares == 0, smallest / 1e6 if smallest <= _ZERO else _ZERO, shares)
