"""Ranges of sorted rows, one per query row: their keys, their single rows, and folds of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Array = NDArray[Any]

# Bounds the temporary arrays of an expansion to some 100 MB, however much the windows overlap.
MAX_EXPANDED_ROWS = 4_000_000
# Ranges per block: what a block touches stays in the cache.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Ranges:
    """Half-open ranges of sorted rows, one per query row; shapes [queries]."""

    start: Ints
    stop: Ints

    @property
    def counts(self) -> Ints:
        """Rows in each range."""
        return self.stop - self.start

    @classmethod
    def concatenate(cls, parts: Sequence[Ranges]) -> Ranges:
        """The ranges of all parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
        )

    def take(self, places: Ints | slice) -> Ranges:
        """The ranges at those places."""
        return Ranges(self.start[places], self.stop[places])

    def filter_rows(self, mask: Bools) -> Ranges:
        """The same ranges among the rows that the mask selects.

        Args:
            mask: One value per sorted row.
        """
        # A position among the selected rows is the number of selected rows before it, so no range
        # has to be searched again.
        selected = prefix_sums(mask)
        return Ranges(selected[self.start], selected[self.stop])


def prefix_sums(values: Ints | Bools) -> Ints:
    """Sums of the first 0, 1, 2, … values, or, of a mask, counts; shape [rows + 1]."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def key_bounds(keys: Ints) -> Ints:
    """The first row of each key among sorted rows, and the number of rows at the end."""
    if not len(keys):
        return np.zeros(1, dtype=np.int64)
    changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate([[0], changes, [len(keys)]]).astype(np.int64, copy=False)


def first_rows_of_keys(bounds: Ints, rows: Ints) -> Ints:
    """The first row of the key that each row belongs to; bounds as ``key_bounds`` gives them."""
    return np.asarray(bounds[np.searchsorted(bounds, rows, side="right") - 1])


def expand_ranges(ranges: Ranges) -> tuple[Ints, Ints]:
    """Every row of every range, one range after another, and where each range begins there."""
    counts = ranges.counts
    offsets = np.cumsum(counts) - counts
    rows = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(ranges.start - offsets, counts)
    return rows, offsets


def chunks(counts: Ints, budget: int = MAX_EXPANDED_ROWS) -> list[slice]:
    """Consecutive ranges that have at most ``budget`` rows together; a larger one stands alone."""
    total = np.cumsum(counts)
    slices: list[slice] = []
    start = 0
    while start < len(counts):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + budget, side="right")))
        slices.append(slice(start, stop))
        start = stop
    return slices


class RangeTree:
    """A segment tree: folds any range without subtraction, so one row cannot spoil another range.

    Args:
        values: The rows.
        combine: An associative ufunc.
        neutral: Its neutral value.
    """

    def __init__(self, values: Array, combine: np.ufunc, neutral: Any) -> None:
        self._combine = combine
        self._neutral = neutral
        self._size = 1 << max(0, (len(values) - 1).bit_length())
        # A heap: the children of node i are 2i and 2i + 1, and the leaves are the second half.
        nodes = np.empty(2 * self._size, dtype=values.dtype)
        nodes[self._size : self._size + len(values)] = values
        nodes[self._size + len(values) :] = neutral
        level = self._size
        while level > 1:
            half = level >> 1
            nodes[half:level] = combine(
                nodes[level : 2 * level : 2], nodes[level + 1 : 2 * level : 2]
            )
            level = half
        self._nodes = nodes

    def fold(self, start: Ints, stop: Ints) -> Array:
        """The fold of each range; the neutral value where it is empty."""
        folded = np.empty(len(start), dtype=self._nodes.dtype)
        for begin in range(0, len(start), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            folded[block] = self._fold(start[block], stop[block])
        return folded

    def _fold(self, start: Ints, stop: Ints) -> Array:
        # Left and right ends apart: a combination that does not commute keeps its order.
        left = np.full(len(start), self._neutral, dtype=self._nodes.dtype)
        right = left.copy()
        low, high = start + self._size, stop + self._size
        indices = np.flatnonzero(low < high)
        low, high = low[indices], high[indices]
        # One level up per step. Where an end is odd, its node's sibling lies outside the range, so
        # the node is combined now; all others are covered by their parents.
        while len(indices):
            odd = (low & 1).astype(bool)
            left[indices[odd]] = self._combine(left[indices[odd]], self._nodes[low[odd]])
            low = (low + odd) >> 1
            odd = (high & 1).astype(bool)
            right[indices[odd]] = self._combine(self._nodes[high[odd] - 1], right[indices[odd]])
            high = (high - odd) >> 1
            unfinished = low < high
            indices, low, high = indices[unfinished], low[unfinished], high[unfinished]
        return np.asarray(self._combine(left, right))
