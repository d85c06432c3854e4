"""A table as chunks of rows: what fitting and transforming read, so memory does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.data.sources.table_files import data_files, read_table, require_columns
from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import kind_of

CHUNK_ROWS = 131_072
# Constants of SplitMix64 (Steele, Lea and Flood, 2014).
_STEP, _A, _B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mix(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of each number: the same on every machine, whatever batch it comes in."""
    state = numbers * np.uint64(_STEP) + np.uint64((seed * _A + _STEP) & _MASK)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_A)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_B)
    hashed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return hashed


@dataclass(frozen=True)
class Batch:
    """Some rows of a table.

    Attributes:
        rows: The rows.
        first: Number of the first one in the whole table, from 0.
    """

    rows: pl.DataFrame
    first: int = 0
    _held: dict[Any, Any] = field(default_factory=dict, repr=False)

    def folds(self, count: int, seed: int) -> IntArray:
        """Each row's fold, from its number and the seed only; shape [rows]."""
        key = ("folds", count, seed)
        if key not in self._held:
            self._held[key] = (self.order(seed) % np.uint64(count)).astype(np.int64)
        found: IntArray = self._held[key]
        return found

    def order(self, seed: int) -> Any:
        """A random number for each row, from its number and the seed only; uint64, [rows]."""
        numbers = np.arange(self.first, self.first + self.rows.height, dtype=np.uint64)
        return mix(numbers, seed)

    def numbers(self, column: str) -> FloatArray:
        """The column's values that are there, as float64.

        Raises:
            DataError: A value is infinite.
        """
        key = ("numbers", column)
        if key not in self._held:
            self._held[key] = _finite(self.rows[column], column, self.first)
        found: FloatArray = self._held[key]
        return found

    def with_rows(self, rows: pl.DataFrame) -> Batch:
        """The same place in the table, other columns."""
        return Batch(rows, self.first)


def _finite(series: pl.Series, column: str, first: int) -> FloatArray:
    values: FloatArray = series.cast(pl.Float64).to_numpy()
    there = values[~np.isnan(values)] if series.null_count() or np.isnan(values).any() else values
    if not np.isfinite(there).all():
        where = int(np.flatnonzero(np.isinf(values))[0])
        raise DataError(
            f"Column {column!r} holds an infinite value (row {first + where}).",
            "Replace it, or make it null and impute it.",
            column,
        )
    return there


class Source(Protocol):
    """A table that can be read in chunks, more than once."""

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Column to type, in order."""
        ...

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows in order, the named columns only."""
        ...


@dataclass(frozen=True)
class FrameSource:
    """A frame in memory."""

    frame: pl.DataFrame

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Column to type, in order."""
        return dict(self.frame.schema)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Slices of the frame, without copies."""
        frame = self.frame if columns is None else self.frame.select(columns)
        for first in range(0, self.frame.height, CHUNK_ROWS):
            yield Batch(frame.slice(first, CHUNK_ROWS), first)


@dataclass(frozen=True)
class FileSource:
    """One file, or a folder of files of one kind in name order.

    Parquet is read in batches of rows; a file of another kind is read as a whole.
    """

    path: Path

    @cached_property
    def files(self) -> list[Path]:
        """The files, in order."""
        return data_files(self.path)

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Column to type, in order; the first file's."""
        file = self.files[0]
        if file.suffix == ".parquet":
            try:
                return dict(pl.read_parquet_schema(file))
            except (pl.exceptions.PolarsError, OSError) as error:
                raise DataError(f"{file} cannot be read as parquet: {error}") from error
        return dict(_whole(file).schema)

    def require_alike(self, file: Path, columns: Sequence[str] | None = None) -> None:
        """Check that a Parquet file has these columns, of the kinds that the first file has.

        Raises:
            DataError: Names the file and the column.
        """
        if file == self.files[0] or file.suffix != ".parquet":
            return
        names = self.schema if columns is None else columns
        found = FileSource(file).schema
        require_columns(pl.Schema(dict(found)), names, str(file))
        for name in names:
            mine, first = found[name], self.schema[name]
            kinds = {kind_of(dtype) for dtype in (mine, first) if dtype != pl.Null}
            if len(kinds) > 1 and kinds != {"number", "bool"}:
                raise DataError(
                    f"Column {name!r} is {mine} in {file}, but {first} in {self.files[0].name}.",
                    "Write it with one type in all files.",
                    name,
                )

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Batches of at most ``CHUNK_ROWS`` rows."""
        first = 0
        for file in self.files:
            self.require_alike(file, columns)
            for rows in file_batches(file, columns):
                yield Batch(rows, first)
                first += rows.height


def whole_table(source: Source, columns: Sequence[str] | None = None) -> Batch:
    """All rows at once, in memory."""
    schema = pl.Schema(dict(source.schema))
    names = list(schema) if columns is None else list(columns)
    parts = [fitting_rows(chunk.rows, schema) for chunk in source.chunks(names)]
    empty = pl.DataFrame(schema={name: schema[name] for name in names})
    return Batch(pl.concat(parts) if parts else empty)


def fitting_rows(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows of a later file, which may hold whole numbers where the first one held floats."""
    whole = [name for name, dtype in rows.schema.items() if dtype.is_integer()]
    casts = {name: schema[name] for name in whole if schema[name] != rows.schema[name]}
    return rows.cast({name: dtype for name, dtype in casts.items() if dtype.is_numeric()})


def open_source(table: pl.DataFrame | pl.LazyFrame | Path | str) -> Source:
    """A table's source: a frame, or the path of a file or folder.

    Raises:
        UsageError: There is no such file.
    """
    if isinstance(table, pl.LazyFrame):
        return FrameSource(table.collect())
    if isinstance(table, pl.DataFrame):
        return FrameSource(table)
    source = FileSource(Path(table))
    source.files  # noqa: B018 - an absent file is refused here, not at the first chunk
    return source


def file_batches(
    file: Path, columns: Sequence[str] | None, groups: list[int] | None = None
) -> Iterator[pl.DataFrame]:
    """A file's rows in order, at most ``CHUNK_ROWS`` at a time.

    Args:
        file: The file.
        columns: Columns to read; all by default.
        groups: Row groups of a Parquet file; all by default.

    Raises:
        DataError: The file cannot be read as what its ending says.
    """
    if file.suffix != ".parquet":
        frame = _whole(file)
        if columns is not None:
            require_columns(frame, columns, str(file))
            frame = frame.select(columns)
        yield from frame.iter_slices(CHUNK_ROWS)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False) as opened:
        names = None if columns is None else list(columns)
        for batch in opened.iter_batches(CHUNK_ROWS, columns=names, row_groups=groups):
            rows = pl.from_arrow(batch)
            assert isinstance(rows, pl.DataFrame)
            yield rows if names is None else rows.select(names)


def _whole(file: Path) -> pl.DataFrame:
    table = read_table(file)
    if table.damaged:
        worst = table.damaged[0]
        raise DataError(
            f"{file} holds {len(table.damaged)} unreadable rows; line {worst.position}: "
            f"{worst.reason}.",
            "Prepare it with `sunloom data run`, which sets such rows aside.",
        )
    return table.rows
