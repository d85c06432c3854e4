"""Source tables in the plan's types: what cannot be read is kept apart with reason and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sunloom.data.quarantine import POSITION, REASON
from sunloom.data.sources.table_files import data_files, parse_scalar, read_table, require_columns
from sunloom.errors import DataError
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan
from sunloom.features.plan.polars_dtypes import POLARS, is_scalar
from sunloom.features.sources.nested_values import conform_nested, parse_json

_DAMAGED = {"source": pl.String, POSITION: pl.Int64, REASON: pl.String, "content": pl.String}


@dataclass(frozen=True)
class TypedRows:
    """A source's rows in declared types, and those that cannot be read.

    Attributes:
        rows: Columns of the plan, in order of insertion.
        damaged: ``source``, ``position``, ``reason`` and ``content`` of each unreadable row.
    """

    rows: pl.DataFrame
    damaged: pl.DataFrame


def read_source(item: ClassPlan, names: Sequence[str], path: Path) -> TypedRows:
    """Read one file or folder as rows of a class.

    Args:
        item: The class.
        names: Features to read.
        path: A Parquet, CSV or JSON-lines file, or a folder of them.

    Raises:
        UsageError: Nothing is there.
        DataError: A column is missing or of a type that the feature cannot have.
    """
    parts = [read_source_file(item, names, file) for file in data_files(path)]
    return TypedRows(
        pl.concat([part.rows for part in parts]), pl.concat([part.damaged for part in parts])
    )


def read_source_file(item: ClassPlan, names: Sequence[str], file: Path) -> TypedRows:
    """Read one file as rows of a class."""
    # As text: inferred types may differ by file, and one bad value would change its column's.
    table = read_table(file, columns=names, as_text=True)
    part = conform(table.rows, item, names, str(file), table.positions)
    unreadable = pl.DataFrame([vars(row) for row in table.damaged], schema=_DAMAGED)
    return TypedRows(part.rows, pl.concat([unreadable, part.damaged]))


def conform(
    frame: pl.DataFrame,
    item: ClassPlan,
    names: Sequence[str],
    source: str,
    positions: pl.Series | None = None,
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
    """
    require_columns(frame, names, source)
    features = [item.feature(name) for name in names]
    typed = frame.select(
        [_to_declared_type(feature, frame.schema[feature.name], source) for feature in features]
    )
    reasons = _damage_reasons(frame, typed, features, item.time)
    if reasons is None:
        # Nearly always: no copy of the table for the sake of rare damage.
        return TypedRows(typed, pl.DataFrame(schema=_DAMAGED))
    bad = reasons.is_not_null()
    if positions is None:
        positions = pl.int_range(1, frame.height + 1, dtype=pl.Int64, eager=True)
    content = frame.select(pl.struct(names).struct.json_encode().alias("content")).to_series()
    damaged = pl.DataFrame(
        [
            pl.repeat(source, frame.height, eager=True).alias("source"),
            positions.alias(POSITION),
            reasons,
            content,
        ]
    )
    return TypedRows(typed.filter(~bad), damaged.filter(bad))


def _to_declared_type(feature: FeaturePlan, dtype: pl.DataType, source: str) -> pl.Expr:
    column = pl.col(feature.name)
    target = POLARS[feature.dtype]
    if dtype == target or dtype == pl.Null:
        return column.cast(target)
    if dtype == pl.String:
        if isinstance(feature.dtype, str):
            return parse_scalar(column, feature.dtype).alias(feature.name)
        return parse_json(column.str.strip_chars(), feature.dtype).alias(feature.name)
    if isinstance(dtype, pl.Datetime) and feature.dtype == "datetime":
        if dtype.time_zone is None:
            raise DataError(
                f"{source}: column {feature.name!r} holds datetimes without a time zone.",
                "Write them in UTC, such as pl.col(…).dt.replace_time_zone('UTC').",
                feature.name,
            )
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if isinstance(dtype, pl.Duration) and feature.dtype == "duration":
        return column.dt.cast_time_unit("us")
    if _is_number(dtype) and feature.dtype == "float64":
        return column.cast(pl.Float64)
    if dtype.is_integer() and feature.dtype == "int64":
        # What does not fit becomes null, and is found as damage below.
        return column.cast(pl.Int64, strict=False)
    if dtype.is_float() and feature.dtype == "int64":
        # Readers widen a whole-number column with gaps; a fraction is damage.
        return pl.when(column == column.round()).then(column.cast(pl.Int64, strict=False))
    if not is_scalar(feature.dtype):
        nested = conform_nested(column, dtype, feature.dtype)
        if nested is not None:
            return nested.alias(feature.name)
    raise DataError(
        f"{source}: column {feature.name!r} is {dtype}, but feature {feature.fqn} is "
        f"{feature.dtype}.",
        "Change the annotation, or cast the column.",
        feature.name,
    )


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype.is_float() or isinstance(dtype, pl.Decimal)


def _damage_reasons(
    frame: pl.DataFrame, typed: pl.DataFrame, features: Sequence[FeaturePlan], time: str | None
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
            reason = f"{feature.name} is not {_dtype_text(feature.dtype)}"
            checks.append(pl.when(pl.lit(lost)).then(pl.lit(reason)))
        # More nulls than lost values: the source itself lacks times, and no window has such rows.
        if feature.name == time and value.null_count() > lost.sum():
            checks.append(pl.when(pl.lit(value.is_null())).then(pl.lit(f"{time} is missing")))
    if not checks:
        return None
    return pl.select(pl.coalesce(checks).alias(REASON)).to_series()


def _dtype_text(dtype: DType) -> str:
    texts: Mapping[str, str] = {
        "datetime": "a datetime with a time zone",
        "int64": "a whole number",
        "float64": "a number",
        "bool": "true or false",
    }
    return texts.get(str(dtype), str(dtype))
