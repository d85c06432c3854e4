"""Accumulator of how often each level of a column occurs."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.protocol import ColumnAccumulator
from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.tables.batches import Batch

LEVEL, COUNT = "level", "count"
# Parts are joined beyond this many rows: not after each batch, which would group all levels anew.
_JOIN_ROWS = 50_000


@dataclass
class LevelCounts(ColumnAccumulator):
    """Counts of one column's levels; a missing value is a level.

    Attributes:
        column: The column.
        dtype: Type in which levels are kept.
        most: Levels above which fitting stops.
    """

    dtype: pl.DataType
    most: int = 1_000_000
    _parts: list[pl.DataFrame] = field(default_factory=list)

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        levels = pl.DataFrame({LEVEL: levels_of(batch.rows[self.column])})
        self._add(levels.group_by(LEVEL).agg(pl.len().cast(pl.Int64).alias(COUNT)))

    def merge(self, other: LevelCounts) -> None:
        """Add the rows that another one has seen."""
        for part in other._parts:
            self._add(part)

    def finish(self) -> pl.DataFrame:
        """``level`` and ``count``, sorted by level, the missing one last."""
        self._join()
        if not self._parts:
            return pl.DataFrame(schema={LEVEL: self.dtype, COUNT: pl.Int64})
        return self._parts[0].sort(LEVEL, nulls_last=True)

    def _add(self, part: pl.DataFrame) -> None:
        self._parts.append(part)
        if len(self._parts) > 1 and sum(p.height for p in self._parts) > _JOIN_ROWS:
            self._join()

    def _join(self) -> None:
        if len(self._parts) > 1:
            self._parts = [pl.concat(self._parts).group_by(LEVEL).agg(pl.col(COUNT).sum())]
        if self._parts and self._parts[0].height > self.most:
            raise DataError(
                f"Column {self.column!r} has more than {self.most:,} levels.",
                "It looks like a key: leave it out, or use feature_hasher.",
                self.column,
            )
