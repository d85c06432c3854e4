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


def canonical(dtype: pl.DataType) -> pl.DataType:
    """The widest type of the same name: 64 bits, microseconds, UTC, lists."""
    if dtype.is_integer():
        return pl.Int64()
    if dtype.is_float():
        return pl.Float64()
    if isinstance(dtype, pl.Datetime):
        return _UTC
    if isinstance(dtype, pl.Duration):
        return pl.Duration("us")
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(canonical(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return pl.Struct([pl.Field(f.name, canonical(f.dtype)) for f in dtype.fields])  # type: ignore[arg-type]
    return dtype


@lru_cache(maxsize=256)
def parse(spelled: str) -> pl.DataType:
    """The canonical type of a name that ``spell`` made."""
    dtype, rest = _parse(spelled)
    assert not rest, spelled
    return dtype


@lru_cache(maxsize=256)
def value_codec(dtype: str) -> ValueCodec:
    """The codec of a spelled list or struct."""
    form = {"list[int64]": "q", "list[float64]": "d"}.get(dtype)
    return _json_codec(*_converters(parse(dtype))) if form is None else _number_codec(form)


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


def _parse(text: str) -> tuple[pl.DataType, str]:
    """A type, and what of the text comes after it."""
    if text.startswith("list["):
        inner, rest = _parse(text[len("list[") :])
        return pl.List(inner), rest[1:]
    if text.startswith("struct["):
        return _parse_struct(text[len("struct[") :])
    name = next(name for name in _TYPES if text.startswith(name))
    return _TYPES[name], text[len(name) :]


def _parse_struct(text: str) -> tuple[pl.DataType, str]:
    fields: list[pl.Field] = []
    while not text.startswith("]"):
        plain = _PLAIN_NAME.match(text)
        name, end = (plain[0], plain.end()) if plain else json.JSONDecoder().raw_decode(text)
        dtype, text = _parse(text[end + 2 :])
        fields.append(pl.Field(name, dtype))
        text = text.removeprefix(", ")
    return pl.Struct(fields), text[1:]


def _converters(dtype: pl.DataType) -> tuple[_Convert, _Convert]:
    """To JSON and from JSON."""
    if isinstance(dtype, pl.List):
        dump, load = _converters(dtype.inner)  # type: ignore[arg-type]
        return _each(dump), _each(load)
    if isinstance(dtype, pl.Struct):
        both = {field.name: _converters(field.dtype) for field in dtype.fields}  # type: ignore[arg-type]
        dumps, loads = ({name: two[i] for name, two in both.items()} for i in (0, 1))
        return _fields(dumps), _fields(loads)
    name = spell(dtype)
    return _or_none(_TO_JSON.get(name or "", _same)), _or_none(_FROM_JSON.get(name or "", _same))


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
_UTC = pl.Datetime("us", "UTC")
# A name that another begins with stands after it.
_TYPES: Mapping[str, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "datetime": _UTC,
    "date": pl.Date(),
    "duration": pl.Duration("us"),
}
_TO_JSON: Mapping[str, _Convert] = {
    "datetime": lambda value: (value - _EPOCH) // _MICROSECOND,
    "date": lambda value: (value - _EPOCH_DAY).days,
    "duration": lambda value: value // _MICROSECOND,
}
_FROM_JSON: Mapping[str, _Convert] = {
    "datetime": lambda value: _EPOCH + timedelta(microseconds=value),
    "date": lambda value: _EPOCH_DAY + timedelta(days=value),
    "duration": lambda value: timedelta(microseconds=value),
}
