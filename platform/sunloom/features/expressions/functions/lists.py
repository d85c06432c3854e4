"""Functions of lists; positions count from 1, as Chalk normalises them, negative ones from the end.

Values compare as everywhere here: NaN equals NaN and is larger than every number. A list may
contain nulls; how a function treats them is said where it is not obvious.
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
    order_key,
    python_function,
)
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Call
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS, is_scalar, unify

Values = list[Any]


def _list_to(result: Callable[[ListType], DType | None], *others: DType) -> TypeRule:
    """A list, and further arguments of exactly the given types."""

    def rule(types: Types) -> DType | None:
        first = types[0] if types else None
        fits = isinstance(first, ListType) and tuple(types[1:]) == others
        return result(first) if fits and isinstance(first, ListType) else None

    return rule


def _same_list(dtype: ListType) -> DType:
    return dtype


def _item(dtype: ListType) -> DType | None:
    return dtype.item if is_scalar(dtype.item) else None


def _list_of_scalars(dtype: ListType) -> DType | None:
    return dtype if is_scalar(dtype.item) else None


def _number_item(dtype: ListType) -> DType | None:
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


def _distinct(values: Iterable[Any]) -> dict[Any, Any]:
    """Different values by their order keys, null among them, in order of first occurrence."""
    distinct: dict[Any, Any] = {}
    for value in values:
        distinct.setdefault(None if value is None else order_key(value), value)
    return distinct


def _contains(values: Values, value: Any) -> bool | None:
    """Three-valued logic: null if the value is not found but the list contains a null."""
    distinct = _distinct(values)
    if order_key(value) in distinct:
        return True
    return None if None in distinct else False


def _lower_contains(args: Columns, _: Call) -> pl.Expr:
    values, value = args
    is_contained = values.list.contains(value, nulls_equal=False)
    is_unknown = ~is_contained & values.list.eval(pl.element().is_null()).list.any()
    return pl.when(~is_unknown & value.is_not_null()).then(is_contained)


def _element(values: Values, position: int) -> Any:
    index = position - 1 if position > 0 else len(values) + position
    return values[index] if position and 0 <= index < len(values) else None


def _lower_element(args: Columns, _: Call) -> pl.Expr:
    # Polars counts from 0, and from the end too; there is no position 0 here.
    position = args[1]
    index = pl.when(position > 0).then(position - 1).when(position < 0).then(position)
    return args[0].list.get(index, null_on_oob=True)


def _slice(values: Values, start: int, length: int) -> Values:
    first = start - 1 if start > 0 else len(values) + start
    if first < 0 or start == 0 or length <= 0:
        return []
    return values[first : first + length]


def _position(values: Values, value: Any) -> int:
    key = order_key(value)
    positions = (i for i, v in enumerate(values, 1) if v is not None and order_key(v) == key)
    return next(positions, 0)


def _remove(values: Values, value: Any) -> Values:
    key = order_key(value)
    return [v for v in values if v is None or order_key(v) != key]


def _sort(*, descending: bool) -> Function:
    def scalar(values: Values) -> Values:
        known = sorted((v for v in values if v is not None), key=order_key, reverse=descending)
        return known + [None] * (len(values) - len(known))

    return Function(
        "a list of scalars",
        _list_to(_list_of_scalars),
        lambda args, _: args[0].list.sort(descending=descending, nulls_last=True),
        scalar,
    )


def _extreme(*, largest: bool) -> Function:
    """Null if one of the values is null, unlike ``array_sum``."""
    choose: Callable[..., Any] = max if largest else min

    def scalar(values: Values) -> Any:
        return None if not values or None in values else choose(values, key=order_key)

    # A sort with nulls first puts a null or the extreme first; list.max would skip nulls and NaN.
    def frame(args: Columns, _: Call) -> pl.Expr:
        return args[0].list.sort(descending=largest, nulls_last=False).list.first()

    return Function("a list of scalars", _list_to(_item), frame, scalar)


def _sum(values: Values) -> Any:
    """Nulls are skipped, and an empty list has the sum 0."""
    known = [v for v in values if v is not None]
    nonfinite = [v for v in known if not math.isfinite(v)]
    if not nonfinite:
        return sum(known)
    # Opposite infinities have no sum, which fsum would report by an exception.
    return math.nan if {math.inf, -math.inf} <= set(nonfinite) else math.fsum(nonfinite)


def _mean(values: Values) -> float | None:
    known = [v for v in values if v is not None]
    return float(_sum(known)) / len(known) if known else None


def _join(values: Values, delimiter: str) -> str:
    return delimiter.join(v for v in values if v is not None)


def _strings_and_delimiter(types: Types) -> DType | None:
    return "string" if tuple(types) == (ListType(item="string"), "string") else None


def _overlap(a: Values, b: Values) -> bool | None:
    """Three-valued logic: null if no value is common but one list contains a null."""
    left, right = _distinct(a), _distinct(b)
    if (left.keys() & right.keys()) - {None}:
        return True
    return None if None in left or None in right else False


def _intersect(a: Values, b: Values) -> Values:
    others = _distinct(b)
    return [value for key, value in _distinct(a).items() if key in others]


def _except(a: Values, b: Values) -> Values:
    others = _distinct(b)
    return [value for key, value in _distinct(a).items() if key not in others]


def _list_of_common_type(types: Types) -> DType | None:
    item = unify(types)
    return ListType(item=item) if item is not None else None


def _lower_constructor(args: Columns, call: Call) -> pl.Expr:
    assert isinstance(call.dtype, ListType)
    item = POLARS[call.dtype.item]
    return pl.concat_list([arg.cast(item) for arg in args])


def _strings_or_lists(types: Types) -> DType | None:
    if tuple(types) == ("string", "string"):
        return "string"
    return _with_list(_same_list)(types)


def _lower_concat(args: Columns, call: Call) -> pl.Expr:
    if call.dtype == "string":
        return args[0] + args[1]
    return args[0].list.concat(args[1])


LISTS: Mapping[str, Function] = {
    "contains": Function(
        "a list and a value of its type", _with_value(lambda _: "bool"), _lower_contains, _contains
    ),
    "cardinality": Function(
        "a list",
        _list_to(lambda _: "int64"),
        lambda args, _: args[0].list.len().cast(pl.Int64),
        len,
    ),
    "element_at": Function(
        "a list and a position", _list_to(lambda t: t.item, "int64"), _lower_element, _element
    ),
    "slice": python_function(
        "a list, a start and a length", _list_to(_same_list, "int64", "int64"), _slice
    ),
    "concat": Function(
        "two strings, or two lists of one type",
        _strings_or_lists,
        _lower_concat,
        lambda a, b: a + b,
    ),
    "array_constructor": Function(
        "values of one type",
        _list_of_common_type,
        _lower_constructor,
        lambda *v: list(v),
        sees_nulls=True,
    ),
    "array_sort": _sort(descending=False),
    "array_sort_desc": _sort(descending=True),
    "array_max": _extreme(largest=True),
    "array_min": _extreme(largest=False),
    "array_sum": Function(
        "a list of numbers", _list_to(_number_item), lambda args, _: args[0].list.sum(), _sum
    ),
    "array_average": Function(
        "a list of numbers",
        _list_to(lambda t: "float64" if t.item in NUMBERS else None),
        lambda args, _: args[0].list.drop_nulls().list.mean(),
        _mean,
    ),
    # As in Chalk, null gives an empty list.
    "array_distinct": Function(
        "a list of scalars",
        _list_to(_list_of_scalars),
        lambda args, call: (
            args[0].list.unique(maintain_order=True).fill_null(pl.lit([], POLARS[call.dtype]))
        ),
        lambda values: list(_distinct(values or ()).values()),
        sees_nulls=True,
    ),
    "array_join": python_function(
        "a list of strings and a delimiter", _strings_and_delimiter, _join
    ),
    # 0 if the value is not in the list.
    "array_position": python_function(
        "a list and a value of its type", _with_value(lambda _: "int64"), _position
    ),
    "array_remove": python_function(
        "a list and a value of its type", _with_value(_same_list), _remove
    ),
    "remove_nulls": Function(
        "a list",
        _list_to(_same_list),
        lambda args, _: args[0].list.drop_nulls(),
        lambda values: [v for v in values if v is not None],
    ),
    "array_has_duplicates": python_function(
        "a list of scalars",
        _list_to(lambda t: "bool" if is_scalar(t.item) else None),
        lambda values: len(_distinct(values)) < len(values),
    ),
    "array_intersect": python_function(
        "two lists of one type",
        _with_list(_same_list),
        _intersect,
    ),
    "array_except": python_function(
        "two lists of one type",
        _with_list(_same_list),
        _except,
    ),
    "arrays_overlap": python_function(
        "two lists of one type", _with_list(lambda _: "bool"), _overlap
    ),
}
