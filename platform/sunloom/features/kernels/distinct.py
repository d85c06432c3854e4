"""Counts of different values."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Bools, Ints, Ranges
from sunloom.features.kernels.prefixes import key_bounds
from sunloom.features.kernels.trees import RankIndex


def first_occurrences(codes: Ints, keys: Ints) -> Bools:
    """Whether each sorted row is the first of its value in its key."""
    return np.asarray(_previous_equal(codes, keys) < 0)


def range_distinct(codes: Ints, keys: Ints, ranges: Ranges) -> Ints:
    """Number of different values in each range.

    Args:
        codes: Sorted rows' values as whole numbers, equal where the values are equal.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    previous = _previous_equal(codes, keys)
    bounds = key_bounds(keys)
    # Places counted from the key's first row: fewer digits, so fewer steps.
    local = previous - np.repeat(bounds[:-1], np.diff(bounds))
    first = bounds[np.searchsorted(bounds, ranges.start, side="right") - 1]
    # A row is the first of its value in [start, stop) when the one before it lies before start.
    return RankIndex(np.maximum(local, -1) + 1).below(ranges.start - first + 1, ranges)


def _previous_equal(codes: Ints, keys: Ints) -> Ints:
    """Position of the last earlier row of the same key and value, or -1."""
    order = np.lexsort((codes, keys))
    same = (np.diff(codes[order]) == 0) & (np.diff(keys[order]) == 0)
    previous = np.full(len(codes), -1, dtype=np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous
