"""Sums and variances of ranges.

One key's spike never reaches another's result; squares are always of deviations, so that large
offsets cost no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sunloom.features.kernels.ranges import (
    Array,
    Bools,
    Floats,
    Ints,
    Ranges,
    RangeTree,
    chunks,
    expand_ranges,
    key_bounds,
    prefix_sums,
)

# Where the rounding of a difference of running sums could exceed this share of the result, the
# range is summed by itself.
_TOLERANCE = 1e-10
_EPSILON = float(np.finfo(np.float64).eps)
# Ranges up to this length are summed row by row rather than through a tree.
_SHORT_SUM = 256
# Ranges per block: what a block touches stays in the cache.
_BLOCK = 1 << 16
# A key with more rows is worth a cumsum of its own; shorter keys advance together.
_LONG_KEY = 2_048
_BLOCK_ROWS = 400_000


def range_sums(values: Array, keys: Ints, ranges: Ranges) -> Array:
    """Sum of each range; 0 where it is empty. Integers are exact.

    Args:
        values: Sorted rows' values without nulls, int64 or float64.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    if values.dtype == np.int64:
        # Differences of sums that wrapped around are exact as long as the result itself fits.
        with np.errstate(over="ignore"):
            prefix = prefix_sums(values)
            return np.asarray(prefix[ranges.stop] - prefix[ranges.start])
    with np.errstate(invalid="ignore", over="ignore"):
        return _sum_floats(values, keys, ranges)


def _sum_floats(values: Floats, keys: Ints, ranges: Ranges) -> Floats:
    sums = np.zeros(len(ranges.start), dtype=np.float64)
    if not len(values) or not len(sums):
        return sums
    running = _RunningSums(values, keys)
    doubtful: list[Ints] = []
    # In blocks that stay in the cache: fresh memory costs more than the work.
    for begin in range(0, len(sums), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        sums[block], indices = running.differences(ranges.start[block], ranges.stop[block])
        doubtful.append(indices + begin)
    indices = np.concatenate(doubtful)
    if len(indices):
        sums[indices] = _sum_directly(values, ranges.take(indices))
    return sums


class _RunningSums:
    """Sums of ranges as differences of running sums, and where those may be inexact."""

    def __init__(self, values: Floats, keys: Ints) -> None:
        self._values = values
        self._bounds = key_bounds(keys)
        self._before = sums_before(values, self._bounds)
        # Each addition rounds by at most epsilon of the partial sum, which is at most the sum of
        # absolute values: so much may be wrong at the end of a key of that many rows.
        weights = np.add.reduceat(np.abs(values), self._bounds[:-1])
        self._errors = weights * (_EPSILON * (np.diff(self._bounds) + 2))
        self._worst = self._errors.max()

    def differences(self, start: Ints, stop: Ints) -> tuple[Floats, Ints]:
        """Each range's sum, and the indices of ranges in whose sum rounding might show."""
        last = np.maximum(stop - 1, 0)
        first = np.minimum(start, len(self._values) - 1)
        sums: Floats = self._before[last]
        sums += self._values[last]
        sums -= self._before[first]
        sums[stop <= start] = 0.0
        limits = _TOLERANCE * np.abs(sums)
        # An infinite sum tolerates any error by its size; NaN compares false, so it is doubtful.
        limits[np.isinf(limits)] = np.nan
        # The worst key's error first: it is one number, and clears nearly all ranges.
        indices = np.flatnonzero(~(limits >= self._worst) & (stop > start))
        key = np.searchsorted(self._bounds, start[indices], side="right") - 1
        # A range that begins with its key's first row is a running sum itself: nothing cancels.
        cancels = self._bounds[key] < start[indices]
        return sums, indices[cancels & ~(limits[indices] >= self._errors[key])]


def sums_before(values: Floats, bounds: Ints) -> Floats:
    """For each row the sum of its key's earlier rows: running sums that restart at each key.

    Args:
        values: Sorted rows' values.
        bounds: The first row of each key, and the number of rows.
    """
    sums = np.empty(len(values), dtype=np.float64)
    lengths = np.diff(bounds)
    for key in np.flatnonzero(lengths > _LONG_KEY):
        start, stop = int(bounds[key]), int(bounds[key + 1])
        sums[start] = 0.0
        np.cumsum(values[start : stop - 1], out=sums[start + 1 : stop])
    short = np.flatnonzero(lengths <= _LONG_KEY)
    first, lengths = bounds[short], lengths[short]
    # Blocks of keys, so that what a step touches stays in the cache.
    blocks = np.cumsum(lengths) // _BLOCK_ROWS
    edges = np.flatnonzero(np.diff(blocks, prepend=-1))
    for start, stop in pairwise([*edges, len(short)]):
        _add_step_by_step(values, sums, first[start:stop], lengths[start:stop])
    return sums


def _add_step_by_step(values: Floats, sums: Floats, first: Ints, lengths: Ints) -> None:
    """All keys' first rows at once, then all second rows, and so on.

    One cumsum over everything and a subtraction at each key would carry one key's rounding into
    the next.
    """
    # The longest keys first: those that still have rows are then a prefix, taken without a mask.
    longest_first = np.argsort(-lengths)
    places, lengths = first[longest_first], lengths[longest_first]
    running = np.zeros(len(places), dtype=np.float64)
    # How many keys have more than 0, 1, 2, … rows.
    steps = np.arange(lengths[0] if len(lengths) else 0)
    remaining = len(lengths) - np.searchsorted(lengths[::-1], steps, side="right")
    for count in remaining.tolist():
        rows, total = places[:count], running[:count]
        sums[rows] = total
        total += values[rows]
        rows += 1


def _sum_directly(values: Floats, ranges: Ranges) -> Floats:
    """Sums of ranges that are not empty, without subtraction."""
    sums = np.empty(len(ranges.start), dtype=np.float64)
    is_short = ranges.counts <= _SHORT_SUM
    indices = np.flatnonzero(is_short)
    picked = ranges.take(indices)
    for chunk in chunks(picked.counts):
        rows, offsets = expand_ranges(picked.take(chunk))
        sums[indices[chunk]] = np.add.reduceat(values[rows], offsets)
    if not is_short.all():
        tree = RangeTree(values, np.add, 0.0)
        sums[~is_short] = tree.fold(ranges.start[~is_short], ranges.stop[~is_short])
    return sums


# Ranges up to this length are computed row by row rather than through a tree.
_SHORT_VARIANCE = 64


def range_variances(values: Floats, keys: Ints, ranges: Ranges) -> Floats:
    """Sample variance of each range (divisor n - 1); NaN where it has fewer than two rows.

    Args:
        values: Sorted rows' values without nulls.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    # The values minus each key's first one: what a key's rows have in common costs digits.
    bounds = key_bounds(keys)
    first = values[bounds[:-1]]
    # Subtracting an infinite first value would spoil every row of its key.
    common = np.where(np.isfinite(first), first, 0.0)
    values = values - np.repeat(common, np.diff(bounds))
    variances = np.full(len(ranges.start), np.nan)
    counts = ranges.counts
    short = np.flatnonzero((counts > 1) & (counts <= _SHORT_VARIANCE))
    picked = ranges.take(short)
    for chunk in chunks(picked.counts):
        variances[short[chunk]] = _variances_by_row(values, picked.take(chunk))
    long = np.flatnonzero(counts > _SHORT_VARIANCE)
    if len(long):
        squares = _MomentTree(values).squares(ranges.start[long], ranges.stop[long])
        variances[long] = squares / (counts[long] - 1)
    return variances


def _variances_by_row(values: Floats, ranges: Ranges) -> Floats:
    rows, offsets = expand_ranges(ranges)
    picked, counts = values[rows], ranges.counts
    # Two passes, mean and then squared deviations: sums of plain squares would cancel.
    means = np.add.reduceat(picked, offsets) / counts
    squares = (picked - np.repeat(means, counts)) ** 2
    return np.asarray(np.add.reduceat(squares, offsets) / (counts - 1))


@dataclass(frozen=True)
class _RangeMoments:
    """Counts, means, and sums of squared deviations from the means."""

    count: Floats
    mean: Floats
    squares: Floats

    @classmethod
    def empty(cls, size: int) -> _RangeMoments:
        """Moments of no rows."""
        return cls(np.zeros(size), np.zeros(size), np.zeros(size))

    def take(self, places: Ints | Bools | slice) -> _RangeMoments:
        return _RangeMoments(self.count[places], self.mean[places], self.squares[places])

    def put(self, places: Ints | Bools | slice, other: _RangeMoments) -> None:
        self.count[places] = other.count
        self.mean[places] = other.mean
        self.squares[places] = other.squares

    def combine(self, other: _RangeMoments) -> _RangeMoments:
        """Moments of both together (Chan, Golub and LeVeque)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1.0)
        difference = other.mean - self.mean
        # A part without rows has a mean of 0 that must not count.
        difference = np.where((self.count > 0) & (other.count > 0), difference, 0.0)
        mean = np.where(self.count > 0, self.mean + difference * share, other.mean)
        squares = self.squares + other.squares + difference**2 * (self.count * share)
        return _RangeMoments(count, mean, squares)


