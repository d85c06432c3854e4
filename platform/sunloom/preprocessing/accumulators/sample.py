"""Some rows of a table, for what cannot be learnt in parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.tables.batches import Batch

_ORDER, _ROW = "__order__", "__row__"


@dataclass
class Sample:
    """At most ``most`` rows, chosen by a random number that depends on the row number only.

    Attributes:
        names: Columns that are kept.
        most: Rows that are kept.
        total: Rows seen.
    """

    names: tuple[str, ...]
    most: int
    numbers: tuple[str, ...] = ()
    total: int = 0
    _parts: list[pl.DataFrame] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return self.names

    def update(self, chunk: Batch) -> None:
        """Take some rows in."""
        self.total += chunk.rows.height
        for name in self.numbers:
            chunk.numbers(name)
        order = pl.Series(_ORDER, chunk.order(0))
        row = pl.Series(_ROW, np.arange(chunk.first, chunk.first + chunk.rows.height))
        self._take(chunk.rows.select(self.names).with_columns(order, row))

    def merge(self, other: Sample) -> None:
        """Take in what another one has learnt from other rows."""
        self.total += other.total
        for part in other._parts:
            self._take(part)

    def finish(self) -> pl.DataFrame:
        """The rows, in their order."""
        return self.numbered()[0]

    def numbered(self) -> tuple[pl.DataFrame, pl.Series]:
        """The rows, in their order, and each one's number in the table."""
        self._shrink()
        if not self._parts:
            raise DataError("There are no rows to learn from.")
        rows = self._parts[0].sort(_ROW)
        return rows.select(self.names), rows[_ROW]

    def _take(self, part: pl.DataFrame) -> None:
        self._parts.append(part)
        if sum(p.height for p in self._parts) > 2 * self.most:
            self._shrink()

    def _shrink(self) -> None:
        if self._parts:
            rows = pl.concat(self._parts)
            over = rows.height > self.most
            self._parts = [rows.bottom_k(self.most, by=_ORDER) if over else rows]
