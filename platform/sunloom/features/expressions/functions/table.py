"""Table of all scalar functions: Chalk's name to types, and the forms over a frame and a value.

Chalk normalises names and arguments when an expression is built (``F.unix_seconds`` becomes
``to_unixtime``, a position counted from 0 becomes one counted from 1); the names here are the
normalised ones. Nulls, NaN and edge cases follow Chalk's own evaluator: its recorded results are
the tests' golden values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sunloom.features.expressions.functions.casts import cast_value
from sunloom.features.expressions.functions.datetimes import DATETIMES
from sunloom.features.expressions.functions.json_documents import (
    JSON_DOCUMENTS,
    JSON_VALUE,
    json_value,
)
from sunloom.features.expressions.functions.logical import LOGICAL
from sunloom.features.expressions.functions.nested import LISTS, STRUCTS
from sunloom.features.expressions.functions.numeric import NUMERIC, REAL_NUMBERS
from sunloom.features.expressions.functions.signature import Function
from sunloom.features.expressions.functions.text import DIGESTS, PATTERNS, TEXT
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
"""Every function except ``cast``, whose result type is an argument."""

FUNCTION_ALIASES: Mapping[str, str] = {"and": "&", "or": "|", "pow": "power", "recover": "coalesce"}
"""Chalk's other names of functions in the table."""


def evaluate_call(call: Call, args: Sequence[Any]) -> Any:
    """The call on plain values."""
    # Three results depend on the call's type, which a function of plain values does not see.
    if call.function == "cast":
        return None if args[0] is None else cast_value(args[0], call.args[0].dtype, call.dtype)
    if call.function == JSON_VALUE:
        return None if args[0] is None else json_value(args[0], args[1], call.dtype)
    if isinstance(call.dtype, StructType) and call.function == "struct_pack":
        return dict(zip((field.name for field in call.dtype.fields), args, strict=True))
    value = FUNCTIONS[call.function].evaluate(*args)
    # Mixed numbers: a frame casts both to the wider type, Python may keep the int.
    is_narrower = call.dtype == "float64" and isinstance(value, int)
    return float(value) if is_narrower else value
