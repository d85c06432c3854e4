"""Binding of aggregations over has-many joins: their types, arguments and windows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeGuard, cast

from chalk.features.underscore import (
    Underscore,
    UnderscoreAttr,
    UnderscoreFunction,
    UnderscoreItem,
    UnderscoreRoot,
)
from chalk.utils.duration import CHALK_MAX_TIMEDELTA

from sunloom.errors import DefinitionError
from sunloom.features.definitions.declarations import event_time_of, refuse
from sunloom.features.definitions.scope import Binder
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import (
    Aggregate,
    Aggregation,
    Bound,
    Call,
    Column,
    Const,
    Expr,
    Lookup,
    Now,
    Window,
    own_columns,
    walk,
)
from sunloom.features.plan.polars_dtypes import NUMBERS, is_scalar

_WINDOW_START = "chalk_window"
_FOREVER_US = CHALK_MAX_TIMEDELTA // timedelta(microseconds=1)
_NOW = Bound(ago_us=0, inclusive=True)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
ValueRule = Callable[[DType], DType | None]


def _number_to(result: DType) -> ValueRule:
    return lambda value: result if value in NUMBERS else None


def _scalar_to(result: Callable[[DType], DType]) -> ValueRule:
    return lambda value: result(value) if is_scalar(value) else None


def _same_if_in(*allowed: DType) -> ValueRule:
    return lambda value: value if value in allowed else None


AGGREGATIONS: Mapping[str, ValueRule] = {
    "count": lambda _: "int64",
    "sum": _same_if_in("int64", "float64"),
    "mean": _number_to("float64"),
    "min": _same_if_in("int64", "float64", "datetime", "date", "duration"),
    "max": _same_if_in("int64", "float64", "datetime", "date", "duration"),
    "std": _number_to("float64"),
    "var": _number_to("float64"),
    "first": lambda value: value,
    "last": lambda value: value,
    "any": _same_if_in("bool"),
    "all": _same_if_in("bool"),
    "count_distinct": _scalar_to(lambda _: "int64"),
    "min_by": lambda value: value,
    "max_by": lambda value: value,
    "array_agg": lambda value: ListType(item=value),
    "approx_top_k": _scalar_to(lambda value: ListType(item=value)),
    "approx_percentile": _number_to("float64"),
}
"""Aggregation to the type that it gives for a value's type; None if it does not take the value."""

AGGREGATION_ALIASES: Mapping[str, str] = {
    "approx_count_distinct": "count_distinct",
    "stddev": "std",
    "stddev_sample": "std",
    "std_sample": "std",
    "var_sample": "var",
}
"""Chalk's other names of the same meaning; ours are exact where approximate ones are allowed."""


@dataclass(frozen=True)
class AggregationArguments:
    """The arguments in an aggregation's brackets.

    Attributes:
        by: The raw expression that ``min_by`` and ``max_by`` compare.
        number: The ``k`` of ``approx_top_k``, the quantile of ``approx_percentile``.
    """

    by: Any = None
    number: int | float | None = None


def _read_arguments(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> AggregationArguments | str:
    """The aggregation's arguments; if they do not fit, what it takes instead."""
    parameters, accepts = _PARAMETERS.get(name, ((), "no arguments"))
    values = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    if len(args) > len(parameters) or set(values) - set(parameters):
        return accepts
    if name == "approx_top_k":
        k, counters = values.get("k", 0), values.get("counters", sys.maxsize)
        # `counters` is the size of Chalk's sketch: checked, though an exact count needs none.
        fits = _is_whole(k) and k >= 1 and _is_whole(counters) and counters >= k
        return AggregationArguments(number=k) if fits else accepts
    if name == "approx_percentile":
        share = values.get("quantile")
        fits = isinstance(share, float | int) and not isinstance(share, bool) and 0 <= share <= 1
        return AggregationArguments(number=float(share)) if fits and share is not None else accepts
    if name in ("min_by", "max_by"):
        by = values.get("by")
        return AggregationArguments(by=by) if isinstance(by, Underscore) else accepts
    return AggregationArguments()


_PARAMETERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "min_by": (("by",), "one column to compare, such as `.min_by(_.at)`"),
    "max_by": (("by",), "one column to compare, such as `.max_by(_.at)`"),
    "approx_top_k": (
        ("k", "counters"),
        "`k`, a whole number above 0, and perhaps `counters`, at least `k`",
    ),
    "approx_percentile": (("quantile",), "`quantile`, a number from 0 to 1"),
}
"""Names of an aggregation's parameters, and the same for people."""


def _is_whole(value: Any) -> TypeGuard[int]:
    # To Python, True is an int.
    return isinstance(value, int) and not isinstance(value, bool)


