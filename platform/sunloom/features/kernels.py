"""Point-in-time kernels on NumPy arrays.

Rows are sorted once by (key, time). The rows of a key that lie in a window are then one range
``[start, stop)`` found by binary search, and every aggregation is a function of such ranges:
O(n log n + q log n), however many rows a key has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Array = NDArray[Any]

_LARGEST = np.iinfo(np.int64).max
# Where the rounding of a prefix difference could exceed this share of the result, the range is
# summed by itself.
_TOLERANCE = 1e-11
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Ranges:
    """Half-open ranges of sorted rows, one a question."""

    start: Ints
    stop: Ints

    @property
    def counts(self) -> Ints:
        """Rows in each range."""
        return self.stop - self.start

    def through(self, mask: Bools) -> Ranges:
        """The same ranges among the rows that the mask keeps."""
        kept = np.zeros(len(mask) + 1, dtype=np.int64)
        np.cumsum(mask, out=kept[1:])
        return Ranges(kept[self.start], kept[self.stop])


class Timeline:
    """Rows sorted by (key, time); equal times keep their order.

    Args:
        keys: Key codes, from 0 up; negative rows have no key and are never found.
        times: Microseconds.
    """

    def __init__(self, keys: Ints, times: Ints) -> None:
        known = keys >= 0
        keys, times = (keys, times) if known.all() else (keys[known], times[known])
        self._base = int(times.min()) - 1 if len(times) else 0
        # One place before the first time and one after the last, for questions from outside.
        self._span = (int(times.max()) - self._base + 2) if len(times) else 2
        highest = int(keys.max()) if len(keys) else 0
        self._fits = (highest + 1) <= _LARGEST // self._span
        order = self._sort(keys, times)
        self.order: Ints = order if known.all() else np.flatnonzero(known)[order]
        self.keys: Ints = keys[order]
        self._times = times[order]
        self._composite = self._compose(self.keys, self._times) if self._fits else None

    def __len__(self) -> int:
        return len(self.keys)

    def first_of(self, keys: Ints) -> Ints:
        """Where each key's rows begin."""
        return np.searchsorted(self.keys, keys, side="left").astype(np.int64)

    def end_of(self, keys: Ints) -> Ints:
        """Where each key's rows end."""
        return np.searchsorted(self.keys, keys, side="right").astype(np.int64)

    def until(self, keys: Ints, times: Ints, *, inclusive: bool) -> Ints:
        """Where each key's rows up to the time end."""
        side: Any = "right" if inclusive else "left"
        if self._composite is not None:
            clipped = np.clip(times, self._base, self._base + self._span - 1)
            wanted = self._compose(keys, clipped)
            return np.searchsorted(self._composite, wanted, side=side).astype(np.int64)
        return self._bisect(keys, times, inclusive=inclusive)

    def _compose(self, keys: Ints, times: Ints) -> Ints:
        return np.asarray(keys * self._span + (times - self._base))

    def _sort(self, keys: Ints, times: Ints) -> Ints:
        if self._fits:
            return np.argsort(self._compose(keys, times), kind="stable").astype(np.int64)
        return np.lexsort((times, keys)).astype(np.int64)

    def _bisect(self, keys: Ints, times: Ints, *, inclusive: bool) -> Ints:
        """Binary search of each question in its key's own rows, all at once."""
        low, high = self.first_of(keys), self.end_of(keys)
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            value = self._times[np.minimum(middle, len(self) - 1)]
            before = (value <= times) if inclusive else (value < times)
            low = np.where(open_ & before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        return low


def range_sums(values: Array, keys: Ints, ranges: Ranges) -> Array:
    """Sum of each range; 0 where it is empty. Integers are exact.

    Args:
        values: Sorted rows' values without nulls, int64 or float64.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    if values.dtype == np.int64:
        # Wrapping differences are exact as long as the result itself fits.
        prefix = np.zeros(len(values) + 1, dtype=np.int64)
        with np.errstate(over="ignore"):
            np.cumsum(values, out=prefix[1:])
            return np.asarray(prefix[ranges.stop] - prefix[ranges.start])
    with np.errstate(invalid="ignore", over="ignore"):
        return _float_sums(values, keys, ranges)


def _float_sums(values: Floats, keys: Ints, ranges: Ranges) -> Floats:
    sums = np.zeros(len(ranges.start), dtype=np.float64)
    asked = np.flatnonzero(ranges.counts > 0)
    if not len(asked):
        return sums
    start, last = ranges.start[asked], ranges.stop[asked] - 1
    prefix, weight, rank = _prefixes(values, keys)
    # prefix[last] less everything before start in the same key
    before = np.where(rank[start] > 0, prefix[start - 1], 0.0)
    sums[asked] = prefix[last] - before
    error = weight[last] * (_EPSILON * (rank[last] + 2))
    doubtful = ~(error <= _TOLERANCE * np.abs(sums[asked])) & (rank[start] > 0)
    if doubtful.any():
        rows = asked[doubtful]
        tree = RangeTree(values, np.add, 0.0)
        sums[rows] = tree.fold(ranges.start[rows], ranges.stop[rows])
    return sums


def _prefixes(values: Floats, keys: Ints) -> tuple[Floats, Floats, Ints]:
    """Running sum, running sum of sizes, and rank, each from the key's first row."""
    frame = pl.DataFrame({"key": keys, "value": values}).with_columns(
        pl.col("key").set_sorted(),
    )
    running = frame.select(
        pl.col("value").cum_sum().over("key").alias("sum"),
        pl.col("value").abs().cum_sum().over("key").alias("weight"),
    )
    first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    starts = np.repeat(first, np.diff(first, append=len(keys)))
    rank = np.arange(len(keys), dtype=np.int64) - starts
    return running["sum"].to_numpy(), running["weight"].to_numpy(), rank


class RangeTree:
    """A segment tree: folds any range without subtraction, so one row cannot spoil another range.

    Args:
        values: The rows.
        combine: An associative ufunc.
        neutral: Its neutral value.
    """

    def __init__(self, values: Array, combine: np.ufunc, neutral: Any) -> None:
        self._combine = combine
        self._neutral = neutral
        self._size = 1 << max(0, (len(values) - 1).bit_length())
        nodes = np.full(2 * self._size, neutral, dtype=values.dtype)
        nodes[self._size : self._size + len(values)] = values
        level = self._size
        while level > 1:
            half = level >> 1
            nodes[half:level] = combine(
                nodes[level : 2 * level : 2], nodes[level + 1 : 2 * level : 2]
            )
            level = half
        self._nodes = nodes

    def fold(self, start: Ints, stop: Ints) -> Array:
        """The fold of each range; the neutral value where it is empty."""
        left = np.full(len(start), self._neutral, dtype=self._nodes.dtype)
        right = left.copy()
        low, high = start + self._size, stop + self._size
        rows = np.flatnonzero(low < high)
        low, high = low[rows], high[rows]
        while len(rows):
            odd = (low & 1).astype(bool)
            left[rows[odd]] = self._combine(left[rows[odd]], self._nodes[low[odd]])
            low = (low + odd) >> 1
            odd = (high & 1).astype(bool)
            right[rows[odd]] = self._combine(self._nodes[high[odd] - 1], right[rows[odd]])
            high = (high - odd) >> 1
            unfinished = low < high
            rows, low, high = rows[unfinished], low[unfinished], high[unfinished]
        return np.asarray(self._combine(left, right))


def range_variances(values: Floats, ranges: Ranges) -> Floats:
    """Sample variance of each range (divisor n - 1); NaN where it has fewer than two rows."""
    variances = np.full(len(ranges.start), np.nan)
    rows = np.flatnonzero(ranges.counts > 1)
    if not len(rows):
        return variances
    picked = Ranges(ranges.start[rows], ranges.stop[rows])
    # Deviations from each range's own mean: squares of large offsets would cancel badly.
    for chunk in _chunks(picked.counts):
        part = Ranges(picked.start[chunk], picked.stop[chunk])
        flat, offsets = _expand(part)
        values_of = values[flat]
        counts = part.counts
        means = np.add.reduceat(values_of, offsets) / counts
        squares = (values_of - np.repeat(means, counts)) ** 2
        variances[rows[chunk]] = np.add.reduceat(squares, offsets) / (counts - 1)
    return variances


def _chunks(counts: Ints, budget: int = 4_000_000) -> list[slice]:
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


def _expand(ranges: Ranges) -> tuple[Ints, Ints]:
    """Every row of every range, one range after another, and where each range begins."""
    counts = ranges.counts
    offsets = np.cumsum(counts) - counts
    flat = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(ranges.start - offsets, counts)
    return flat, offsets


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
    # A row is the first of its value in [start, stop) when the one before it lies before start.
    return RankIndex(previous + 1).below(ranges.start + 1, ranges)


def _previous_equal(codes: Ints, keys: Ints) -> Ints:
    """Position of the last earlier row of the same key and value, or -1."""
    order = np.lexsort((codes, keys))
    same = (np.diff(codes[order]) == 0) & (np.diff(keys[order]) == 0)
    previous = np.full(len(codes), -1, dtype=np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


class RankIndex:
    """A wavelet matrix: counts, in any range, the values below a bound, in log(values) steps.

    Args:
        values: Whole numbers from 0 up.
    """

    def __init__(self, values: Ints) -> None:
        self._bits = max(1, int(values.max() if len(values) else 0).bit_length())
        self._zeros: list[Ints] = []
        current = values
        for bit in reversed(range(self._bits)):
            zero = (current >> bit) & 1 == 0
            prefix = np.zeros(len(current) + 1, dtype=np.int64)
            np.cumsum(zero, out=prefix[1:])
            self._zeros.append(prefix)
            current = np.concatenate([current[zero], current[~zero]])

    def below(self, bounds: Ints, ranges: Ranges) -> Ints:
        """How many values of each range are less than its bound."""
        start, stop = ranges.start, ranges.stop
        found = np.where(bounds >> self._bits > 0, ranges.counts, 0)
        for level, prefix in enumerate(self._zeros):
            one = (bounds >> (self._bits - 1 - level)) & 1 == 1
            zeros_start, zeros_stop = prefix[start], prefix[stop]
            small = bounds >> self._bits == 0
            found = found + np.where(one & small, zeros_stop - zeros_start, 0)
            total = prefix[-1]
            start = np.where(one, total + start - zeros_start, zeros_start)
            stop = np.where(one, total + stop - zeros_stop, zeros_stop)
        return np.asarray(found)
