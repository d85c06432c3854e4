"""Source tables in the plan's types: what cannot be read is kept apart with reason and position."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from sunloom.core.telemetry import get_logger
from sunloom.data.exact_casts import cast_exactly, decode_texts
from sunloom.data.quarantine import POSITION, REASON, Damaged
from sunloom.data.sources.json_objects import is_unicode
from sunloom.data.sources.table_files import (
    data_files,
    read_file,
    require_columns,
    require_columns_in,
)
from sunloom.data.sources.text_types import FINER, parse_scalar
from sunloom.errors import DataError
from sunloom.features.plan.dtypes import DType, ListType, StructType
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan
from sunloom.features.plan.polars_dtypes import POLARS, is_scalar
from sunloom.features.sources.deduplicate import id_number

_log = get_logger("features.sources")

_DAMAGED = {"source": pl.String, POSITION: pl.Int64, REASON: pl.String, "content": pl.String}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_DTYPE_TEXTS: Mapping[str, str] = {
    "datetime": "a datetime with a time zone",
    "string": "text (UTF-8)",
    "date": "a date such as 2026-03-01",
    "int64": "a whole number",
    "float64": "a number",
    "bool": "true or false",
}


@dataclass(frozen=True)
class TypedRows:
    """A source's rows in declared types, and those that cannot be read.

    Attributes:
        rows: Columns of the plan, in order of insertion.
        damaged: ``source``, ``position``, ``reason`` and ``content`` of each unreadable row.
        id_numbers: Numbers of the rows' event ids, as ``id_number`` gives them; None where they
            were not read.
    """

    rows: pl.DataFrame
    damaged: pl.DataFrame
    id_numbers: pl.Series | None = None


def read_source(
    item: ClassPlan,
    names: Sequence[str],
    path: Path,
    required: Sequence[str] = (),
    event_id: str | None = None,
) -> TypedRows:
    """Read one file or folder as rows of a class.

    Args:
        item: The class.
        names: Features to read.
        path: A Parquet, CSV or JSON-lines file, or a folder of them.
        required: A row without a value in one of them is damaged, as without its event time.
        event_id: A column that is read, where a file has it, for the numbers of its values alone.

    Raises:
        UsageError: Nothing is there.
        DataError: No file has a column, or one has it in a type that the feature cannot have.
    """
    require_columns_in(path, names)
    parts = [read_source_file(item, names, file, required, event_id) for file in data_files(path)]
    numbers = [part.id_numbers for part in parts if part.id_numbers is not None]
    return TypedRows(
        pl.concat([part.rows for part in parts]),
        pl.concat([part.damaged for part in parts]),
        pl.concat(numbers) if numbers else None,
    )


def read_source_file(
    item: ClassPlan,
    names: Sequence[str],
    file: Path,
    required: Sequence[str] = (),
    event_id: str | None = None,
) -> TypedRows:
    """Read one file of a source as rows of a class; a column that it lacks is null."""
    # As text: inferred types may differ by file, and one bad value would change its column's.
    table = read_file(file, with_event_id(names, event_id), as_text=True)
    part = conform(
        add_missing_columns(table.rows, names, str(file)),
        item,
        names,
        str(file),
        positions=table.positions,
        decimal_comma=table.decimal_comma,
        required=required,
        event_id=event_id,
    )
    return replace(part, damaged=pl.concat([damaged_frame(table.damaged), part.damaged]))


def with_event_id(names: Sequence[str], event_id: str | None) -> list[str]:
    """The columns, and that of the event's id if it is wanted."""
    return list(names if event_id is None else dict.fromkeys((*names, event_id)))


def add_missing_columns(rows: pl.DataFrame, names: Sequence[str], file: str) -> pl.DataFrame:
    """One file's rows, with nulls for the columns that only other files of its folder have."""
    missing = [name for name in names if name not in rows.columns]
    if missing and rows.height:
        _log.warning("%s lacks %s: null in its rows", file, ", ".join(missing))
    return rows.with_columns(pl.lit(None).alias(name) for name in missing)


def damaged_frame(rows: Sequence[Damaged]) -> pl.DataFrame:
    """Rows that a file's reader could not read, as those whose values have a wrong type."""
    return pl.DataFrame([vars(row) for row in rows], schema=_DAMAGED)


