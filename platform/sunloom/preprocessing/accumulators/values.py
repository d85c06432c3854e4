"""Accumulators of values: moments, all values or a sketch of them, and a sample of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.protocol import ColumnAccumulator
from sunloom.preprocessing.tables import Batch


@dataclass
class MeanVariance(ColumnAccumulator):
    """Moments of one column; merged by Chan's formula, which does not lose digits.

    Attributes:
        column: The column.
        count: Values that are not missing.
        missing: Rows without a value.
        mean: Mean of the values.
        squares: Sum of squared distances from the mean.
        least: Minimum; infinite without values.
        greatest: Maximum; minus infinite without values.
    """

    count: int = 0
    missing: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        values = batch.numbers(self.column)
        part = MeanVariance(self.column, len(values), batch.rows.height - len(values))
        if part.count:
            part.mean = float(values.mean())
            part.squares = float(np.square(values - part.mean).sum())
            part.least, part.greatest = float(values.min()), float(values.max())
        self.merge(part)

    def merge(self, other: MeanVariance) -> None:
        """Add the rows that another one has seen."""
        self.missing += other.missing
        if not other.count:
            return
        total = self.count + other.count
        gap = other.mean - self.mean
        self.squares += other.squares + gap * gap * self.count * other.count / total
        self.mean += gap * other.count / total
        self.count = total
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)

    def finish(self) -> MeanVariance:
        """Itself."""
        return self

    @property
    def variance(self) -> float:
        """Population variance: divided by the count, as StandardScaler has it."""
        return self.squares / self.count if self.count else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether the variance is that of rounding only (scikit-learn's bound)."""
        eps = float(np.finfo(np.float64).eps)
        bound = self.count * eps * self.variance + (self.count * self.mean * eps) ** 2
        return self.variance <= bound

    @property
    def deviation(self) -> float:
        """Standard deviation, 1 for a constant column."""
        return 1.0 if self.is_constant else math.sqrt(self.variance)


class WeightedValues(NamedTuple):
    """Sorted values, and how many each stands for."""

    values: FloatArray
    weights: FloatArray


@dataclass
class QuantileSketch:
    """Sorted buffers; a full one keeps every second value at twice the weight.

    Halving a buffer of weight w moves no rank by more than w. The sum of these is the error's
    bound: certain, not a probability.

    Attributes:
        size: Values per buffer.
        count: Values seen.
        error: Most by which a rank can be off, in values.
    """

    size: int
    count: int = 0
    error: int = 0
    _levels: list[list[FloatArray]] = field(default_factory=list)
    _keep_odd: bool = False

    def add(self, values: FloatArray) -> None:
        """Add values."""
        self.count += len(values)
        for start in range(0, len(values), self.size):
            self._put(0, values[start : start + self.size])

    def merge(self, other: QuantileSketch) -> None:
        """Add the values of another sketch."""
        self.count += other.count
        self.error += other.error
        for level, parts in enumerate(other._levels):
            for part in parts:
                self._put(level, part)

    def points(self) -> WeightedValues:
        """The values that were kept."""
        parts = [(2.0**level, part) for level, parts in enumerate(self._levels) for part in parts]
        values = np.concatenate([part for _, part in parts])
        weights = np.concatenate([np.full(len(part), weight) for weight, part in parts])
        order = np.argsort(values, kind="stable")
        return WeightedValues(values[order], weights[order])

    def rank_error(self) -> float:
        """The bound as a share of the values."""
        return self.error / self.count if self.count else 0.0

    def _put(self, level: int, values: FloatArray) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        parts = self._levels[level]
        parts.append(values)
        if sum(len(part) for part in parts) < 2 * self.size:
            return
        joined = np.sort(np.concatenate(parts))
        even = len(joined) - len(joined) % 2
        # A value that has no partner stays: weights must add up to the count.
        self._levels[level] = [joined[even:]] if even < len(joined) else []
        # In turn the lower and the upper of each pair, so that errors cancel on average.
        self._keep_odd = not self._keep_odd
        self.error += 2**level
        self._put(level + 1, joined[int(self._keep_odd) : even : 2])


# Smaller buffers would be merged, and lose ranks, all the time.
_SKETCH_SIZE = 4096


@dataclass(frozen=True)
class Distribution:
    """A column's values, or the points of their sketch.

    Attributes:
        values: The values in row order; the sketch's points, sorted, where it is one.
        weights: How many values each point of a sketch stands for; None where all are there.
        rank_error: Most by which a quantile's rank can be off, as a share of the values.
        missing: Rows without a value.
    """

    values: FloatArray
    weights: FloatArray | None = None
    rank_error: float = 0.0
    missing: int = 0

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
            values = np.concatenate(parts) if parts else np.empty(0)
            return Distribution(values, missing=self.missing)
        return Distribution(*self._sketch.points(), self._sketch.rank_error(), self.missing)

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
