"""Check of one row before its transformation: columns present, of their kind, and finite."""

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
_NOUNS = {"number": "a number", "category": "text", "bool": "true or false", "time": "a date"}


def build_row_check(kinds: Mapping[str, Kind]) -> Callable[[dict[str, Any]], None]:
    """A function that checks the named columns of a row, and makes NaN None in it.

    Args:
        kinds: Column to kind.
    """
    numbers = tuple(name for name, kind in kinds.items() if kind == "number")
    others = tuple((name, _TYPES[kind]) for name, kind in kinds.items() if kind != "number")
    inf = math.inf

    def check(row: dict[str, Any]) -> None:
        # Comparisons of classes: most values are plain floats and ints, which pass at once.
        try:
            for name in numbers:
                value = row[name]
                if value.__class__ is float:
                    if value != value:
                        row[name] = None
                    elif value == inf or value == -inf:
                        raise infinite_error(name)
                elif value is not None and value.__class__ is not int:
                    row[name] = _to_number(name, value)
            for name, types in others:
                if (value := row[name]) is not None and not isinstance(value, types):
                    raise _type_error(name, value, kinds[name])
        except KeyError as missing:
            raise DataError(
                f"The row lacks the column {missing.args[0]}.",
                f"Found: {', '.join(map(str, row)) or 'no columns'}.",
                str(missing.args[0]),
            ) from None

    return check


def _to_number(name: str, value: Any) -> float | None:
    if not isinstance(value, _TYPES["number"]) and not hasattr(value, "__float__"):
        raise _type_error(name, value, "number")
    number = float(value)
    if math.isinf(number):
        raise infinite_error(name)
    return None if math.isnan(number) else number


def _type_error(name: str, value: Any, kind: Kind) -> DataError:
    return DataError(
        f"Column {name!r} is {_NOUNS.get(kind, kind)}, but the row holds {value!r}.",
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
