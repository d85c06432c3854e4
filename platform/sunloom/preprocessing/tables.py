"""Tables as batches of rows, and as splits for workers: the memory of one batch is enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.data.sources.folder_schema import common_type
from sunloom.data.sources.table_files import (
    FileSplit,
    Table,
    data_files,
    read_table,
    require_columns,
    split_file,
)
from sunloom.data.sources.text_types import (
    UTC_TIME,
    infer_type,
    parse_text,
    type_name,
)
from sunloom.errors import DataError
from sunloom.preprocessing.columns import infinite_error, kind_of

# 1 MiB per number column.
BATCH_ROWS = 131_072
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
    _folds: dict[tuple[int, int], IntArray] = field(default_factory=dict, repr=False)
    _numbers: dict[str, FloatArray] = field(default_factory=dict, repr=False)

    def folds(self, count: int, seed: int) -> IntArray:
        """Each row's fold, from its number and the seed only; shape [rows]."""
        key = (count, seed)
        if key not in self._folds:
            # Several target encoders ask for the same folds.
            self._folds[key] = (self.random_order(seed) % np.uint64(count)).astype(np.int64)
        return self._folds[key]

    def random_order(self, seed: int) -> NDArray[np.uint64]:
        """A random number for each row, from its number and the seed only; shape [rows]."""
        numbers = np.arange(self.first, self.first + self.rows.height, dtype=np.uint64)
        return mix(numbers, seed)

    def numbers(self, column: str) -> FloatArray:
        """The column's values that are not missing, as float64.

        Raises:
            DataError: A value is infinite.
        """
        # Several accumulators may read one column.
        if column not in self._numbers:
            self._numbers[column] = _finite_values(self.rows[column], self.first)
        return self._numbers[column]


def _finite_values(column: pl.Series, first: int) -> FloatArray:
    values: FloatArray = column.cast(pl.Float64).to_numpy()
    missing = np.isnan(values)
    present = values[~missing] if missing.any() else values
    if not np.isfinite(present).all():
        place = int(np.flatnonzero(np.isinf(values))[0])
        raise infinite_error(column.name, f" (row {first + place})")
    return present


class Source(Protocol):
    """A table that can be read in batches, more than once."""

    @cached_property
    def schema(self) -> pl.Schema:
        """Column to type, in order."""
        ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows in order, the named columns only."""
        ...


@dataclass(frozen=True)
class FrameSource:
    """A frame in memory."""

    frame: pl.DataFrame

    @cached_property
    def schema(self) -> pl.Schema:
        """Column to type, in order."""
        return self.frame.schema

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Slices of the frame, without copies."""
        frame = self.frame if columns is None else self.frame.select(columns)
        for first in range(0, self.frame.height, BATCH_ROWS):
            yield Batch(frame.slice(first, BATCH_ROWS), first)


