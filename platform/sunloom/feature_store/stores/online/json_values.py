"""JSON values of a request in the types of a stored schema.

Datetimes and dates are ISO text, durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import polars as pl

from sunloom.feature_store.stores.field_types import format_type, parse_type
from sunloom.feature_store.stores.online.stored_feature_set import RecordSchema

JsonConverter = Callable[[Any], Any]
_MIN_INT64, _MAX_INT64 = -(1 << 63), (1 << 63) - 1


# Cached: ``build_table`` looks the converter up for every value.
@lru_cache(maxsize=256)
def json_converter(dtype: str) -> JsonConverter:
    """Converts a JSON value to one of the stored type; null stays null.

    The converter raises ``ValueError`` for a value that is none of the type.
    """
    return _converter(parse_type(dtype))


def build_table(
    schema: RecordSchema, rows: Sequence[Mapping[str, Any]], times: Sequence[datetime], time: str
) -> pl.DataFrame:
    """Rows as a table of the schema's types.

    Args:
        schema: The feature set's.
        rows: One mapping per row, with the key; a feature that a row lacks is null.
        times: Event time of each row.
        time: Name of the column for them.

    Raises:
        ValueError: A value is none of its type.
    """
    dtypes = {schema.key: schema.key_dtype}
    dtypes |= {field.name: field.dtype for field in schema.fields}
    columns = [
        pl.Series(
            name, [json_converter(dtype)(row.get(name)) for row in rows], dtype=parse_type(dtype)
        )
        for name, dtype in dtypes.items()
    ]
    utc = [value.astimezone(UTC) for value in times]
    return pl.DataFrame([*columns, pl.Series(time, utc, dtype=pl.Datetime("us", "UTC"))])


def _converter(dtype: pl.DataType) -> JsonConverter:
    if isinstance(dtype, pl.List):
        item = _converter(dtype.inner)  # type: ignore[arg-type]
        return lambda value: None if value is None else [item(v) for v in _require(list, value)]
    if isinstance(dtype, pl.Struct):
        fields = {field.name: _converter(field.dtype) for field in dtype.fields}  # type: ignore[arg-type]
        convert = _struct_converter(fields)
    else:
        convert = _SCALARS[format_type(dtype) or ""]
    return lambda value: None if value is None else convert(value)


def _struct_converter(fields: Mapping[str, JsonConverter]) -> JsonConverter:
    def convert(value: Any) -> Any:
        values: Mapping[str, Any] = _require(dict, value)
        # A misspelt field would otherwise be read as null without an error.
        if unknown := values.keys() - fields.keys():
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        return {name: convert_field(values.get(name)) for name, convert_field in fields.items()}

    return convert


def _require(kind: type | tuple[type, ...], value: Any) -> Any:
    # JSON tells true from 1, but Python's bool is an int.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(value)
    return value


def _to_int64(value: Any) -> int:
    number: int = _require(int, value)
    if not _MIN_INT64 <= number <= _MAX_INT64:
        raise ValueError(f"{number} is beyond 64 bits")
    return number


def _to_datetime(value: Any) -> datetime:
    parsed = datetime.fromisoformat(_require(str, value))
    if parsed.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return parsed.astimezone(UTC)


def _to_float(value: Any) -> float:
    return float(_require((int, float), value))


_SCALARS: Mapping[str, JsonConverter] = {
    "int64": _to_int64,
    "float64": _to_float,
    "bool": lambda value: _require(bool, value),
    "string": lambda value: _require(str, value),
    "datetime": _to_datetime,
    "date": lambda value: date.fromisoformat(_require(str, value)),
    "duration": lambda value: timedelta(seconds=_to_float(value)),
}
