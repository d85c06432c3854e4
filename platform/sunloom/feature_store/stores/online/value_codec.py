"""Codec of lists and structs: one value to bytes and back.

A list of numbers without nulls is its numbers, 8 bytes each; anything else is JSON, in which
datetimes, dates and durations are whole microseconds, days and microseconds.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import polars as pl

from sunloom.feature_store.stores.field_types import format_type, parse_type
from sunloom.features.plan.polars_dtypes import EPOCH, epoch_us

EPOCH_DAY = date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
# The first byte of a stored value: packed numbers or JSON.
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


@lru_cache(maxsize=256)
def value_codec(dtype: str) -> ValueCodec:
    """The codec of a list or struct type, given as text."""
    # Embeddings, for one: an array is copied at once, JSON would be parsed number by number.
    typecode = {"list[int64]": "q", "list[float64]": "d"}.get(dtype)
    return _json_codec(parse_type(dtype)) if typecode is None else _number_codec(typecode)


def _number_codec(typecode: str) -> ValueCodec:
    def encode(value: list[Any]) -> bytes:
        # An array of numbers cannot hold nulls.
        if None in value:
            return _JSON + json.dumps(value).encode()
        return _NUMBERS + array(typecode, value).tobytes()

    def decode(encoded: bytes) -> list[Any]:
        if encoded[:1] == _JSON:
            values: list[Any] = json.loads(encoded[1:])
            return values
        numbers = array(typecode)
        numbers.frombytes(encoded[1:])
        return numbers.tolist()

    return ValueCodec(encode, decode)


def _json_codec(dtype: pl.DataType) -> ValueCodec:
    to_json, from_json = _converter(dtype, _TO_JSON), _converter(dtype, _FROM_JSON)

    def encode(value: Any) -> bytes:
        return _JSON + json.dumps(to_json(value), separators=(",", ":")).encode()

    def decode(encoded: bytes) -> Any:
        return from_json(json.loads(encoded[1:]))

    return ValueCodec(encode, decode)


def _converter(dtype: pl.DataType, scalars: Mapping[str, _Convert]) -> _Convert:
    """Applies the scalars' conversions inside lists and structs; null stays null."""
    if isinstance(dtype, pl.List):
        item = _converter(dtype.inner, scalars)  # type: ignore[arg-type]
        return _keep_null(lambda values: [item(value) for value in values])
    if isinstance(dtype, pl.Struct):
        fields = {field.name: _converter(field.dtype, scalars) for field in dtype.fields}  # type: ignore[arg-type]
        return _keep_null(
            lambda row: {name: convert(row[name]) for name, convert in fields.items()}
        )
    convert = scalars.get(format_type(dtype) or "")
    return (lambda value: value) if convert is None else _keep_null(convert)


def _keep_null(convert: _Convert) -> _Convert:
    return lambda value: None if value is None else convert(value)


_TO_JSON: Mapping[str, _Convert] = {
    "datetime": epoch_us,
    "date": lambda value: (value - EPOCH_DAY).days,
    "duration": lambda value: value // _MICROSECOND,
}
_FROM_JSON: Mapping[str, _Convert] = {
    "datetime": lambda value: EPOCH + timedelta(microseconds=value),
    "date": lambda value: EPOCH_DAY + timedelta(days=value),
    "duration": lambda value: timedelta(microseconds=value),
}
