"""Lists and structs of source tables in the plan's types."""

from __future__ import annotations

import json
import math
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl

from sunloom.features.plan.dtypes import DType, ListType, StructType
from sunloom.features.plan.polars_dtypes import POLARS


def conform_nested(column: pl.Expr, found: pl.DataType, dtype: DType) -> pl.Expr | None:
    """A column of lists or structs in the type; None where its own type cannot become that.

    A struct's fields are matched by name: a missing one is null, a further one is left out.
    """
    if found in (POLARS[dtype], pl.Null):
        return column.cast(POLARS[dtype])
    if isinstance(dtype, ListType):
        return _list(column, found, dtype)
    if isinstance(dtype, StructType):
        return _struct(column, found, dtype)
    return column.cast(POLARS[dtype]) if _widens(found, dtype) else None


def _list(column: pl.Expr, found: pl.DataType, dtype: ListType) -> pl.Expr | None:
    if isinstance(found, pl.Array):
        # Embeddings are arrays of fixed length in many Parquet files; plans have lists only.
        column, found = column.arr.to_list(), pl.List(found.inner)
    if not isinstance(found, pl.List):
        return None
    inner: Any = found.inner
    item = conform_nested(pl.element(), inner, dtype.item)
    return None if item is None else column.list.eval(item)


def _struct(column: pl.Expr, found: pl.DataType, dtype: StructType) -> pl.Expr | None:
    if not isinstance(found, pl.Struct):
        return None
    own_types: dict[str, Any] = {field.name: field.dtype for field in found.fields}
    fields: list[pl.Expr] = []
    for field in dtype.fields:
        value: pl.Expr | None = pl.lit(None, POLARS[field.dtype])
        if field.name in own_types:
            own = column.struct.field(field.name)
            value = conform_nested(own, own_types[field.name], field.dtype)
        if value is None:
            return None
        fields.append(value.alias(field.name))
    # A null would otherwise become a struct of nulls.
    return pl.when(column.is_not_null()).then(pl.struct(fields))


def _widens(found: pl.DataType, dtype: DType) -> bool:
    if dtype == "int64":
        return found.is_integer()
    if dtype == "float64":
        return found.is_numeric()
    if dtype == "datetime":
        return isinstance(found, pl.Datetime) and found.time_zone is not None
    if dtype == "duration":
        return isinstance(found, pl.Duration)
    return dtype == "string" and isinstance(found, pl.Categorical | pl.Enum)


def parse_json(column: pl.Expr, dtype: DType) -> pl.Expr:
    """JSON text as a value of the type; null where it cannot be."""
    return column.map_batches(partial(_parse_texts, dtype=dtype), return_dtype=POLARS[dtype])


def _parse_texts(texts: pl.Series, dtype: DType) -> pl.Series:
    # One by one: Polars' ``json_decode`` fails the whole column at one bad value.
    return pl.Series(texts.name, [_parse_text(text, dtype) for text in texts], POLARS[dtype])


def _parse_text(text: str | None, dtype: DType) -> Any:
    if text is None:
        return None
    try:
        return _value(json.loads(text), dtype)
    # A JSON integer may be too large for a float.
    except (ValueError, TypeError, OverflowError):
        return None


def _value(value: Any, dtype: DType) -> Any:
    """The JSON value in the type.

    Raises:
        ValueError: It is no such value.
        TypeError: It is of a wrong kind.
    """
    if value is None:
        return None
    if isinstance(dtype, ListType):
        _check(isinstance(value, list))
        return [_value(item, dtype.item) for item in value]
    if isinstance(dtype, StructType):
        _check(isinstance(value, dict))
        return {f.name: _value(value.get(f.name), f.dtype) for f in dtype.fields}
    return _scalar(value, dtype)


def _scalar(value: Any, dtype: DType) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == "float64":
        _check(is_number)
        return float(value)
    if dtype == "int64":
        # Many JSON writers have floats only: 3.0 is a whole number.
        _check(is_number and math.isfinite(value) and value == int(value))
        _check(-(2**63) <= value < 2**63)
        return int(value)
    if dtype == "datetime":
        parsed = datetime.fromisoformat(value)
        _check(parsed.tzinfo is not None)
        return parsed
    _check(isinstance(value, {"bool": bool, "string": str}.get(str(dtype), type(None))))
    return value


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError("no value of the type")