def conform(
    frame: pl.DataFrame,
    item: ClassPlan,
    names: Sequence[str],
    source: str,
    positions: pl.Series | None = None,
    *,
    decimal_comma: bool = False,
    required: Sequence[str] = (),
    event_id: str | None = None,
) -> TypedRows:
    """The named columns in their declared types.

    Text is parsed; a row with a value that cannot be parsed is damaged. A column of another type is
    an error of the whole source.

    Args:
        frame: The rows.
        item: Their class.
        names: Features to keep.
        source: Named in errors and beside damaged rows.
        positions: Each row's position in the source; its number from 1 by default.
        decimal_comma: Whether numbers that are text may have a decimal comma.
        required: A row without a value in one of them is damaged, as without its event time.
        event_id: A column whose values are numbered, if the rows have it.
    """
    require_columns(frame, names, source)
    features = [item.feature(name) for name in names]
    typed = frame.select(
        _to_declared_type(feature, frame.schema[feature.name], source, decimal_comma=decimal_comma)
        for feature in features
    )
    numbers = None
    if event_id in frame.columns:
        numbers = frame.select(id_number(pl.col(event_id), frame.schema[event_id])).to_series()
    reasons = _damage_reasons(frame, typed, features, {item.time, *required})
    if reasons is None:
        # Nearly always: no copy of the table for the sake of rare damage.
        return TypedRows(typed, pl.DataFrame(schema=_DAMAGED), numbers)
    bad = reasons.is_not_null()
    if positions is None:
        positions = pl.int_range(1, frame.height + 1, dtype=pl.Int64, eager=True)
    # Polars has no JSON for bytes.
    plain = frame.filter(bad).with_columns(pl.col(pl.Binary).bin.encode("hex"))
    damaged = plain.select(
        pl.lit(source).alias("source"),
        positions.filter(bad).alias(POSITION),
        reasons.filter(bad),
        pl.struct(names).struct.json_encode().alias("content"),
    )
    return TypedRows(typed.filter(~bad), damaged, None if numbers is None else numbers.filter(~bad))


def _to_declared_type(
    feature: FeaturePlan, dtype: pl.DataType, source: str, *, decimal_comma: bool
) -> pl.Expr:
    column = pl.col(feature.name)
    target = POLARS[feature.dtype]
    if dtype == target or dtype == pl.Null:
        return column.cast(target)
    if dtype == pl.String:
        if isinstance(feature.dtype, str):
            parsed = parse_scalar(column, feature.dtype, decimal_comma=decimal_comma)
            return parsed.alias(feature.name)
        return parse_json(column.str.strip_chars(), feature.dtype).alias(feature.name)
    if isinstance(dtype, pl.Datetime) and feature.dtype == "datetime":
        if dtype.time_zone is None:
            raise DataError(
                f"{source}: column {feature.name!r} holds datetimes without a time zone.",
                "Write them in UTC, such as 2026-01-31T12:00:00Z in a text file.",
                feature.name,
            )
        time = column.dt.convert_time_zone("UTC")
        # Exactly: a truncated event would be seen up to a microsecond before its time.
        return cast_exactly(time, pl.Datetime(dtype.time_unit, "UTC"), target)
    if isinstance(dtype, pl.Datetime) and feature.dtype == "date":
        # A time of day that is not midnight would be lost: such a row is damaged.
        utc = column if dtype.time_zone is None else column.dt.convert_time_zone("UTC")
        day = cast_exactly(utc.dt.replace_time_zone(None), pl.Datetime(dtype.time_unit), target)
        return day.alias(feature.name)
    if isinstance(dtype, pl.Duration) and feature.dtype == "duration":
        return cast_exactly(column, dtype, target)
    is_number = dtype.is_integer() or dtype.is_float() or dtype.is_decimal()
    if is_number and feature.dtype == "float64":
        return column.cast(pl.Float64)
    if is_number and feature.dtype == "int64":
        # Readers widen a whole-number column with gaps; a fraction, or what does not fit, becomes
        # null, and is found as damage below.
        return cast_exactly(column, dtype, target)
    if isinstance(dtype, pl.Categorical | pl.Enum) and feature.dtype == "string":
        return column.cast(pl.String)
    if dtype == pl.Binary and feature.dtype == "string":
        return column.map_batches(decode_texts, return_dtype=pl.String)
    if not is_scalar(feature.dtype):
        nested = conform_nested(column, dtype, feature.dtype)
        if nested is not None:
            value = nested.value
            if nested.lost is not None:
                # The row is damaged then: a list without one of its values is another list.
                value = pl.when(~nested.lost.fill_null(False)).then(value)
            return value.alias(feature.name)
    raise DataError(
        f"{source}: column {feature.name!r} is {dtype}, but feature {feature.fqn} is "
        f"{feature.dtype}.",
        f"Write the column as {_DTYPE_TEXTS.get(str(feature.dtype), feature.dtype)}, or change the "
        "feature's annotation.",
        feature.name,
    )


