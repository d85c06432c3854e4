"""Order statistics: the row of each range with the smallest, largest or k-th smallest value."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import (
    Array,
    Ints,
    Ranges,
    first_rows_of_keys,
    key_bounds,
    prefix_counts,
)
from sunloom.features.kernels.trees import RangeTree

_LARGEST = np.iinfo(np.int64).max


def range_extreme_rows(codes: Ints, ranges: Ranges, *, largest: bool) -> Ints:
    """The row with the extreme code in each range, the first of equal ones.

    Args:
        codes: Sorted rows' values as whole numbers from 0 up, in the order of the values.
        ranges: The ranges; the row of an empty one is meaningless.
        largest: Whether to find the largest code rather than the smallest.
    """
    size = max(1, len(codes))
    ranks = codes.max(initial=0) - codes if largest else codes
    # The row's own number breaks ties, so that one fold finds both value and row.
    tree = RangeTree(ranks * size + np.arange(len(codes), dtype=np.int64), np.minimum, _LARGEST)
    return np.asarray(tree.fold(ranges.start, ranges.stop) % size)


def range_rows_in_order(values: Array, keys: Ints, ranges: Ranges, places: Ints) -> Ints:
    """The row at each place of its range in ascending order of values; NaN is the largest.

    Args:
        values: Sorted rows' numbers.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
        places: Counted from 0; ignored for an empty range.
    """
    if not len(values):
        return np.zeros(len(places), dtype=np.int64)
    bounds = key_bounds(keys)
    order = np.lexsort((values, keys))
    # Ranks inside the key have fewer binary digits than ranks among all rows: fewer levels.
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(bounds[:-1], np.diff(bounds))
    positions = first_rows_of_keys(bounds, ranges.start) + range_select(ranks, ranges, places)
    # An empty range may select a rank past the end; its row is ignored, but must exist.
    return np.asarray(order[np.minimum(positions, len(order) - 1)])


def range_select(codes: Ints, ranges: Ranges, places: Ints) -> Ints:
    """The code at each place of its range in ascending order.

    One pass over a wavelet matrix whose levels are built as they are used: O((n + q) log codes),
    however wide or overlapping the ranges are.

    Args:
        codes: Sorted rows' values as whole numbers from 0 up, in the order of the values.
        ranges: The ranges.
        places: Counted from 0; ignored for an empty range.
    """
    start, stop, remaining = ranges.start, ranges.stop, places
    selected = np.zeros(len(remaining), dtype=np.int64)
    bits = max(1, int(codes.max() if len(codes) else 0).bit_length())
    # From the highest bit down: where the place lies beyond the codes that have a 0 there, the
    # selected code has a 1, and those with a 0 are skipped.
    for bit in reversed(range(bits)):
        zero = (codes >> bit) & 1 == 0
        prefix = prefix_counts(zero)
        zeros_start, zeros_stop = prefix[start], prefix[stop]
        zeros = zeros_stop - zeros_start
        one = remaining >= zeros
        selected |= one.astype(np.int64) << bit
        remaining = np.where(one, remaining - zeros, remaining)
        start = np.where(one, prefix[-1] + start - zeros_start, zeros_start)
        stop = np.where(one, prefix[-1] + stop - zeros_stop, zeros_stop)
        codes = np.concatenate([codes[zero], codes[~zero]])
    return selected
