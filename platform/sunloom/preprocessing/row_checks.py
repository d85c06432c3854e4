"""One row at the door: every column there, of its kind, NaN as None, nothing infinite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import Kind

_TYPES: Mapping[Kind, tuple[type, ...]] = {
    "number": (float, int, bool, Decimal),
    "category": (str,),
    "bool": (bool,),
    "time": (date,),
    "bytes": (bytes,),
    "other": (object,),
}
_WORDS = {"number": "a number", "category": "text", "bool": "true or false", "time": "a date"}


def row_checker(kinds: Mapping[str, Kind]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that copies a row and checks the named columns.

    Args:
        kinds: Column to kind.
    """
    numbers = tuple(name for name, kind in kinds.items() if kind == "number")
    others = tuple((name, _TYPES[kind]) for name, kind in kinds.items() if kind != "number")
    inf = math.inf

    def check(row: Mapping[str, Any]) -> dict[str, Any]:
        copy = dict(row)
        try:
            for name in numbers:
                value = copy[name]
                if value.__class__ is float:
                    if value != value:
                        copy[name] = None
                    elif value == inf or value == -inf:
                        raise infinite_error(name)
                elif value is not None and value.__class__ is not int:
                    copy[name] = _number(name, value)
            for name, types in others:
                if (value := copy[name]) is not None and not isinstance(value, types):
                    raise _wrong(name, value, kinds[name])
        except KeyError as missing:
            raise DataError(
                f"The row lacks the column {missing.args[0]}.",
                f"Found: {', '.join(map(str, row)) or 'no columns'}.",
                str(missing.args[0]),
            ) from None
        return copy

    return check


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, _TYPES["number"]) and not hasattr(value, "__float__"):
        raise _wrong(name, value, "number")
    number = float(value)
    if math.isinf(number):
        raise infinite_error(name)
    return None if math.isnan(number) else number


def _wrong(name: str, value: Any, kind: Kind) -> DataError:
    return DataError(
        f"Column {name!r} is {_WORDS.get(kind, kind)}, but the row holds {value!r}.",
        "Give a value of the column's type.",
        name,
    )


def infinite_error(name: str) -> DataError:
    """The refusal of an infinite value."""
    return DataError(
        f"Column {name!r} holds an infinite value.",
        "Replace it, or make it null and impute it.",
        name,
    )
