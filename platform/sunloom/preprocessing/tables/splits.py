"""Splits of a table: neighbouring row groups of its files that one task reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sunloom.preprocessing.tables.batches import Batch, FileSource, file_batches


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file, or a whole file of another kind.

    Attributes:
        file: The file, as an absolute path.
        group: Row group of a Parquet file, or -1: the whole file.
        first: Number of its first row in the table.
        rows: Rows.
    """

    file: str
    group: int
    first: int
    rows: int

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Its rows in order."""
        groups, first = None if self.group < 0 else [self.group], self.first
        for rows in file_batches(Path(self.file), columns, groups):
            yield Batch(rows, first)
            first += rows.height


@dataclass(frozen=True)
class TableSplit:
    """Neighbouring row groups: what one task reads."""

    groups: tuple[RowGroup, ...]

    @property
    def first(self) -> int:
        """Number of its first row in the table."""
        return self.groups[0].first

    @property
    def rows(self) -> int:
        """Rows of all groups."""
        return sum(group.rows for group in self.groups)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows of its groups in order."""
        for group in self.groups:
            yield from group.batches(columns)


def row_groups_of(source: FileSource, columns: Sequence[str] | None = None) -> list[RowGroup]:
    """The row groups in order; those without rows are left out.

    Args:
        source: The table.
        columns: Columns that will be read; all by default.

    Raises:
        DataError: A file lacks one of them, or has it with another type than the first file.
    """
    import pyarrow.parquet as pq

    groups: list[RowGroup] = []
    first = 0
    for file in source.files:
        source.require_same_kinds(file, columns)
        if file.suffix == ".parquet":
            footer = pq.read_metadata(file)
            sizes = {n: footer.row_group(n).num_rows for n in range(footer.num_row_groups)}
        else:
            # Row numbers seed folds and samples, so the rows must be counted: by reading them.
            sizes = {-1: sum(frame.height for frame in file_batches(file, None))}
        for group, rows in sizes.items():
            groups.append(RowGroup(str(file.absolute()), group, first, rows))
            first += rows
    return [group for group in groups if group.rows]


def split_table(groups: Sequence[RowGroup], least: int, most_rows: int) -> list[TableSplit]:
    """Neighbouring row groups together.

    Args:
        groups: In order.
        least: Splits to make at least, so that every worker has some; a row group is not divided.
        most_rows: Rows of a split, unless it is one row group.
    """
    total = sum(group.rows for group in groups)
    size = min(most_rows, -(-total // max(least, 1)))
    splits: list[TableSplit] = []
    pending: list[RowGroup] = []
    for group in groups:
        if pending and sum(other.rows for other in pending) + group.rows > size:
            splits.append(TableSplit(tuple(pending)))
            pending = []
        pending.append(group)
    return [*splits, TableSplit(tuple(pending))] if pending else splits
