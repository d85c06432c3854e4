"""Strings; positions count from 1, as Chalk normalises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    map_scalar,
    takes,
    takes_exactly,
)
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Call, Const, Expr


def _text(
    count: int, result: DType, frame: Callable[..., pl.Expr], scalar: Callable[..., Any]
) -> Function:
    return Function(
        f"{count} string{'s' if count > 1 else ''}",
        takes(("string",), count, result),
        lambda args, _: frame(*args),
        scalar,
    )


def _part(args: Columns, _: Call) -> pl.Expr:
    return args[0].str.split(args[1]).list.get(args[2] - 1, null_on_oob=True)


def _part_of(text: str, delimiter: str, position: int) -> str | None:
    parts = text.split(delimiter)
    return parts[position - 1] if 1 <= position <= len(parts) else None


def _slice(args: Columns, _: Call) -> pl.Expr:
    text, start = args[0], args[1]
    # A negative start counts from the end; one before the first character gives nothing.
    size = text.str.len_chars().cast(pl.Int64)
    first = pl.when(start < 0).then(size + start).otherwise(start - 1)
    length = args[2] if len(args) > 2 else size
    return (
        pl.when(first >= 0)
        .then(text.str.slice(first, length.clip(0)))
        .when(first < 0)
        .then(pl.lit(""))
    )


def _slice_of(text: str, start: int, length: int | None = None) -> str:
    first = start - 1 if start >= 0 else len(text) + start
    if first < 0:
        return ""
    return text[first:] if length is None else text[first : first + max(0, length)]


def _split(args: Columns, _: Call) -> pl.Expr:
    return args[0].str.split(args[1])


def _split_times(text: str, delimiter: str, most: int | None = None) -> list[str]:
    return text.split(delimiter, -1 if most is None else most - 1)


def _split_at_most(args: Columns, call: Call) -> pl.Expr:
    lowering = _split if len(args) == 2 else map_scalar(_split_times)
    return lowering(args, call)


def _delimiter(args: Sequence[Expr]) -> str | None:
    empty = isinstance(args[1], Const) and not args[1].value
    return "Give a delimiter of at least one character." if empty else None


def _padded(text: str, size: int, pad: str, *, left: bool) -> str | None:
    if size <= len(text):
        return text[: max(0, size)]
    if not pad:
        return None
    fill = (pad * (size - len(text)))[: size - len(text)]
    return fill + text if left else text + fill


def _pad(*, left: bool) -> Function:
    scalar = partial(_padded, left=left)
    return Function(
        "a string, a length and a string",
        takes_exactly(("string", "int64", "string"), result="string"),
        map_scalar(scalar),
        scalar,
    )


def _distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            replaced = previous + (left != right)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, replaced)
    return row[-1]


def _last_place(text: str, part: str) -> int:
    # Chalk finds the empty string at the first place.
    return text.rfind(part) + 1 if part else 1


TEXT: Mapping[str, Function] = {
    "lower": _text(1, "string", lambda x: x.str.to_lowercase(), str.lower),
    "upper": _text(1, "string", lambda x: x.str.to_uppercase(), str.upper),
    "trim": _text(1, "string", lambda x: x.str.strip_chars(), str.strip),
    "ltrim": _text(1, "string", lambda x: x.str.strip_chars_start(), str.lstrip),
    "rtrim": _text(1, "string", lambda x: x.str.strip_chars_end(), str.rstrip),
    "length": _text(1, "int64", lambda x: x.str.len_chars().cast(pl.Int64), len),
    "reverse": _text(1, "string", lambda x: x.str.reverse(), lambda v: v[::-1]),
    "starts_with": _text(2, "bool", lambda x, y: x.str.starts_with(y), str.startswith),
    "ends_with": _text(2, "bool", lambda x, y: x.str.ends_with(y), str.endswith),
    # 0 where there is none; Chalk then takes 1 off.
    "strpos": _text(
        2,
        "int64",
        lambda x, y: (
            pl.when(y == "")
            .then(pl.when(x.is_not_null()).then(pl.lit(1, pl.Int64)))
            .otherwise(
                x.str.split(y).list.first().str.len_chars().cast(pl.Int64) * _has(x, y) + _has(x, y)
            )
        ),
        lambda text, part: text.find(part) + 1,
    ),
    # Where the last one begins, counted from 1; 0 where there is none.
    "strrpos": Function(
        "2 strings",
        takes(("string",), 2, "int64"),
        map_scalar(_last_place),
        _last_place,
    ),
    "split": Function(
        "a string, a delimiter and perhaps how many parts at most",
        takes_exactly(
            ("string", "string"), ("string", "string", "int64"), result=ListType(item="string")
        ),
        _split_at_most,
        _split_times,
        check=_delimiter,
    ),
    "lpad": _pad(left=True),
    "rpad": _pad(left=False),
    "levenshtein_distance": Function(
        "2 strings", takes(("string",), 2, "int64"), map_scalar(_distance), _distance
    ),
    "replace": _text(
        3, "string", lambda x, old, new: x.str.replace_all(old, new, literal=True), str.replace
    ),
    "split_part": Function(
        "a string, a delimiter and a position",
        takes_exactly(("string", "string", "int64"), result="string"),
        _part,
        _part_of,
    ),
    "substr": Function(
        "a string, a start and perhaps a length",
        takes_exactly(("string", "int64"), ("string", "int64", "int64"), result="string"),
        _slice,
        _slice_of,
    ),
}


def _has(text: pl.Expr, part: pl.Expr) -> pl.Expr:
    return text.str.contains(part, literal=True).cast(pl.Int64)
