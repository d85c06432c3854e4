"""Tables to be checked: batches of rows, as the source has them and in their declared types.

A value that does not have its column's declared type becomes null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from sunloom.data.quarantine import Damaged
from sunloom.data.sources.folder_schema import fit_schema, merge_schemas
from sunloom.data.sources.table_files import (
    data_files,
    parquet_schema,
    read_table,
)
from sunloom.data.sources.text_types import (
    UTC_TIME,
    infer_type,
    parse_scalar,
    with_decimal_points,
)
from sunloom.errors import DataError

Form = Literal["typed", "text", "json", "mixed"]
"""``typed`` columns have a type of their own; ``text`` ones come from files without types;
``json`` ones have JSON's types, where datetimes are text; ``mixed`` ones hold values of several
JSON types, as JSON text."""

_TEMPORAL = ("datetime", "date", "duration")
_DTYPES: dict[str, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
    "date": pl.Date(),
    "duration": pl.Duration("us"),
}
_INFERRED = {
    pl.Int64(): "int64",
    pl.Float64(): "float64",
    pl.Boolean(): "bool",
    UTC_TIME: "datetime",
    pl.Date(): "date",
}
# Source types that need no conversion; numbers and datetimes are converted to one width and zone.
_UNCHANGED: dict[str, tuple[type[pl.DataType], ...]] = {
    "bool": (pl.Boolean,),
    "date": (pl.Date,),
    "duration": (pl.Duration,),
    "string": (pl.Categorical, pl.Enum),
}


def presence_column(name: str) -> str:
    """Name of the column that says where ``name`` had a value before it was cast to its type."""
    # The null character keeps the name apart from every column that a source may have.
    return f"\0present {name}"


@dataclass(frozen=True)
class TypedBatch:
    """Some consecutive rows.

    Attributes:
        typed: The columns in their declared types, null where a value does not have it, and for
            each a column ``presence_column(name)``.
        raw: The columns as the source has them.
        positions: Position of each row in the source, from 1.
    """

    typed: pl.DataFrame
    raw: pl.DataFrame
    positions: pl.Series


@dataclass(frozen=True)
class CheckedTable:
    """A table that can be read more than once.

    Attributes:
        name: Shown in reports.
        schema: Columns of the source.
        read: Gives the raw rows and their positions, from the beginning at each call; one part
            without rows where the table has none.
        types: Column to declared type.
        forms: Column to how its values are written; ``typed`` where it is absent.
        damaged: Rows that could not be read at all.
    """

    name: str
    schema: Mapping[str, pl.DataType]
    # A function, because counts, failing rows and drift each read from the beginning.
    read: Callable[[], Iterator[tuple[pl.DataFrame, pl.Series]]]
    types: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, Form] = field(default_factory=dict)
    damaged: Sequence[Damaged] = ()

    def with_types(self, types: Mapping[str, str]) -> CheckedTable:
        """The same rows, read as these types; columns that ``types`` lacks keep theirs."""
        return replace(self, types={**self.types, **types})

    def batches(self) -> Iterator[TypedBatch]:
        """The rows in order."""
        for raw, positions in self.read():
            columns = [self._cast(name, dtype) for name, dtype in raw.schema.items()]
            present = [pl.col(n).is_not_null().alias(presence_column(n)) for n in raw.columns]
            yield TypedBatch(raw.select(*columns, *present), raw, positions)

    def column(self, name: str) -> pl.Series:
        """One column in its declared type, whole."""
        parts = [
            # Not by select alone, which makes one row of the null of a column of a wrong type.
            raw.select(name).with_columns(self._cast(name, raw.schema[name]))
            for raw, _ in self.read()
        ]
        # Relaxed: files of a folder may have a column without a declared type in several widths.
        return pl.concat(parts, how="vertical_relaxed").to_series().alias(name)

    def dtype(self, name: str) -> pl.DataType:
        """The type that checks see."""
        source_type = self.schema[name]
        empty = pl.DataFrame({name: pl.Series([], dtype=source_type)})
        return empty.select(self._cast(name, source_type)).schema[name]

    def _cast(self, name: str, source_type: pl.DataType) -> pl.Expr:
        """The column as its declared type, under its name; unchanged where none is declared."""
        column, declared = pl.col(name), self.types.get(name)
        if declared is None:
            return column
        if source_type == pl.String:
            return _from_text(column, declared, self.forms.get(name, "typed")).alias(name)
        return _from_typed(column, declared, source_type).alias(name)


def table_from_path(path: Path, chunk_rows: int = 131_072) -> CheckedTable:
    """Rows of a Parquet, CSV or JSON-lines file or a folder of them.

    Parquet is read ``chunk_rows`` rows at a time; the other formats are held in memory whole.

    Raises:
        UsageError: The path does not exist, or the folder is empty.
        DataError: A file cannot be read as its extension says.
    """
    files = data_files(path)
    if all(file.suffix == ".parquet" for file in files):
        return _parquet_table(path, files, chunk_rows)
    table = read_table(path, as_text=True)
    frame = with_decimal_points(table.rows) if table.decimal_comma else table.rows
    positions = _row_numbers(frame, 1) if table.positions is None else table.positions
    # Undeclared columns of CSV and JSON lines get the type that all their texts have.
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    return CheckedTable(
        name=str(path),
        schema=dict(frame.schema),
        read=lambda: iter([(frame, positions)]),
        types={name: dtype for name in texts if (dtype := _INFERRED.get(infer_type(frame[name])))},
        forms=dict.fromkeys(texts, "text"),
        damaged=table.damaged,
    )


def table_from_frame(frame: pl.DataFrame, name: str) -> CheckedTable:
    """Rows of a frame; ``name`` is shown in reports."""
    return CheckedTable(name, dict(frame.schema), lambda: iter([(frame, _row_numbers(frame, 1))]))


def table_from_records(records: Sequence[Mapping[str, Any]], name: str) -> CheckedTable:
    """Rows that came in as JSON objects; a column that some lack is null there."""
    names = dict.fromkeys(key for record in records for key in record)
    columns = {key: _json_column(key, [record.get(key) for record in records]) for key in names}
    frame = pl.DataFrame([series for series, _ in columns.values()])
    forms = {key: form for key, (_, form) in columns.items()}
    return replace(table_from_frame(frame, name), forms=forms)


def _parquet_table(path: Path, files: Sequence[Path], chunk_rows: int) -> CheckedTable:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    schemas = {file: parquet_schema(file) for file in files}
    schema = merge_schemas((str(file), own) for file, own in schemas.items())

    def read() -> Iterator[tuple[pl.DataFrame, pl.Series]]:
        start = 1
        for file, own in schemas.items():
            try:
                opened = pq.ParquetFile(file)
                # Not by Polars, which reads whole row groups: one may be as large as the file.
                for batch in opened.iter_batches(chunk_rows, columns=list(own)):
                    frame = fit_schema(pl.DataFrame(batch), schema, str(file))
                    yield frame, _row_numbers(frame, start)
                    start += frame.height
            except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
                raise DataError(f"{file} cannot be read as parquet: {error}") from error
        # A table without rows still has columns, which callers concatenate and check.
        if start == 1:
            yield pl.DataFrame(schema=schema), _row_numbers(pl.DataFrame(), start)

    return CheckedTable(str(path), dict(schema), read)


def _row_numbers(frame: pl.DataFrame, start: int) -> pl.Series:
    return pl.int_range(start, start + frame.height, dtype=pl.Int64, eager=True)


def _json_column(name: str, values: Sequence[Any]) -> tuple[pl.Series, Form]:
    # type, not isinstance: Python's bool is an int, and true must not become 1.
    kinds = {type(value) for value in values if value is not None}
    for python, dtype in ((bool, pl.Boolean), (int, pl.Int64), (str, pl.String)):
        if kinds != {python}:
            continue
        # Integers beyond 64 bits become floats below; Polars would refuse the column.
        if python is int and any(value and not -(2**63) <= value < 2**63 for value in values):
            break
        return pl.Series(name, values, dtype=dtype), "json"
    if kinds and kinds <= {int, float}:
        return pl.Series(name, [_to_float(v) for v in values], dtype=pl.Float64), "json"
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null), "json"
    # Values of several JSON types have no common column type; as JSON text none of them changes.
    texts = [None if value is None else json.dumps(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String), "mixed"


def _to_float(value: float | None) -> float | None:
    try:
        return None if value is None else float(value)
    # JSON does not bound its integers; a float ends at about 1.8e308.
    except OverflowError:
        return float("inf")


def _from_text(column: pl.Expr, declared: str, form: Form) -> pl.Expr:
    if form == "mixed":
        quoted = column.str.starts_with('"')
        if declared == "string":
            return pl.when(quoted).then(column.str.json_decode(pl.String))
        # In JSON text a string has its quotes, and times are strings.
        inner = column if declared not in _TEMPORAL else column.str.strip_chars('"')
        return _parse(inner, declared)
    if declared == "string":
        return column
    if form == "text" or (form == "json" and declared in _TEMPORAL):
        return _parse(column, declared)
    return _all_null(declared)


def _parse(column: pl.Expr, declared: str) -> pl.Expr:
    if declared == "date":
        return column.str.strip_chars().str.to_date("%Y-%m-%d", strict=False)
    if declared == "duration":
        seconds = column.str.strip_chars().cast(pl.Float64, strict=False)
        return pl.duration(microseconds=(seconds * 1_000_000).round().cast(pl.Int64, strict=False))
    return parse_scalar(column, declared)


def _from_typed(column: pl.Expr, declared: str, source_type: pl.DataType) -> pl.Expr:
    if declared == "int64" and source_type.is_integer():
        return column.cast(pl.Int64, strict=False)
    # A column of integers with nulls is often written as floats, by pandas above all.
    if declared == "int64" and source_type.is_float():
        return pl.when(column == column.round()).then(column.cast(pl.Int64, strict=False))
    if declared == "float64" and source_type.is_numeric():
        return column.cast(pl.Float64)
    if declared == "datetime" and isinstance(source_type, pl.Datetime) and source_type.time_zone:
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return column if isinstance(source_type, _UNCHANGED.get(declared, ())) else _all_null(declared)


def _all_null(declared: str) -> pl.Expr:
    return pl.lit(None, dtype=_DTYPES[declared])
