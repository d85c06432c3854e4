"""Aggregations: what they give, and which filters are ends of a window."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeGuard

from chalk.features.underscore import Underscore
from chalk.utils.duration import CHALK_MAX_TIMEDELTA

from sunloom.features.definitions.source_locations import refuse
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Bound, Call, Column, Const, Expr, Now, Window, walk
from sunloom.features.plan.polars_dtypes import NUMBERS, is_scalar

Rule = Callable[[DType], DType | None]

WINDOW_START = "chalk_window"
_FOREVER_US = CHALK_MAX_TIMEDELTA // timedelta(microseconds=1)
_NOW = Bound(ago_us=0, inclusive=True)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _number_to(result: DType) -> Rule:
    return lambda value: result if value in NUMBERS else None


def _scalar_to(result: Callable[[DType], DType]) -> Rule:
    return lambda value: result(value) if is_scalar(value) else None


def _if_in(*allowed: DType) -> Rule:
    return lambda value: value if value in allowed else None


AGGREGATIONS: Mapping[str, Rule] = {
    "count": lambda _: "int64",
    "sum": _if_in("int64", "float64"),
    "mean": _number_to("float64"),
    "min": _if_in("int64", "float64", "datetime", "duration"),
    "max": _if_in("int64", "float64", "datetime", "duration"),
    "std": _number_to("float64"),
    "var": _number_to("float64"),
    "first": lambda value: value,
    "last": lambda value: value,
    "any": _if_in("bool"),
    "all": _if_in("bool"),
    "count_distinct": _scalar_to(lambda _: "int64"),
    "min_by": lambda value: value,
    "max_by": lambda value: value,
    "array_agg": lambda value: ListType(item=value),
    "approx_top_k": _scalar_to(lambda value: ListType(item=value)),
    "approx_percentile": _number_to("float64"),
}
"""Aggregation to the type it makes of a value's type; None where it takes no such value."""

AGGREGATION_ALIASES: Mapping[str, str] = {
    "approx_count_distinct": "count_distinct",
    "stddev": "std",
    "stddev_sample": "std",
    "std_sample": "std",
    "var_sample": "var",
}
"""Chalk's other names of the same meaning; ours are exact where approximate ones are allowed."""


@dataclass(frozen=True)
class Arguments:
    """What stands in an aggregation's brackets.

    Attributes:
        by: The raw expression that ``min_by`` and ``max_by`` compare.
        number: The ``k`` of ``approx_top_k``, the quantile of ``approx_percentile``.
    """

    by: Any = None
    number: int | float | None = None


def read_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments | str:
    """The aggregation's arguments, or what it takes instead where they do not fit."""
    given = dict(zip(_PARAMETERS.get(name, ()), args, strict=False)) | dict(kwargs)
    unknown = set(given) - set(_PARAMETERS.get(name, ()))
    if len(args) > len(_PARAMETERS.get(name, ())) or unknown:
        return _TAKES.get(name, "no arguments")
    if name == "approx_top_k":
        k, counters = given.get("k", 0), given.get("counters", sys.maxsize)
        # The size of Chalk's sketch changes nothing in an exact count.
        fits = _is_whole(k) and k >= 1 and _is_whole(counters) and counters >= k
        return Arguments(number=k) if fits else _TAKES[name]
    if name == "approx_percentile":
        share = given.get("quantile")
        fits = isinstance(share, float | int) and not isinstance(share, bool) and 0 <= share <= 1
        return Arguments(number=float(share)) if fits and share is not None else _TAKES[name]
    if name in ("min_by", "max_by"):
        by = given.get("by")
        return Arguments(by=by) if isinstance(by, Underscore) else _TAKES[name]
    return Arguments()


_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "min_by": ("by",),
    "max_by": ("by",),
    "approx_top_k": ("k", "counters"),
    "approx_percentile": ("quantile",),
}
_TAKES: Mapping[str, str] = {
    "min_by": "one column to compare, such as `.min_by(_.at)`",
    "max_by": "one column to compare, such as `.max_by(_.at)`",
    "approx_top_k": "`k`, a whole number above 0, and perhaps `counters`, at least `k`",
    "approx_percentile": "`quantile`, a number from 0 to 1",
}


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def aggregate_dtype(name: str, value: DType | None) -> DType | None:
    """The aggregation's result type, or None where it does not take such a value."""
    return AGGREGATIONS[name](value or "null")


class WindowFilter:
    """The mark that ``_.chalk_window`` leaves until the filters are combined."""

    @staticmethod
    def start(feature: Any, raw: Any) -> Call:
        """The start of the feature's own window."""
        if feature.window_duration is None:
            raise refuse(
                feature,
                "`_.chalk_window` in a feature without windows",
                'Declare it `x: Windowed[…] = windowed("30d", expression=…)`.',
                raw,
            )
        return Call(function=WINDOW_START, args=(), dtype="datetime")


