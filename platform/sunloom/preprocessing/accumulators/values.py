"""The values of a number column: all of them, or a sketch whose error is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from sunloom.data.arrays import FloatArray
from sunloom.preprocessing.accumulators.sketch import Sketch
from sunloom.preprocessing.tables.batches import Batch

_SKETCH_SIZE = 4096


@dataclass(frozen=True)
class Ordered:
    """A column's values as they were learnt.

    Attributes:
        values: The values in row order; the sketch's points, sorted, where it is one.
        weights: How many values each point of a sketch stands for; None where all are there.
        rank_error: Most by which a quantile's rank can be off, as a share of the values.
    """

    values: FloatArray
    weights: FloatArray | None = None
    rank_error: float = 0.0

    def percentiles(self, wanted: ArrayLike, method: str = "linear") -> FloatArray:
        """Percentiles as ``numpy.percentile`` gives them; NaN without values."""
        if not len(self.values):
            return np.full(np.shape(wanted), np.nan)
        if self.weights is None:
            found: FloatArray = np.percentile(self.values, wanted, method=method)  # type: ignore[call-overload]
            return found
        middle = np.cumsum(self.weights) - self.weights / 2
        ranks = np.asarray(wanted, dtype=np.float64) / 100 * self.weights.sum()
        return np.asarray(np.interp(ranks, middle, self.values), dtype=np.float64)


@dataclass
class Values:
    """All values of one column within ``most_bytes``, else a sketch of them.

    Attributes:
        column: The column.
        most_bytes: Memory for the values, eight bytes each.
        missing: Rows without a value.
        share: Of the memory, what a worker may use that reads this share of the rows.
    """

    column: str
    most_bytes: int
    missing: int = 0
    share: float = 1.0
    _parts: dict[int, FloatArray] = field(default_factory=dict)
    _sketch: Sketch | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (self.column,)

    def update(self, chunk: Batch) -> None:
        """Take some rows in."""
        values = chunk.numbers(self.column)
        self.missing += chunk.rows.height - len(values)
        self._take(chunk.first, values.copy() if values.base is not None else values)

    def merge(self, other: Values) -> None:
        """Take in what another one has learnt from other rows."""
        self.missing += other.missing
        if other._sketch is not None:
            self._condense()
            assert self._sketch is not None
            self._sketch.merge(other._sketch)
        for first, values in other._parts.items():
            self._take(first, values)

    def finish(self) -> Ordered:
        """The values, or the sketch's points."""
        if self._sketch is None:
            parts = [self._parts[first] for first in sorted(self._parts)]
            return Ordered(np.concatenate(parts) if parts else np.empty(0))
        points, weights = self._sketch.points()
        return Ordered(points, weights, self._sketch.rank_error())

    def _take(self, first: int, values: FloatArray) -> None:
        if self._sketch is not None:
            self._sketch.add(values)
            return
        self._parts[first] = values
        if 8 * sum(len(part) for part in self._parts.values()) > self.most_bytes * self.share:
            self._condense()

    def _condense(self) -> None:
        if self._sketch is None:
            self._sketch = Sketch(max(_SKETCH_SIZE, self.most_bytes // 1024))
            for first in sorted(self._parts):
                self._sketch.add(self._parts[first])
            self._parts = {}
