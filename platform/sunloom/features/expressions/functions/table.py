"""The one table of scalar functions: Chalk's name to types, frame lowering and scalar lowering.

Chalk normalises names and arguments when an expression is built (``F.unix_seconds`` becomes
``to_unixtime``, a position counted from 0 becomes one counted from 1); the names here are the
normalised ones. What each does with nulls, NaN and edges is what Chalk's own evaluator answered;
the golden values lie with the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.casts import cast_value, lower_cast
from sunloom.features.expressions.functions.datetimes import DATETIMES
from sunloom.features.expressions.functions.digests import DIGESTS
from sunloom.features.expressions.functions.json_documents import (
    JSON_DOCUMENTS,
    JSON_VALUE,
    json_value,
)
from sunloom.features.expressions.functions.lists import LISTS
from sunloom.features.expressions.functions.logical import LOGICAL
from sunloom.features.expressions.functions.numeric import NUMERIC
from sunloom.features.expressions.functions.patterns import PATTERNS
from sunloom.features.expressions.functions.real_numbers import REAL_NUMBERS
from sunloom.features.expressions.functions.signature import Function
from sunloom.features.expressions.functions.structs import STRUCTS
from sunloom.features.expressions.functions.text import TEXT
from sunloom.features.plan.dtypes import StructType
from sunloom.features.plan.expressions import Call

FUNCTIONS: Mapping[str, Function] = {
    **NUMERIC,
    **REAL_NUMBERS,
    **LOGICAL,
    **DATETIMES,
    **TEXT,
    **PATTERNS,
    **DIGESTS,
    **JSON_DOCUMENTS,
    **LISTS,
    **STRUCTS,
}
"""Every function but ``cast``, whose result type is an argument."""

FUNCTION_ALIASES: Mapping[str, str] = {"and": "&", "or": "|", "pow": "power", "recover": "coalesce"}
"""Chalk's other names of functions in the table."""


def lower_call(call: Call, args: Sequence[pl.Expr]) -> pl.Expr:
    """The call as a Polars expression over its lowered arguments."""
    if call.function == "cast":
        return lower_cast(args[0], call.args[0].dtype, call.dtype)
    return FUNCTIONS[call.function].frame(args, call)


def evaluate_call(call: Call, args: Sequence[Any]) -> Any:
    """The call of plain values."""
    if call.function == "cast":
        return None if args[0] is None else cast_value(args[0], call.args[0].dtype, call.dtype)
    if call.function == JSON_VALUE:
        return None if args[0] is None else json_value(args[0], args[1], call.dtype)
    if isinstance(call.dtype, StructType) and call.function == "struct_pack":
        return dict(zip((field.name for field in call.dtype.fields), args, strict=True))
    value = FUNCTIONS[call.function].evaluate(*args)
    widened = call.dtype == "float64" and isinstance(value, int)
    return float(value) if widened else value
