"""Functions of strings; positions count from 1, as Chalk normalises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    map_scalar,
    python_function,
    takes,
    takes_exactly,
)
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Call, Const, Expr


def _string_function(
    count: int, result: DType, frame: Callable[..., pl.Expr], scalar: Callable[..., Any]
) -> Function:
    return Function(
        f"{count} string{'s' if count > 1 else ''}",
        takes(("string",), count, result),
        lambda args, _: frame(*args),
        scalar,
    )


def _lower_part(args: Columns, _: Call) -> pl.Expr:
    return args[0].str.split(args[1]).list.get(args[2] - 1, null_on_oob=True)


def _part(text: str, delimiter: str, position: int) -> str | None:
    parts = text.split(delimiter)
    return parts[position - 1] if 1 <= position <= len(parts) else None


def _lower_slice(args: Columns, _: Call) -> pl.Expr:
    text, start = args[0], args[1]
    # A negative start counts from the end; before the first character the result is empty, where
    # Polars would give the characters that overlap.
    size = text.str.len_chars().cast(pl.Int64)
    first = pl.when(start < 0).then(size + start).otherwise(start - 1)
    length = args[2] if len(args) > 2 else size
    return (
        pl.when(first >= 0)
        .then(text.str.slice(first, length.clip(0)))
        .when(first < 0)
        .then(pl.lit(""))
    )


def _slice(text: str, start: int, length: int | None = None) -> str:
    first = start - 1 if start >= 0 else len(text) + start
    if first < 0:
        return ""
    return text[first:] if length is None else text[first : first + max(0, length)]


def _split(text: str, delimiter: str, limit: int | None = None) -> list[str]:
    return text.split(delimiter, -1 if limit is None else limit - 1)


def _lower_split(args: Columns, call: Call) -> pl.Expr:
    # Polars' splitn takes a constant limit and gives a struct.
    return args[0].str.split(args[1]) if len(args) == 2 else map_scalar(_split)(args, call)


def _check_delimiter(args: Sequence[Expr]) -> str | None:
    # Python refuses an empty delimiter, and Polars splits into characters.
    is_empty = isinstance(args[1], Const) and not args[1].value
    return "Give a delimiter of at least one character." if is_empty else None


def _pad(text: str, size: int, pad: str, *, left: bool) -> str | None:
    if size <= len(text):
        return text[: max(0, size)]
    if not pad:
        return None
    fill = (pad * (size - len(text)))[: size - len(text)]
    return fill + text if left else text + fill


def _pad_function(*, left: bool) -> Function:
    # Polars pads with a single character only.
    return python_function(
        "a string, a length and a string",
        takes_exactly(("string", "int64", "string"), result="string"),
        partial(_pad, left=left),
    )


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements."""
    # One row of the table at a time: memory grows with one string, not with their product.
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            replaced = previous + (left != right)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, replaced)
    return row[-1]


def _last_position(text: str, part: str) -> int:
    # Chalk finds the empty string at the first position.
    return text.rfind(part) + 1 if part else 1


TEXT: Mapping[str, Function] = {
    "lower": _string_function(1, "string", lambda x: x.str.to_lowercase(), str.lower),
    "upper": _string_function(1, "string", lambda x: x.str.to_uppercase(), str.upper),
    "trim": _string_function(1, "string", lambda x: x.str.strip_chars(), str.strip),
    "ltrim": _string_function(1, "string", lambda x: x.str.strip_chars_start(), str.lstrip),
    "rtrim": _string_function(1, "string", lambda x: x.str.strip_chars_end(), str.rstrip),
    "length": _string_function(1, "int64", lambda x: x.str.len_chars().cast(pl.Int64), len),
    "reverse": _string_function(1, "string", lambda x: x.str.reverse(), lambda v: v[::-1]),
    "starts_with": _string_function(2, "bool", lambda x, y: x.str.starts_with(y), str.startswith),
    "ends_with": _string_function(2, "bool", lambda x, y: x.str.ends_with(y), str.endswith),
    # 0 if there is none; Chalk then subtracts 1. The text before the first match is measured in
    # characters, where str.find of Polars counts bytes.
    "strpos": _string_function(
        2,
        "int64",
        lambda x, y: (
            pl.when(y == "")
            .then(pl.when(x.is_not_null()).then(pl.lit(1, pl.Int64)))
            .otherwise(
                (x.str.split(y).list.first().str.len_chars().cast(pl.Int64) + 1) * _contains(x, y)
            )
        ),
        lambda text, part: text.find(part) + 1,
    ),
    # The start of the last match, counted from 1; 0 if there is none.
    "strrpos": python_function("2 strings", takes(("string",), 2, "int64"), _last_position),
    "split": Function(
        "a string, a delimiter and perhaps how many parts at most",
        takes_exactly(
            ("string", "string"), ("string", "string", "int64"), result=ListType(item="string")
        ),
        _lower_split,
        _split,
        check=_check_delimiter,
    ),
    "lpad": _pad_function(left=True),
    "rpad": _pad_function(left=False),
    "levenshtein_distance": python_function(
        "2 strings", takes(("string",), 2, "int64"), _edit_distance
    ),
    "replace": _string_function(
        3, "string", lambda x, old, new: x.str.replace_all(old, new, literal=True), str.replace
    ),
    "split_part": Function(
        "a string, a delimiter and a position",
        takes_exactly(("string", "string", "int64"), result="string"),
        _lower_part,
        _part,
    ),
    "substr": Function(
        "a string, a start and perhaps a length",
        takes_exactly(("string", "int64"), ("string", "int64", "int64"), result="string"),
        _lower_slice,
        _slice,
    ),
}


def _contains(text: pl.Expr, part: pl.Expr) -> pl.Expr:
    return text.str.contains(part, literal=True).cast(pl.Int64)
