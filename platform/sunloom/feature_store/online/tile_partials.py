"""Partial results of aggregations: computed from a tile's events, and merged across tiles.

Without events a count or sum is 0, a set is empty, and everything else is None. Datetimes and
durations are whole microseconds.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from sunloom.feature_store.online.tile_layout import Slot

TIME = "__time__"
_INT64_END = 1 << 63
Timed = Sequence[tuple[int, Any]]
"""Time and value of events, by time and then by arrival; values are not null."""


@dataclass(frozen=True)
class SlotKind:
    """One kind of partial result.

    Attributes:
        frame: From a group of events sorted by time, as Polars expressions; several values make
            one list.
        events: From events as plain values.
        fold: From any number of partial results, in the order of their events.
        merge: From two of them.
    """

    frame: Callable[[str], tuple[pl.Expr, ...]]
    events: Callable[[Timed], Any]
    fold: Callable[[Sequence[Any]], Any]
    merge: Callable[[Any, Any], Any]


def slot_kind(slot: Slot) -> SlotKind:
    """The kind of a slot."""
    if slot.kind == "sum":
        return _INT_SUM if slot.dtype == "int64" else _FLOAT_SUM
    if slot.kind == "max" and slot.dtype == "float64":
        return _FLOAT_MAX
    return _KINDS[slot.kind]


def _values_of(events: Timed) -> list[Any]:
    return [value for _, value in events]


def _int_sum(values: Iterable[int | str]) -> int | str:
    # Exact; MessagePack has no integers beyond 64 bits, so a larger sum is kept as its digits.
    total = sum(map(int, values))
    return total if -_INT64_END <= total < _INT64_END else str(total)


def _float_sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        # fsum refuses infinities of both signs and sums beyond the largest float.
        return sum(values)


def _smaller(a: Any, b: Any) -> Any:
    """The smaller of two values, of which NaN is the largest."""
    if a is None or b is None:
        return b if a is None else a
    return b if a != a or b < a else a


def _larger(a: Any, b: Any) -> Any:
    """The larger of two values, of which NaN is the largest."""
    if a is None or b is None:
        return b if a is None else a
    return b if b != b or b > a else a


def _earlier_event(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return b if b[0] < a[0] else a


def _later_event(a: Any, b: Any) -> Any:
    """The later of two events; of equal times the one that arrived later."""
    if a is None or b is None:
        return b if a is None else a
    return b if b[0] >= a[0] else a


def _merge_moments(a: Any, b: Any) -> Any:
    """Number, mean and sum of squared deviations of both together."""
    # Chan's update: a sum of squares alone would cancel where the mean is large.
    if a is None or b is None:
        return b if a is None else a
    count = a[0] + b[0]
    gap = b[1] - a[1]
    mean = a[1] + gap * (b[0] / count)
    return [count, mean, a[2] + b[2] + gap * gap * (a[0] * b[0] / count)]


def _moments_of(events: Timed) -> Any:
    values = [float(value) for _, value in events]
    if not values:
        return None
    mean = _float_sum(values) / len(values)
    return [len(values), mean, _float_sum([(value - mean) * (value - mean) for value in values])]


def distinct_values(values: Iterable[Any]) -> list[Any]:
    """Each value once."""
    # NaN counts once, though it differs from itself; None stands for it, as there are no nulls.
    return list({None if value != value else value for value in values})


def _chain(
    frame: Callable[[str], tuple[pl.Expr, ...]],
    events: Callable[[Timed], Any],
    merge: Callable[[Any, Any], Any],
) -> SlotKind:
    """A kind whose partial results merge pair by pair, starting from None."""
    return SlotKind(frame, events, lambda parts: reduce(merge, parts, None), merge)


def _end(column: str, first: bool) -> tuple[pl.Expr, ...]:
    known = pl.col(column).is_not_null()
    times, values = pl.col(TIME).filter(known), pl.col(column).drop_nulls()
    return (times.first(), values.first()) if first else (times.last(), values.last())


def _moment_frame(column: str) -> tuple[pl.Expr, ...]:
    value = pl.col(column).cast(pl.Float64)
    count, mean = value.count(), value.mean()
    # Polars computes no deviation of a single infinity; NaN keeps the merged result NaN.
    squares = pl.when(mean.is_finite()).then(value.var(ddof=0) * count).otherwise(math.nan)
    return count.cast(pl.Int64), mean, squares


def _extreme(frame: Callable[[pl.Expr], pl.Expr], choose: Callable[[Any, Any], Any]) -> SlotKind:
    return _chain(
        lambda c: (frame(pl.col(c)),), lambda e: reduce(choose, _values_of(e), None), choose
    )


# A sum of Polars' Int64 wraps around without an error.
_INT_SUM = SlotKind(
    lambda c: (pl.col(c).cast(pl.Int128).sum(),),
    lambda e: _int_sum(_values_of(e)),
    _int_sum,
    lambda a, b: _int_sum((a, b)),
)
_FLOAT_SUM = SlotKind(
    lambda c: (pl.col(c).sum(),), lambda e: _float_sum(_values_of(e)), _float_sum, operator.add
)
# NaN is the largest value; Polars' ``max`` would skip it.
_FLOAT_MAX = _extreme(lambda column: column.nan_max(), _larger)
_KINDS: Mapping[str, SlotKind] = {
    "n": SlotKind(lambda c: (pl.col(c).count().cast(pl.Int64),), len, sum, operator.add),
    "true": SlotKind(
        lambda c: (pl.col(c).sum().cast(pl.Int64),),
        lambda e: sum(map(bool, _values_of(e))),
        sum,
        operator.add,
    ),
    "min": _extreme(lambda column: column.min(), _smaller),
    "max": _extreme(lambda column: column.max(), _larger),
    "moments": _chain(_moment_frame, _moments_of, _merge_moments),
    "first": _chain(
        lambda c: _end(c, first=True), lambda e: list(e[0]) if e else None, _earlier_event
    ),
    "last": _chain(
        lambda c: _end(c, first=False), lambda e: list(e[-1]) if e else None, _later_event
    ),
    "row": _chain(lambda _: (), lambda e: list(e[-1]) if e else None, _later_event),
    "distinct": SlotKind(
        lambda c: (pl.col(c).drop_nulls().unique(),),
        lambda e: distinct_values(_values_of(e)),
        lambda parts: distinct_values(value for part in parts for value in part),
        lambda a, b: distinct_values((*a, *b)),
    ),
}