class AggregateBinder:
    """Binds one aggregation over a has-many.

    Args:
        outer: Binds the expression around the aggregation.
        many: The has-many feature.
        raw: The aggregation's source expression.
    """

    def __init__(self, outer: Binder, many: Any, raw: Any) -> None:
        self._outer = outer
        self._many = many
        self._raw = raw

    def bind(
        self, name: str, keys: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Aggregate:
        """The aggregation of that name over the rows that the keys project and filter."""
        arguments = _read_arguments(name, args, kwargs)
        if isinstance(arguments, str):
            raise self._refuse(
                f"the arguments of `{name}` in `{self._raw}` are not supported",
                f"`{name}` takes {arguments}.",
            )
        scope = self._outer.scope
        if scope.is_inside:
            raise self._refuse(
                f"`{self._raw}` aggregates inside an aggregate",
                f"Give {scope.owner.__name__} a feature of it, and aggregate that feature.",
            )
        inside = self._outer.for_joined_class(self._many.joined_class)
        filters = [self._bind_filter(inside, key) for key in keys if _is_filter(key)]
        value = self._bind_value(inside, name, [key for key in keys if not _is_filter(key)])
        time = event_time_of(self._many.joined_class)
        where, window = _split_filters(scope.feature, filters, time, self._raw)
        by = self._bind_by(inside, arguments.by) if arguments.by is not None else None
        self._check_rows_alone((value, by, *where))
        # `count` may stand without a value.
        dtype = AGGREGATIONS[name](value.dtype if value else "null")
        if dtype is None:
            raise self._refuse(
                f"`{name}` of {value.dtype if value else 'nothing'} is not supported",
                "Cast the value with F.cast.",
            )
        return Aggregate(
            join=self._many.name,
            kind=cast(Aggregation, name),
            # count counts rows, whatever the value is.
            value=None if name == "count" else value,
            by=by,
            argument=arguments.number,
            where=where,
            window=window,
            dtype=dtype,
        )

    def _refuse(self, construct: str, instead: str) -> DefinitionError:
        return self._outer.scope.refuse(construct, instead, self._raw)

    def _bind_filter(self, inside: Binder, key: Any) -> Expr:
        condition = inside.bind(key)
        if condition.dtype == "bool":
            return condition
        raise self._refuse(
            f"the filter `{key}` is {condition.dtype}, not boolean",
            f"As a value, write `select({key})` from chalk.features.underscore.",
        )

    def _bind_value(self, inside: Binder, name: str, keys: Sequence[Any]) -> Expr | None:
        # What is no filter may still be wrapped in `select(…)`.
        values = [
            inside.bind(key._chalk__args[0] if isinstance(key, UnderscoreFunction) else key)
            for key in keys
        ]
        if len(values) > 1 or (not values and name != "count"):
            raise self._refuse(
                f"`{self._raw}` needs one value column, not {len(values)}",
                f"Write `_.{self._many.name}[_.x, _.y > 0].{name}()`.",
            )
        return values[0] if values else None

    def _bind_by(self, inside: Binder, raw: Any) -> Expr:
        by = inside.bind(raw)
        if is_scalar(by.dtype):
            return by
        raise self._refuse(f"`{raw}` is {by.dtype}, which has no order", "Compare a scalar column.")

    def _check_rows_alone(self, parts: Sequence[Expr | None]) -> None:
        """Features of the joined rows must not depend on the as-of time: they are computed once."""
        joined = self._many.joined_class
        waiting = {name for part in parts if part is not None for name in own_columns(part)}
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            feature = next(f for f in joined.features if f.name == name)
            if feature.underscore_expression is None:
                continue
            # Bound here too: the joined class itself may not be bound yet.
            try:
                expression = self._outer.for_feature(feature).bind(feature.underscore_expression)
            except DefinitionError as error:
                raise self._outer.scope.refuse_dependent(error, self._raw) from error
            if any(isinstance(node, Aggregate | Lookup | Now) for node in walk(expression)):
                raise self._refuse(
                    f"it aggregates {feature.fqn}, which depends on the as-of time or on other "
                    "rows",
                    "Aggregate features that are read or computed from their own row.",
                )
            waiting |= own_columns(expression) - seen


def value_keys(rows: Any) -> Sequence[Any]:
    """Value columns and filters; ``_.many.x`` is ``_.many[_.x]``."""
    if isinstance(rows, UnderscoreItem):
        return tuple(rows._chalk__key)
    if isinstance(rows, UnderscoreAttr) and isinstance(rows._chalk__parent, UnderscoreAttr):
        return (UnderscoreAttr(UnderscoreRoot(), rows._chalk__attr),)
    return ()


def _is_filter(key: Any) -> bool:
    # As in Chalk, a comparison or any other call is a filter unless it is selected.
    return isinstance(key, UnderscoreFunction) and key._chalk__function_name != "select"


def window_start(feature: Any, raw: Any) -> Call:
    """The start of the feature's own window: a mark that ``_split_filters`` turns into a bound.

    Args:
        feature: The chalkpy feature that the expression belongs to.
        raw: The source expression, for messages.

    Raises:
        DefinitionError: The feature has no windows.
    """
    if feature.window_duration is None:
        raise refuse(
            feature,
            "`_.chalk_window` in a feature without windows",
            'Declare it `x: Windowed[…] = windowed("30d", expression=…)`.',
            raw,
        )
    return Call(function=_WINDOW_START, args=(), dtype="datetime")


def has_window_start(expression: Expr) -> bool:
    """Whether ``_.chalk_window`` is still in the expression, where it has no meaning."""
    return any(_is_window_start(node) for node in walk(expression))


def _is_window_start(node: Expr) -> bool:
    return isinstance(node, Call) and node.function == _WINDOW_START


class _TimeLimit(NamedTuple):
    """One comparison of a time column with a time relative to now."""

    column: str
    is_start: bool
    bound: Bound


def _split_filters(
    feature: Any, filters: Sequence[Expr], time: str | None, raw: Any
) -> tuple[tuple[Expr, ...], Window]:
    """Filters on the rows themselves, and the window that all others make together.

    Args:
        feature: The chalkpy feature, for messages.
        filters: Bound filters over the joined class.
        time: The joined class's event time, if it has one.
        raw: The aggregate's source expression, for messages.

    Raises:
        DefinitionError: A filter depends on the as-of time in a way that is no bound of a window.
    """
    where: list[Expr] = []
    limits: list[_TimeLimit] = []
    for condition in (part for item in filters for part in _conjuncts(item)):
        limit = _as_time_limit(condition, feature)
        if limit is not None:
            limits.append(limit)
        elif any(isinstance(node, Now) or _is_window_start(node) for node in walk(condition)):
            # Rows are filtered once for all query rows, so a filter may not depend on one of them.
            raise refuse(
                feature,
                f"a filter of `{raw}` mixes the as-of time with other conditions",
                "Compare the event time with the as-of time alone: `_.t > _.chalk_window`, "
                "`_.t <= _.chalk_now - timedelta(days=1)`; join such filters by commas.",
                raw,
            )
        else:
            where.append(condition)
    return tuple(where), _combine_limits(feature, limits, time, raw)


def _conjuncts(expression: Expr) -> Iterator[Expr]:
    if isinstance(expression, Call) and expression.function == "&":
        for arg in expression.args:
            yield from _conjuncts(arg)
    elif isinstance(expression, Call) and expression.function == "between":
        value, low, high = expression.args
        # Two comparisons, because each may be a bound of the window.
        yield Call(function=">=", args=(value, low), dtype="bool")
        yield Call(function="<=", args=(value, high), dtype="bool")
    else:
        yield expression


def _as_time_limit(condition: Expr, feature: Any) -> _TimeLimit | None:
    if not isinstance(condition, Call) or condition.function not in _FLIPPED:
        return None
    left, right = condition.args
    operator = condition.function
    # `now > _.t` means `_.t < now`.
    if isinstance(right, Column):
        left, right, operator = right, left, _FLIPPED[operator]
    ago_us = _microseconds_ago(right, feature)
    if not isinstance(left, Column) or ago_us is None:
        return None
    bound = Bound(ago_us=ago_us, inclusive=operator in ("<=", ">="))
    return _TimeLimit(left.name, operator in (">", ">="), bound)


def _microseconds_ago(time: Expr, feature: Any) -> int | None:
    """How long before now a time is; None if the expression is no such time."""
    if isinstance(time, Now):
        return 0
    if not isinstance(time, Call):
        return None
    if _is_window_start(time):
        return int(feature.window_duration) * 1_000_000
    if time.function not in ("-", "+") or len(time.args) != 2:
        return None
    base, shift = time.args
    ago_us = _microseconds_ago(base, feature)
    if ago_us is None or not isinstance(shift, Const) or not isinstance(shift.value, int):
        return None
    return ago_us + shift.value if time.function == "-" else ago_us - shift.value


def _combine_limits(
    feature: Any, limits: Sequence[_TimeLimit], time: str | None, raw: Any
) -> Window:
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
    # Only a FeatureTime hides rows after the as-of time by itself.
    ends = [_NOW] if time is not None else []
    ends += [limit.bound for limit in limits if not limit.is_start]
    # To chalkpy, the window "all" is a hundred years; here it has no start.
    starts = [
        limit.bound for limit in limits if limit.is_start and limit.bound.ago_us < _FOREVER_US
    ]
    # The narrowest window counts: the latest start and the earliest end; of equal ones, the one
    # that excludes the bound itself.
    return Window(
        column=time or next(iter(columns), None),
        start=min(starts, key=lambda b: (b.ago_us, b.inclusive), default=None),
        end=max(ends, key=lambda b: (b.ago_us, not b.inclusive), default=None),
    )
