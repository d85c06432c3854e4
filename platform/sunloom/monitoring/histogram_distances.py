"""Distances between stored histograms, and their significance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.data.quality.drift.distances import jensen_shannon_distance, relative_entropy
from sunloom.data.quality.drift.psi import stability_index

_LEAST_EXPECTED = 10.0


class Rate(NamedTuple):
    """A share of rows, as the hits among them."""

    hits: int
    rows: int

    @property
    def share(self) -> float:
        """Hits by rows; 0 without rows."""
        return self.hits / self.rows if self.rows else 0.0


def distance(method: str, reference: IntArray, current: IntArray) -> float:
    """Distance of the current counts from the reference's; 0 is equal.

    Args:
        method: ``psi``, ``jensenshannon`` or ``kl_div``.
        reference: Rows in each bin; at least one.
        current: The same of the rows compared.
    """
    return _METHODS[method](reference / reference.sum(), current / current.sum())


def counts_p_value(reference: IntArray, current: IntArray) -> float:
    """Probability of counts this far apart, or farther, if both samples have one distribution.

    Pearson's chi-squared test of two samples.
    """
    from scipy.special import gammaincc

    both = _join_sparse_bins(np.stack([reference, current]))
    bins = both.shape[1]
    if bins < 2:
        return 1.0
    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    statistic = float(((both - expected) ** 2 / expected).sum())
    # The upper tail of the chi-squared distribution with bins - 1 degrees of freedom.
    return float(gammaincc((bins - 1) / 2, statistic / 2))


def _join_sparse_bins(both: IntArray) -> IntArray:
    """Neighbouring bins joined until each expects ten rows of the smaller sample; [2, bins].

    The chi-squared distribution is only a limit: with fewer expected rows the p-value would be
    wrong far out in the tail, where the monitor's bound is.
    """
    total = both.sum()
    least = min(both.sum(axis=1)) / total if total else 0.0
    joined: list[IntArray] = []
    open_bin = np.zeros(2, dtype=np.int64)
    for counts in both.T:
        open_bin = open_bin + counts
        if open_bin.sum() * least >= _LEAST_EXPECTED:
            joined.append(open_bin)
            open_bin = np.zeros(2, dtype=np.int64)
    if open_bin.any():
        if joined:
            joined[-1] = joined[-1] + open_bin
        else:
            joined.append(open_bin)
    return np.stack(joined, axis=1) if joined else np.zeros((2, 0), dtype=np.int64)


def rates_p_value(reference: Rate, current: Rate) -> float:
    """Probability of two shares this far apart, or farther, if both samples have one rate."""
    counts = [np.array([hits, rows - hits], dtype=np.int64) for hits, rows in (reference, current)]
    both = np.stack(counts)
    # Without hits, misses or rows an expected count is 0, by which the test would divide.
    if (both.sum(axis=0) == 0).any() or (both.sum(axis=1) == 0).any():
        return 1.0
    from scipy.special import gammaincc

    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    # Yates's correction keeps the figure honest for a handful of hits.
    statistic = float((np.maximum(np.abs(both - expected) - 0.5, 0) ** 2 / expected).sum())
    return float(gammaincc(0.5, statistic / 2))


def _kl_div(reference: FloatArray, current: FloatArray) -> float:
    # An empty bin counts as a ten-thousandth, or one unseen value would make the figure infinite.
    filled = np.where(current == 0, 1e-4, current)
    return max(relative_entropy(reference, filled), 0.0)


_METHODS: Mapping[str, Callable[[FloatArray, FloatArray], float]] = {
    "psi": stability_index,
    "jensenshannon": jensen_shannon_distance,
    "kl_div": _kl_div,
}