@dataclass(frozen=True)
class FileSource:
    """One file, or a folder of files of one kind in name order.

    Parquet is read in batches of rows; a file of another kind is read as a whole.

    Attributes:
        path: The file or folder.
        known: Columns whose type a recipe or an artifact knows, for files of text.
    """

    path: Path
    known: Mapping[str, pl.DataType] = field(default_factory=dict)

    @cached_property
    def files(self) -> list[Path]:
        """The files, in order."""
        return data_files(self.path)

    @cached_property
    def schema(self) -> pl.Schema:
        """Column to type, in order; the columns are the first file's."""
        file = self.files[0]
        if file.suffix == ".parquet":
            try:
                return pl.Schema(pl.read_parquet_schema(file))
            except (pl.exceptions.PolarsError, OSError) as error:
                raise DataError(f"{file} cannot be read as parquet: {error}") from error
        # Of all files: in the first one a column may have no value, or only whole numbers.
        schemas = [_text_schema(file) for file in self.files]
        types = dict(schemas[0])
        for other in schemas[1:]:
            # What files do not agree on is text in all of them.
            types |= {
                name: common_type(dtype, other.get(name, pl.Null())) or pl.String()
                for name, dtype in types.items()
            }
        return pl.Schema({n: _known_type(self.known.get(n), own) for n, own in types.items()})

    def require_same_kinds(self, file: Path, columns: Sequence[str] | None = None) -> None:
        """Check that a Parquet file has these columns, of the kinds that the first file has.

        Raises:
            DataError: Names the file and the column.
        """
        if file == self.files[0] or file.suffix != ".parquet":
            return
        names = self.schema if columns is None else columns
        schema = FileSource(file).schema
        require_columns(schema, names, str(file))
        for name in names:
            dtype, first = schema[name], self.schema[name]
            # A file in which a column has no value has any type for it.
            kinds = {kind_of(known) for known in (dtype, first) if known != pl.Null}
            if len(kinds) > 1 and kinds != {"number", "bool"}:
                raise DataError(
                    f"Column {name!r} is {dtype} in {file}, but {first} in {self.files[0].name}.",
                    "Write it with one type in all files.",
                    name,
                )

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Batches of at most ``BATCH_ROWS`` rows."""
        first = 0
        for file in self.files:
            self.require_same_kinds(file, columns)
            for rows in file_batches(file, columns, schema=self.schema):
                yield Batch(rows, first)
                first += rows.height


def whole_table(source: Source, columns: Sequence[str] | None = None) -> Batch:
    """All rows at once, in memory."""
    schema = source.schema
    names = list(schema) if columns is None else list(columns)
    parts = [widen_integers(batch.rows, schema) for batch in source.batches(names)]
    empty = pl.DataFrame(schema={name: schema[name] for name in names})
    return Batch(pl.concat(parts) if parts else empty)


def widen_integers(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows of a later file, whose integers become floats where the first file has floats."""
    integers = [name for name, dtype in rows.schema.items() if dtype.is_integer()]
    casts = {name: schema[name] for name in integers if schema[name] != rows.schema[name]}
    return rows.cast({name: dtype for name, dtype in casts.items() if dtype.is_numeric()})


def open_source(
    table: pl.DataFrame | pl.LazyFrame | Path | str, known: Mapping[str, pl.DataType] | None = None
) -> Source:
    """A table's source: a frame, or the path of a file or folder.

    Args:
        table: The frame or path.
        known: Columns whose type a recipe or an artifact knows, for files of text.

    Raises:
        UsageError: There is no such file.
    """
    if isinstance(table, pl.LazyFrame):
        return FrameSource(table.collect())
    if isinstance(table, pl.DataFrame):
        return FrameSource(table)
    source = FileSource(Path(table), known or {})
    source.files  # noqa: B018 - an absent file is refused here, not at the first batch
    return source


def file_batches(
    file: Path,
    columns: Sequence[str] | None,
    groups: list[int] | None = None,
    *,
    schema: Mapping[str, pl.DataType] | None = None,
) -> Iterator[pl.DataFrame]:
    """A file's rows in order, at most ``BATCH_ROWS`` at a time.

    Args:
        file: The file.
        columns: Columns to read; all by default.
        groups: Row groups of a Parquet file; all by default.
        schema: Types of the table, which the values of a file of text are read as; by default
            those that all values of the file have.

    Raises:
        DataError: The file cannot be read as what its ending says.
    """
    if file.suffix != ".parquet":
        types = _text_schema(file) if schema is None else schema
        yield from _read_text(file, columns, types).iter_slices(BATCH_ROWS)
        return
    import pyarrow.parquet as pq

    # Without pre_buffer: it would hold whole row groups in memory, whatever the batch's size.
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        names = None if columns is None else list(columns)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=names, row_groups=groups):
            rows = pl.from_arrow(batch)
            assert isinstance(rows, pl.DataFrame)
            # pyarrow gives columns in the file's order.
            yield rows if names is None else rows.select(names)


def _read_whole(file: Path, *, as_text: bool = False) -> Table:
    table = read_table(file, as_text=as_text)
    if table.damaged:
        first = table.damaged[0]
        raise DataError(
            f"{file} holds {len(table.damaged)} unreadable rows; line {first.position}: "
            f"{first.reason}.",
            "Prepare it with `sunloom data run`, which quarantines such rows.",
        )
    return table


def _text_schema(file: Path) -> dict[str, pl.DataType]:
    """Types of a file's columns, by all of its values; times that are text count as times."""
    rows = _read_whole(file).rows
    types = dict(rows.schema)
    for column in rows:
        # JSON has no times of its own. Its other texts are texts: "00501" was no number.
        if column.dtype == pl.String and infer_type(column).is_temporal():
            types[column.name] = infer_type(column)
    return types


