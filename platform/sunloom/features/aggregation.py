"""Aggregations over ranges of sorted rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import polars as pl

from sunloom.features.kernels import (
    Array,
    Bools,
    Ints,
    Ranges,
    RangeTree,
    first_occurrences,
    range_distinct,
    range_sums,
    range_variances,
)
from sunloom.features.plan import Aggregate, Expr
from sunloom.features.types import POLARS

Sorted = Callable[[Expr], pl.Series]


def aggregate_series(node: Aggregate, rows: Sorted, keys: Ints, ranges: Ranges) -> pl.Series:
    """The aggregation of each range.

    Args:
        node: What to compute; nulls of the value are skipped, except by ``count``.
        rows: Gives an expression's value in each sorted row.
        keys: The sorted rows' keys.
        ranges: One a question.
    """
    kept = _kept(node, rows)
    if node.value is None:
        counted = ranges if kept is None else ranges.through(kept)
        return pl.Series(counted.counts)
    values = rows(node.value)
    known = values.is_not_null().to_numpy()
    kept = known if kept is None else known & kept
    if not kept.all():
        values, keys, ranges = values.filter(pl.Series(kept)), keys[kept], ranges.through(kept)
    return _KINDS[node.kind](node, values, keys, ranges).cast(POLARS[node.dtype])


def _kept(node: Aggregate, rows: Sorted) -> Bools | None:
    if not node.where:
        return None
    masks = [rows(condition).fill_null(False).to_numpy() for condition in node.where]
    return np.asarray(reduce(and_, masks))


def _with_nulls(values: Array, missing: Bools) -> pl.Series:
    series = pl.Series(values)
    return series.set(pl.Series(missing), None) if missing.any() else series


def _sum(_: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    return pl.Series(range_sums(values.to_numpy(), keys, ranges))


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


def _variance(_: Aggregate, values: pl.Series, _keys: Ints, ranges: Ranges) -> pl.Series:
    variances = range_variances(values.cast(pl.Float64).to_numpy(), ranges)
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


def _count_distinct(node: Aggregate, values: pl.Series, keys: Ints, ranges: Ranges) -> pl.Series:
    codes = values.rank("dense").cast(pl.Int64).fill_null(0).to_numpy()
    if node.window.start is None:
        # From the beginning: every value counts where it first stands.
        return pl.Series(ranges.through(first_occurrences(codes, keys)).counts)
    return pl.Series(range_distinct(codes, keys, ranges))


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
}
