"""Sums, means and variances of ranges.

One row's spike never reaches a range that it is not in; squares are always of deviations from a
value of the range itself, so that large offsets cost no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sunloom.features.kernels.exact_sums import exact_sum
from sunloom.features.kernels.ranges import (
    Array,
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
# A sum of 2**64 of the largest floats, scaled down by so many bits, is finite.
_SCALE_BITS = 64
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
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", over="ignore"):
        if finite.all():
            return _sum_finite(values, keys, ranges)
        # Infinities and NaN are counted apart: in a running sum they would reach later ranges.
        sums = _sum_finite(np.where(finite, values, 0.0), keys, ranges)
        for special in (np.inf, -np.inf):
            sums[ranges.filter_rows(values == special).counts > 0] += special
        sums[ranges.filter_rows(np.isnan(values)).counts > 0] = np.nan
        return sums


def range_means(values: Array, keys: Ints, ranges: Ranges) -> Floats:
    """Mean of each range, also where its sum does not fit; 0 where it is empty.

    Args:
        values: Sorted rows' values without nulls, int64 or float64.
        keys: Sorted rows' keys.
        ranges: Ranges inside one key each.
    """
    counts = np.maximum(ranges.counts, 1)
    if values.dtype == np.int64:
        most = max(int(values.max(initial=0)), -int(values.min(initial=0)))
        if most * int(counts.max(initial=1)) < 2**63:
            return np.asarray(range_sums(values, keys, ranges) / counts)
        # Sums of the upper and of the lower halves fit, and both are exact.
        upper = range_sums(values >> 32, keys, ranges)
        lower = range_sums(values & 0xFFFFFFFF, keys, ranges)
        return np.asarray((upper * 2.0**32 + lower) / counts)
    sums = range_sums(values, keys, ranges)
    means: Floats = sums / counts
    infinite = np.flatnonzero(np.isinf(sums))
    if len(infinite):
        # A power of two costs no digits at this magnitude. Infinite values stay infinite.
        scaled = range_sums(np.ldexp(values, -_SCALE_BITS), keys, ranges.take(infinite))
        means[infinite] = np.ldexp(scaled / counts[infinite], _SCALE_BITS)
    return means


def _sum_finite(values: Floats, keys: Ints, ranges: Ranges) -> Floats:
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
        return sums, indices[~(limits[indices] >= self._errors[key])]


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
    """Sums of ranges that are not empty, without subtraction; exact where values cancel."""
    sums = np.empty(len(ranges.start), dtype=np.float64)
    errors = np.empty_like(sums)
    is_short = ranges.counts <= _SHORT_SUM
    short, long = np.flatnonzero(is_short), np.flatnonzero(~is_short)
    sums[short], errors[short] = _sum_by_row(values, ranges.take(short))
    if len(long):
        part = ranges.take(long)
        sums[long] = RangeTree(values, np.add, 0.0).fold(part.start, part.stop)
        # An upper bound of the sum of absolute values, by a pass instead of a second tree.
        running = np.zeros(len(values) + 1)
        np.cumsum(np.abs(values, out=running[1:]), out=running[1:])
        weights = running[part.stop] - running[part.start] + running[-1] * _EPSILON * len(values)
        errors[long] = weights * _tree_rounding(values)
    doubtful = np.flatnonzero(~(_TOLERANCE * np.abs(sums) >= errors))
    if len(doubtful):
        sums[doubtful] = _sum_in_extended_precision(values, ranges.take(doubtful))
    return sums


def _sum_by_row(values: Floats, ranges: Ranges, dtype: type = np.float64) -> tuple[Array, Array]:
    """Sums, and how much their rounding may be."""
    sums: Array = np.empty(len(ranges.start), dtype=dtype)
    weights = np.empty_like(sums)
    for chunk in chunks(ranges.counts):
        rows, offsets = expand_ranges(ranges.take(chunk))
        picked: Array = values[rows].astype(dtype, copy=False)
        sums[chunk] = np.add.reduceat(picked, offsets)
        weights[chunk] = np.add.reduceat(np.abs(picked, out=picked), offsets)
    return sums, weights * (ranges.counts * np.finfo(dtype).eps)


def _tree_rounding(values: Array) -> float:
    # A fold adds at most two nodes a level.
    return 2.0 * len(values).bit_length() * float(np.finfo(values.dtype).eps)


def _sum_in_extended_precision(values: Floats, ranges: Ranges) -> Floats:
    """Sums as floats; exact ones where values cancel so far that rounding might still show."""
    # A tree of all rows only pays where the ranges have more rows than it.
    if ranges.counts.max() <= _SHORT_SUM or ranges.counts.sum() <= len(values):
        wide, errors = _sum_by_row(values, ranges, np.longdouble)
    else:
        extended = values.astype(np.longdouble)
        wide, weights = (
            RangeTree(rows, np.add, np.longdouble(0.0)).fold(ranges.start, ranges.stop)
            for rows in (extended, np.abs(extended))
        )
        errors = weights * _tree_rounding(extended)
    sums = wide.astype(np.float64)
    doubtful = np.flatnonzero(~(_TOLERANCE * np.abs(wide) >= errors))
    if len(doubtful):
        # Whole numbers often cancel to 0: exactly, as long as no sum of theirs needs a rounding.
        broken = ranges.take(doubtful).filter_rows(values != np.rint(values)).counts > 0
        doubtful = doubtful[broken | ~(errors[doubtful] < 1.0)]
    for index in doubtful.tolist():
        sums[index] = exact_sum(values[ranges.start[index] : ranges.stop[index]].tolist())
    return sums


# Ranges up to this length are computed row by row rather than through a tree.
_SHORT_VARIANCE = 64
# Below it squares of deviations may have lost digits to the smallest float.
_LEAST_VARIANCE = 1e-280


def range_variances(values: Floats, ranges: Ranges) -> Floats:
    """Sample variance of each range (divisor n - 1); NaN where it has fewer than two rows.

    Args:
        values: Sorted rows' values without nulls.
        ranges: The ranges.
    """
    return _from_variances(values, ranges, np.positive)


def range_deviations(values: Floats, ranges: Ranges) -> Floats:
    """Sample standard deviation of each range, also where the variance is beyond a float.

    Args:
        values: Sorted rows' values without nulls.
        ranges: The ranges.
    """
    return _from_variances(values, ranges, np.sqrt)


def _from_variances(values: Floats, ranges: Ranges, function: np.ufunc) -> Floats:
    """A function of each range's variance, taken before the variance is rounded to a float."""
    with np.errstate(invalid="ignore", over="ignore"):
        variances = _variances(values, ranges)
        extreme = _extreme_variances(values, ranges, variances)
        result: Floats = function(variances)
        if len(extreme):
            wide = _variances(values.astype(np.longdouble), ranges.take(extreme))
            result[extreme] = function(wide).astype(np.float64)
    return result


