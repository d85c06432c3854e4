"""Functions of structs and literal maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import Columns, Function, Types
from sunloom.features.plan.dtypes import DType, ListType, StructField, StructType
from sunloom.features.plan.expressions import Call, Const, Expr
from sunloom.features.plan.polars_dtypes import POLARS

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


def _lower_field(args: Columns, call: Call) -> pl.Expr:
    name = call.args[1]
    assert isinstance(name, Const)
    return args[0].struct.field(str(name.value))


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


def _lower_look_up(args: Columns, call: Call) -> pl.Expr:
    keys, values = call.args[0], call.args[1]
    assert isinstance(keys, Const)
    assert isinstance(values, Const)
    assert isinstance(keys.value, tuple)
    assert isinstance(values.value, tuple)
    return args[2].replace_strict(
        pl.Series(keys.value), pl.Series(values.value, dtype=POLARS[call.dtype]), default=None
    )


def _look_up(keys: Sequence[Any], values: Sequence[Any], key: Any) -> Any:
    return dict(zip(keys, values, strict=True)).get(key)


STRUCTS: Mapping[str, Function] = {
    STRUCT_FIELD: Function(
        "a struct and a field's name", _no_rule, _lower_field, lambda value, name: value[name]
    ),
    "struct_pack": Function(
        "names and values",
        _no_rule,
        _lower_pack,
        lambda *values: list(values),
        sees_nulls=True,
    ),
    # Of a literal map; null where the key is not in it.
    "map_get": Function("a literal map and a key", _value_type, _lower_look_up, _look_up),
}
