"""Splits of a file that one worker reads at a time: row groups of Parquet, else the whole file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class FileSplit:
    """Neighbouring row groups of a Parquet file, or a whole file of another kind.

    Attributes:
        file: Absolute path, which a worker opens too.
        row_groups: Row groups; none where the whole file is read.
        first_row: Rows before the split: in its file, or in the table that the file belongs to.
        rows: Rows of its row groups; 0 where only reading the file would tell.
        size_bytes: Bytes of the columns that are read, uncompressed; about, for a whole file.
    """

    file: str
    row_groups: tuple[int, ...]
    first_row: int
    rows: int
    size_bytes: int

    def read_parquet(self, columns: Sequence[str]) -> pl.DataFrame:
        """Those of the columns that the Parquet file has, in the rows of the split."""
        import pyarrow.parquet as pq

        # Not by Polars, which reads ranges of rows but no row groups by number.
        with pq.ParquetFile(self.file) as opened:
            names = opened.schema_arrow.names
            known = [name for name in columns if name in names]
            frame = pl.from_arrow(opened.read_row_groups(list(self.row_groups), columns=known))
        assert isinstance(frame, pl.DataFrame)
        return frame


def split_file(
    file: Path, columns: Sequence[str] | None = None, least_rows: int = 1
) -> Iterator[FileSplit]:
    """The splits of a file, in order.

    Args:
        file: Parquet, or any other file, which is one split.
        columns: Columns that will be read; all by default.
        least_rows: Row groups are joined until a split has so many rows.

    Yields:
        At least one split, so that a file without rows still tells its columns.
    """
    path = str(file.absolute())
    if file.suffix != ".parquet":
        yield FileSplit(path, (), first_row=0, rows=0, size_bytes=file.stat().st_size)
        return
    import pyarrow.parquet as pq

    footer = pq.read_metadata(file)
    groups: list[int] = []
    first = rows = size = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        groups.append(number)
        rows += group.num_rows
        for index in range(group.num_columns):
            column = group.column(index)
            # A list's or a struct's leaves are named below their column.
            if columns is None or column.path_in_schema.split(".")[0] in columns:
                # Uncompressed: the engine is chosen by the memory that the rows take.
                size += column.total_uncompressed_size
        if rows >= least_rows:
            yield FileSplit(path, tuple(groups), first, rows, size)
            groups, first, rows, size = [], first + rows, 0, 0
    if groups or not footer.num_row_groups:
        yield FileSplit(path, tuple(groups), first, rows, size)
