"""Variances of ranges; squares are always of deviations, so that large offsets cost no digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sunloom.features.kernels.ranges import (
    Bools,
    Floats,
    Ints,
    Ranges,
    chunks,
    expand_ranges,
    key_bounds,
)

# Ranges up to this length are computed row by row rather than through a tree.
_SHORT = 64


def range_variances(values: Floats, keys: Ints, ranges: Ranges) -> Floats:
    """Sample variance of each range (divisor n - 1); NaN where it has fewer than two rows.

    Args:
        values: Sorted rows' values without nulls.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    values = _shift_to_zero(values, keys)
    variances = np.full(len(ranges.start), np.nan)
    counts = ranges.counts
    short = np.flatnonzero((counts > 1) & (counts <= _SHORT))
    picked = Ranges(ranges.start[short], ranges.stop[short])
    for chunk in chunks(picked.counts):
        part = Ranges(picked.start[chunk], picked.stop[chunk])
        variances[short[chunk]] = _variances_by_row(values, part)
    long = np.flatnonzero(counts > _SHORT)
    if len(long):
        squares = _MomentTree(values).squares(ranges.start[long], ranges.stop[long])
        variances[long] = squares / (counts[long] - 1)
    return variances


def _shift_to_zero(values: Floats, keys: Ints) -> Floats:
    """The values minus each key's first one: what a key's rows have in common costs digits."""
    bounds = key_bounds(keys)
    first = values[bounds[:-1]]
    # Subtracting an infinite first value would spoil every row of its key.
    common = np.where(np.isfinite(first), first, 0.0)
    return np.asarray(values - np.repeat(common, np.diff(bounds)))


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
