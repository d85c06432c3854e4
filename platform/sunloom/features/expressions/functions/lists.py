"""Lists; positions count from 1, as Chalk normalises them, negative ones from the end.

Values are equal as everywhere: NaN equals NaN and is larger than every number. A list may hold
nulls; what each function makes of them is said where it is not plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    TypeRule,
    Types,
    map_scalar,
    order_key,
)
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Call
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS, is_scalar, unify

Values = list[Any]


def _list_to(result: Callable[[ListType], DType | None], *others: DType) -> TypeRule:
    def rule(types: Types) -> DType | None:
        first = types[0] if types else None
        fits = isinstance(first, ListType) and tuple(types[1:]) == others
        return result(first) if fits and isinstance(first, ListType) else None

    return rule


def _same(dtype: ListType) -> DType:
    return dtype


def _item(dtype: ListType) -> DType | None:
    return dtype.item if is_scalar(dtype.item) else None


def _sorted_type(dtype: ListType) -> DType | None:
    return dtype if is_scalar(dtype.item) else None


def _number(dtype: ListType) -> DType | None:
    return dtype.item if dtype.item in NUMBERS else None


def _with_value(result: Callable[[ListType], DType]) -> TypeRule:
    """A list and a value of its type."""

    def rule(types: Types) -> DType | None:
        first = types[0] if len(types) == 2 else None
        if not isinstance(first, ListType) or not is_scalar(first.item):
            return None
        return result(first) if types[1] in (first.item, "null") else None

    return rule


def _with_list(result: Callable[[ListType], DType]) -> TypeRule:
    """Two lists of one type."""

    def rule(types: Types) -> DType | None:
        first = unify(types) if len(types) == 2 else None
        return result(first) if isinstance(first, ListType) and is_scalar(first.item) else None

    return rule


def _keyed(values: Iterable[Any]) -> dict[Any, Any]:
    """Different values, null among them, in order of their first place."""
    found: dict[Any, Any] = {}
    for value in values:
        found.setdefault(None if value is None else order_key(value), value)
    return found


def _contains(values: Values, value: Any) -> bool | None:
    """Null where it is not found but a null might have been it."""
    held = _keyed(values)
    if order_key(value) in held:
        return True
    return None if None in held else False


def _contains_frame(args: Columns, call: Call) -> pl.Expr:
    values, value = args
    if call.args[1].dtype == "float64":
        return map_scalar(_contains)(args, call)
    found = values.list.contains(value, nulls_equal=False)
    unsure = ~found & values.list.eval(pl.element().is_null()).list.any()
    return pl.when(~unsure & value.is_not_null()).then(found)


def _element(values: Values, position: int) -> Any:
    place = position - 1 if position > 0 else len(values) + position
    return values[place] if position and 0 <= place < len(values) else None


def _element_frame(args: Columns, _: Call) -> pl.Expr:
    position = args[1]
    place = pl.when(position > 0).then(position - 1).when(position < 0).then(position)
    return args[0].list.get(place, null_on_oob=True)


def _slice(values: Values, start: int, length: int) -> Values:
    first = start - 1 if start > 0 else len(values) + start
    if first < 0 or start == 0 or length <= 0:
        return []
    return values[first : first + length]


def _position(values: Values, value: Any) -> int:
    wanted = order_key(value)
    places = (i for i, v in enumerate(values, 1) if v is not None and order_key(v) == wanted)
    return next(places, 0)


def _without(values: Values, value: Any) -> Values:
    wanted = order_key(value)
    return [v for v in values if v is None or order_key(v) != wanted]


def _sort(*, descending: bool) -> Function:
    def scalar(values: Values) -> Values:
        known = sorted((v for v in values if v is not None), key=order_key, reverse=descending)
        return known + [None] * (len(values) - len(known))

    return Function(
        "a list of scalars",
        _list_to(_sorted_type),
        lambda args, _: args[0].list.sort(descending=descending, nulls_last=True),
        scalar,
    )


def _extreme(*, largest: bool) -> Function:
    """Null where one of the values is."""
    choose: Callable[..., Any] = max if largest else min

    def scalar(values: Values) -> Any:
        return None if not values or None in values else choose(values, key=order_key)

    def frame(args: Columns, _: Call) -> pl.Expr:
        values = args[0]
        ordered = values.list.sort(descending=largest, nulls_last=False)
        return ordered.list.first()

    return Function("a list of scalars", _list_to(_item), frame, scalar)


def _sum(values: Values) -> Any:
    known = [v for v in values if v is not None]
    return sum(known) if all(map(math.isfinite, known)) else math.fsum(_unbounded(known))


def _unbounded(values: Values) -> Values:
    opposite = {math.inf, -math.inf} <= set(values)
    return [math.nan] if opposite else [v for v in values if not math.isfinite(v)]


def _mean(values: Values) -> float | None:
    known = [v for v in values if v is not None]
    return float(_sum(known)) / len(known) if known else None


def _joined(values: Values, delimiter: str) -> str:
    return delimiter.join(v for v in values if v is not None)


def _joined_rule(types: Types) -> DType | None:
    return "string" if tuple(types) == (ListType(item="string"), "string") else None


def _overlap(a: Values, b: Values) -> bool | None:
    """Null where no value is common but a null might be."""
    left, right = _keyed(a), _keyed(b)
    if (left.keys() & right.keys()) - {None}:
        return True
    return None if None in left or None in right else False


def _constructed(types: Types) -> DType | None:
    item = unify(types)
    return ListType(item=item) if item is not None else None


def _construct(args: Columns, call: Call) -> pl.Expr:
    assert isinstance(call.dtype, ListType)
    item = POLARS[call.dtype.item]
    return pl.concat_list([arg.cast(item) for arg in args])


def _concatenated(types: Types) -> DType | None:
    if tuple(types) == ("string", "string"):
        return "string"
    return _with_list(_same)(types)


def _concatenate(args: Columns, call: Call) -> pl.Expr:
    if call.dtype == "string":
        return args[0] + args[1]
    return args[0].list.concat(args[1])


def _by_value(accepts: str, rule: TypeRule, scalar: Callable[..., Any]) -> Function:
    return Function(accepts, rule, map_scalar(scalar), scalar)


LISTS: Mapping[str, Function] = {
    "contains": Function(
        "a list and a value of its type", _with_value(lambda _: "bool"), _contains_frame, _contains
    ),
    "cardinality": Function(
        "a list",
        _list_to(lambda _: "int64"),
        lambda args, _: args[0].list.len().cast(pl.Int64),
        len,
    ),
    "element_at": Function(
        "a list and a position", _list_to(lambda t: t.item, "int64"), _element_frame, _element
    ),
    "slice": _by_value("a list, a start and a length", _list_to(_same, "int64", "int64"), _slice),
    "concat": Function(
        "two strings, or two lists of one type", _concatenated, _concatenate, lambda a, b: a + b
    ),
    "array_constructor": Function(
        "values of one type", _constructed, _construct, lambda *v: list(v), sees_nulls=True
    ),
    "array_sort": _sort(descending=False),
    "array_sort_desc": _sort(descending=True),
    "array_max": _extreme(largest=True),
    "array_min": _extreme(largest=False),
    # Nulls are skipped, and nothing sums to 0.
    "array_sum": Function(
        "a list of numbers", _list_to(_number), lambda args, _: args[0].list.sum(), _sum
    ),
    "array_average": Function(
        "a list of numbers",
        _list_to(lambda t: "float64" if t.item in NUMBERS else None),
        lambda args, _: args[0].list.drop_nulls().list.mean(),
        _mean,
    ),
    # No list has no values either.
    "array_distinct": Function(
        "a list of scalars",
        _list_to(_sorted_type),
        lambda args, call: (
            args[0].list.unique(maintain_order=True).fill_null(pl.lit([], POLARS[call.dtype]))
        ),
        lambda values: list(_keyed(values or ()).values()),
        sees_nulls=True,
    ),
    "array_join": _by_value("a list of strings and a delimiter", _joined_rule, _joined),
    # 0 where the value is not in the list.
    "array_position": _by_value(
        "a list and a value of its type", _with_value(lambda _: "int64"), _position
    ),
    "array_remove": _by_value("a list and a value of its type", _with_value(_same), _without),
    "remove_nulls": Function(
        "a list",
        _list_to(_same),
        lambda args, _: args[0].list.drop_nulls(),
        lambda values: [v for v in values if v is not None],
    ),
    "array_has_duplicates": _by_value(
        "a list of scalars",
        _list_to(lambda t: "bool" if is_scalar(t.item) else None),
        lambda values: len(_keyed(values)) < len(values),
    ),
    "array_intersect": _by_value(
        "two lists of one type",
        _with_list(_same),
        lambda a, b: [v for key, v in _keyed(a).items() if key in _keyed(b)],
    ),
    "array_except": _by_value(
        "two lists of one type",
        _with_list(_same),
        lambda a, b: [v for key, v in _keyed(a).items() if key not in _keyed(b)],
    ),
    "arrays_overlap": _by_value("two lists of one type", _with_list(lambda _: "bool"), _overlap),
}
