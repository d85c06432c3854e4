"""Partial results of aggregations: computed from a tile's events, and merged across tiles.

Without events a count or sum is 0, a set is empty, and everything else is None. Datetimes and
durations are whole microseconds.

A sum of floats is kept exactly: as one float, as floats that add up to it, or, beyond the largest
float, as the text of a fraction. Moments are count, mean and sum of squared deviations; a fourth
number is what the mean lost by rounding, a fifth the power of 4 that the squares are divided by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import polars as pl

from sunloom.feature_store.online.tile_layout import Slot
from sunloom.features.kernels.exact_sums import exact_total
from sunloom.features.kernels.ranges import Floats

TIME = "__time__"
_INT64_END = 1 << 63
Timed = Sequence[tuple[int, Any]]
"""Time and value of events, by time and then by arrival; values are not null."""


@dataclass(frozen=True)
class GroupedValues:
    """A measure's values, group by group.

    Attributes:
        values: The values, some of them null.
        starts: Where each group's values begin, and the end of the last group.
    """

    values: Sequence[Any]
    starts: Sequence[int]

    def of_group(self, group: int) -> list[Any]:
        """One group's values without nulls."""
        start, stop = self.starts[group], self.starts[group + 1]
        return [value for value in self.values[start:stop] if value is not None]

    def to_numpy(self) -> Floats:
        """All groups' values without nulls, as floats."""
        return np.array([value for value in self.values if value is not None], np.float64)


@dataclass(frozen=True)
class SlotKind:
    """One kind of partial result.

    Attributes:
        frame: Polars expressions over a group of events sorted by time.
        groups: One partial result per group, from what ``frame`` gives and the groups' values.
        events: From events as plain values.
        merge: One partial result of any number of them, in the order of their events.
        fold: What a window's partial results give, where that is less than ``merge`` keeps.
    """

    frame: Callable[[str], tuple[pl.Expr, ...]]
    groups: Callable[[Sequence[pl.Series], GroupedValues], list[Any]]
    events: Callable[[Timed], Any]
    merge: Callable[[Sequence[Any]], Any]
    fold: Callable[[Sequence[Any]], Any] | None = None


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


def _float_terms(sums: Iterable[FloatSum]) -> list[float | Fraction]:
    terms: list[float | Fraction] = []
    for kept in sums:
        if isinstance(kept, float):
            terms.append(kept)
        elif isinstance(kept, list):
            terms += kept
        else:
            terms.append(Fraction(kept))
    return terms


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum of two floats, or of two arrays, and what it lost (Knuth)."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def _fold_float_sums(sums: Sequence[FloatSum]) -> float | Fraction:
    # In the order of how often they occur; a look at each type first would cost more than a read.
    try:
        return math.fsum(sums)  # type: ignore[arg-type]
    except TypeError:
        terms = [term for kept in sums for term in (kept if isinstance(kept, list) else (kept,))]
    except (OverflowError, ValueError):
        return exact_total(_float_terms(sums))
    try:
        return math.fsum(terms)  # type: ignore[arg-type]
    except (TypeError, OverflowError, ValueError):
        # Some are fractions, or fsum refuses them.
        return exact_total(_float_terms(sums))


def _merge_float_sums(sums: Sequence[FloatSum]) -> FloatSum:
    if len(sums) == 2 and isinstance(sums[0], float) and isinstance(sums[1], float):
        total, lost = _two_sum(sums[0], sums[1])
        if math.isfinite(lost):
            return [total, lost] if lost else total
    # What a rounded sum lost is needed where a later tile cancels what this one is made of.
    remaining, parts = _float_terms(sums), []
    while part := exact_total(remaining):
        if isinstance(part, Fraction):
            return str(part)
        if not math.isfinite(part):
            return part
        parts.append(part)
        remaining.append(-part)
    if len(parts) > 1:
        return parts
    return parts[0] if parts else 0.0


# Groups of up to so many values are summed together, one value of each at a time.
_SMALL_GROUP = 16


