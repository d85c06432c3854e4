"""Statistics of the values in each range: extremes, quantiles, distinct and frequent values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sunloom.features.kernels.ranges import (
    Array,
    Bools,
    Ints,
    Ranges,
    RangeTree,
    chunks,
    expand_ranges,
    first_rows_of_keys,
    key_bounds,
    prefix_sums,
)

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
        prefix = prefix_sums(zero)
        zeros_start, zeros_stop = prefix[start], prefix[stop]
        zeros = zeros_stop - zeros_start
        one = remaining >= zeros
        selected |= one.astype(np.int64) << bit
        remaining = np.where(one, remaining - zeros, remaining)
        start = np.where(one, prefix[-1] + start - zeros_start, zeros_start)
        stop = np.where(one, prefix[-1] + stop - zeros_stop, zeros_stop)
        codes = np.concatenate([codes[zero], codes[~zero]])
    return selected


class RankIndex:
    """A wavelet matrix: counts, in any range, the values below a bound, in log(values) steps.

    Args:
        values: Whole numbers from 0 up.
    """

    def __init__(self, values: Ints) -> None:
        self._bits = max(1, int(values.max() if len(values) else 0).bit_length())
        self._zeros: list[Ints] = []
        current = values
        # From the highest bit down: values with a 0 move to the front, stably, before the next bit.
        for bit in reversed(range(self._bits)):
            zero = (current >> bit) & 1 == 0
            self._zeros.append(prefix_sums(zero))
            current = np.concatenate([current[zero], current[~zero]])

    def count_below(self, bounds: Ints, ranges: Ranges) -> Ints:
        """How many values of each range are less than its bound."""
        start, stop = ranges.start, ranges.stop
        # A bound with more bits than any value is above all of them.
        counts = np.where(bounds >> self._bits > 0, ranges.counts, 0)
        for level, prefix in enumerate(self._zeros):
            one = (bounds >> (self._bits - 1 - level)) & 1 == 1
            zeros_start, zeros_stop = prefix[start], prefix[stop]
            within_bits = bounds >> self._bits == 0
            # Equal so far, and the bound has a 1 here: values with a 0 are smaller.
            counts = counts + np.where(one & within_bits, zeros_stop - zeros_start, 0)
            total = prefix[-1]
            start = np.where(one, total + start - zeros_start, zeros_start)
            stop = np.where(one, total + stop - zeros_stop, zeros_stop)
        return np.asarray(counts)


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
    # Rows counted from the key's first one have fewer binary digits: fewer levels of the index.
    local = previous - np.repeat(bounds[:-1], np.diff(bounds))
    first = first_rows_of_keys(bounds, ranges.start)
    # A row is the first of its value in [start, stop) where the previous equal one is before start.
    return RankIndex(np.maximum(local, -1) + 1).count_below(ranges.start - first + 1, ranges)


def _previous_equal(codes: Ints, keys: Ints) -> Ints:
    """Position of the last earlier row of the same key and value, or -1."""
    order = np.lexsort((codes, keys))
    same = (np.diff(codes[order]) == 0) & (np.diff(keys[order]) == 0)
    previous = np.full(len(codes), -1, dtype=np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def range_top(codes: Ints, keys: Ints, ranges: Ranges, size: int) -> tuple[Ints, Ints]:
    """Up to ``size`` codes per range, most frequent first, smaller codes first among equals.

    A range is counted row by row, or, where its key has fewer different values than the range has
    rows, value by value with a binary search each; equal ranges are counted once.

    Args:
        codes: Sorted rows' values as whole numbers from 0 up.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
        size: The largest number of codes per range.

    Returns:
        The codes of all ranges, one range after another, and how many each range has.
    """
    counts = np.zeros(len(ranges.start), dtype=np.int64)
    filled = np.flatnonzero(ranges.counts > 0)
    if not len(filled):
        return np.zeros(0, dtype=np.int64), counts
    # Query rows between two events of a key share one range: spines often repeat it many times.
    pairs = np.stack([ranges.start[filled], ranges.stop[filled]], axis=1)
    different, which = np.unique(pairs, axis=0, return_inverse=True)
    # Columns of a row-major array are strided; the gathers below are faster on contiguous ones.
    unique = Ranges(different[:, 0].copy(), different[:, 1].copy())
    top, sizes = _top_of_each(codes, keys, unique, size)
    counts[filled] = sizes[which]
    first = np.cumsum(sizes) - sizes
    picked = Ranges(first[which], first[which] + sizes[which])
    return top[expand_ranges(picked)[0]], counts


def _top_of_each(codes: Ints, keys: Ints, ranges: Ranges, size: int) -> tuple[Ints, Ints]:
    occurrences = _Occurrences(codes, keys)
    width = np.minimum(ranges.counts, occurrences.values_near(ranges.start))
    top: list[Ints] = []
    sizes = np.zeros(len(ranges.start), dtype=np.int64)
    for chunk in chunks(width):
        part = ranges.take(chunk)
        by_value = occurrences.values_near(part.start) < part.counts
        parts = [_count_by_row(codes, part, ~by_value), occurrences.count_by_value(part, by_value)]
        counted = _CodeCounts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        order = np.lexsort((counted.code, -counted.times, counted.range_of))
        code = counted.code[order]
        different = np.bincount(counted.range_of, minlength=len(part.start))
        # The place of each code inside its own range.
        place = np.arange(len(code)) - np.repeat(np.cumsum(different) - different, different)
        top.append(code[place < size])
        sizes[chunk] = np.minimum(different, size)
    return np.concatenate(top), sizes


class _CodeCounts(NamedTuple):
    """How often a code occurs in a range: one entry per range and code."""

    range_of: Ints
    code: Ints
    times: Ints


def _count_by_row(codes: Ints, ranges: Ranges, mask: Bools) -> _CodeCounts:
    indices = np.flatnonzero(mask)
    picked = ranges.take(indices)
    # Range and code as one number: one sort counts all ranges at once.
    span = int(codes.max()) + 1
    composed = np.repeat(indices, picked.counts) * span + codes[expand_ranges(picked)[0]]
    values, times = np.unique(composed, return_counts=True)
    return _CodeCounts(values // span, values % span, times.astype(np.int64))


class _Occurrences:
    """Each key's different values, and the rows that have each of them.

    Args:
        codes: Sorted rows' values.
        keys: Sorted rows' keys.
    """

    def __init__(self, codes: Ints, keys: Ints) -> None:
        size = len(codes)
        order = np.lexsort((codes, keys))
        ordered_keys, ordered = keys[order], codes[order]
        is_new = np.ones(size, dtype=bool)
        is_new[1:] = (np.diff(ordered_keys) != 0) | (np.diff(ordered) != 0)
        firsts = np.flatnonzero(is_new)
        self._codes = ordered[firsts]
        self._key_of = np.zeros(size, dtype=np.int64)
        np.cumsum(np.diff(keys) != 0, out=self._key_of[1:])
        values_of = np.bincount(self._key_of[firsts], minlength=1).astype(np.int64)
        self._values = Ranges(np.cumsum(values_of) - values_of, np.cumsum(values_of))
        # Value number and row number as one ascending number: a binary search finds the rows of
        # one value inside one range.
        self._size = size
        self._places = (np.cumsum(is_new) - 1) * size + order

    def values_near(self, rows: Ints) -> Ints:
        """How many different values the key of each row has."""
        return self._values.counts[self._key_of[rows]]

    def count_by_value(self, ranges: Ranges, mask: Bools) -> _CodeCounts:
        """Counts of each code in the ranges that the mask selects."""
        indices = np.flatnonzero(mask)
        key = self._key_of[ranges.start[indices]]
        values = self._values.take(key)
        flat = expand_ranges(values)[0]
        range_of = np.repeat(indices, values.counts)
        low = np.searchsorted(self._places, flat * self._size + ranges.start[range_of])
        high = np.searchsorted(self._places, flat * self._size + ranges.stop[range_of])
        occurs = high > low
        return _CodeCounts(range_of[occurs], self._codes[flat[occurs]], (high - low)[occurs])