class _MomentTree:
    """A segment tree of moments: any range in logarithmic time, without subtraction.

    ``RangeTree`` folds one array by a ufunc; moments are three arrays that combine together.

    Args:
        values: The rows.
    """

    def __init__(self, values: Floats) -> None:
        self._size = 1 << max(0, (len(values) - 1).bit_length())
        self._nodes = _RangeMoments.empty(2 * self._size)
        leaves = slice(self._size, self._size + len(values))
        self._nodes.count[leaves] = 1.0
        self._nodes.mean[leaves] = values
        level = self._size
        while level > 1:
            left, right = slice(level, 2 * level, 2), slice(level + 1, 2 * level, 2)
            parents = self._nodes.take(left).combine(self._nodes.take(right))
            self._nodes.put(slice(level >> 1, level), parents)
            level >>= 1

    def squares(self, start: Ints, stop: Ints) -> Floats:
        """Each range's sum of squared deviations from its mean."""
        moments = _RangeMoments.empty(len(start))
        low, high = start + self._size, stop + self._size
        indices = np.flatnonzero(low < high)
        low, high = low[indices], high[indices]
        while len(indices):
            # Moments commute, so both ends are combined into one result.
            for odd, places in ((low & 1, low), (high & 1, high - 1)):
                is_odd = odd.astype(bool)
                node = self._nodes.take(places[is_odd])
                moments.put(indices[is_odd], moments.take(indices[is_odd]).combine(node))
            low, high = (low + 1) >> 1, high >> 1
            unfinished = low < high
            indices, low, high = indices[unfinished], low[unfinished], high[unfinished]
        return moments.squares
