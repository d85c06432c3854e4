"""Accumulator of a number column's values: all of them, or a sketch whose error is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from sunloom.data.arrays import FloatArray
from sunloom.preprocessing.accumulators.protocol import ColumnAccumulator
from sunloom.preprocessing.accumulators.sketch import QuantileSketch
from sunloom.preprocessing.tables.batches import Batch

# Smaller buffers would be merged, and lose ranks, all the time.
_SKETCH_SIZE = 4096


@dataclass(frozen=True)
class Distribution:
    """A column's values, or the points of their sketch.

    Attributes:
        values: The values in row order; the sketch's points, sorted, where it is one.
        weights: How many values each point of a sketch stands for; None where all are there.
        rank_error: Most by which a quantile's rank can be off, as a share of the values.
    """

    values: FloatArray
    weights: FloatArray | None = None
    rank_error: float = 0.0

    def percentiles(self, percents: ArrayLike, method: str = "linear") -> FloatArray:
        """Percentiles as ``numpy.percentile`` gives them; NaN without values."""
        if not len(self.values):
            return np.full(np.shape(percents), np.nan)
        if self.weights is None:
            exact: FloatArray = np.percentile(self.values, percents, method=method)  # type: ignore[call-overload]
            return exact
        # A point stands in the middle of the ranks that it stands for.
        middle = np.cumsum(self.weights) - self.weights / 2
        ranks = np.asarray(percents, dtype=np.float64) / 100 * self.weights.sum()
        return np.asarray(np.interp(ranks, middle, self.values), dtype=np.float64)


@dataclass
class ColumnValues(ColumnAccumulator):
    """All values of one column within ``most_bytes``, else a sketch of them.

    Attributes:
        column: The column.
        most_bytes: Memory for the values, eight bytes each.
        missing: Rows without a value.
        share: Share of the memory for a worker that reads this share of the rows.
    """

    most_bytes: int
    missing: int = 0
    share: float = 1.0
    _parts: dict[int, FloatArray] = field(default_factory=dict)
    _sketch: QuantileSketch | None = None

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        values = batch.numbers(self.column)
        self.missing += batch.rows.height - len(values)
        # A view would keep its whole batch in memory.
        self._add(batch.first, values.copy() if values.base is not None else values)

    def merge(self, other: ColumnValues) -> None:
        """Add the rows that another one has seen."""
        self.missing += other.missing
        if other._sketch is not None:
            self._condense().merge(other._sketch)
        for first, values in other._parts.items():
            self._add(first, values)

    def finish(self) -> Distribution:
        """The values, or the sketch's points."""
        if self._sketch is None:
            # By row number: results do not depend on the order in which workers have finished.
            parts = [self._parts[first] for first in sorted(self._parts)]
            return Distribution(np.concatenate(parts) if parts else np.empty(0))
        points = self._sketch.points()
        return Distribution(points.values, points.weights, self._sketch.rank_error())

    def _add(self, first: int, values: FloatArray) -> None:
        if self._sketch is not None:
            self._sketch.add(values)
            return
        self._parts[first] = values
        if 8 * sum(len(part) for part in self._parts.values()) > self.most_bytes * self.share:
            self._condense()

    def _condense(self) -> QuantileSketch:
        """The sketch; the values go into it first where there is none yet."""
        if self._sketch is None:
            # At most 64 levels of twice the size, 8 bytes a value: within the memory.
            self._sketch = QuantileSketch(max(_SKETCH_SIZE, self.most_bytes // 1024))
            for first in sorted(self._parts):
                self._sketch.add(self._parts[first])
            self._parts = {}
        return self._sketch
