"""Values as JSON carries them, in the types of a stored schema.

Moments and days come as ISO text, durations as seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import polars as pl

from sunloom.feature_store.stores.online.protocol import RecordSchema
from sunloom.feature_store.stores.online.type_codec import parse, spell

Convert = Callable[[Any], Any]
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


@lru_cache(maxsize=256)
def from_plain(dtype: str) -> Convert:
    """What makes a stored type's value of a JSON value; null stays null.

    It raises ``ValueError`` for a value that is none of the type.
    """
    return _converter(parse(dtype))


def typed_table(
    schema: RecordSchema, rows: Sequence[Mapping[str, Any]], times: Sequence[datetime], time: str
) -> pl.DataFrame:
    """Rows as a table of the schema's types.

    Args:
        schema: The feature set's.
        rows: One mapping a row, with the key; a feature that a row lacks is null.
        times: When each row's values hold.
        time: Name of the column for them.

    Raises:
        ValueError: A value is none of its type.
    """
    dtypes = {schema.key: schema.key_dtype}
    dtypes |= {field.name: field.dtype for field in schema.fields}
    columns = [
        pl.Series(name, [from_plain(dtype)(row.get(name)) for row in rows], dtype=parse(dtype))
        for name, dtype in dtypes.items()
    ]
    moments = [moment.astimezone(UTC) for moment in times]
    return pl.DataFrame([*columns, pl.Series(time, moments, dtype=pl.Datetime("us", "UTC"))])


def _converter(dtype: pl.DataType) -> Convert:
    if isinstance(dtype, pl.List):
        return _or_none(_list_of(_converter(dtype.inner)))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        made = {f.name: _converter(f.dtype) for f in dtype.fields}  # type: ignore[arg-type]
        return _or_none(_struct_of(made))
    return _or_none(_SCALARS[spell(dtype) or ""])


def _or_none(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _list_of(item: Convert) -> Convert:
    return lambda value: [item(one) for one in _of(list, value)]


def _struct_of(fields: Mapping[str, Convert]) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        given: dict[str, Any] = _of(dict, value)
        if unknown := given.keys() - fields.keys():
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        return {name: one(given.get(name)) for name, one in fields.items()}

    return convert


def _of(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(value)
    return value


def _whole(value: Any) -> int:
    number: int = _of(int, value)
    if not _LEAST <= number <= _MOST:
        raise ValueError(f"{number} is beyond 64 bits")
    return number


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_of(str, value))
    if moment.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return moment.astimezone(UTC)


def _number(value: Any) -> float:
    return float(_of((int, float), value))


_SCALARS: Mapping[str, Convert] = {
    "int64": _whole,
    "float64": _number,
    "bool": lambda value: _of(bool, value),
    "string": lambda value: _of(str, value),
    "datetime": _moment,
    "date": lambda value: date.fromisoformat(_of(str, value)),
    "duration": lambda value: timedelta(seconds=_number(value)),
}