def _grouped_float_sums(columns: Sequence[pl.Series], values: GroupedValues) -> list[FloatSum]:
    sizes = columns[0].to_numpy().astype(np.int64)
    first = np.cumsum(sizes) - sizes
    numbers = values.to_numpy()
    totals, lows = np.zeros((2, len(sizes)))
    is_exact = sizes <= _SMALL_GROUP
    with np.errstate(invalid="ignore", over="ignore"):
        for step in range(min(sizes.max(initial=0), _SMALL_GROUP)):
            groups = np.flatnonzero(is_exact & (sizes > step))
            totals[groups], lost = _two_sum(totals[groups], numbers[first[groups] + step])
            lows[groups], rest = _two_sum(lows[groups], lost)
            # Also false where a value is not finite, or the sum overflows.
            is_exact[groups] = rest == 0
        totals, lows = _two_sum(totals, lows)
    partials: list[FloatSum] = totals.tolist()
    for group in np.flatnonzero(lows).tolist():
        partials[group] = [partials[group], float(lows[group])]
    for group in np.flatnonzero(~is_exact).tolist():
        partials[group] = _merge_float_sums(values.of_group(group))
    return partials


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


# Sums of squared deviations between these have lost no digits to the smallest float or the largest.
_LEAST_SQUARES, _MOST_SQUARES = 1e-280, 1e300


def _merge_moments(parts: Iterable[Any]) -> Any:
    known = [part for part in parts if part is not None]
    if len(known) < 2:
        return known[0] if known else None
    # About one of the means: a sum of squares alone would cancel where the means are large.
    pivot = known[0][1]
    offsets = [part[1] - pivot + (part[3] if len(part) > 3 else 0.0) for part in known]
    count, squares, step = 0, 0.0, 0.0
    for part, offset in zip(known, offsets, strict=True):
        count += part[0]
        squares += part[2]
        step += part[0] * offset
    step /= count
    for part, offset in zip(known, offsets, strict=True):
        squares += part[0] * (offset - step) * (offset - step)
    is_usual = _LEAST_SQUARES < squares < _MOST_SQUARES or (squares == 0 and not any(offsets))
    if not is_usual or max(map(len, known)) > 4:
        return _merge_extreme_moments(known)
    mean, low = _two_sum(pivot, step)
    return [count, mean, squares, low]