def _extreme_variances(values: Floats, ranges: Ranges, variances: Floats) -> Ints:
    """Indices of ranges of finite values whose squared deviations overflow or vanish."""
    is_usual = (variances >= _LEAST_VARIANCE) & (variances < np.inf)
    extreme = np.flatnonzero(~is_usual & (ranges.counts > 1))
    if not len(extreme):
        return extreme
    picked = ranges.take(extreme)
    # A range of one repeated value has a variance of exactly 0.
    changes = np.ones(len(values), dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    varies = Ranges(picked.start + 1, picked.stop).filter_rows(changes).counts > 0
    is_finite = picked.filter_rows(~np.isfinite(values)).counts == 0
    return np.asarray(extreme[varies & is_finite])


def _variances(values: Array, ranges: Ranges) -> Array:
    variances = np.full(len(ranges.start), np.nan, dtype=values.dtype)
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


def _variances_by_row(values: Array, ranges: Ranges) -> Array:
    counts = ranges.counts
    rows, offsets = expand_ranges(ranges)
    deviations = values[rows]
    # From the range's first value, so that what its rows have in common costs no digits. If that
    # value is far from the others it makes most of the variance itself: the subtraction below
    # loses no more than a factor of the number of rows.
    deviations -= np.repeat(values[ranges.start], counts)
    sums = np.add.reduceat(deviations, offsets)
    deviations *= deviations
    squares = np.add.reduceat(deviations, offsets)
    return np.asarray((squares - sums * (sums / counts)) / (counts - 1))


@dataclass(frozen=True)
class _RangeMoments:
    """Counts, means, and sums of squared deviations from the means.

    A mean is an offset from a pivot, one of the rows' own values: what they have in common costs
    no digits, and no other row's value does.
    """

    count: Array
    pivot: Array
    offset: Array
    squares: Array

    def take(self, places: Ints | slice) -> _RangeMoments:
        return _RangeMoments(
            count=self.count[places],
            pivot=self.pivot[places],
            offset=self.offset[places],
            squares=self.squares[places],
        )

    def put(self, places: Ints | slice, other: _RangeMoments) -> None:
        self.count[places] = other.count
        self.pivot[places] = other.pivot
        self.offset[places] = other.offset
        self.squares[places] = other.squares

    def combine(self, other: _RangeMoments) -> _RangeMoments:
        """Moments of both together (Chan, Golub and LeVeque), about this one's pivot.

        Either may have no rows, if its pivot is among the rows of the other.
        """
        count = self.count + other.count
        share = other.count / np.maximum(count, 1.0)
        gap = (other.pivot - self.pivot) + (other.offset - self.offset)
        step = gap * share
        squares = self.squares + other.squares + gap * step * self.count
        return _RangeMoments(count, self.pivot, self.offset + step, squares)


class _MomentTree:
    """A segment tree of moments: any range in logarithmic time, without subtraction.

    ``RangeTree`` folds one array by a ufunc; moments are several arrays that combine together.

    Args:
        values: The rows.
    """

    def __init__(self, values: Array) -> None:
        self._values = values
        self._size = 1 << max(0, (len(values) - 1).bit_length())
        nodes = _RangeMoments(*(np.zeros(2 * self._size, dtype=values.dtype) for _ in range(4)))
        nodes.count[self._size : self._size + len(values)] = 1.0
        nodes.pivot[self._size : self._size + len(values)] = values
        # Leaves behind the last row count nothing; their pivot must only be near some row.
        nodes.pivot[self._size + len(values) :] = values[-1]
        level = self._size
        while level > 1:
            left, right = slice(level, 2 * level, 2), slice(level + 1, 2 * level, 2)
            nodes.put(slice(level >> 1, level), nodes.take(left).combine(nodes.take(right)))
            level >>= 1
        self._nodes = nodes

    def squares(self, start: Ints, stop: Ints) -> Array:
        """Sum of squared deviations from the mean of each range that is not empty."""
        # The result starts at the range's first value: its pivot belongs to the range.
        none = np.zeros((3, len(start)), dtype=self._values.dtype)
        moments = _RangeMoments(none[0], self._values[start], none[1], none[2])
        low, high = start + self._size, stop + self._size
        indices = np.arange(len(start))
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
