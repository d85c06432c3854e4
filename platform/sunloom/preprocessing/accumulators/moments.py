"""Accumulator of count, mean, variance, minimum and maximum of a number column."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sunloom.preprocessing.accumulators.protocol import ColumnAccumulator
from sunloom.preprocessing.tables.batches import Batch


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
