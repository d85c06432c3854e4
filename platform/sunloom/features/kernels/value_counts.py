"""Counts of the different values in each range: how many there are, and the most frequent ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sunloom.features.kernels.ranges import (
    Bools,
    Ints,
    Ranges,
    chunks,
    expand_ranges,
    first_rows_of_keys,
    key_bounds,
)
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
        part = Ranges(ranges.start[chunk], ranges.stop[chunk])
        counted = _count_codes(codes, occurrences, part)
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


def _count_codes(codes: Ints, occurrences: _Occurrences, ranges: Ranges) -> _CodeCounts:
    by_value = occurrences.values_near(ranges.start) < ranges.counts
    parts = [_count_by_row(codes, ranges, ~by_value), occurrences.count_by_value(ranges, by_value)]
    return _CodeCounts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _count_by_row(codes: Ints, ranges: Ranges, mask: Bools) -> _CodeCounts:
    indices = np.flatnonzero(mask)
    picked = Ranges(ranges.start[indices], ranges.stop[indices])
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
        values = Ranges(self._values.start[key], self._values.stop[key])
        flat = expand_ranges(values)[0]
        range_of = np.repeat(indices, values.counts)
        low = np.searchsorted(self._places, flat * self._size + ranges.start[range_of])
        high = np.searchsorted(self._places, flat * self._size + ranges.stop[range_of])
        occurs = high > low
        return _CodeCounts(range_of[occurs], self._codes[flat[occurs]], (high - low)[occurs])
