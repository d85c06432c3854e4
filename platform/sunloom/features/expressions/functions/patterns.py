"""Functions of patterns in strings, with the syntax of RE2.

Single values go through Polars too: Python's ``re`` has another syntax and other semantics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from sunloom.features.expressions.functions.signature import Columns, Function, takes_exactly
from sunloom.features.plan.dtypes import ListType
from sunloom.features.plan.expressions import Call, Const, Expr


def _evaluate_one(lowering: Callable[..., pl.Expr]) -> Callable[..., Any]:
    def scalar(text: str, *args: Any) -> Any:
        return pl.select(lowering(pl.lit(text), *map(pl.lit, args))).to_series().to_list()[0]

    return scalar


def _lower(lowering: Callable[..., pl.Expr]) -> Callable[[Columns, Call], pl.Expr]:
    return lambda args, _: lowering(*args)


def _check_pattern(args: Sequence[Expr]) -> str | None:
    # Only a literal can be checked before rows are computed.
    pattern = args[1]
    are_literals = all(isinstance(arg, Const) for arg in args[1:])
    if not are_literals or not isinstance(pattern, Const) or not isinstance(pattern.value, str):
        return "Write the pattern, and what follows it, as literals."
    try:
        pl.select(pl.lit("").str.contains(pattern.value, strict=True))
    except ComputeError as error:
        reason = str(error).strip().splitlines()[-1]
        return f"Correct the pattern {pattern.value!r}: {reason}"
    return None


def _check_whole_match(args: Sequence[Expr]) -> str | None:
    group = args[2]
    if isinstance(group, Const) and group.value == 0:
        return _check_pattern(args)
    return "Extract all matches of the whole pattern: group 0."


def _extract(text: pl.Expr, pattern: Any, group: Any) -> pl.Expr:
    # Polars takes the group as a plain number; the check has made sure that it is a literal.
    return text.str.extract(pattern, int(pl.select(group).item()))


def _extract_all(text: pl.Expr, pattern: Any, _group: Any) -> pl.Expr:
    return text.str.extract_all(pattern)


def _replace(text: pl.Expr, pattern: Any, replacement: Any = "") -> pl.Expr:
    return text.str.replace_all(pattern, replacement)


def _like_to_regex(pattern: str) -> str:
    """A pattern of SQL's LIKE as a regular expression: `%` is anything, `_` one character."""
    special = {"%": ".*", "_": "."}
    return "(?s)^" + "".join(special.get(c, re.escape(c)) for c in pattern) + "$"


def _lower_like(args: Columns, call: Call) -> pl.Expr:
    pattern = call.args[1]
    assert isinstance(pattern, Const)
    return args[0].str.contains(_like_to_regex(str(pattern.value)))


def _is_like(text: str, pattern: str) -> bool:
    return bool(pl.Series([text]).str.contains(_like_to_regex(pattern)).item())


def _check_literal(args: Sequence[Expr]) -> str | None:
    is_literal = isinstance(args[1], Const) and isinstance(args[1].value, str)
    return None if is_literal else "Write the pattern as a literal string."


def _matches(text: pl.Expr, pattern: Any) -> pl.Expr:
    return text.str.contains(pattern)


PATTERNS: Mapping[str, Function] = {
    "like": Function(
        "a string and a pattern",
        takes_exactly(("string", "string"), result="bool"),
        _lower_like,
        _is_like,
        check=_check_literal,
    ),
    "regexp_like": Function(
        "a string and a pattern",
        takes_exactly(("string", "string"), result="bool"),
        _lower(_matches),
        _evaluate_one(_matches),
        check=_check_pattern,
    ),
    # Group 0 is the whole match; null if nothing matches.
    "regexp_extract": Function(
        "a string, a pattern and a group",
        takes_exactly(("string", "string", "int64"), result="string"),
        _lower(_extract),
        _evaluate_one(_extract),
        check=_check_pattern,
    ),
    "regexp_extract_all": Function(
        "a string, a pattern and a group",
        takes_exactly(("string", "string", "int64"), result=ListType(item="string")),
        _lower(_extract_all),
        _evaluate_one(_extract_all),
        check=_check_whole_match,
    ),
    # `$1` is the first group.
    "regexp_replace": Function(
        "a string, a pattern and perhaps a replacement",
        takes_exactly(("string", "string"), ("string", "string", "string"), result="string"),
        _lower(_replace),
        _evaluate_one(_replace),
        check=_check_pattern,
    ),
}
