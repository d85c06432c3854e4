"""Accumulator of a random sample of rows, for models that cannot be fitted in parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.tables.batches import Batch

_ORDER, _ROW = "__order__", "__row__"


@dataclass
class TableSample:
    """At most ``most`` rows, chosen by a random number that depends on the row number only.

    Attributes:
        names: Columns that are kept.
        most: Rows that are kept.
        numbers: Columns whose values must be finite.
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

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        self.total += batch.rows.height
        for name in self.numbers:
            # Refuses infinite values.
            batch.numbers(name)
        # Row numbers decide, so that the sample is the same however the table is divided.
        order = pl.Series(_ORDER, batch.random_order(0))
        row = pl.Series(_ROW, np.arange(batch.first, batch.first + batch.rows.height))
        self._add(batch.rows.select(self.names).with_columns(order, row))

    def merge(self, other: TableSample) -> None:
        """Add the rows that another one has seen."""
        self.total += other.total
        for part in other._parts:
            self._add(part)

    def finish(self) -> pl.DataFrame:
        """The rows, in the table's order."""
        return self.numbered_rows()[0]

    def numbered_rows(self) -> tuple[pl.DataFrame, pl.Series]:
        """The rows, in the table's order, and each one's number in the table."""
        self._shrink()
        if not self._parts:
            raise DataError("There are no rows to learn from.")
        rows = self._parts[0].sort(_ROW)
        return rows.select(self.names), rows[_ROW]

    def _add(self, part: pl.DataFrame) -> None:
        self._parts.append(part)
        # At twice the size only: each row is then moved a constant number of times.
        if sum(p.height for p in self._parts) > 2 * self.most:
            self._shrink()

    def _shrink(self) -> None:
        if self._parts:
            rows = pl.concat(self._parts)
            if rows.height > self.most:
                rows = rows.bottom_k(self.most, by=_ORDER)
            self._parts = [rows]
