"""Partial results of aggregations: computed from a tile's events, and merged across tiles.

Without events a count or sum is 0, a set is empty, and everything else is None. Datetimes and
durations are whole microseconds.

A sum of floats is kept exactly: as one float, as floats that add up to it, or, beyond the largest
float, as its digits. Moments are count, mean, sum of squared deviations and what the mean lost by
rounding; a fifth number, where there is one, is the power of 4 that the squares are divided by.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import polars as pl

from sunloom.feature_store.online.tile_layout import Slot
from sunloom.features.kernels.exact_sums import exact_total

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
        fold: The result of any number of partial results, in the order of their events.
        merge: From two of them.
        group: From what ``frame`` gives for a group and from the group's values; None where the
            former is the partial result already.
    """

    frame: Callable[[str], tuple[pl.Expr, ...]]
    events: Callable[[Timed], Any]
    fold: Callable[[Sequence[Any]], Any]
    merge: Callable[[Any, Any], Any]
    group: Callable[[Sequence[Any], Sequence[Any]], Any] | None = None


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


FloatSum = float | str | list[float]
"""A sum of floats as it is kept."""


def _float_sum(values: Sequence[float]) -> FloatSum:
    if len(values) == 1 and isinstance(values[0], float):
        return values[0]
    if len(values) == 2 and type(values[0]) is type(values[1]) is float:
        # The usual group and merge: what two floats lose by rounding is one float.
        rounded = values[0] + values[1]
        added = rounded - values[0]
        lost = (values[0] - (rounded - added)) + (values[1] - added)
        if lost == 0:
            return float(rounded)
        if math.isfinite(lost) and math.isfinite(rounded):
            return [rounded, lost]
    total = exact_total(values)
    if isinstance(total, Fraction):
        return str(int(total))
    if not math.isfinite(total):
        return total
    # What a rounded sum lost is needed where a later tile cancels what this one is made of.
    parts = [total]
    while rest := exact_total([*values, *(-part for part in parts)]):
        assert isinstance(rest, float)
        parts.append(rest)
    return parts if len(parts) > 1 else total


def _float_terms(sums: Iterable[FloatSum]) -> list[float]:
    terms: list[float] = []
    for kept in sums:
        if isinstance(kept, list):
            terms += kept
        else:
            terms.append(int(kept) if isinstance(kept, str) else kept)
    return terms


def _fold_float_sums(sums: Sequence[FloatSum]) -> float | Fraction:
    try:
        return math.fsum(sums)  # type: ignore[arg-type]
    except (TypeError, OverflowError, ValueError):
        # Some are kept as several floats or as digits, or fsum refuses them.
        return exact_total(_float_terms(sums))


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


# Sums of squared deviations between these have lost no digits, neither to the smallest float nor to
# the largest.
_LEAST_SQUARES, _MOST_SQUARES = 1e-280, 1e300


def _merge_moments(a: Any, b: Any) -> Any:
    """Moments of both together."""
    # Chan's update: a sum of squares alone would cancel where the mean is large.
    if a is None or b is None:
        return b if a is None else a
    count = a[0] + b[0]
    # Earlier releases kept three numbers: nothing of what the mean lost.
    low_a, low_b = (a[3] if len(a) > 3 else 0.0), (b[3] if len(b) > 3 else 0.0)
    gap = (b[1] - a[1]) + (low_b - low_a)
    step = gap * (b[0] / count)
    squares = a[2] + b[2] + gap * step * a[0]
    is_usual = _LEAST_SQUARES < squares < _MOST_SQUARES or (squares == 0 and gap == 0)
    if is_usual and len(a) < 5 and len(b) < 5:
        return _moments(count, a[1], low_a + step, squares)
    if not all(map(math.isfinite, (*a, *b))):
        return _moments(count, math.nan, 0.0, math.nan)
    mean_a, mean_b = Fraction(a[1]) + Fraction(low_a), Fraction(b[1]) + Fraction(low_b)
    mean = (mean_a * a[0] + mean_b * b[0]) / count
    exact = _exact_squares(a) + _exact_squares(b)
    return _scaled_moments(count, mean, exact + (mean_b - mean_a) ** 2 * a[0] * b[0] / count)


