"""Sums and variances of ranges; one key's spike never reaches another's result."""

from __future__ import annotations

import numpy as np
import polars as pl

from sunloom.features.kernels.arrays import Array, Floats, Ints, Ranges
from sunloom.features.kernels.trees import RangeTree

# Where the rounding of a prefix difference could exceed this share of the result, the range is
# summed by itself.
_TOLERANCE = 1e-10
_EPSILON = float(np.finfo(np.float64).eps)


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
