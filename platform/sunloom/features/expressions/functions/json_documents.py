"""Values inside JSON text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.casts import round_to_int, text_to_float, text_to_int
from sunloom.features.expressions.functions.signature import Columns, Function, takes_exactly
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Call, Const, Expr
from sunloom.features.plan.polars_dtypes import POLARS

JSON_VALUE = "get_json_value"
"""Its type is what the value is cast to."""
VALUE_TYPES: Sequence[DType] = ("string", "int64", "float64", "bool")

_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(-?\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")


def _path_or_refusal(args: Sequence[Expr]) -> str | None:
    path = args[1]
    if isinstance(path, Const) and isinstance(path.value, str) and _steps(path.value) is not None:
        return None
    return "Write a literal path of names and numbers, such as `$.a.b[0]` or `$['a b']`."


@lru_cache(maxsize=256)
def _steps(path: str) -> tuple[str | int, ...] | None:
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            return None
        name, number, single, double = found.groups()
        steps.append(
            int(number)
            if number is not None
            else next(part for part in (name, single, double) if part is not None)
        )
        at = found.end()
    return tuple(steps)


def _at(text: str, path: str) -> Any:
    """What stands at the path; None where there is nothing or the text is no JSON."""
    try:
        value = json.loads(text)
        for step in _steps(path) or ():
            if isinstance(step, int) is not isinstance(value, list):
                return None
            value = value[step]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return value


def json_value(text: str, path: str, dtype: DType) -> Any:
    """The scalar at the path in the type; None where it is none or cannot be that."""
    value = _at(text, path)
    if value is None or isinstance(value, list | dict):
        return None
    if dtype == "string":
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        return _from_text(value, dtype)
    if dtype == "bool":
        return bool(value)
    if dtype == "float64":
        return float(value)
    return round_to_int(float(value)) if isinstance(value, float) else int(value)


def _from_text(value: str, dtype: DType) -> Any:
    if dtype == "bool":
        return {"true": True, "false": False}.get(value.lower())
    return text_to_int(value) if dtype == "int64" else text_to_float(value)


def json_as(value: Expr, dtype: DType) -> Call | None:
    """The JSON value read as that type; None where it is no JSON value or cannot be that."""
    if not isinstance(value, Call) or value.function != JSON_VALUE or dtype not in VALUE_TYPES:
        return None
    return value.model_copy(update={"dtype": dtype})


def _value_frame(args: Columns, call: Call) -> pl.Expr:
    path = call.args[1]
    assert isinstance(path, Const)

    def each(texts: pl.Series) -> pl.Series:
        values = [None if t is None else json_value(t, str(path.value), call.dtype) for t in texts]
        return pl.Series(values, dtype=POLARS[call.dtype])

    return args[0].map_batches(each, return_dtype=POLARS[call.dtype])


def _array(text: str, path: str) -> list[str] | None:
    """The scalars of an array as text; nulls are left out."""
    found = _at(text, path)
    if not isinstance(found, list):
        return None
    shown = [v if isinstance(v, str) else json.dumps(v) for v in found if v is not None]
    return shown if all(map(_is_finite, found)) else None


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _array_frame(args: Columns, call: Call) -> pl.Expr:
    path = call.args[1]
    assert isinstance(path, Const)

    def each(texts: pl.Series) -> pl.Series:
        values = [None if text is None else _array(text, str(path.value)) for text in texts]
        return pl.Series(values, dtype=POLARS[call.dtype])

    return args[0].map_batches(each, return_dtype=POLARS[call.dtype])


JSON_DOCUMENTS: Mapping[str, Function] = {
    JSON_VALUE: Function(
        "JSON text and a path",
        takes_exactly(("string", "string"), result="string"),
        _value_frame,
        lambda text, path: json_value(text, path, "string"),
        check=_path_or_refusal,
    ),
    "json_extract_array": Function(
        "JSON text and a path",
        takes_exactly(("string", "string"), result=ListType(item="string")),
        _array_frame,
        _array,
        check=_path_or_refusal,
    ),
}
