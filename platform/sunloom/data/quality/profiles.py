"""Profiles of columns, accumulated batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.data.quality.checked_table import CheckedTable, TypedBatch
from sunloom.data.quality.checks import is_missing

_BINS = 24
_COMMON = 3


@dataclass(frozen=True)
class Profile:
    """A column's values at a glance.

    Attributes:
        feature: Column.
        dtype: Type as checked.
        rows: Rows.
        missing: Null or NaN.
        minimum, maximum, mean: Of numbers; None otherwise.
        counts: Rows in equally wide bins between minimum and maximum of the first batch.
        common: Most frequent texts of the first batch with their counts.
    """

    feature: str
    dtype: str
    rows: int
    missing: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    counts: tuple[int, ...] = ()
    common: tuple[tuple[str, int], ...] = ()


@dataclass
class _ColumnProfile:
    dtype: pl.DataType
    rows: int = 0
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: float = 0.0
    finite: int = 0
    edges: FloatArray | None = None
    counts: IntArray | None = None
    common: tuple[tuple[str, int], ...] = ()

    def add_numbers(self, series: pl.Series) -> None:
        values = series.cast(pl.Float64).drop_nulls().to_numpy()
        values = values[np.isfinite(values)]
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)
        self.total += float(values.sum())
        self.finite += len(values)
        # The first batch fixes the bins; later values outside them count in the outermost.
        if self.edges is None or self.counts is None:
            self.edges = _equal_edges(low, high)
            self.counts = np.zeros(len(self.edges) - 1, dtype=np.int64)
        clipped = np.clip(values, self.edges[0], self.edges[-1])
        self.counts = self.counts + np.histogram(clipped, self.edges)[0]


class Profiler:
    """Accumulates one profile a column.

    Args:
        table: The table whose batches are added.
    """

    def __init__(self, table: CheckedTable) -> None:
        self._columns = {name: _ColumnProfile(table.dtype(name)) for name in table.schema}

    def add(self, batch: TypedBatch) -> None:
        """Count one batch."""
        missing = batch.typed.select(
            is_missing(name, column.dtype).sum().alias(name)
            for name, column in self._columns.items()
        ).row(0, named=True)
        for name, column in self._columns.items():
            column.rows += batch.typed.height
            column.missing += int(missing[name] or 0)
            if column.dtype.is_numeric():
                column.add_numbers(batch.typed[name])
            elif column.dtype == pl.String and not column.common:
                # Of the first batch only: exact counts would hold every distinct text of the table.
                # Renamed, because the counts' own column must not have the same name.
                texts = batch.typed[name].drop_nulls().alias("text")
                top = texts.value_counts(sort=True, name="rows").head(_COMMON)
                column.common = tuple((str(text)[:40], int(n)) for text, n in top.iter_rows())

    def profiles(self) -> tuple[Profile, ...]:
        """One a column, in order."""
        return tuple(
            Profile(
                feature=name,
                dtype=str(column.dtype),
                rows=column.rows,
                missing=column.missing,
                minimum=column.minimum,
                maximum=column.maximum,
                mean=column.total / column.finite if column.finite else None,
                counts=() if column.counts is None else tuple(int(n) for n in column.counts),
                common=column.common,
            )
            for name, column in self._columns.items()
        )


def _equal_edges(low: float, high: float) -> FloatArray:
    """Equally wide bins; one for values too close together, or too far apart, to be divided."""
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(low, high, _BINS + 1)
    if np.isfinite(edges).all() and (np.diff(edges) > 0).all():
        return edges
    # A constant column: its only bin needs a width all the same.
    return np.array([low, max(high, np.nextafter(low, np.inf))])
