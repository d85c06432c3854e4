"""Running sums that begin anew at each key."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sunloom.features.kernels.ranges import Floats, Ints

_LONG = 2_048
_BLOCK_ROWS = 400_000


def key_bounds(keys: Ints) -> Ints:
    """Where each key of sorted rows begins, and the number of rows at the end."""
    if not len(keys):
        return np.zeros(1, dtype=np.int64)
    changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate([[0], changes, [len(keys)]]).astype(np.int64, copy=False)


def sums_before(values: Floats, bounds: Ints) -> Floats:
    """For each row the sum of its key's earlier rows.

    Args:
        values: Sorted rows' values.
        bounds: Where each key begins, and the number of rows.
    """
    sums = np.empty(len(values), dtype=np.float64)
    lengths = np.diff(bounds)
    for key in np.flatnonzero(lengths > _LONG):
        start, stop = int(bounds[key]), int(bounds[key + 1])
        sums[start] = 0.0
        np.cumsum(values[start : stop - 1], out=sums[start + 1 : stop])
    short = np.flatnonzero(lengths <= _LONG)
    first, lengths = bounds[short], lengths[short]
    # Blocks of keys, so that what a step touches stays in the cache.
    blocks = np.cumsum(lengths) // _BLOCK_ROWS
    cuts = np.flatnonzero(np.diff(blocks, prepend=-1))
    for start, stop in pairwise([*cuts, len(short)]):
        _step_by_step(values, sums, first[start:stop], lengths[start:stop])
    return sums


def _step_by_step(values: Floats, sums: Floats, first: Ints, lengths: Ints) -> None:
    """All keys' first rows at once, then all second rows, and so on."""
    longest_first = np.argsort(-lengths)
    places, lengths = first[longest_first], lengths[longest_first]
    running = np.zeros(len(places), dtype=np.float64)
    # How many keys have more than 0, 1, 2, … rows.
    steps = np.arange(lengths[0] if len(lengths) else 0)
    alive = len(lengths) - np.searchsorted(lengths[::-1], steps, side="right")
    for count in alive.tolist():
        here, total = places[:count], running[:count]
        sums[here] = total
        total += values[here]
        here += 1
