"""Lists and structs as bytes: the spelling of their types, and one value to bytes and back.

A list of numbers without nulls is its numbers, 8 bytes each; anything else is JSON, in which
moments, days and durations are whole numbers of microseconds, days and microseconds.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import polars as pl

NESTED = ("list[", "struct[")
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NUMBERS, _JSON = b"n", b"j"
_Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class ValueCodec:
    """One value of a nested type to bytes and back; never called with a null.

    Attributes:
        encode: Value to bytes.
        decode: Bytes to an equal value.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def spell(dtype: pl.DataType) -> str | None:
    """A type's name in a schema, such as ``list[struct[a: int64]]``; None where it has none."""
    for is_kind, name in _SCALARS:
        if is_kind(dtype):
            return name
    if isinstance(dtype, pl.List | pl.Array):
        inner = spell(dtype.inner)  # type: ignore[arg-type]
        return None if inner is None else f"list[{inner}]"
    if isinstance(dtype, pl.Struct):
        parts = [(field.name, spell(field.dtype)) for field in dtype.fields]  # type: ignore[arg-type]
        if any(inner is None for _, inner in parts):
            return None
        return f"struct[{', '.join(f'{_spell_name(name)}: {inner}' for name, inner in parts)}]"
    return None


def _spell_name(name: str) -> str:
    # JSON's quotes keep any other name apart from the marks around it.
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


@lru_cache(maxsize=256)
def value_codec(dtype: str) -> ValueCodec:
    """The codec of a spelled list or struct."""
    dump, load, rest = _converters(dtype)
    assert not rest, dtype
    form = {"list[int64]": "q", "list[float64]": "d"}.get(dtype)
    return _json_codec(dump, load) if form is None else _number_codec(form)


def _number_codec(form: str) -> ValueCodec:
    def encode(value: list[Any]) -> bytes:
        if None in value:
            return _JSON + json.dumps(value).encode()
        return _NUMBERS + array(form, value).tobytes()

    def decode(encoded: bytes) -> list[Any]:
        if encoded[:1] == _JSON:
            held: list[Any] = json.loads(encoded[1:])
            return held
        numbers = array(form)
        numbers.frombytes(encoded[1:])
        return numbers.tolist()

    return ValueCodec(encode, decode)


def _json_codec(dump: _Convert, load: _Convert) -> ValueCodec:
    def encode(value: Any) -> bytes:
        return _JSON + json.dumps(dump(value), separators=(",", ":")).encode()

    def decode(encoded: bytes) -> Any:
        return load(json.loads(encoded[1:]))

    return ValueCodec(encode, decode)


def _converters(dtype: str) -> tuple[_Convert, _Convert, str]:
    """To JSON, from JSON, and what of the text comes after this type."""
    if dtype.startswith("list["):
        dump, load, rest = _converters(dtype[len("list[") :])
        return _each(dump), _each(load), rest[1:]
    if dtype.startswith("struct["):
        return _struct_converters(dtype[len("struct[") :])
    name = next(name for name in _TO_JSON if dtype.startswith(name))
    return _or_none(_TO_JSON[name]), _or_none(_FROM_JSON[name]), dtype[len(name) :]


def _struct_converters(text: str) -> tuple[_Convert, _Convert, str]:
    dumps: dict[str, _Convert] = {}
    loads: dict[str, _Convert] = {}
    while not text.startswith("]"):
        plain = _PLAIN_NAME.match(text)
        name, end = (plain[0], plain.end()) if plain else json.JSONDecoder().raw_decode(text)
        dumps[name], loads[name], text = _converters(text[end + 2 :])
        text = text.removeprefix(", ")
    return _fields(dumps), _fields(loads), text[1:]


def _each(convert: _Convert) -> _Convert:
    return _or_none(lambda values: [convert(value) for value in values])


def _fields(converts: Mapping[str, _Convert]) -> _Convert:
    return _or_none(lambda row: {name: convert(row[name]) for name, convert in converts.items()})


def _or_none(convert: _Convert) -> _Convert:
    return lambda value: None if value is None else convert(value)


def _same(value: Any) -> Any:
    return value


def _is_moment(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone is not None


_SCALARS: tuple[tuple[Callable[[pl.DataType], bool], str], ...] = (
    (lambda dtype: dtype.is_integer(), "int64"),
    (lambda dtype: dtype.is_float(), "float64"),
    (lambda dtype: dtype == pl.Boolean, "bool"),
    (lambda dtype: dtype == pl.String, "string"),
    (_is_moment, "datetime"),
    (lambda dtype: dtype == pl.Date, "date"),
    (lambda dtype: isinstance(dtype, pl.Duration), "duration"),
)
# A name that another begins with stands after it.
_TO_JSON: Mapping[str, _Convert] = {
    "int64": _same,
    "float64": _same,
    "bool": _same,
    "string": _same,
    "datetime": lambda value: (value - _EPOCH) // _MICROSECOND,
    "date": lambda value: (value - _EPOCH_DAY).days,
    "duration": lambda value: value // _MICROSECOND,
}
_FROM_JSON: Mapping[str, _Convert] = {
    "int64": _same,
    "float64": _same,
    "bool": _same,
    "string": _same,
    "datetime": lambda value: _EPOCH + timedelta(microseconds=value),
    "date": lambda value: _EPOCH_DAY + timedelta(days=value),
    "duration": lambda value: timedelta(microseconds=value),
}
