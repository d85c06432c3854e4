"""Patterns in strings: RE2's syntax, of the frame's own engine for single values too."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from sunloom.features.expressions.functions.signature import Columns, Function, takes_exactly
from sunloom.features.plan.dtypes import ListType
from sunloom.features.plan.expressions import Call, Const, Expr


def _of_one(lowering: Callable[..., pl.Expr]) -> Callable[..., Any]:
    def scalar(text: str, *args: Any) -> Any:
        found = pl.select(lowering(pl.lit(text), *map(pl.lit, args))).to_series()
        return found.to_list()[0]

    return scalar


def _lowered(lowering: Callable[..., pl.Expr]) -> Callable[[Columns, Call], pl.Expr]:
    return lambda args, _: lowering(*args)


def _valid(args: Sequence[Expr]) -> str | None:
    """Only a literal pattern is certain to be one."""
    pattern = args[1]
    literal = all(isinstance(arg, Const) for arg in args[1:])
    if not literal or not isinstance(pattern, Const) or not isinstance(pattern.value, str):
        return "Write the pattern, and what follows it, as literals."
    try:
        pl.select(pl.lit("").str.contains(pattern.value, strict=True))
    except ComputeError as error:
        reason = str(error).strip().splitlines()[-1]
        return f"Mend the pattern {pattern.value!r}: {reason}"
    return None


def _valid_without_groups(args: Sequence[Expr]) -> str | None:
    group = args[2]
    if isinstance(group, Const) and group.value == 0:
        return _valid(args)
    return "Extract all matches of the whole pattern: group 0."


def _group(text: pl.Expr, pattern: Any, group: Any) -> pl.Expr:
    return text.str.extract(pattern, _number(group))


def _number(group: Any) -> int:
    return int(pl.select(group).item())


def _every_match(text: pl.Expr, pattern: Any, _group_0: Any) -> pl.Expr:
    return text.str.extract_all(pattern)


def _replaced(text: pl.Expr, pattern: Any, replacement: Any = "") -> pl.Expr:
    return text.str.replace_all(pattern, replacement)


def _like(pattern: str) -> str:
    """A pattern of SQL as a regular expression: `%` is anything, `_` one character."""
    special = {"%": ".*", "_": "."}
    return "(?s)^" + "".join(special.get(c, re.escape(c)) for c in pattern) + "$"


def _is_like(args: Columns, call: Call) -> pl.Expr:
    pattern = call.args[1]
    assert isinstance(pattern, Const)
    return args[0].str.contains(_like(str(pattern.value)))


def _is_like_value(text: str, pattern: str) -> bool:
    return bool(pl.Series([text]).str.contains(_like(pattern)).item())


def _literal(args: Sequence[Expr]) -> str | None:
    literal = isinstance(args[1], Const) and isinstance(args[1].value, str)
    return None if literal else "Write the pattern as a literal string."


def _matches(text: pl.Expr, pattern: Any) -> pl.Expr:
    return text.str.contains(pattern)


PATTERNS: Mapping[str, Function] = {
    "like": Function(
        "a string and a pattern",
        takes_exactly(("string", "string"), result="bool"),
        _is_like,
        _is_like_value,
        check=_literal,
    ),
    "regexp_like": Function(
        "a string and a pattern",
        takes_exactly(("string", "string"), result="bool"),
        _lowered(_matches),
        _of_one(_matches),
        check=_valid,
    ),
    # Group 0 is the whole match; null where there is none.
    "regexp_extract": Function(
        "a string, a pattern and a group",
        takes_exactly(("string", "string", "int64"), result="string"),
        _lowered(_group),
        _of_one(_group),
        check=_valid,
    ),
    "regexp_extract_all": Function(
        "a string, a pattern and a group",
        takes_exactly(("string", "string", "int64"), result=ListType(item="string")),
        _lowered(_every_match),
        _of_one(_every_match),
        check=_valid_without_groups,
    ),
    # `$1` is the first group.
    "regexp_replace": Function(
        "a string, a pattern and perhaps a replacement",
        takes_exactly(("string", "string"), ("string", "string", "string"), result="string"),
        _lowered(_replaced),
        _of_one(_replaced),
        check=_valid,
    ),
}
