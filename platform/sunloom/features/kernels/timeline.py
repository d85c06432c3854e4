"""Timeline: rows sorted once by (key, time), so that a key's rows in a window are one range."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from sunloom.features.kernels.ranges import Ints
from sunloom.features.kernels.stable_sort import stable_order

_LARGEST = np.iinfo(np.int64).max


class Timeline:
    """Rows sorted by (key, time); equal times keep their order.

    Key and time share one number where both fit in 64 bits: a search is then one ``searchsorted``.
    Else each query row is searched among its key's own rows.

    Args:
        keys: Key codes, from 0 up; rows with a negative one have no key and are never found.
        times: Microseconds.
    """

    def __init__(self, keys: Ints, times: Ints) -> None:
        known = keys >= 0
        places = None if known.all() else np.flatnonzero(known)
        if places is not None:
            keys, times = keys[places], times[places]
        self._base = int(times.min()) - 1 if len(times) else 0
        # One step before the first time and one after the last, for query times outside of both.
        self._span = (int(times.max()) - self._base + 2) if len(times) else 2
        self._highest = int(keys.max()) if len(keys) else 0
        self._composite: Ints | None = None
        self._times: Ints | None = None
        self._wide_keys: Ints = keys[:0]
        self._starts = _key_starts(keys, self._highest)
        order = self._sort(keys, times)
        self.order: Ints = order if places is None else places[order]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def keys(self) -> Ints:
        """The sorted rows' keys."""
        if self._starts is not None:
            counts = np.diff(self._starts[1:-1])
            return np.repeat(np.arange(self._highest + 1, dtype=np.int64), counts)
        return self._wide_keys

    def first_of(self, keys: Ints) -> Ints:
        """The first row of each key."""
        if self._starts is not None:
            return np.asarray(self._starts[np.clip(keys, -1, len(self._starts) - 3) + 1])
        return np.searchsorted(self._wide_keys, keys, side="left").astype(np.int64)

    def end_of(self, keys: Ints) -> Ints:
        """One past the last row of each key."""
        if self._starts is not None:
            return np.asarray(self._starts[np.clip(keys, -1, len(self._starts) - 3) + 2])
        return np.searchsorted(self._wide_keys, keys, side="right").astype(np.int64)

    def search(self, keys: Ints, times: Ints, *, inclusive: bool) -> Ints:
        """One past the last row of each key up to a time; fastest where keys and times ascend.

        Args:
            keys: Key codes, one per query row.
            times: Microseconds, one per query row.
            inclusive: Whether rows at that very time are included.
        """
        side: Any = "right" if inclusive else "left"
        if self._composite is not None:
            composite = self._compose(keys, times)
            positions = np.searchsorted(self._composite, composite, side=side)
            return positions.astype(np.int64, copy=False)
        return self._bisect(keys, times, inclusive=inclusive)

    def search_order(self, keys: Ints, times: Ints) -> Ints | None:
        """An order in which neighbouring searches end at neighbouring rows; None: as they are."""
        composite = keys if self._composite is None else self._compose(keys, times)
        if (composite[1:] >= composite[:-1]).all():
            return None
        return np.argsort(composite).astype(np.int64, copy=False)

    def _compose(self, keys: Ints, times: Ints) -> Ints:
        # In place on the one fresh array: a spine may have as many rows as the source.
        composite = np.clip(times, self._base, self._base + self._span - 1)
        composite -= self._base
        composite += np.minimum(keys, self._highest + 1) * self._span
        return composite

    def _sort(self, keys: Ints, times: Ints) -> Ints:
        if (self._highest + 2) <= _LARGEST // self._span:
            composite = keys * self._span
            composite += times
            composite -= self._base
            composite_order, self._composite = stable_order(composite)
            if self._starts is None:
                self._wide_keys = keys[composite_order]
            return composite_order
        order: Ints = np.lexsort((times, keys)).astype(np.int64, copy=False)
        self._times, self._wide_keys = times[order], keys[order]
        return order

    def _bisect(self, keys: Ints, times: Ints, *, inclusive: bool) -> Ints:
        """Binary search of each query row among its key's own rows, all at once."""
        assert self._times is not None
        low, high = self.first_of(keys), self.end_of(keys)
        while (is_open := low < high).any():
            middle = (low + high) >> 1
            value = self._times[np.minimum(middle, len(self) - 1)]
            before = (value <= times) if inclusive else (value < times)
            low = np.where(is_open & before, middle + 1, low)
            high = np.where(is_open & ~before, middle, high)
        return low


def _key_starts(keys: Ints, highest: int) -> Ints | None:
    """First rows: of what is before the first key, of every key, of what is past the last; the end.

    None where the codes are so sparse that the table would outgrow the rows.
    """
    if highest > 4 * len(keys) + 1024:
        return None
    # The two outer entries are empty keys: codes outside of the known ones clip to them.
    starts = np.zeros(highest + 4, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=highest + 1), out=starts[2:-1])
    starts[-1] = len(keys)
    return starts
