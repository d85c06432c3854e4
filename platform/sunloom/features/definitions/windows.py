"""Windows of aggregations: which filters bound the rows' time, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from chalk.utils.duration import CHALK_MAX_TIMEDELTA

from sunloom.features.definitions.source_locations import refuse
from sunloom.features.plan.expressions import Bound, Call, Column, Const, Expr, Now, Window, walk

_WINDOW_START = "chalk_window"
_FOREVER_US = CHALK_MAX_TIMEDELTA // timedelta(microseconds=1)
_NOW = Bound(ago_us=0, inclusive=True)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def window_start(feature: Any, raw: Any) -> Call:
    """The start of the feature's own window: a mark that ``split_filters`` turns into a bound.

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


def split_filters(
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
