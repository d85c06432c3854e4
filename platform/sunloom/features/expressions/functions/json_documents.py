"""Functions of JSON text: values and arrays at a path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.casts import (
    round_to_int,
    text_to_float,
    text_to_int,
)
from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    literal,
    takes_exactly,
)
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Call, Const, Expr
from sunloom.features.plan.polars_dtypes import POLARS

JSON_VALUE = "get_json_value"
"""The function whose result has the type that the value is cast to."""
VALUE_TYPES: Sequence[DType] = ("string", "int64", "float64", "bool")

_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(-?\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")


def json_as(value: Expr, dtype: DType) -> Call | None:
    """The JSON value read as that type; None if it is no JSON value or cannot be of that type."""
    if not isinstance(value, Call) or value.function != JSON_VALUE or dtype not in VALUE_TYPES:
        return None
    return value.model_copy(update={"dtype": dtype})


def json_value(text: str, path: str, dtype: DType) -> Any:
    """The scalar at the path in the type; None if there is none or it cannot be of that type."""
    value = _read_path(text, path)
    if value is None or isinstance(value, list | dict):
        return None
    if dtype == "string":
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        if dtype == "bool":
            return {"true": True, "false": False}.get(value.lower())
        return text_to_int(value) if dtype == "int64" else text_to_float(value)
    if dtype == "bool":
        return bool(value)
    if dtype == "float64":
        return float(value)
    return round_to_int(float(value)) if isinstance(value, float) else int(value)


def _json_array(text: str, path: str, _dtype: DType) -> list[str] | None:
    """The scalars of an array as text; nulls are left out."""
    values = _read_path(text, path)
    if not isinstance(values, list):
        return None
    # JSON knows no NaN and no infinity, though Python's parser accepts both.
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        return None
    return [v if isinstance(v, str) else json.dumps(v) for v in values if v is not None]


def _read_path(text: str, path: str) -> Any:
    """The value at the path; None if there is none or the text is no JSON."""
    try:
        value = json.loads(text)
        for step in _parse_path(path) or ():
            # A string can be indexed by a number too, which JSON's paths do not mean.
            if isinstance(step, int) is not isinstance(value, list):
                return None
            value = value[step]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return value


@lru_cache(maxsize=256)
def _parse_path(path: str) -> tuple[str | int, ...] | None:
    """Names and positions; None if the path is none. Cached, for it is parsed once per row."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    position = 1
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            return None
        name, number, single, double = match.groups()
        steps.append(
            int(number)
            if number is not None
            else next(part for part in (name, single, double) if part is not None)
        )
        position = match.end()
    return tuple(steps)


def _check_path(args: Sequence[Expr]) -> str | None:
    path = args[1]
    literal = path.value if isinstance(path, Const) else None
    if isinstance(literal, str) and _parse_path(literal) is not None:
        return None
    return "Write a literal path of names and numbers, such as `$.a.b[0]` or `$['a b']`."


def _function_of_path(read: Callable[[str, str, DType], Any], result: DType) -> Function:
    # Python's parser for frames too, so that both forms agree on malformed text and wrong types.
    def lower(args: Columns, call: Call) -> pl.Expr:
        path, dtype = literal(call, 1), POLARS[call.dtype]

        def read_texts(texts: pl.Series) -> pl.Series:
            values = [None if text is None else read(text, path, call.dtype) for text in texts]
            return pl.Series(values, dtype=dtype)

        return args[0].map_batches(read_texts, return_dtype=dtype)

    return Function(
        "JSON text and a path",
        takes_exactly(("string", "string"), result=result),
        lower,
        lambda text, path: read(text, path, result),
        check=_check_path,
    )


JSON_DOCUMENTS: Mapping[str, Function] = {
    JSON_VALUE: _function_of_path(json_value, "string"),
    "json_extract_array": _function_of_path(_json_array, ListType(item="string")),
}
