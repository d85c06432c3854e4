"""The k-th smallest row of each range."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Array, Ints, Ranges
from sunloom.features.kernels.prefixes import key_bounds


def range_rows_in_order(values: Array, keys: Ints, ranges: Ranges, places: Ints) -> Ints:
    """The row that would stand at each place, were its range sorted; NaN is the largest.

    Args:
        values: Sorted rows' numbers.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
        places: Counted from 0; for an empty range anything.
    """
    if not len(values):
        return np.zeros(len(places), dtype=np.int64)
    bounds = key_bounds(keys)
    order = np.lexsort((values, keys))
    # Ranks inside the key have fewer digits than ranks among all, and cost fewer steps.
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(bounds[:-1], np.diff(bounds))
    first = bounds[np.searchsorted(bounds, ranges.start, side="right") - 1]
    found = first + range_select(ranks, ranges, places)
    return np.asarray(order[np.minimum(found, len(order) - 1)])


def range_select(codes: Ints, ranges: Ranges, places: Ints) -> Ints:
    """The code that would stand at each place, were its range sorted.

    One pass over a wavelet matrix whose levels are made as they are used: O((n + q) log codes),
    however wide or overlapping the ranges are.

    Args:
        codes: Sorted rows' values as whole numbers from 0 up, in the order of the values.
        ranges: The ranges.
        places: Counted from 0; for an empty range anything.
    """
    start, stop, left = ranges.start, ranges.stop, places
    found = np.zeros(len(left), dtype=np.int64)
    bits = max(1, int(codes.max() if len(codes) else 0).bit_length())
    for bit in reversed(range(bits)):
        zero = (codes >> bit) & 1 == 0
        prefix = np.zeros(len(codes) + 1, dtype=np.int64)
        np.cumsum(zero, out=prefix[1:])
        zeros_start, zeros_stop = prefix[start], prefix[stop]
        zeros = zeros_stop - zeros_start
        one = left >= zeros
        found |= one.astype(np.int64) << bit
        left = np.where(one, left - zeros, left)
        start = np.where(one, prefix[-1] + start - zeros_start, zeros_start)
        stop = np.where(one, prefix[-1] + stop - zeros_stop, zeros_stop)
        codes = np.concatenate([codes[zero], codes[~zero]])
    return found
