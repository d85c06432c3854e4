"""Distances between stored histograms, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sunloom.data.quality.drift.psi import stability_index
from sunloom.monitoring.bins import FloatArray, IntArray

_LEAST_EXPECTED = 10.0


def distance(method: str, reference: IntArray, current: IntArray) -> float:
    """How far the current counts lie from the reference's; 0 is equal.

    Args:
        method: ``psi``, ``jensenshannon`` or ``kl_div``.
        reference: Rows in each cell; at least one.
        current: The same of the rows judged.
    """
    return _METHODS[method](reference / reference.sum(), current / current.sum())


def chance_of_counts(reference: IntArray, current: IntArray) -> float:
    """Chance of counts this far apart, or farther, where both samples are of one distribution.

    Pearson's test of two samples. Neighbouring cells are joined until each expects some ten rows
    of the smaller sample, so that the figure holds far out in the tail as well.
    """
    from scipy.special import gammaincc

    both = _joined(np.stack([reference, current]))
    cells = both.shape[1]
    if cells < 2:
        return 1.0
    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    statistic = float(((both - expected) ** 2 / expected).sum())
    return float(gammaincc((cells - 1) / 2, statistic / 2))


def _joined(both: IntArray) -> IntArray:
    total = both.sum()
    least = min(both.sum(axis=1)) / total if total else 0.0
    wide: list[IntArray] = []
    held = np.zeros(2, dtype=np.int64)
    for cell in both.T:
        held = held + cell
        if held.sum() * least >= _LEAST_EXPECTED:
            wide.append(held)
            held = np.zeros(2, dtype=np.int64)
    if held.any():
        if wide:
            wide[-1] = wide[-1] + held
        else:
            wide.append(held)
    return np.stack(wide, axis=1) if wide else np.zeros((2, 0), dtype=np.int64)


def chance_of_rates(reference: tuple[int, int], current: tuple[int, int]) -> float:
    """Chance of two shares this far apart, or farther, where both are of one rate.

    Args:
        reference: Hits and rows.
        current: Hits and rows of the rows judged.
    """
    counts = [np.array([hits, rows - hits], dtype=np.int64) for hits, rows in (reference, current)]
    both = np.stack(counts)
    if (both.sum(axis=0) == 0).any() or (both.sum(axis=1) == 0).any():
        return 1.0
    from scipy.special import gammaincc

    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    # Yates's correction keeps the figure honest for a handful of hits.
    statistic = float((np.maximum(np.abs(both - expected) - 0.5, 0) ** 2 / expected).sum())
    return float(gammaincc(0.5, statistic / 2))


def _jensenshannon(expected: FloatArray, actual: FloatArray) -> float:
    middle = (expected + actual) / 2
    return float(np.sqrt((_kl(expected, middle) + _kl(actual, middle)) / 2))


def _kl_div(expected: FloatArray, actual: FloatArray) -> float:
    """Of the reference from the rows judged, an empty cell as a ten-thousandth."""
    filled = np.where(actual == 0, 1e-4, actual)
    return max(_kl(expected, filled), 0.0)


def _kl(one: FloatArray, other: FloatArray) -> float:
    there = one > 0
    return float((one[there] * np.log(one[there] / other[there])).sum())


_METHODS: Mapping[str, Callable[[FloatArray, FloatArray], float]] = {
    "psi": stability_index,
    "jensenshannon": _jensenshannon,
    "kl_div": _kl_div,
}
