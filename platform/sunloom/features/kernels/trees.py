"""Index structures over sorted rows: any range is folded or counted in logarithmic time."""

from __future__ import annotations

from typing import Any

import numpy as np

from sunloom.features.kernels.ranges import Array, Ints, Ranges, prefix_counts

# Ranges per block: what a block touches stays in the cache.
_BLOCK = 1 << 15


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


class RankIndex:
    """A wavelet matrix: counts, in any range, the values below a bound, in log(values) steps.

    Args:
        values: Whole numbers from 0 up.
    """

    def __init__(self, values: Ints) -> None:
        self._bits = max(1, int(values.max() if len(values) else 0).bit_length())
        self._zeros: list[Ints] = []
        current = values
        # From the highest bit down: values with a 0 move to the front, stably, before the next bit.
        for bit in reversed(range(self._bits)):
            zero = (current >> bit) & 1 == 0
            self._zeros.append(prefix_counts(zero))
            current = np.concatenate([current[zero], current[~zero]])

    def count_below(self, bounds: Ints, ranges: Ranges) -> Ints:
        """How many values of each range are less than its bound."""
        start, stop = ranges.start, ranges.stop
        # A bound with more bits than any value is above all of them.
        counts = np.where(bounds >> self._bits > 0, ranges.counts, 0)
        for level, prefix in enumerate(self._zeros):
            one = (bounds >> (self._bits - 1 - level)) & 1 == 1
            zeros_start, zeros_stop = prefix[start], prefix[stop]
            within_bits = bounds >> self._bits == 0
            # Equal so far, and the bound has a 1 here: values with a 0 are smaller.
            counts = counts + np.where(one & within_bits, zeros_stop - zeros_start, 0)
            total = prefix[-1]
            start = np.where(one, total + start - zeros_start, zeros_start)
            stop = np.where(one, total + stop - zeros_stop, zeros_stop)
        return np.asarray(counts)
