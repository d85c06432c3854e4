"""Encoder of what tools return: any value becomes JSON data that a model can read.

It never raises and its output is bounded: when a tool returns, its effect has happened, and
whatever the value is, the journal must be able to store the outcome.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from sunloom.core.host_paths import hide_paths

MAX_RESULT_CHARS = 32_000
"""Characters of JSON that a model is shown of one result."""
# A list of so many digits is longer than what is shown; encoding them takes some 30 ms.
_MOST_VALUES = 20_000
_DEEPEST = 50
# Leaves room for what stands beside it.
_LONGEST_TEXT = MAX_RESULT_CHARS // 2
_LONGEST_ERROR = 1000
_BY_TEXT = (Decimal, Fraction, complex, UUID, IPv4Address, IPv6Address)
# numpy's, torch's and pandas's values and columns; tables of Polars and of Arrow.
_CONVERTERS = ("tolist", "to_dicts", "to_list", "to_pylist", "to_dict")
# SQLAlchemy adds the statement and its parameters.
_STATEMENT = re.compile(r"\s*\[SQL:.*", re.DOTALL)


def encode_result(value: Any) -> Any:
    """A tool's result as JSON data.

    Times are ISO 8601, decimals, UUIDs and the like their text, bytes their text or base64, sets
    and arrays lists, records objects; NaN and infinity are null, as in every answer of the gateway.
    A result of more than ``MAX_RESULT_CHARS`` is cut, and says so.
    """
    encoder = _Encoder()
    data = encoder.encode(value)
    text = to_compact_json(data)
    if len(text) <= MAX_RESULT_CHARS:
        return data
    # Half of it: the beginning is itself a text in JSON, whose quotes and backslashes are escaped.
    shown = MAX_RESULT_CHARS // 2
    size = f"{len(text)} characters of JSON" + (" or more" if encoder.is_full else "")
    said = f"The result has {size}; these are the first {shown}."
    return {"truncated": said, "beginning": text[:shown]}


def describe_error(error: BaseException) -> str:
    """What a model is told of a tool's error: no SQL, no path of the machine, no endless text."""
    try:
        text = str(error)
    # An exception's own text may fail as well.
    except Exception:  # noqa: BLE001
        text = ""
    return shorten_error(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def shorten_error(text: str) -> str:
    """An error's text without SQL and paths of the machine, and of bounded length."""
    text = hide_paths(_STATEMENT.sub("", text[: 10 * _LONGEST_ERROR]))
    return clean_text(text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…")


def clean_text(text: str) -> str:
    """A text that every database takes: no NUL, question marks for halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def to_compact_json(data: Any) -> str:
    """Encoded data as JSON without spaces."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class _Encoder:
    """Encodes one result; counts its values and knows those that it is within."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES
        self._within: set[int] = set()

    @property
    def is_full(self) -> bool:
        """Whether values are left out."""
        return self._left <= 0

    def encode(self, value: Any) -> Any:
        """The value as JSON data, or its type's name where that fails."""
        self._left -= 1
        if value is None or value is True or value is False:
            return value
        try:
            return self._encode_scalar(value)
        # A value's own methods may raise anything: that is no reason to lose the rest.
        except Exception:  # noqa: BLE001
            return _type_name(value)

    def _encode_scalar(self, value: Any) -> Any:
        # The types themselves: subclasses of them may print and compare as they like.
        if isinstance(value, Enum):
            return self.encode(value.value)
        if isinstance(value, str):
            return _shorten(str.__str__(value))
        if isinstance(value, int):
            return _encode_int(int(value))
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, _BY_TEXT):
            return _shorten(str(value))
        if isinstance(value, PurePath):
            return hide_paths(str(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return _encode_bytes(bytes(value[:MAX_RESULT_CHARS]))
        return self._encode_container(value)

    def _encode_container(self, value: Any) -> Any:
        if id(value) in self._within:
            return "<circular reference>"
        if len(self._within) >= _DEEPEST:
            return "<nested too deeply>"
        self._within.add(id(value))
        try:
            if (record := _record_of(value)) is not None:
                return self._encode_mapping(record)
            if isinstance(value, Set):
                # In an order of their own: the same result is the same text.
                return sorted(self._encode_items(value), key=to_compact_json)
            if isinstance(value, Iterable) and hasattr(value, "__len__") and not _converter(value):
                return self._encode_items(value)
            return self._encode_foreign(value)
        finally:
            self._within.discard(id(value))

    def _encode_foreign(self, value: Any) -> Any:
        name = _converter(value)
        if name is None:
            return _type_name(value)
        # Before the conversion, which would make an object of every one of them.
        size = getattr(value, "size", 1)
        if isinstance(size, int) and size > _MOST_VALUES:
            return f"{_type_name(value)} of {size} values, too many to show"
        if hasattr(value, "__len__") and hasattr(value, "head"):
            value = value.head(_MOST_VALUES)
        if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m"):
            # numpy gives times in nanoseconds as integers.
            value = value.astype(str)
        return self.encode(getattr(value, name)())

    def _encode_mapping(self, value: Mapping[Any, Any]) -> Any:
        encoded: dict[str, Any] = {}
        for key, item in value.items():
            if self.is_full:
                encoded["…"] = "more, which were left out"
                break
            name = self.encode(key)
            encoded[name if isinstance(name, str) else to_compact_json(name)] = self.encode(item)
        return encoded

    def _encode_items(self, value: Iterable[Any]) -> list[Any]:
        encoded: list[Any] = []
        for item in value:
            if self.is_full:
                encoded.append("… more, which were left out")
                break
            encoded.append(self.encode(item))
        return encoded


def _record_of(value: Any) -> Mapping[Any, Any] | None:
    """The fields of a mapping, a model, a dataclass or a named tuple."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if isinstance(value, BaseModel):
        with suppress(Exception):
            dumped = value.model_dump()
            return dumped if isinstance(dumped, dict) else {"root": dumped}
        # Such as one that holds itself.
        return dict(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        named: Mapping[Any, Any] = value._asdict()
        return named
    return None


def _converter(value: Any) -> str | None:
    """The method that turns another library's value into Python's own."""
    if isinstance(value, type):
        return None
    return next((name for name in _CONVERTERS if callable(getattr(value, name, None))), None)


def _encode_int(value: int) -> int | str:
    try:
        str(value)
    # Beyond some thousands of digits Python refuses to write them.
    except ValueError:
        return f"<an integer of {value.bit_length()} bits>"
    return value


def _encode_bytes(value: bytes) -> str:
    try:
        return clean_text(value.decode())
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _shorten(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return clean_text(text)
    return f"{clean_text(text[:_LONGEST_TEXT])}… ({len(text)} characters in all)"


def _type_name(value: Any) -> str:
    # Not its own text, which may hold addresses, paths and secrets.
    return f"<{type(value).__name__}>"
