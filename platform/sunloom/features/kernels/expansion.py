"""Ranges row by row, in portions that fit in memory."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Ints, Ranges

ROWS_AT_ONCE = 4_000_000


def chunks(counts: Ints, budget: int = ROWS_AT_ONCE) -> list[slice]:
    """Consecutive questions whose rows together stay below the budget (or one alone)."""
    total = np.cumsum(counts)
    slices: list[slice] = []
    start = 0
    while start < len(counts):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + budget, side="right")))
        slices.append(slice(start, stop))
        start = stop
    return slices


def expanded(ranges: Ranges) -> tuple[Ints, Ints]:
    """Every row of every range, one range after another, and where each range begins."""
    counts = ranges.counts
    offsets = np.cumsum(counts) - counts
    flat = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(ranges.start - offsets, counts)
    return flat, offsets
