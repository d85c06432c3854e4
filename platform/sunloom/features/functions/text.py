"""Strings; positions count from 1, as Chalk normalises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from sunloom.features.dtypes import DType
from sunloom.features.functions.signature import Frames, Function, takes, takes_exactly
from sunloom.features.plan import Call


def _text(
    count: int, result: DType, frame: Callable[..., pl.Expr], scalar: Callable[..., Any]
) -> Function:
    return Function(
        f"{count} string{'s' if count > 1 else ''}",
        takes(("string",), count, result),
        lambda args, _: frame(*args),
        scalar,
    )


def _part(args: Frames, _: Call) -> pl.Expr:
    return args[0].str.split(args[1]).list.get(args[2] - 1, null_on_oob=True)


def _part_of(text: str, delimiter: str, position: int) -> str | None:
    parts = text.split(delimiter)
    return parts[position - 1] if 1 <= position <= len(parts) else None


def _slice(args: Frames, _: Call) -> pl.Expr:
    return args[0].str.slice(args[1] - 1, args[2] if len(args) > 2 else None)


def _slice_of(text: str, start: int, length: int | None = None) -> str:
    return text[start - 1 :] if length is None else text[start - 1 : start - 1 + length]


TEXT: Mapping[str, Function] = {
    "lower": _text(1, "string", lambda x: x.str.to_lowercase(), str.lower),
    "upper": _text(1, "string", lambda x: x.str.to_uppercase(), str.upper),
    "trim": _text(1, "string", lambda x: x.str.strip_chars(), str.strip),
    "length": _text(1, "int64", lambda x: x.str.len_chars().cast(pl.Int64), len),
    "reverse": _text(1, "string", lambda x: x.str.reverse(), lambda v: v[::-1]),
    "starts_with": _text(2, "bool", lambda x, y: x.str.starts_with(y), str.startswith),
    "ends_with": _text(2, "bool", lambda x, y: x.str.ends_with(y), str.endswith),
    # 0 where there is none; Chalk then takes 1 off.
    "strpos": _text(
        2,
        "int64",
        lambda x, y: (
            x.str.split(y).list.first().str.len_chars().cast(pl.Int64) * _has(x, y) + _has(x, y)
        ),
        lambda text, part: text.find(part) + 1,
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
