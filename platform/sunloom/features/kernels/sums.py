"""Sums of ranges; one key's spike never reaches another's result."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Array, Floats, Ints, Ranges
from sunloom.features.kernels.expansion import chunks, expanded
from sunloom.features.kernels.prefixes import key_bounds, sums_before
from sunloom.features.kernels.trees import RangeTree

# Where the rounding of a prefix difference could exceed this share of the result, the range is
# summed by itself.
_TOLERANCE = 1e-10
_EPSILON = float(np.finfo(np.float64).eps)
# Ranges up to this length are summed row by row rather than through a tree.
_SHORT = 256
_BLOCK = 1 << 16


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
    if not len(values) or not len(sums):
        return sums
    index = _RunningSums(values, keys)
    doubtful: list[Ints] = []
    # In blocks that stay in the cache: fresh memory costs more than the work.
    for begin in range(0, len(sums), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        sums[block], rows = index.differences(ranges.start[block], ranges.stop[block])
        doubtful.append(rows + begin)
    rows = np.concatenate(doubtful)
    if len(rows):
        sums[rows] = _summed(values, Ranges(ranges.start[rows], ranges.stop[rows]))
    return sums


class _RunningSums:
    """Sums of ranges as differences of running sums, and where those may be off."""

    def __init__(self, values: Floats, keys: Ints) -> None:
        self._values = values
        self._bounds = key_bounds(keys)
        self._before = sums_before(values, self._bounds)
        weights = np.add.reduceat(np.abs(values), self._bounds[:-1])
        self._errors = weights * (_EPSILON * (np.diff(self._bounds) + 2))
        self._worst = self._errors.max()

    def differences(self, start: Ints, stop: Ints) -> tuple[Floats, Ints]:
        """Each range's sum, and the ranges in whose sum rounding might show."""
        last = np.maximum(stop - 1, 0)
        first = np.minimum(start, len(self._values) - 1)
        sums: Floats = self._before[last]
        sums += self._values[last]
        sums -= self._before[first]
        sums[stop <= start] = 0.0
        limits = _TOLERANCE * np.abs(sums)
        limits[np.isinf(limits)] = np.nan
        rows = np.flatnonzero(~(limits >= self._worst) & (stop > start))
        key = np.searchsorted(self._bounds, start[rows], side="right") - 1
        # A range from its key's first row on is a running sum itself: nothing cancels.
        cancels = self._bounds[key] < start[rows]
        return sums, rows[cancels & ~(limits[rows] >= self._errors[key])]


def _summed(values: Floats, ranges: Ranges) -> Floats:
    """Sums of ranges that are not empty, without subtraction."""
    sums = np.empty(len(ranges.start), dtype=np.float64)
    short = ranges.counts <= _SHORT
    rows = np.flatnonzero(short)
    picked = Ranges(ranges.start[rows], ranges.stop[rows])
    for chunk in chunks(picked.counts):
        flat, offsets = expanded(Ranges(picked.start[chunk], picked.stop[chunk]))
        sums[rows[chunk]] = np.add.reduceat(values[flat], offsets)
    if not short.all():
        tree = RangeTree(values, np.add, 0.0)
        sums[~short] = tree.fold(ranges.start[~short], ranges.stop[~short])
    return sums
