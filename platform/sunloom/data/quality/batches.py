"""Rows to be checked, chunk by chunk, as they were found and in their declared types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.data.quality.declared_types import Form, as_declared, infer_type
from sunloom.data.sources.files import Damaged, data_files, read_table, require_columns
from sunloom.errors import DataError

PARQUET = ".parquet"


def present(name: str) -> str:
    """Name of the column that says where ``name`` held a value before it was read as its type."""
    return f"\0present {name}"


@dataclass(frozen=True)
class TypedBatch:
    """Some consecutive rows.

    Attributes:
        typed: The columns in their declared types, null where a value is not of it, and for each
            a column ``present(name)``.
        raw: The columns as they were found.
        positions: Where each row stands in the source, from 1.
    """

    typed: pl.DataFrame
    raw: pl.DataFrame
    positions: pl.Series


@dataclass(frozen=True)
class CheckedTable:
    """A table that can be read more than once.

    Attributes:
        name: Shown in reports.
        schema: Columns as found.
        parts: Gives the raw rows and their positions, from the beginning at each call.
        types: Column to declared type.
        forms: Column to how its values are written; ``typed`` where it is absent.
        damaged: Rows that could not be read at all.
    """

    name: str
    schema: Mapping[str, pl.DataType]
    parts: Callable[[], Iterator[tuple[pl.DataFrame, pl.Series]]]
    types: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, Form] = field(default_factory=dict)
    damaged: Sequence[Damaged] = ()

    def declared(self, types: Mapping[str, str]) -> CheckedTable:
        """The same rows, read as these types; text of files without types is given one."""
        return replace(self, types={**self.types, **types})

    def chunks(self) -> Iterator[TypedBatch]:
        """The rows in order."""
        for raw, positions in self.parts():
            columns = [
                as_declared(name, self.types.get(name), raw.schema[name], self.forms.get(name))
                for name in raw.columns
            ]
            there = [pl.col(name).is_not_null().alias(present(name)) for name in raw.columns]
            yield TypedBatch(raw.select(*columns, *there), raw, positions)

    def column(self, name: str) -> pl.Series:
        """One column in its declared type, whole."""
        parts = [
            raw.select(as_declared(name, self.types.get(name), dtype, self.forms.get(name)))
            for raw, _ in self.parts()
            for dtype in (raw.schema[name],)
        ]
        return pl.concat(parts, how="vertical_relaxed").to_series().alias(name)

    def dtype(self, name: str) -> pl.DataType:
        """The type that checks see."""
        found = self.schema[name]
        empty = pl.DataFrame({name: pl.Series([], dtype=found)})
        column = as_declared(name, self.types.get(name), found, self.forms.get(name))
        return empty.select(column).schema[name]


def rows_of_path(path: Path, chunk_rows: int = 131_072) -> CheckedTable:
    """Rows of a Parquet, CSV or JSON-lines file or a folder of them.

    Parquet is read ``chunk_rows`` rows at a time; the other forms lie in memory whole.

    Raises:
        UsageError: Nothing is there.
        DataError: A file cannot be read as what its ending says.
    """
    files = data_files(path)
    if all(file.suffix == PARQUET for file in files):
        return _parquet_rows(path, files, chunk_rows)
    table = read_table(path, as_text=True)
    frame, positions = table.rows, table.positions
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    guessed = {name: found for name in texts if (found := infer_type(frame[name]))}
    return CheckedTable(
        str(path),
        dict(frame.schema),
        lambda: iter([(frame, _counted(frame, 1) if positions is None else positions)]),
        guessed,
        dict.fromkeys(texts, "text"),
        table.damaged,
    )


def rows_of_frame(frame: pl.DataFrame, name: str) -> CheckedTable:
    """Rows of a frame; ``name`` is shown in reports."""
    return CheckedTable(name, dict(frame.schema), lambda: iter([(frame, _counted(frame, 1))]))


def rows_of_records(records: Sequence[Mapping[str, Any]], name: str) -> CheckedTable:
    """Rows that came in as JSON objects; a column that some lack is null there."""
    names = list(dict.fromkeys(key for record in records for key in record))
    columns = {key: [record.get(key) for record in records] for key in names}
    built = {key: _json_column(key, values) for key, values in columns.items()}
    frame = pl.DataFrame([series for series, _ in built.values()])
    return replace(
        rows_of_frame(frame, name), forms={key: form for key, (_, form) in built.items()}
    )


def _parquet_rows(path: Path, files: Sequence[Path], chunk_rows: int) -> CheckedTable:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        schema = pl.read_parquet_schema(files[0])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{files[0]} cannot be read as parquet: {error}") from error

    def parts() -> Iterator[tuple[pl.DataFrame, pl.Series]]:
        start = 1
        for file in files:
            try:
                opened = pq.ParquetFile(file)
                require_columns(pl.Schema(pl.read_parquet_schema(file)), schema, str(file))
                for batch in opened.iter_batches(chunk_rows, columns=list(schema)):
                    frame = pl.DataFrame(batch)
                    yield frame, _counted(frame, start)
                    start += frame.height
            except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
                raise DataError(f"{file} cannot be read as parquet: {error}") from error

    return CheckedTable(str(path), dict(schema), parts)


def _counted(frame: pl.DataFrame, start: int) -> pl.Series:
    return pl.int_range(start, start + frame.height, dtype=pl.Int64, eager=True)


def _json_column(name: str, values: Sequence[Any]) -> tuple[pl.Series, Form]:
    kinds = {type(value) for value in values if value is not None}
    for python, dtype in ((bool, pl.Boolean), (int, pl.Int64), (str, pl.String)):
        if kinds == {python} and not _too_wide(values, python):
            return pl.Series(name, values, dtype=dtype), "json"
    if kinds and kinds <= {int, float}:
        return pl.Series(name, [_number(v) for v in values], dtype=pl.Float64), "json"
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null), "json"
    texts = [None if value is None else json.dumps(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String), "mixed"


def _too_wide(values: Sequence[Any], python: type) -> bool:
    return python is int and any(v is not None and not -(2**63) <= v < 2**63 for v in values)


def _number(value: float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:
        return float("inf")
