"""Ranges of sorted rows: one range per query row, and how it relates to keys and single rows."""

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

    def filter_rows(self, mask: Bools) -> Ranges:
        """The same ranges among the rows that the mask selects.

        Args:
            mask: One value per sorted row.
        """
        # A position among the selected rows is the number of selected rows before it, so no range
        # has to be searched again.
        selected = prefix_counts(mask)
        return Ranges(selected[self.start], selected[self.stop])


def prefix_counts(mask: Bools) -> Ints:
    """How many of the first 0, 1, 2, … rows the mask selects; shape [rows + 1]."""
    counts = np.zeros(len(mask) + 1, dtype=np.int64)
    np.cumsum(mask, out=counts[1:])
    return counts


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