def _damage_reasons(
    frame: pl.DataFrame,
    typed: pl.DataFrame,
    features: Sequence[FeaturePlan],
    required: Collection[str | None],
) -> pl.Series | None:
    """Why each row cannot be used; None where all can."""
    checks: list[pl.Expr] = []
    for feature in features:
        raw, value = frame[feature.name], typed[feature.name]
        lost = value.is_null() & raw.is_not_null()
        if feature.dtype != "string" and raw.dtype == pl.String:
            # CSV writes a missing value as nothing.
            lost = lost & (raw.str.strip_chars() != "")
        if lost.any():
            reason = f"{feature.name} is not {_DTYPE_TEXTS.get(str(feature.dtype), feature.dtype)}"
            if feature.dtype in ("datetime", "duration") or _has_nanoseconds(raw.dtype):
                finer = pl.lit(lost & _is_finer(raw))
                finer_reason = pl.lit(f"{feature.name} is finer than a microsecond: round it up")
                checks.append(pl.when(finer).then(finer_reason))
            checks.append(pl.when(pl.lit(lost)).then(pl.lit(reason)))
        # More nulls than lost values: the source itself lacks times, and no window has such rows.
        if feature.name in required and value.null_count() > lost.sum():
            missing = pl.lit(f"{feature.name} is missing")
            checks.append(pl.when(pl.lit(value.is_null())).then(missing))
    if not checks:
        return None
    return pl.select(pl.coalesce(checks).alias(REASON)).to_series()


def _is_finer(times: pl.Series) -> pl.Series:
    """Which lost times or durations have digits beyond microseconds; all that are no text."""
    if times.dtype == pl.String:
        return times.str.contains(FINER)
    return times.is_not_null()


