"""Variances of ranges; squares are always of deviations, so that large offsets cost no digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sunloom.features.kernels.ranges import Bools, Floats, Ints, Ranges
from sunloom.features.kernels.expansion import chunks, expanded
from sunloom.features.kernels.prefixes import key_bounds

# Ranges up to this length are gone through row by row rather than through a tree.
_SHORT = 64


def range_variances(values: Floats, keys: Ints, ranges: Ranges) -> Floats:
    """Sample variance of each range (divisor n - 1); NaN where it has fewer than two rows.

    Args:
        values: Sorted rows' values without nulls.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    values = _shifted(values, keys)
    variances = np.full(len(ranges.start), np.nan)
    counts = ranges.counts
    short = np.flatnonzero((counts > 1) & (counts <= _SHORT))
    picked = Ranges(ranges.start[short], ranges.stop[short])
    for chunk in chunks(picked.counts):
        part = Ranges(picked.start[chunk], picked.stop[chunk])
        variances[short[chunk]] = _row_by_row(values, part)
    long = np.flatnonzero(counts > _SHORT)
    if len(long):
        squares = _MomentTree(values).squares(ranges.start[long], ranges.stop[long])
        variances[long] = squares / (counts[long] - 1)
    return variances


def _shifted(values: Floats, keys: Ints) -> Floats:
    """Less each key's first value: what its rows have in common would cost digits."""
    bounds = key_bounds(keys)
    first = values[bounds[:-1]]
    common = np.where(np.isfinite(first), first, 0.0)
    return np.asarray(values - np.repeat(common, np.diff(bounds)))


def _row_by_row(values: Floats, ranges: Ranges) -> Floats:
    flat, offsets = expanded(ranges)
    picked, counts = values[flat], ranges.counts
    means = np.add.reduceat(picked, offsets) / counts
    squares = (picked - np.repeat(means, counts)) ** 2
    return np.asarray(np.add.reduceat(squares, offsets) / (counts - 1))


@dataclass(frozen=True)
class _RangeMoments:
    """Counts, means, and sums of squared deviations from them."""

    count: Floats
    mean: Floats
    squares: Floats

    def at(self, places: Ints | Bools | slice) -> _RangeMoments:
        return _RangeMoments(self.count[places], self.mean[places], self.squares[places])

    def put(self, places: Ints | Bools | slice, other: _RangeMoments) -> None:
        self.count[places] = other.count
        self.mean[places] = other.mean
        self.squares[places] = other.squares

    def joined(self, other: _RangeMoments) -> _RangeMoments:
        """Of both together (Chan, Golub and LeVeque)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1.0)
        apart = other.mean - self.mean
        # A part without rows changes nothing, whatever stands for its mean.
        apart = np.where((self.count > 0) & (other.count > 0), apart, 0.0)
        mean = np.where(self.count > 0, self.mean + apart * share, other.mean)
        squares = self.squares + other.squares + apart**2 * (self.count * share)
        return _RangeMoments(count, mean, squares)


class _MomentTree:
    """A segment tree of moments: any range in logarithmic time, without subtraction.

    Args:
        values: The rows.
    """

    def __init__(self, values: Floats) -> None:
        self._size = 1 << max(0, (len(values) - 1).bit_length())
        self._nodes = _nothing(2 * self._size)
        leaves = slice(self._size, self._size + len(values))
        self._nodes.count[leaves] = 1.0
        self._nodes.mean[leaves] = values
        level = self._size
        while level > 1:
            left, right = slice(level, 2 * level, 2), slice(level + 1, 2 * level, 2)
            above = self._nodes.at(left).joined(self._nodes.at(right))
            self._nodes.put(slice(level >> 1, level), above)
            level >>= 1

    def squares(self, start: Ints, stop: Ints) -> Floats:
        """Each range's sum of squared deviations from its mean."""
        found = _nothing(len(start))
        low, high = start + self._size, stop + self._size
        rows = np.flatnonzero(low < high)
        low, high = low[rows], high[rows]
        while len(rows):
            for odd, places in ((low & 1, low), (high & 1, high - 1)):
                taken = odd.astype(bool)
                more = self._nodes.at(places[taken])
                found.put(rows[taken], found.at(rows[taken]).joined(more))
            low, high = (low + 1) >> 1, high >> 1
            unfinished = low < high
            rows, low, high = rows[unfinished], low[unfinished], high[unfinished]
        return found.squares


def _nothing(size: int) -> _RangeMoments:
    return _RangeMoments(np.zeros(size), np.zeros(size), np.zeros(size))
