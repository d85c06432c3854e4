"""What each column looks like, added up chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from sunloom.data.quality.batches import CheckedTable, TypedBatch
from sunloom.data.quality.checks import is_missing
from sunloom.data.quality.report import Profile

_CELLS = 24
_COMMON = 3


@dataclass
class _ColumnProfile:
    dtype: pl.DataType
    rows: int = 0
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: float = 0.0
    finite: int = 0
    edges: Any = None
    counts: Any = None
    common: tuple[tuple[str, int], ...] = field(default=())


class Profiler:
    """Adds chunks up to one profile a column.

    Args:
        rows: The table whose chunks come.
    """

    def __init__(self, rows: CheckedTable) -> None:
        self._columns = {name: _ColumnProfile(rows.dtype(name)) for name in rows.schema}

    def add(self, chunk: TypedBatch) -> None:
        """Count one chunk."""
        missing = chunk.typed.select(
            is_missing(name, one.dtype).sum().alias(name) for name, one in self._columns.items()
        ).row(0, named=True)
        for name, one in self._columns.items():
            one.rows += chunk.typed.height
            one.missing += int(missing[name] or 0)
            if one.dtype.is_numeric():
                _add_numbers(one, chunk.typed[name])
            elif one.dtype == pl.String and not one.common:
                top = chunk.typed[name].drop_nulls().value_counts(sort=True).head(_COMMON)
                one.common = tuple((str(text)[:40], int(count)) for text, count in top.iter_rows())

    def profiles(self) -> tuple[Profile, ...]:
        """One a column, in order."""
        return tuple(
            Profile(
                name,
                str(one.dtype),
                one.rows,
                one.missing,
                one.minimum,
                one.maximum,
                one.total / one.finite if one.finite else None,
                tuple(int(count) for count in one.counts) if one.counts is not None else (),
                one.common,
            )
            for name, one in self._columns.items()
        )


def _add_numbers(one: _ColumnProfile, series: pl.Series) -> None:
    values = series.cast(pl.Float64).drop_nulls().to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    one.minimum = low if one.minimum is None else min(one.minimum, low)
    one.maximum = high if one.maximum is None else max(one.maximum, high)
    one.total += float(values.sum())
    one.finite += len(values)
    if one.edges is None:
        one.edges = _edges(low, high)
        one.counts = np.zeros(len(one.edges) - 1, dtype=np.int64)
    one.counts = (
        one.counts + np.histogram(np.clip(values, one.edges[0], one.edges[-1]), one.edges)[0]
    )


def _edges(low: float, high: float) -> Any:
    """Equally wide cells; one for values too close together, or too far apart, to be cut."""
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(low, high, _CELLS + 1)
    can_be_cut = np.isfinite(edges).all() and (np.diff(edges) > 0).all()
    return edges if can_be_cut else np.array([low, max(high, np.nextafter(low, np.inf))])
