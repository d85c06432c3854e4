"""Statistics of drift: Evidently's, computed directly and without loading it.

``psi``, ``jensenshannon`` and ``kl_div`` compare shares of bins: equally wide bins by Sturges'
rule over both samples together, or one bin a value where the reference has few of them, and for
text and truth values (``BINNING``). ``wasserstein`` and ``ks`` compare the
numbers themselves. Null, NaN and infinite values are ignored in both samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError

P_VALUES = frozenset({"ks", "chisquare", "z"})
"""Tests whose value is small where the samples differ; the others are distances."""

# The bins are Evidently's: its values and ours are the same.
MAX_VALUE_BINS = 20
"""Distinct numbers of the reference up to which each is a bin of its own. Of more numbers, the bins
are equally wide, and Sturges' rule gives how many."""
EMPTY_BIN_SHARE = 1e-4
"""Share that an empty bin counts as: a millionth of the sample's smallest share where that is not
above this."""
BINNING = f"sturges-both-samples, zero=1e-4, values up to {MAX_VALUE_BINS}"
"""Name of the bins, stored beside every PSI: only values on the same bins can be compared."""

_LEAST_SCALE = 0.001
_LARGEST_SQUARE = 1e150
# Evidently's bounds between tests and distances, and between categories and numbers.
_TESTED_ROWS = 1000
_CATEGORIES = 5


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


def choose_test(reference: pl.Series, current: pl.Series) -> str:
    """The statistic that Evidently compares two samples by where nobody names one.

    Raises:
        DataError: A sample has no value.
    """
    before, after = _values(reference), _values(current)
    values = pl.concat([before, after]).n_unique()
    is_number = reference.dtype.is_numeric() and values > _CATEGORIES
    if len(before) > _TESTED_ROWS:
        return "wasserstein" if is_number else "jensenshannon"
    if is_number:
        return "ks"
    return "chisquare" if values > 2 else "z"


def column_distance(method: str, reference: pl.Series, current: pl.Series) -> float:
    """Distance of ``current`` from ``reference``.

    Args:
        method: ``psi``, ``jensenshannon``, ``kl_div``, and the p-values ``chisquare`` and ``z``
            (small where the samples differ); for numbers ``wasserstein`` (in standard deviations
            of the reference) and the p-value ``ks`` as well.
        reference: Values taken as normal.
        current: Values compared with them.

    Raises:
        DataError: A sample has no value.
    """
    if method in SHARE_DISTANCES:
        both = shares(reference, current)
        return SHARE_DISTANCES[method](both.reference, both.current)
    if method in ("chisquare", "z"):
        return _category_test(method, _values(reference), _values(current))
    before, after = finite_values(reference), finite_values(current)
    # SciPy's statistics take a second to import, and most recipes need none of them.
    from scipy.stats import ks_2samp, wasserstein_distance

    if method == "ks":
        return float(ks_2samp(before, after).pvalue)
    # Of values above the root of the largest float, the variance would be infinite, and every
    # distance 0 deviations: a common factor changes no quotient.
    largest = max(float(np.abs(before).max()), float(np.abs(after).max()))
    factor = largest if largest > _LARGEST_SQUARE else 1.0
    distance = float(wasserstein_distance(before / factor, after / factor))
    # A constant reference has no scale of its own: Evidently's floor keeps the quotient finite.
    return distance / max(float((before / factor).std()), _LEAST_SCALE / factor)


def _values(sample: pl.Series) -> pl.Series:
    """The finite numbers of a sample, or its values as text, without missing ones."""
    if sample.dtype.is_numeric():
        return pl.Series(finite_values(sample))
    texts = sample.drop_nulls().cast(pl.String)
    if texts.is_empty():
        raise _no_value_error(sample)
    return texts.alias("")


def _category_test(method: str, before: pl.Series, after: pl.Series) -> float:
    """P-value of two samples of categories: of Pearson's test, or of two shares (``z``)."""
    cells = pl.concat([before, after]).unique().sort()
    expected, observed = (
        cells.to_frame("cell")
        .join(sample.value_counts(name="n").rename({sample.name: "cell"}), on="cell", how="left")
        .get_column("n")
        .fill_null(0)
        .cast(pl.Float64)
        .to_numpy()
        for sample in (before, after)
    )
    if len(cells) == 1:
        return 1.0
    from scipy.stats import chisquare, norm

    if method == "chisquare":
        # A category that the reference lacks is expected never: its quotient is infinite, p is 0.
        with np.errstate(divide="ignore"):
            scaled = expected * (len(after) / len(before))
            return float(chisquare(observed, scaled).pvalue)
    shares = 1 - expected[0] / len(before), 1 - observed[0] / len(after)
    pooled = 1 - (expected[0] + observed[0]) / (len(before) + len(after))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(before) + 1 / len(after)))
    return float(2 * (1 - norm.cdf(abs(shares[0] - shares[1]) / error)))


def stability_index(reference: FloatArray, current: FloatArray) -> float:
    """The population stability index of two distributions over the same bins; 0 is equal."""
    before, after = _fill_zeros(reference), _fill_zeros(current)
    return float(((before - after) * np.log(before / after)).sum())


def jensen_shannon_distance(reference: FloatArray, current: FloatArray) -> float:
    """Jensen-Shannon distance of two distributions over the same bins."""
    middle = (reference + current) / 2
    divergence = relative_entropy(reference, middle) + relative_entropy(current, middle)
    # Rounding may leave equal distributions a hair below zero, which has no root.
    return float(np.sqrt(max(divergence / 2, 0.0)))


def relative_entropy(distribution: FloatArray, base: FloatArray) -> float:
    """Kullback-Leibler divergence of ``distribution`` from ``base``, without its empty bins."""
    # p log p tends to 0 with p, but NumPy's 0 * log(0) is NaN.
    filled = distribution > 0
    return float((distribution[filled] * np.log(distribution[filled] / base[filled])).sum())


def _kl_div(reference: FloatArray, current: FloatArray) -> float:
    before, after = _fill_zeros(reference), _fill_zeros(current)
    # Filled bins raise the sums above 1: normalised, as by scipy's entropy, which Evidently calls.
    return relative_entropy(before / before.sum(), after / after.sum())


def _fill_zeros(shares: FloatArray) -> FloatArray:
    """The shares, with the value that stands for an empty bin."""
    smallest = float(shares[shares != 0].min())
    # Evidently's own rule: a logarithm needs a number, which must stay below every real share.
    filler = smallest / 1e6 if smallest <= EMPTY_BIN_SHARE else EMPTY_BIN_SHARE
    return np.where(shares == 0, filler, shares)


SHARE_DISTANCES: Mapping[str, Callable[[FloatArray, FloatArray], float]] = {
    "psi": stability_index,
    "jensenshannon": jensen_shannon_distance,
    "kl_div": _kl_div,
}
"""Statistics of two distributions over the same bins."""


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
    """The distinct values where they are at most ``MAX_VALUE_BINS``."""
    # The first rows rule out most columns without a sort of all of them.
    if len(np.unique(sample[:1000])) > MAX_VALUE_BINS:
        return None
    values: FloatArray = np.unique(sample)
    return values if len(values) <= MAX_VALUE_BINS else None


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


def value_count(sample: pl.Series) -> int:
    """How many values can be compared; of numbers, the finite ones."""
    if not sample.dtype.is_numeric():
        return len(sample) - sample.null_count()
    return int(sample.cast(pl.Float64).is_finite().sum())


def has_value(sample: pl.Series) -> bool:
    """Whether there is anything to compare; of numbers, a finite one."""
    return value_count(sample) > 0


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
