"""Aggregations over ranges of sorted rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from sunloom.errors import DataError
from sunloom.features.kernels.ranges import Array, Bools, Ints, Ranges
from sunloom.features.kernels.distinct import first_occurrences, range_distinct
from sunloom.features.kernels.expansion import expanded
from sunloom.features.kernels.extremes import range_extreme_rows
from sunloom.features.kernels.value_counts import range_top
from sunloom.features.kernels.order_statistics import range_rows_in_order
from sunloom.features.kernels.sums import range_sums
from sunloom.features.kernels.trees import RangeTree
from sunloom.features.kernels.variances import range_variances
from sunloom.features.plan.expressions import Aggregate, Expr
from sunloom.features.plan.polars_dtypes import POLARS

_INT64_END = 2.0**63

Sorted = Callable[[Expr], pl.Series]


def aggregate_series(node: Aggregate, rows: Sorted, keys: Ints, ranges: Ranges) -> pl.Series:
    """The aggregation of each range.

    Args:
        node: What to compute. Rows without a value are skipped, except by ``count`` and
            ``array_agg``; ``min_by`` and ``max_by`` skip rows without the value they compare.
        rows: Gives an expression's value in each sorted row.
        keys: The sorted rows' keys.
        ranges: One a question.
    """
    kept = _kept(node, rows)
    if node.value is None:
        counted = ranges if kept is None else ranges.through(kept)
        return pl.Series(counted.counts)
    values = rows(node.value)
    by = rows(node.by) if node.by is not None else values
    if node.kind != "array_agg":
        known = by.is_not_null().to_numpy()
        kept = known if kept is None else known & kept
    if kept is not None and not kept.all():
        mask = pl.Series(kept)
        values, by = values.filter(mask), by.filter(mask)
        keys, ranges = keys[kept], ranges.through(kept)
    if node.by is not None:
        found = _at_extreme(values, by, ranges, largest=node.kind == "max_by")
    else:
        found = _KINDS[node.kind](node, values, keys, ranges)
    return found.cast(POLARS[node.dtype])


def _kept(node: Aggregate, rows: Sorted) -> Bools | None:
    if not node.where:
        return None
    masks = [rows(condition).fill_null(False).to_numpy() for condition in node.where]
    return np.asarray(reduce(and_, masks))


def _with_nulls(values: Array, missing: Bools) -> pl.Series:
    series = pl.Series(values)
    return series.set(pl.Series(missing), None) if missing.any() else series


def _sum(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    if values.dtype == pl.Int64:
        _refuse_overflow(node, values, keys, ranges)
    return pl.Series(range_sums(values.to_numpy(), keys, ranges))


def _refuse_overflow(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> None:
    floats = values.cast(pl.Float64).to_numpy()
    if np.abs(floats).sum() < _INT64_END:
        return
    # Near the end itself a float cannot tell; what wraps around changes its sign there.
    sums, exact = range_sums(floats, keys, ranges), range_sums(values.to_numpy(), keys, ranges)
    if (np.abs(sums - exact) > _INT64_END / 2).any():
        raise DataError(
            f"A sum over {node.join!r} does not fit in 64 bits.",
            "Sum F.cast(_.x, pa.float64()) instead.",
            node.join,
        )


def _mean(_: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    counts = ranges.counts
    sums = range_sums(values.to_numpy(), keys, ranges).astype(np.float64)
    return _with_nulls(sums / np.maximum(counts, 1), counts == 0)


def _min(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    # NaN is larger than every number: the smallest is NaN only where all are.
    return _extreme(values, ranges, np.fmin, np.nan, np.iinfo(np.int64).max, np.minimum)


def _max(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return _extreme(values, ranges, np.maximum, -np.inf, np.iinfo(np.int64).min, np.maximum)


def _extreme(
    values: pl.Series,
    ranges: Ranges,
    of_floats: np.ufunc,
    neutral_float: float,
    neutral_int: int,
    of_ints: np.ufunc,
) -> pl.Series:
    if values.dtype == pl.Float64:
        tree = RangeTree(values.to_numpy(), of_floats, neutral_float)
    else:
        tree = RangeTree(values.cast(pl.Int64).to_numpy(), of_ints, neutral_int)
    folded = _with_nulls(tree.fold(ranges.start, ranges.stop), ranges.counts == 0)
    return folded.cast(values.dtype)


def _variance(_: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    with np.errstate(invalid="ignore", over="ignore"):
        variances = range_variances(values.cast(pl.Float64).to_numpy(), keys, ranges)
    return _with_nulls(variances, ranges.counts < 2)


def _deviation(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    return _variance(node, values, keys, ranges).sqrt()


def _at(values: pl.Series, index: Ints, ranges: Ranges) -> pl.Series:
    missing = ranges.counts == 0
    places = pl.Series(np.where(missing, 0, index)).set(pl.Series(missing), None)
    return values.gather(places)


def _first(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return _at(values, ranges.start, ranges)


def _last(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return _at(values, ranges.stop - 1, ranges)


def _any(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return pl.Series(ranges.through(values.to_numpy()).counts > 0)


def _all(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return pl.Series(ranges.through(values.to_numpy()).counts == ranges.counts)


def _codes(values: pl.Series) -> Ints:
    """Whole numbers from 0 up in the order of the values; NaN is the largest."""
    if values.dtype == pl.Boolean:
        return values.cast(pl.Int64).to_numpy()
    return values.rank("dense").cast(pl.Int64).to_numpy() - 1


def _at_extreme(values: pl.Series, by: pl.Series, ranges: Ranges, *, largest: bool) -> pl.Series:
    """The value, null or not, in the first row with the extreme."""
    return _at(values, range_extreme_rows(_codes(by), ranges, largest=largest), ranges)


def _lists(values: pl.Series, counts: Ints) -> pl.Series:
    """So many of the values a list, one list after another; null rather than an empty list."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    flat = values.rechunk().to_arrow()
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(counts == 0))
    found = pl.from_arrow(lists)
    assert isinstance(found, pl.Series)
    return found