def _merge_extreme_moments(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Moments of values whose squares overflow or vanish as floats."""
    count = sum(part[0] for part in parts)
    if not all(math.isfinite(number) for part in parts for number in part):
        return [count, math.nan, math.nan]
    means = [sum(map(Fraction, part[1:4:2]), Fraction(0)) for part in parts]
    mean = sum(part[0] * own for part, own in zip(parts, means, strict=True)) / count
    squares = sum(
        # The last number is a power, where there is one.
        Fraction(part[2]) * Fraction(4) ** sum(part[4:]) + part[0] * (own - mean) ** 2
        for part, own in zip(parts, means, strict=True)
    )
    rounded = float(mean)
    low = float(mean - Fraction(rounded))
    if not squares or _LEAST_SQUARES < squares < _MOST_SQUARES:
        return [count, rounded, float(squares), low]
    power = (squares.numerator.bit_length() - squares.denominator.bit_length()) // 2
    return [count, rounded, float(squares / Fraction(4) ** power), low, power]


def _moments_of(values: Iterable[float]) -> Any:
    return _merge_moments([(1, float(value), 0.0) for value in values])


def distinct_values(values: Iterable[Any]) -> list[Any]:
    """Each value once."""
    # NaN counts once, though it differs from itself; None stands for it, as there are no nulls.
    return list({None if value != value else value for value in values})


def _rows_of(columns: Sequence[pl.Series], _values: GroupedValues) -> list[Any]:
    lists = [column.to_list() for column in columns]
    if len(lists) == 1:
        return lists[0]
    # Several columns make one list; a group without values has none.
    return [None if row[0] is None else list(row) for row in zip(*lists, strict=True)]


def _chain(
    frame: Callable[[str], tuple[pl.Expr, ...]],
    events: Callable[[Timed], Any],
    merge: Callable[[Any, Any], Any],
) -> SlotKind:
    """A kind whose partial results merge pair by pair, starting from None."""
    return SlotKind(
        frame=frame,
        groups=_rows_of,
        events=events,
        merge=lambda parts: reduce(merge, parts, None),
    )


def _end(column: str, first: bool) -> tuple[pl.Expr, ...]:
    known = pl.col(column).is_not_null()
    times, values = pl.col(TIME).filter(known), pl.col(column).drop_nulls()
    return (times.first(), values.first()) if first else (times.last(), values.last())


def _grouped_moments(columns: Sequence[pl.Series], values: GroupedValues) -> list[Any]:
    all_sizes = columns[0].to_numpy().astype(np.int64)
    partials: list[Any] = [None] * len(all_sizes)
    known = np.flatnonzero(all_sizes)
    if not len(known):
        return partials
    numbers = values.to_numpy()
    sizes = all_sizes[known]
    first = np.cumsum(sizes) - sizes
    pivot = numbers[first]
    with np.errstate(invalid="ignore", over="ignore"):
        # From each group's first value, so that what its values have in common costs no digits.
        deviations = numbers - np.repeat(pivot, sizes)
        step = np.add.reduceat(deviations, first) / sizes
        deviations -= np.repeat(step, sizes)
        squares = np.add.reduceat(deviations * deviations, first)
        mean, low = _two_sum(pivot, step)
    is_usual = (squares > _LEAST_SQUARES) & (squares < _MOST_SQUARES)
    is_usual |= (sizes == 1) & np.isfinite(pivot)
    arrays = (known, sizes, mean, squares, low)
    for group, *moments in zip(*(array.tolist() for array in arrays), strict=True):
        partials[group] = moments
    for group in known[~is_usual].tolist():
        partials[group] = _moments_of(values.of_group(group))
    return partials


def _extreme(frame: Callable[[pl.Expr], pl.Expr], choose: Callable[[Any, Any], Any]) -> SlotKind:
    return _chain(
        lambda c: (frame(pl.col(c)),), lambda e: reduce(choose, _values_of(e), None), choose
    )


# A sum of Polars' Int64 wraps around without an error.
_INT_SUM = SlotKind(
    frame=lambda c: (pl.col(c).cast(pl.Int128).sum(),),
    groups=lambda columns, _: [_int_sum((total,)) for total in columns[0].to_list()],
    events=lambda e: _int_sum(_values_of(e)),
    merge=_int_sum,
)
_FLOAT_SUM = SlotKind(
    frame=lambda c: (pl.col(c).count(),),
    groups=_grouped_float_sums,
    # The values themselves add up to their sum: a window folds them with those of other tiles.
    events=_values_of,
    merge=_merge_float_sums,
    fold=_fold_float_sums,
)
# NaN is the largest value; Polars' ``max`` would skip it.
_FLOAT_MAX = _extreme(lambda column: column.nan_max(), _larger)
_KINDS: Mapping[str, SlotKind] = {
    "n": SlotKind(
        frame=lambda c: (pl.col(c).count().cast(pl.Int64),),
        groups=_rows_of,
        events=len,
        merge=sum,
    ),
    "true": SlotKind(
        frame=lambda c: (pl.col(c).sum().cast(pl.Int64),),
        groups=_rows_of,
        events=lambda e: sum(map(bool, _values_of(e))),
        merge=sum,
    ),
    "min": _extreme(lambda column: column.min(), _smaller),
    "max": _extreme(lambda column: column.max(), _larger),
    "moments": SlotKind(
        frame=lambda c: (pl.col(c).count(),),
        groups=_grouped_moments,
        events=lambda e: _moments_of(_values_of(e)),
        merge=_merge_moments,
    ),
    "first": _chain(
        lambda c: _end(c, first=True), lambda e: list(e[0]) if e else None, _earlier_event
    ),
    "last": _chain(
        lambda c: _end(c, first=False), lambda e: list(e[-1]) if e else None, _later_event
    ),
    "row": _chain(lambda _: (), lambda e: list(e[-1]) if e else None, _later_event),
    "distinct": SlotKind(
        frame=lambda c: (pl.col(c).drop_nulls().unique(),),
        groups=lambda columns, _: [distinct_values(values) for values in columns[0].to_list()],
        events=lambda e: distinct_values(_values_of(e)),
        merge=lambda parts: distinct_values(value for part in parts for value in part),
    ),
}
