"""Splits of a table: neighbouring row groups of its files that one task reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sunloom.data.sources.splits import FileSplit, split_file
from sunloom.preprocessing.tables.batches import Batch, FileSource, file_batches


@dataclass(frozen=True)
class TableSplit:
    """Neighbouring parts of the table's files: what one task reads."""

    parts: tuple[FileSplit, ...]

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
            for rows in file_batches(Path(part.file), columns, list(part.row_groups) or None):
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
                rows = sum(frame.height for frame in file_batches(file, None))
            splits.append(replace(split, first_row=first, rows=rows))
            first += rows
    return [split for split in splits if split.rows]


def split_table(parts: Sequence[FileSplit], least: int, most_rows: int) -> list[TableSplit]:
    """Neighbouring parts together.

    Args:
        parts: In order.
        least: Splits to make at least, so that every worker has some; a part is not divided.
        most_rows: Rows of a split, unless it is one part.
    """
    total = sum(part.rows for part in parts)
    size = min(most_rows, -(-total // max(least, 1)))
    splits: list[TableSplit] = []
    pending: list[FileSplit] = []
    for part in parts:
        if pending and sum(other.rows for other in pending) + part.rows > size:
            splits.append(TableSplit(tuple(pending)))
            pending = []
        pending.append(part)
    return [*splits, TableSplit(tuple(pending))] if pending else splits