def _array(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    return _lists(values.gather(expanded(ranges)[0]), ranges.counts)


def _top(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    codes = _codes(values)
    found, counts = range_top(codes, keys, ranges, int(node.argument or 1))
    return _lists(values.gather(_row_of_each(codes)[found]), counts)


def _percentile(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    # Chalk's place in the sorted rows: the share of their number, cut, and at most the last.
    places = np.floor(float(node.argument or 0.0) * ranges.counts).astype(np.int64)
    places = np.clip(places, 0, np.maximum(ranges.counts - 1, 0))
    return _at(values, range_rows_in_order(values.to_numpy(), keys, ranges, places), ranges)


def _row_of_each(codes: Ints) -> Ints:
    """A row that has each code."""
    rows = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int64)
    rows[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int64)
    return rows


def _count_distinct(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    codes = _codes(values)
    if node.window.start is None:
        # From the beginning: every value counts where it first stands.
        return pl.Series(ranges.through(first_occurrences(codes, keys)).counts)
    return pl.Series(range_distinct(codes, keys, ranges))


def _rows(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    counts = ranges.counts
    before = np.cumsum(counts) - counts
    places = np.arange(counts.sum()) + np.repeat(ranges.start - before, counts)
    asked = np.repeat(np.arange(len(counts)), counts)
    flat = pl.DataFrame({"asked": asked, "row": values.gather(places)})
    lists = flat.group_by("asked").agg("row")
    every = pl.DataFrame({"asked": np.arange(len(counts))})
    found = every.join(lists, on="asked", how="left", maintain_order="left")["row"]
    return found.fill_null([])


_KINDS: Mapping[str, Callable[[Aggregate, pl.Series, Any, Ranges], pl.Series]] = {
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "std": _deviation,
    "var": _variance,
    "first": _first,
    "last": _last,
    "any": _any,
    "all": _all,
    "count_distinct": _count_distinct,
    "array_agg": _array,
    "approx_top_k": _top,
    "approx_percentile": _percentile,
    "rows": _rows,
}
