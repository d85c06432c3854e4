"""A table in pieces that one worker reads, and neighbouring pieces as shares of the work.

A row group of a Parquet file is a piece, and so is a whole file of another kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sunloom.preprocessing.tables.batches import Batch, FileSource, file_batches


@dataclass(frozen=True)
class Piece:
    """Rows that lie together.

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

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Its rows in order, in batches."""
        groups, first = None if self.group < 0 else [self.group], self.first
        for rows in file_batches(Path(self.file), columns, groups):
            yield Batch(rows, first)
            first += rows.height


@dataclass(frozen=True)
class Share:
    """Neighbouring pieces: what one task reads."""

    pieces: tuple[Piece, ...]

    @property
    def first(self) -> int:
        """Number of its first row in the table."""
        return self.pieces[0].first

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.rows for piece in self.pieces)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows of its pieces in order, in batches."""
        for piece in self.pieces:
            yield from piece.chunks(columns)


def pieces_of(source: FileSource, columns: Sequence[str] | None = None) -> list[Piece]:
    """The pieces in order; those without rows are left out.

    Args:
        source: The table.
        columns: Columns that will be read; all by default.

    Raises:
        DataError: A file lacks one of them, or has it with another type than the first file.
    """
    import pyarrow.parquet as pq

    found: list[Piece] = []
    first = 0
    for file in source.files:
        source.require_alike(file, columns)
        place = str(file.absolute())
        if file.suffix == ".parquet":
            about = pq.read_metadata(file)
            sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        else:
            sizes = [sum(frame.height for frame in file_batches(file, None))]
        for group, rows in enumerate(sizes):
            found.append(Piece(place, group if file.suffix == ".parquet" else -1, first, rows))
            first += rows
    return [piece for piece in found if piece.rows]


def shares_of(pieces: Sequence[Piece], least: int, most_rows: int) -> list[Share]:
    """Neighbouring pieces together.

    Args:
        pieces: In order.
        least: Shares that are wanted, so that every worker has some; pieces are not cut for it.
        most_rows: Rows of a share, unless it is one piece.
    """
    total = sum(piece.rows for piece in pieces)
    size = min(most_rows, -(-total // max(least, 1)))
    shares: list[Share] = []
    held: list[Piece] = []
    for piece in pieces:
        if held and sum(one.rows for one in held) + piece.rows > size:
            shares.append(Share(tuple(held)))
            held = []
        held.append(piece)
    return [*shares, Share(tuple(held))] if held else shares
