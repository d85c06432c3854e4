"""Quantile sketch: any number of values in bounded memory, with a certain bound of its error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sunloom.data.arrays import FloatArray


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