def _moments(count: int, mean: float, correction: float, squares: float) -> list[Any]:
    """Moments with the mean and its correction as a sum of two floats without a rounding."""
    total = mean + correction
    added = total - mean
    return [count, total, squares, (mean - (total - added)) + (correction - added)]


def _exact_squares(moments: Sequence[Any]) -> Fraction:
    scale = Fraction(4) ** moments[4] if len(moments) > 4 else 1
    return Fraction(moments[2]) * scale


def _scaled_moments(count: int, mean: Fraction, squares: Fraction) -> list[Any]:
    total = float(mean)
    low = float(mean - Fraction(total))
    if not squares or _LEAST_SQUARES < squares < _MOST_SQUARES:
        return [count, total, float(squares), low]
    power = (squares.numerator.bit_length() - squares.denominator.bit_length()) // 2
    return [count, total, float(squares / Fraction(4) ** power), low, power]


def _moments_of(values: Sequence[float]) -> Any:
    if not values:
        return None
    count, pivot = len(values), float(values[0])
    if not all(map(math.isfinite, values)):
        return _moments(count, math.nan, 0.0, math.nan)
    deviations = [value - pivot for value in values]
    if not any(deviations):
        return [count, pivot, 0.0, 0.0]
    try:
        offset = math.fsum(deviations) / count
        squares = math.fsum([value * value for value in deviations]) - count * offset * offset
    except (OverflowError, ValueError):
        squares = math.inf
    if _LEAST_SQUARES < squares < _MOST_SQUARES:
        return _moments(count, pivot, offset, squares)
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / count
    return _scaled_moments(count, mean, sum(((v - mean) ** 2 for v in exact), Fraction(0)))


def _moments_of_group(frame: Sequence[Any], values: Sequence[float]) -> Any:
    pivot, offset, squares = frame
    if squares is not None and _LEAST_SQUARES < squares < _MOST_SQUARES:
        return _moments(len(values), pivot, offset, squares)
    return _moments_of([float(value) for value in values])


def distinct_values(values: Iterable[Any]) -> list[Any]:
    """Each value once."""
    # NaN counts once, though it differs from itself; None stands for it, as there are no nulls.
    return list({None if value != value else value for value in values})


def _chain(
    frame: Callable[[str], tuple[pl.Expr, ...]],
    events: Callable[[Timed], Any],
    merge: Callable[[Any, Any], Any],
    group: Callable[[Sequence[Any], Sequence[Any]], Any] | None = None,
) -> SlotKind:
    """A kind whose partial results merge pair by pair, starting from None."""
    return SlotKind(frame, events, lambda parts: reduce(merge, parts, None), merge, group)


def _end(column: str, first: bool) -> tuple[pl.Expr, ...]:
    known = pl.col(column).is_not_null()
    times, values = pl.col(TIME).filter(known), pl.col(column).drop_nulls()
    return (times.first(), values.first()) if first else (times.last(), values.last())


def _moment_frame(column: str) -> tuple[pl.Expr, ...]:
    value = pl.col(column).cast(pl.Float64)
    # From the group's first value, so that what its values have in common costs no digits.
    pivot = value.drop_nulls().first()
    shifted = value - pivot
    return pivot, shifted.mean(), shifted.var(ddof=0) * value.count()


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
    lambda frame, _: _int_sum(frame),
)
_FLOAT_SUM = SlotKind(
    lambda _: (),
    lambda e: _float_sum(_values_of(e)),
    _fold_float_sums,
    lambda a, b: _float_sum(_float_terms((a, b))),
    lambda _, values: _float_sum(values),
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
    "moments": _chain(
        _moment_frame,
        lambda e: _moments_of([float(value) for value in _values_of(e)]),
        _merge_moments,
        _moments_of_group,
    ),
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
        lambda frame, _: distinct_values(frame[0]),
    ),
}