def _known_type(known: pl.DataType | None, own: pl.DataType) -> pl.DataType:
    """The type to read a column of text as, where a recipe or an artifact knows its kind."""
    kind = None if known is None else kind_of(known)
    if kind in (None, "bytes", "other"):
        return own
    # A column of 0 and 1 may come as true and false.
    accepted = ("number", "bool") if kind == "number" else (kind,)
    if kind_of(own) in accepted and own != pl.Null:
        # The width is the values' own: later rows may have fractions.
        return own
    # What did not look like its kind, such as 007 as a number, or a column without any value.
    kinds = {"number": pl.Float64(), "time": UTC_TIME, "bool": pl.Boolean()}
    return kinds.get(str(kind), pl.String())


def _read_text(
    file: Path, columns: Sequence[str] | None, schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """A CSV or JSON-lines file, read as the types of its table.

    Raises:
        DataError: Names the column, the row and the value that is not of the type.
    """
    # CSV is parsed here; JSON has types, and only columns that the table has otherwise are parsed.
    table = _read_whole(file, as_text=file.suffix == ".csv")
    names = table.rows.columns if columns is None else list(columns)
    require_columns(table.rows, names, str(file))
    rows = table.rows.select(names)
    differing = [n for n in names if n in schema and schema[n] != rows.schema[n]]
    if differing and file.suffix != ".csv":
        rows = rows.with_columns(_read_whole(file, as_text=True).rows.select(differing))
    typed = rows.with_columns(
        parse_text(pl.col(name), schema[name], decimal_comma=table.decimal_comma).alias(name)
        for name in differing
    )
    for name in differing:
        text = rows[name].str.strip_chars()
        lost = typed[name].is_null() & text.is_not_null() & (text != "")
        if lost.any():
            row = lost.arg_max() or 0
            raise DataError(
                f"{file}: column {name!r} holds {rows[name][row]!r} in row {row + 1}, which is "
                f"not {type_name(schema[name])}.",
                "Correct the value, or leave it empty.",
                name,
            )
    return typed


@dataclass(frozen=True)
class TableSplit:
    """Neighbouring parts of the table's files: what one task reads.

    Attributes:
        parts: In order.
        schema: Types of the table; those of each file where it is not given.
    """

    parts: tuple[FileSplit, ...]
    schema: Mapping[str, pl.DataType] | None = None

    @property
    def first(self) -> int:
        """Number of its first row in the table."""
        return self.parts[0].first_row

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows of its parts in order."""
        for part in self.parts:
            first = part.first_row
            groups = list(part.row_groups) or None
            for rows in file_batches(Path(part.file), columns, groups, schema=self.schema):
                yield Batch(rows, first)
                first += rows.height


def file_splits_of(source: FileSource, columns: Sequence[str] | None = None) -> list[FileSplit]:
    """The row groups of the table's files in order; those without rows are left out.

    Args:
        source: The table.
        columns: Columns that will be read; all by default.

    Raises:
        DataError: A file lacks one of them, or has it with another type than the first file.
    """
    splits: list[FileSplit] = []
    first = 0
    for file in source.files:
        source.require_same_kinds(file, columns)
        for split in split_file(file, columns):
            rows = split.rows
            if file.suffix != ".parquet":
                # Row numbers seed folds and samples, so the rows must be counted: by reading them.
                rows = _read_whole(file, as_text=True).rows.height
            splits.append(replace(split, first_row=first, rows=rows))
            first += rows
    return [split for split in splits if split.rows]


def split_table(
    parts: Sequence[FileSplit],
    least: int,
    most_rows: int,
    *,
    schema: Mapping[str, pl.DataType] | None = None,
) -> list[TableSplit]:
    """Neighbouring parts together.

    Args:
        parts: In order.
        least: Splits to make at least, so that every worker has some; a part is not divided.
        most_rows: Rows of a split, unless it is one part.
        schema: Types of the table.
    """
    total = sum(part.rows for part in parts)
    size = min(most_rows, -(-total // max(least, 1)))
    splits: list[TableSplit] = []
    pending: list[FileSplit] = []
    for part in parts:
        if pending and sum(other.rows for other in pending) + part.rows > size:
            splits.append(TableSplit(tuple(pending), schema))
            pending = []
        pending.append(part)
    return [*splits, TableSplit(tuple(pending), schema)] if pending else splits
