"""Where the smallest or largest row of each range stands."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Ints, Ranges
from sunloom.features.kernels.trees import RangeTree

_LARGEST = np.iinfo(np.int64).max


def range_extreme_rows(codes: Ints, ranges: Ranges, *, largest: bool) -> Ints:
    """The row with the extreme code in each range, the first of equal ones.

    Args:
        codes: Sorted rows' values as whole numbers from 0 up, in the order of the values.
        ranges: The ranges; an empty one gives no meaningful row.
        largest: Whether the largest code is wanted.
    """
    size = max(1, len(codes))
    ranks = codes.max(initial=0) - codes if largest else codes
    # The row's own number breaks ties: one fold finds value and place.
    tree = RangeTree(ranks * size + np.arange(len(codes), dtype=np.int64), np.minimum, _LARGEST)
    return np.asarray(tree.fold(ranges.start, ranges.stop) % size)
