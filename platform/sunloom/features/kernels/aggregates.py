"""Aggregations over ranges of sorted rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import and_

import numpy as np
import polars as pl
import pyarrow as pa

from sunloom.errors import DataError
from sunloom.features.kernels.ranges import (
    Array,
    Bools,
    Ints,
    Ranges,
    RangeTree,
    expand_ranges,
    prefix_sums,
)
from sunloom.features.kernels.sums_and_variances import (
    range_deviations,
    range_means,
    range_sums,
    range_variances,
)
from sunloom.features.kernels.value_statistics import (
    first_occurrences,
    range_distinct,
    range_extreme_rows,
    range_rows_in_order,
    range_top,
)
from sunloom.features.plan.expressions import Aggregate, Expr
from sunloom.features.plan.polars_dtypes import POLARS

_INT64_END = 2.0**63

SortedValues = Callable[[Expr], pl.Series]
AggregateKernel = Callable[[Aggregate, pl.Series, Ints, Ranges], pl.Series]


def aggregate_series(
    node: Aggregate, sorted_values: SortedValues, keys: Ints, ranges: Ranges
) -> pl.Series:
    """The aggregation of each range.

    Args:
        node: What to compute. Rows without a value are skipped, except by ``count`` and
            ``array_agg``; ``min_by`` and ``max_by`` skip rows without the value they compare.
        sorted_values: Gives an expression's value in each sorted row.
        keys: The sorted rows' keys.
        ranges: One per query row.
    """
    # As in SQL, a row is dropped where a condition is null.
    masks = [_is_true(sorted_values(condition)) for condition in node.where]
    mask = np.asarray(reduce(and_, masks)) if masks else None
    if node.value is None:
        counted = ranges if mask is None else ranges.filter_rows(mask)
        return pl.Series(counted.counts)
    values = sorted_values(node.value)
    by = sorted_values(node.by) if node.by is not None else values
    if node.kind != "array_agg" and by.null_count():
        known = by.is_not_null().to_numpy()
        mask = known if mask is None else known & mask
    # Rows are dropped once, before the kernels: none of them needs to know about nulls.
    if mask is not None and not mask.all():
        selected = pl.Series(mask)
        values, by = values.filter(selected), by.filter(selected)
        keys, ranges = keys[mask], ranges.filter_rows(mask)
    if node.by is not None:
        extreme_rows = range_extreme_rows(_codes(by), ranges, largest=node.kind == "max_by")
        aggregated = _gather(values, extreme_rows, ranges)
    else:
        aggregated = AGGREGATE_KERNELS[node.kind](node, values, keys, ranges)
    return aggregated.cast(POLARS[node.dtype])


def _is_true(condition: pl.Series) -> Bools:
    known = condition.fill_null(False) if condition.null_count() else condition
    return known.to_numpy()


def _with_nulls(values: Array, missing: Bools) -> pl.Series:
    series = pl.Series(values)
    return series.set(pl.Series(missing), None) if missing.any() else series


def _gather(values: pl.Series, rows: Ints, ranges: Ranges) -> pl.Series:
    """The value, null or not, in one row of each range; null where the range is empty."""
    missing = ranges.counts == 0
    # The row of an empty range may lie outside of the values: any existing one stands in for it.
    places = pl.Series(np.where(missing, 0, rows)).set(pl.Series(missing), None)
    return values.gather(places)


def _codes(values: pl.Series) -> Ints:
    """Whole numbers from 0 up in the order of the values; NaN is the largest."""
    if values.dtype == pl.Boolean:
        return values.cast(pl.Int64).to_numpy()
    return values.rank("dense").cast(pl.Int64).to_numpy() - 1


def _lists(values: pl.Series, counts: Ints) -> pl.Series:
    """Consecutive values as lists of the given lengths; null rather than an empty list."""
    # Arrow's offsets make lists without a copy of the values; a group_by would hash every row.
    flat = values.rechunk().to_arrow()
    arrow = pa.LargeListArray.from_arrays(
        pa.array(prefix_sums(counts)), flat, mask=pa.array(counts == 0)
    )
    lists = pl.from_arrow(arrow)
    assert isinstance(lists, pl.Series)
    return lists


def _sum(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    if values.dtype == pl.Int64:
        _refuse_overflow(node, values, keys, ranges)
    return pl.Series(range_sums(values.to_numpy(), keys, ranges))


def _refuse_overflow(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> None:
    floats = values.cast(pl.Float64).to_numpy()
    # No range can overflow where the absolute values of all rows fit: the usual case, at one pass.
    if np.abs(floats).sum() < _INT64_END:
        return
    # Near the limit itself a float is too coarse to compare with it; but an exact sum that wrapped
    # around is off by 2**64 there.
    sums, exact = range_sums(floats, keys, ranges), range_sums(values.to_numpy(), keys, ranges)
    if (np.abs(sums - exact) > _INT64_END / 2).any():
        raise DataError(
            f"A sum over {node.join!r} does not fit in 64 bits.",
            "Sum F.cast(_.x, pa.float64()) instead.",
            node.join,
        )


def _mean(_: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    return _with_nulls(range_means(values.to_numpy(), keys, ranges), ranges.counts == 0)


# NaN is larger than every number: the smallest is NaN only where all are. fmin skips NaN.
_FLOAT_EXTREMES: Mapping[str, tuple[np.ufunc, float]] = {
    "min": (np.fmin, np.nan),
    "max": (np.maximum, -np.inf),
}
_INT_EXTREMES: Mapping[str, tuple[np.ufunc, int]] = {
    "min": (np.minimum, np.iinfo(np.int64).max),
    "max": (np.maximum, np.iinfo(np.int64).min),
}


def _extreme(node: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    is_float = values.dtype == pl.Float64
    combine, neutral = (_FLOAT_EXTREMES if is_float else _INT_EXTREMES)[node.kind]
    # Datetimes and durations are whole microseconds to the tree.
    tree = RangeTree((values if is_float else values.cast(pl.Int64)).to_numpy(), combine, neutral)
    folded = _with_nulls(tree.fold(ranges.start, ranges.stop), ranges.counts == 0)
    return folded.cast(values.dtype)


def _variance(node: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    measure = range_deviations if node.kind == "std" else range_variances
    return _with_nulls(measure(values.cast(pl.Float64).to_numpy(), ranges), ranges.counts < 2)


def _count_distinct(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    codes = _codes(values)
    if node.window.start is None:
        # The range begins with the key's first row: each value counts at its first occurrence.
        return pl.Series(ranges.filter_rows(first_occurrences(codes, keys)).counts)
    return pl.Series(range_distinct(codes, keys, ranges))


def _top(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    codes = _codes(values)
    top, counts = range_top(codes, keys, ranges, int(node.argument or 1))
    # Some row that has each code; assigned from the back, so that it is the first one.
    row_of_code = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int64)
    row_of_code[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int64)
    return _lists(values.gather(row_of_code[top]), counts)


def _percentile(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    # As in Chalk: the quantile times the number of rows, rounded down, and at most the last row.
    places = np.floor(float(node.argument or 0.0) * ranges.counts).astype(np.int64)
    places = np.clip(places, 0, np.maximum(ranges.counts - 1, 0))
    return _gather(values, range_rows_in_order(values.to_numpy(), keys, ranges, places), ranges)


def _array(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return _lists(values.gather(expand_ranges(ranges)[0]), ranges.counts)


AGGREGATE_KERNELS: Mapping[str, AggregateKernel] = {
    "sum": _sum,
    "mean": _mean,
    "min": _extreme,
    "max": _extreme,
    "std": _variance,
    "var": _variance,
    "first": lambda _, values, _keys, ranges: _gather(values, ranges.start, ranges),
    "last": lambda _, values, _keys, ranges: _gather(values, ranges.stop - 1, ranges),
    "any": lambda _, values, _keys, ranges: pl.Series(
        ranges.filter_rows(values.to_numpy()).counts > 0
    ),
    "all": lambda _, values, _keys, ranges: pl.Series(
        ranges.filter_rows(values.to_numpy()).counts == ranges.counts
    ),
    "count_distinct": _count_distinct,
    "array_agg": _array,
    "approx_top_k": _top,
    "approx_percentile": _percentile,
    # A resolver takes a frame of rows: without any it is empty, not null.
    "rows": lambda node, values, keys, ranges: _array(node, values, keys, ranges).fill_null([]),
}
"""Aggregation to its kernel; ``count``, ``min_by`` and ``max_by`` need none."""