@dataclass(frozen=True)
class _Limit:
    """One comparison of a time column with a moment."""

    column: str
    is_start: bool
    bound: Bound


def combine_filters(
    feature: Any, filters: Sequence[Expr], time: str | None, raw: Any
) -> tuple[tuple[Expr, ...], Window]:
    """Separate window ends from filters on the rows themselves.

    Args:
        feature: The chalkpy feature, for messages.
        filters: Bound filters in the joined class.
        time: The joined class's event time, if it has one.
        raw: The aggregate's source expression, for messages.
    """
    where: list[Expr] = []
    limits: list[_Limit] = []
    for part in (conjunct for item in filters for conjunct in _conjuncts(item)):
        limit = _as_limit(part, feature)
        if limit is not None:
            limits.append(limit)
        elif any(_depends_on_moment(node) for node in walk(part)):
            raise refuse(
                feature,
                f"a filter of `{raw}` mixes the moment with other conditions",
                "Compare the event time with the moment alone: `_.t > _.chalk_window`, "
                "`_.t <= _.chalk_now - timedelta(days=1)`; join such filters by commas.",
                raw,
            )
        else:
            where.append(part)
    return tuple(where), _window(feature, limits, time, raw)


def _conjuncts(expression: Expr) -> Iterator[Expr]:
    if isinstance(expression, Call) and expression.function == "&":
        for arg in expression.args:
            yield from _conjuncts(arg)
    elif isinstance(expression, Call) and expression.function == "between":
        value, low, high = expression.args
        yield Call(function=">=", args=(value, low), dtype="bool")
        yield Call(function="<=", args=(value, high), dtype="bool")
    else:
        yield expression


def _depends_on_moment(node: Expr) -> bool:
    return isinstance(node, Now) or (isinstance(node, Call) and node.function == WINDOW_START)


def has_window_mark(expression: Expr) -> bool:
    """Whether ``_.chalk_window`` stands where it has no meaning."""
    return any(isinstance(n, Call) and n.function == WINDOW_START for n in walk(expression))


def _as_limit(part: Expr, feature: Any) -> _Limit | None:
    if not isinstance(part, Call) or part.function not in _FLIPPED:
        return None
    left, right = part.args
    operator = part.function
    if isinstance(right, Column):
        left, right, operator = right, left, _FLIPPED[operator]
    ago = _ago(right, feature)
    if not isinstance(left, Column) or ago is None:
        return None
    bound = Bound(ago_us=ago, inclusive=operator in ("<=", ">="))
    return _Limit(left.name, operator in (">", ">="), bound)


def _ago(moment: Expr, feature: Any) -> int | None:
    """Microseconds before now, or None where the expression is no such moment."""
    if isinstance(moment, Now):
        return 0
    if not isinstance(moment, Call):
        return None
    if moment.function == WINDOW_START:
        return int(feature.window_duration) * 1_000_000
    if moment.function not in ("-", "+") or len(moment.args) != 2:
        return None
    base, shift = moment.args
    ago = _ago(base, feature)
    if ago is None or not isinstance(shift, Const) or not isinstance(shift.value, int):
        return None
    return ago + shift.value if moment.function == "-" else ago - shift.value


def _window(feature: Any, limits: Sequence[_Limit], time: str | None, raw: Any) -> Window:
    columns = {limit.column for limit in limits}
    if time is not None and columns - {time}:
        other = sorted(columns - {time})[0]
        raise refuse(
            feature,
            f"`{raw}` puts a window on {other!r}, but the rows' event time is {time!r}",
            f"Compare `_.{time}`, or make {other!r} the FeatureTime.",
            raw,
        )
    if len(columns) > 1:
        raise refuse(feature, f"`{raw}` puts windows on two columns", "Compare one.", raw)
    axis = time or next(iter(columns), None)
    # Only a FeatureTime hides the future by itself.
    ends = [_NOW] if time is not None else []
    ends += [limit.bound for limit in limits if not limit.is_start]
    # The window "all" is a hundred years to chalkpy; it leaves nothing out.
    starts = [
        limit.bound for limit in limits if limit.is_start and limit.bound.ago_us < _FOREVER_US
    ]
    return Window(column=axis, start=_latest(starts), end=_earliest(ends))


def _latest(starts: Sequence[Bound]) -> Bound | None:
    return min(starts, key=lambda b: (b.ago_us, b.inclusive)) if starts else None


def _earliest(ends: Sequence[Bound]) -> Bound | None:
    return max(ends, key=lambda b: (b.ago_us, not b.inclusive)) if ends else None
