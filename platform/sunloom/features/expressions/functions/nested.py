"""Functions of lists, structs and literal maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    TypeRule,
    Types,
    literal,
    order_key,
    python_function,
    takes_exactly,
)
from sunloom.features.expressions.literals import unify
from sunloom.features.plan.dtypes import DType, ListType, StructField, StructType
from sunloom.features.plan.expressions import Call, Const, Expr
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS, is_scalar

Values = list[Any]


def _list_to(result: Callable[[ListType], DType | None], *others: DType) -> TypeRule:
    """A list, and further arguments of exactly the given types."""

    def rule(types: Types) -> DType | None:
        first = types[0] if types else None
        fits = isinstance(first, ListType) and tuple(types[1:]) == others
        return result(first) if fits and isinstance(first, ListType) else None

    return rule


def _list_of_scalars(dtype: ListType) -> DType | None:
    return dtype if is_scalar(dtype.item) else None


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

    item = _list_to(lambda t: t.item if is_scalar(t.item) else None)
    return Function("a list of scalars", item, frame, scalar)


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


def _overlap(a: Values, b: Values) -> bool | None:
    """Three-valued logic: null if no value is common but one list contains a null."""
    left, right = _distinct(a), _distinct(b)
    if (left.keys() & right.keys()) - {None}:
        return True
    return None if None in left or None in right else False


def _select_common(*, common: bool) -> Function:
    def scalar(a: Values, b: Values) -> Values:
        others = _distinct(b)
        return [value for key, value in _distinct(a).items() if (key in others) is common]

    return python_function("two lists of one type", _with_list(lambda t: t), scalar)


def _list_of_common_type(types: Types) -> DType | None:
    item = unify(types)
    return ListType(item=item) if item is not None else None


def _lower_constructor(args: Columns, call: Call) -> pl.Expr:
    assert isinstance(call.dtype, ListType)
    item = POLARS[call.dtype.item]
    return pl.concat_list([arg.cast(item) for arg in args])


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
        "a list and a position",
        _list_to(lambda t: t.item, "int64"),
        _lower_element,
        lambda values, position: (_slice(values, position, 1) or [None])[0],
    ),
    "slice": python_function(
        "a list, a start and a length", _list_to(lambda t: t, "int64", "int64"), _slice
    ),
    "concat": Function(
        "two strings, or two lists of one type",
        lambda types: (
            "string" if tuple(types) == ("string", "string") else _with_list(lambda t: t)(types)
        ),
        lambda args, call: (
            args[0] + args[1] if call.dtype == "string" else args[0].list.concat(args[1])
        ),
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
        "a list of numbers",
        _list_to(lambda t: t.item if t.item in NUMBERS else None),
        lambda args, _: args[0].list.sum(),
        _sum,
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
        "a list of strings and a delimiter",
        takes_exactly((ListType(item="string"), "string"), result="string"),
        lambda values, delimiter: delimiter.join(v for v in values if v is not None),
    ),
    # 0 if the value is not in the list.
    "array_position": python_function(
        "a list and a value of its type", _with_value(lambda _: "int64"), _position
    ),
    "array_remove": python_function(
        "a list and a value of its type", _with_value(lambda t: t), _remove
    ),
    "remove_nulls": Function(
        "a list",
        _list_to(lambda t: t),
        lambda args, _: args[0].list.drop_nulls(),
        lambda values: [v for v in values if v is not None],
    ),
    "array_has_duplicates": python_function(
        "a list of scalars",
        _list_to(lambda t: "bool" if is_scalar(t.item) else None),
        lambda values: len(_distinct(values)) < len(values),
    ),
    "array_intersect": _select_common(common=True),
    "array_except": _select_common(common=False),
    "arrays_overlap": python_function(
        "two lists of one type", _with_list(lambda _: "bool"), _overlap
    ),
}


STRUCT_FIELD = "struct_field"
"""The function that takes a struct and a field's name; its result has the field's type."""


def field_of(value: Expr, name: str) -> Call | None:
    """The field of a struct, or None if the value is not a struct with that field."""
    dtype = value.dtype.field(name) if isinstance(value.dtype, StructType) else None
    if dtype is None:
        return None
    return Call(function=STRUCT_FIELD, args=(value, Const(value=name, dtype="string")), dtype=dtype)


def pack_struct(names: Sequence[str], values: Sequence[Expr]) -> Call:
    """A struct of the values."""
    fields = [
        StructField(name=name, dtype=value.dtype) for name, value in zip(names, values, strict=True)
    ]
    dtype = StructType(fields=tuple(fields))
    return Call(function="struct_pack", args=tuple(values), dtype=dtype)


def _lower_pack(args: Columns, call: Call) -> pl.Expr:
    assert isinstance(call.dtype, StructType)
    named = zip(call.dtype.fields, args, strict=True)
    return pl.struct([arg.cast(POLARS[field.dtype]).alias(field.name) for field, arg in named])


def _no_rule(_: Types) -> DType | None:
    # The result's type depends on names too: `field_of` and `pack_struct` build these calls.
    return None


def _value_type(types: Types) -> DType | None:
    if len(types) != 3 or not isinstance(types[0], ListType) or not isinstance(types[1], ListType):
        return None
    return types[1].item if types[2] in (types[0].item, "null") else None


STRUCTS: Mapping[str, Function] = {
    STRUCT_FIELD: Function(
        "a struct and a field's name",
        _no_rule,
        lambda args, call: args[0].struct.field(literal(call, 1)),
        lambda value, name: value[name],
    ),
    "struct_pack": Function(
        "names and values",
        _no_rule,
        _lower_pack,
        lambda *values: list(values),
        sees_nulls=True,
    ),
    # Of a literal map; null where the key is not in it.
    "map_get": Function(
        "a literal map and a key",
        _value_type,
        lambda args, call: args[2].replace_strict(
            pl.Series(literal(call, 0)),
            pl.Series(literal(call, 1), dtype=POLARS[call.dtype]),
            default=None,
        ),
        lambda keys, values, key: dict(zip(keys, values, strict=True)).get(key),
    ),
}
