"""The most frequent values of each range, counted exactly."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Bools, Ints, Ranges
from sunloom.features.kernels.expansion import chunks, expanded


def range_top(codes: Ints, keys: Ints, ranges: Ranges, size: int) -> tuple[Ints, Ints]:
    """Up to ``size`` codes a range, most frequent first, smaller codes first among equals.

    A range is counted row by row, or, where its key has fewer different values than it has rows,
    value by value with a binary search each; equal ranges are counted once.

    Args:
        codes: Sorted rows' values as whole numbers from 0 up.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
        size: How many codes are wanted.

    Returns:
        The codes of all ranges, one range after another, and how many each range has.
    """
    counts = np.zeros(len(ranges.start), dtype=np.int64)
    asked = np.flatnonzero(ranges.counts > 0)
    if not len(asked):
        return np.zeros(0, dtype=np.int64), counts
    pairs = np.stack([ranges.start[asked], ranges.stop[asked]], axis=1)
    different, which = np.unique(pairs, axis=0, return_inverse=True)
    single = Ranges(different[:, 0].copy(), different[:, 1].copy())
    top, tops = _top_of_each(codes, keys, single, size)
    counts[asked] = tops[which]
    first = np.cumsum(tops) - tops
    picked = Ranges(first[which], first[which] + tops[which])
    return top[expanded(picked)[0]], counts


def _top_of_each(codes: Ints, keys: Ints, ranges: Ranges, size: int) -> tuple[Ints, Ints]:
    index = _Occurrences(codes, keys)
    width = np.minimum(ranges.counts, index.values_near(ranges.start))
    found: list[Ints] = []
    counts = np.zeros(len(ranges.start), dtype=np.int64)
    for chunk in chunks(width):
        part = Ranges(ranges.start[chunk], ranges.stop[chunk])
        range_of, code, times = _counted(codes, index, part)
        order = np.lexsort((code, -times, range_of))
        range_of, code = range_of[order], code[order]
        counts_of = np.bincount(range_of, minlength=len(part.start))
        place = np.arange(len(code)) - np.repeat(np.cumsum(counts_of) - counts_of, counts_of)
        found.append(code[place < size])
        counts[chunk] = np.minimum(counts_of, size)
    return np.concatenate(found), counts


def _counted(codes: Ints, index: _Occurrences, ranges: Ranges) -> tuple[Ints, Ints, Ints]:
    """Range, code, and how often it occurs there, for each code of each range."""
    by_value = index.values_near(ranges.start) < ranges.counts
    parts = [_by_row(codes, ranges, ~by_value), index.counted(ranges, by_value)]
    range_of, code, times = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return range_of, code, times


def _by_row(codes: Ints, ranges: Ranges, mask: Bools) -> tuple[Ints, Ints, Ints]:
    rows = np.flatnonzero(mask)
    picked = Ranges(ranges.start[rows], ranges.stop[rows])
    span = int(codes.max()) + 1
    composed = np.repeat(rows, picked.counts) * span + codes[expanded(picked)[0]]
    values, times = np.unique(composed, return_counts=True)
    return values // span, values % span, times.astype(np.int64)


class _Occurrences:
    """Each key's different values, and where each of them stands.

    Args:
        codes: Sorted rows' values.
        keys: Sorted rows' keys.
    """

    def __init__(self, codes: Ints, keys: Ints) -> None:
        size = len(codes)
        order = np.lexsort((codes, keys))
        ordered_keys, ordered = keys[order], codes[order]
        fresh = np.ones(size, dtype=bool)
        fresh[1:] = (np.diff(ordered_keys) != 0) | (np.diff(ordered) != 0)
        firsts = np.flatnonzero(fresh)
        self._codes = ordered[firsts]
        self._key_of = np.zeros(size, dtype=np.int64)
        np.cumsum(np.diff(keys) != 0, out=self._key_of[1:])
        values_of = np.bincount(self._key_of[firsts], minlength=1).astype(np.int64)
        self._values = Ranges(np.cumsum(values_of) - values_of, np.cumsum(values_of))
        # Value number and row number as one sorted key.
        self._size = size
        self._places = (np.cumsum(fresh) - 1) * size + order

    def values_near(self, rows: Ints) -> Ints:
        """How many different values the key of each row has."""
        return self._values.counts[self._key_of[rows]]

    def counted(self, ranges: Ranges, mask: Bools) -> tuple[Ints, Ints, Ints]:
        """Range, code and times for the ranges of the mask."""
        rows = np.flatnonzero(mask)
        key = self._key_of[ranges.start[rows]]
        values = Ranges(self._values.start[key], self._values.stop[key])
        flat = expanded(values)[0]
        range_of = np.repeat(rows, values.counts)
        low = np.searchsorted(self._places, flat * self._size + ranges.start[range_of])
        high = np.searchsorted(self._places, flat * self._size + ranges.stop[range_of])
        some = high > low
        return range_of[some], self._codes[flat[some]], (high - low)[some]
