"""Rows sorted once by (key, time); the rows of a key in a window are one range of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sunloom.features.kernels.arrays import Ints

_LARGEST = np.iinfo(np.int64).max


class Timeline:
    """Rows sorted by (key, time); equal times keep their order.

    Args:
        keys: Key codes, from 0 up; negative rows have no key and are never found.
        times: Microseconds.
    """

    def __init__(self, keys: Ints, times: Ints) -> None:
        known = keys >= 0
        keys, times = (keys, times) if known.all() else (keys[known], times[known])
        self._base = int(times.min()) - 1 if len(times) else 0
        # One place before the first time and one after the last, for questions from outside.
        self._span = (int(times.max()) - self._base + 2) if len(times) else 2
        highest = int(keys.max()) if len(keys) else 0
        self._fits = (highest + 1) <= _LARGEST // self._span
        order = self._sort(keys, times)
        self.order: Ints = order if known.all() else np.flatnonzero(known)[order]
        self.keys: Ints = keys[order]
        self._times = times[order]
        self._composite = self._compose(self.keys, self._times) if self._fits else None
        self._starts = _starts(self.keys, highest)

    def __len__(self) -> int:
        return len(self.keys)

    def first_of(self, keys: Ints) -> Ints:
        """Where each key's rows begin."""
        if self._starts is not None:
            return np.asarray(self._starts[np.clip(keys, -1, len(self._starts) - 3) + 1])
        return np.searchsorted(self.keys, keys, side="left").astype(np.int64)

    def end_of(self, keys: Ints) -> Ints:
        """Where each key's rows end."""
        if self._starts is not None:
            return np.asarray(self._starts[np.clip(keys, -1, len(self._starts) - 3) + 2])
        return np.searchsorted(self.keys, keys, side="right").astype(np.int64)

    def until(self, keys: Ints, times: Ints, *, inclusive: bool) -> Ints:
        """Where each key's rows up to the time end."""
        side: Any = "right" if inclusive else "left"
        if self._composite is not None:
            clipped = np.clip(times, self._base, self._base + self._span - 1)
            wanted = self._compose(keys, clipped)
            found: Ints = np.searchsorted(self._composite, wanted, side=side).astype(np.int64)
            return found
        return self._bisect(keys, times, inclusive=inclusive)

    def _compose(self, keys: Ints, times: Ints) -> Ints:
        return np.asarray(keys * self._span + (times - self._base))

    def _sort(self, keys: Ints, times: Ints) -> Ints:
        if self._fits:
            return _stable_order(self._compose(keys, times))
        order: Ints = np.lexsort((times, keys)).astype(np.int64)
        return order

    def _bisect(self, keys: Ints, times: Ints, *, inclusive: bool) -> Ints:
        """Binary search of each question in its key's own rows, all at once."""
        low, high = self.first_of(keys), self.end_of(keys)
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            value = self._times[np.minimum(middle, len(self) - 1)]
            before = (value <= times) if inclusive else (value < times)
            low = np.where(open_ & before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        return low


def _stable_order(values: Ints) -> Ints:
    """A stable argsort: the fast unstable one, then equal values put back in order."""
    order = np.argsort(values).astype(np.int64)
    ordered = values[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.zeros(len(order), dtype=bool)
        tied[1:] |= same
        tied[:-1] |= same
        places = np.flatnonzero(tied)
        order[places] = order[places][np.lexsort((order[places], ordered[places]))]
    return order


def _starts(keys: Ints, highest: int) -> Ints | None:
    """Where each key begins: one before the first key, every key, one past the last, the end."""
    if highest > 4 * len(keys) + 1024:
        return None
    starts = np.zeros(highest + 4, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=highest + 1), out=starts[2:-1])
    starts[-1] = len(keys)
    return starts
