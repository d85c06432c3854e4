"""Functions of strings and bytes: parts, patterns, encodings and hashes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from sunloom.features.expressions.functions.signature import (
    ArgumentCheck,
    Columns,
    Function,
    TypeRule,
    literal,
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


def _check_delimiter(args: Sequence[Expr]) -> str | None:
    # Python refuses an empty delimiter, and Polars splits into characters.
    is_empty = isinstance(args[1], Const) and not args[1].value
    return "Give a delimiter of at least one character." if is_empty else None


def _pad(*, left: bool) -> Function:
    def scalar(text: str, size: int, pad: str) -> str | None:
        if size <= len(text):
            return text[: max(0, size)]
        if not pad:
            return None
        fill = (pad * (size - len(text)))[: size - len(text)]
        return fill + text if left else text + fill

    # Polars pads with a single character only.
    return python_function(
        "a string, a length and a string",
        takes_exactly(("string", "int64", "string"), result="string"),
        scalar,
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
                (x.str.split(y).list.first().str.len_chars().cast(pl.Int64) + 1)
                * x.str.contains(y, literal=True).cast(pl.Int64)
            )
        ),
        lambda text, part: text.find(part) + 1,
    ),
    # The start of the last match, counted from 1; 0 if there is none. Chalk finds the empty string
    # at the first position.
    "strrpos": python_function(
        "2 strings",
        takes(("string",), 2, "int64"),
        lambda text, part: text.rfind(part) + 1 if part else 1,
    ),
    "split": Function(
        "a string, a delimiter and perhaps how many parts at most",
        takes_exactly(
            ("string", "string"), ("string", "string", "int64"), result=ListType(item="string")
        ),
        # Polars' splitn takes a constant limit and gives a struct.
        lambda args, call: (
            args[0].str.split(args[1]) if len(args) == 2 else map_scalar(_split)(args, call)
        ),
        _split,
        check=_check_delimiter,
    ),
    "lpad": _pad(left=True),
    "rpad": _pad(left=False),
    "levenshtein_distance": python_function(
        "2 strings", takes(("string",), 2, "int64"), _edit_distance
    ),
    "replace": _string_function(
        3, "string", lambda x, old, new: x.str.replace_all(old, new, literal=True), str.replace
    ),
    "split_part": Function(
        "a string, a delimiter and a position",
        takes_exactly(("string", "string", "int64"), result="string"),
        lambda args, _: args[0].str.split(args[1]).list.get(args[2] - 1, null_on_oob=True),
        lambda text, delimiter, position: dict(enumerate(text.split(delimiter), 1)).get(position),
    ),
    "substr": Function(
        "a string, a start and perhaps a length",
        takes_exactly(("string", "int64"), ("string", "int64", "int64"), result="string"),
        _lower_slice,
        _slice,
    ),
}


def _pattern_function(
    accepts: str,
    result: TypeRule,
    frame: Callable[..., pl.Expr],
    check: ArgumentCheck,
) -> Function:
    """A function of a pattern with the syntax of RE2.

    Single values go through Polars too: Python's ``re`` has another syntax and other semantics.
    """
    return Function(
        accepts,
        result,
        lambda args, _: frame(*args),
        lambda *args: pl.select(frame(*map(pl.lit, args))).to_series().to_list()[0],
        check=check,
    )


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


def _like_to_regex(pattern: str) -> str:
    """A pattern of SQL's LIKE as a regular expression: `%` is anything, `_` one character."""
    special = {"%": ".*", "_": "."}
    return "(?s)^" + "".join(special.get(c, re.escape(c)) for c in pattern) + "$"


def _check_literal(args: Sequence[Expr]) -> str | None:
    is_literal = isinstance(args[1], Const) and isinstance(args[1].value, str)
    return None if is_literal else "Write the pattern as a literal string."


PATTERNS: Mapping[str, Function] = {
    "like": Function(
        "a string and a pattern",
        takes_exactly(("string", "string"), result="bool"),
        lambda args, call: args[0].str.contains(_like_to_regex(literal(call, 1))),
        lambda text, like: pl.Series([text]).str.contains(_like_to_regex(like)).item(),
        check=_check_literal,
    ),
    "regexp_like": _pattern_function(
        "a string and a pattern",
        takes_exactly(("string", "string"), result="bool"),
        lambda text, pattern: text.str.contains(pattern),
        check=_check_pattern,
    ),
    # Group 0 is the whole match; null if nothing matches. Polars takes the group as a plain
    # number; the check has made sure that it is a literal.
    "regexp_extract": _pattern_function(
        "a string, a pattern and a group",
        takes_exactly(("string", "string", "int64"), result="string"),
        lambda text, pattern, group: text.str.extract(pattern, int(pl.select(group).item())),
        check=_check_pattern,
    ),
    "regexp_extract_all": _pattern_function(
        "a string, a pattern and a group",
        takes_exactly(("string", "string", "int64"), result=ListType(item="string")),
        lambda text, pattern, _: text.str.extract_all(pattern),
        check=_check_whole_match,
    ),
    # `$1` is the first group.
    "regexp_replace": _pattern_function(
        "a string, a pattern and perhaps a replacement",
        takes_exactly(("string", "string"), ("string", "string", "string"), result="string"),
        lambda text, pattern, replacement="": text.str.replace_all(pattern, replacement),
        check=_check_pattern,
    ),
}


def _encode(
    source: DType, result: DType, frame: Callable[[pl.Expr], pl.Expr], scalar: Callable[[Any], Any]
) -> Function:
    return Function(
        "bytes" if source == "bytes" else "a string",
        takes((source,), 1, result),
        lambda args, _: frame(args[0]),
        scalar,
    )


def _decode(decode: Callable[[str], bytes]) -> Function:
    """Text that is not in the encoding gives null."""

    # One malformed text must not fail the whole column.
    def decode_or_null(text: str) -> bytes | None:
        try:
            return decode(text)
        except ValueError:
            return None

    return python_function("a string", takes(("string",), 1, "bytes"), decode_or_null)


def _digest(name: str) -> Function:
    # Not for security: with that flag md5 works on hosts in FIPS mode too.
    def digest(data: bytes) -> bytes:
        return hashlib.new(name, data, usedforsecurity=False).digest()

    accepts = 'bytes, such as F.string_to_bytes(_.x, "utf-8")'
    return python_function(accepts, takes(("bytes",), 1, "bytes"), digest)


DIGESTS: Mapping[str, Function] = {
    "string_to_bytes_utf8": _encode(
        "string", "bytes", lambda x: x.cast(pl.Binary), lambda text: text.encode()
    ),
    "string_to_bytes_hex": _decode(bytes.fromhex),
    "string_to_bytes_base64": _decode(lambda text: base64.b64decode(text, validate=True)),
    # Invalid UTF-8 becomes the replacement character, as in Chalk; a cast in Polars refuses it.
    "bytes_to_string_utf8": python_function(
        "bytes",
        takes(("bytes",), 1, "string"),
        lambda data: data.decode("utf-8", errors="replace"),
    ),
    "bytes_to_string_hex": _encode(
        "bytes", "string", lambda x: x.bin.encode("hex"), lambda data: data.hex()
    ),
    "bytes_to_string_base64": _encode(
        "bytes",
        "string",
        lambda x: x.bin.encode("base64"),
        lambda data: base64.b64encode(data).decode(),
    ),
    "md5": _digest("md5"),
    "sha1": _digest("sha1"),
    "sha256": _digest("sha256"),
    "sha512": _digest("sha512"),
}
