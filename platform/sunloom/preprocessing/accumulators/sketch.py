"""Quantiles of any number of values in bounded memory, with a bound of the error that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sunloom.data.arrays import FloatArray


@dataclass
class Sketch:
    """Sorted buffers; a full one keeps every second value at twice the weight.

    Halving a buffer of weight w moves no rank by more than w. The sum of these is the error's
    bound: certain, not a probability.

    Attributes:
        size: Values a buffer holds.
        count: Values seen.
        error: Most by which a rank can be off, in values.
    """

    size: int
    count: int = 0
    error: int = 0
    _levels: list[list[FloatArray]] = field(default_factory=list)
    _odd: bool = False

    def add(self, values: FloatArray) -> None:
        """Take values in."""
        self.count += len(values)
        for start in range(0, len(values), self.size):
            self._put(0, values[start : start + self.size])

    def merge(self, other: Sketch) -> None:
        """Take in another sketch."""
        self.count += other.count
        self.error += other.error
        for level, parts in enumerate(other._levels):
            for part in parts:
                self._put(level, part)

    def points(self) -> tuple[FloatArray, FloatArray]:
        """The values that were kept, sorted, and how many each stands for."""
        values = [np.concatenate(parts) for parts in self._levels if parts]
        weights = [
            np.full(sum(len(part) for part in parts), 2.0**level)
            for level, parts in enumerate(self._levels)
            if parts
        ]
        joined, heavy = np.concatenate(values), np.concatenate(weights)
        order = np.argsort(joined, kind="stable")
        return joined[order], heavy[order]

    def rank_error(self) -> float:
        """The bound as a share of the values."""
        return self.error / self.count if self.count else 0.0

    def _put(self, level: int, values: FloatArray) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        parts = self._levels[level]
        parts.append(values)
        held = sum(len(part) for part in parts)
        if held < 2 * self.size:
            return
        joined = np.sort(np.concatenate(parts))
        even = len(joined) - len(joined) % 2
        # A value that has no partner stays: weights must add up to the count.
        self._levels[level] = [joined[even:]] if even < len(joined) else []
        self._odd = not self._odd
        self.error += 2**level
        self._put(level + 1, joined[int(self._odd) : even : 2])