def _has_nanoseconds(dtype: Any) -> bool:
    """Whether a nested type has datetimes or durations of nanoseconds in it."""
    if isinstance(dtype, pl.List | pl.Array):
        return _has_nanoseconds(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return any(_has_nanoseconds(field.dtype) for field in dtype.fields)
    return isinstance(dtype, pl.Datetime | pl.Duration) and dtype.time_unit == "ns"


class NestedValue(NamedTuple):
    """A value in the declared type.

    Attributes:
        value: The value.
        lost: Whether something in it does not survive, such as digits beyond microseconds; None
            where nothing can be lost.
    """

    value: pl.Expr
    lost: pl.Expr | None


def conform_nested(column: pl.Expr, own_dtype: pl.DataType, dtype: DType) -> NestedValue | None:
    """A column of lists or structs in the type; None where its own type cannot become that.

    A struct's fields are matched by name: a missing one is null, a further one is left out.
    """
    if own_dtype in (POLARS[dtype], pl.Null):
        return NestedValue(column.cast(POLARS[dtype]), None)
    if isinstance(dtype, ListType):
        return _conform_list(column, own_dtype, dtype)
    if isinstance(dtype, StructType):
        return _conform_struct(column, own_dtype, dtype)
    if not _widens(own_dtype, dtype):
        return None
    if dtype not in ("datetime", "duration", "int64"):
        return NestedValue(column.cast(POLARS[dtype]), None)
    if isinstance(own_dtype, pl.Datetime):
        column = column.dt.convert_time_zone("UTC")
        own_dtype = pl.Datetime(own_dtype.time_unit, "UTC")
    value = cast_exactly(column, own_dtype, POLARS[dtype])
    return NestedValue(value, value.is_null() & column.is_not_null())


def _conform_list(column: pl.Expr, own_dtype: pl.DataType, dtype: ListType) -> NestedValue | None:
    if isinstance(own_dtype, pl.Array):
        # Embeddings are arrays of fixed length in many Parquet files; plans have lists only.
        column, own_dtype = column.arr.to_list(), pl.List(own_dtype.inner)
    if not isinstance(own_dtype, pl.List):
        return None
    inner: Any = own_dtype.inner
    item = conform_nested(pl.element(), inner, dtype.item)
    if item is None:
        return None
    lost = None if item.lost is None else column.list.eval(item.lost).list.any()
    return NestedValue(column.list.eval(item.value), lost)


def _conform_struct(
    column: pl.Expr, own_dtype: pl.DataType, dtype: StructType
) -> NestedValue | None:
    if not isinstance(own_dtype, pl.Struct):
        return None
    own_types: dict[str, Any] = {field.name: field.dtype for field in own_dtype.fields}
    fields: list[pl.Expr] = []
    lost: list[pl.Expr] = []
    for field in dtype.fields:
        nested: NestedValue | None = NestedValue(pl.lit(None, POLARS[field.dtype]), None)
        if field.name in own_types:
            own = column.struct.field(field.name)
            nested = conform_nested(own, own_types[field.name], field.dtype)
        if nested is None:
            return None
        fields.append(nested.value.alias(field.name))
        if nested.lost is not None:
            lost.append(nested.lost.fill_null(False))
    # A null would otherwise become a struct of nulls.
    value = pl.when(column.is_not_null()).then(pl.struct(fields))
    return NestedValue(value, pl.any_horizontal(lost) if lost else None)


def _widens(own_dtype: pl.DataType, dtype: DType) -> bool:
    if dtype == "int64":
        return own_dtype.is_integer()
    if dtype == "float64":
        return own_dtype.is_numeric()
    if dtype == "datetime":
        return isinstance(own_dtype, pl.Datetime) and own_dtype.time_zone is not None
    if dtype == "duration":
        return isinstance(own_dtype, pl.Duration)
    return dtype == "string" and isinstance(own_dtype, pl.Categorical | pl.Enum)


def parse_json(column: pl.Expr, dtype: DType) -> pl.Expr:
    """JSON text as a value of the type; null where it cannot be."""

    # One by one: Polars' ``json_decode`` fails the whole column at one bad value.
    def parse_texts(texts: pl.Series) -> pl.Series:
        return pl.Series(
            texts.name, [_parse_json_text(text, dtype) for text in texts], POLARS[dtype]
        )

    return column.map_batches(parse_texts, return_dtype=POLARS[dtype])


def _parse_json_text(text: str | None, dtype: DType) -> Any:
    if text is None:
        return None
    try:
        return _json_value(json.loads(text), dtype)
    # A JSON integer may be too large for a float, and brackets nested deeper than Python's stack.
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _json_value(value: Any, dtype: DType) -> Any:
    """The JSON value in the type.

    Raises:
        ValueError: It is no such value.
        TypeError: It is of a wrong kind.
    """
    if value is None:
        return None
    if isinstance(dtype, ListType):
        _require(isinstance(value, list))
        return [_json_value(item, dtype.item) for item in value]
    if isinstance(dtype, StructType):
        _require(isinstance(value, dict))
        return {f.name: _json_value(value.get(f.name), f.dtype) for f in dtype.fields}
    return _json_scalar(value, dtype)


def _json_scalar(value: Any, dtype: DType) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == "float64":
        _require(is_number)
        return float(value)
    if dtype == "int64":
        # Many JSON writers have floats only: 3.0 is a whole number.
        _require(is_number and math.isfinite(value) and value == int(value))
        _require(-(2**63) <= value < 2**63)
        return int(value)
    if dtype == "datetime":
        # Python itself leaves out digits beyond microseconds.
        _require(not re.search(FINER, value))
        parsed = datetime.fromisoformat(value)
        _require(parsed.tzinfo is not None)
        return parsed
    if dtype == "date":
        # Python's own parser also takes weeks and dates without hyphens.
        _require(_DATE.fullmatch(value) is not None)
        return date.fromisoformat(value)
    _require(isinstance(value, {"bool": bool, "string": str}.get(str(dtype), type(None))))
    _require(not isinstance(value, str) or is_unicode(value))
    return value


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError("no value of the type")
