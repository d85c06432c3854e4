"""Timeline: rows sorted once by (key, time), so that a key's rows in a window are one range.

Codes of the keys, and the stable sort of codes and times, are made for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from sunloom.features.kernels.ranges import Bools, Ints

NO_KEY = -1


class KeyCodec:
    """Codes of the keys that the source rows have; any other key, and null, is ``NO_KEY``.

    Args:
        columns: The source rows' key columns, one or more.
    """

    def __init__(self, columns: Sequence[pl.Series]) -> None:
        self._offset: int | None = None
        self._highest = NO_KEY
        self._known: pl.DataFrame | None = None
        if len(columns) == 1 and columns[0].dtype == pl.Int64:
            self._use_offset(columns[0])
        if self._offset is None:
            table = _key_table(columns)
            self._known = table.drop_nulls().unique(maintain_order=True).with_row_index("code")

    def codes(self, columns: Sequence[pl.Series]) -> Ints:
        """One code per row."""
        if self._offset is not None:
            column = columns[0]
            # to_numpy of a column with nulls gives floats, which lose large keys' last digits.
            keys = column.fill_null(self._offset - 1) if column.null_count() else column
            codes = np.asarray(keys.to_numpy() - self._offset)
            outside = (codes < 0) | (codes > self._highest - self._offset)
            if outside.any():
                codes[outside] = NO_KEY
            return codes
        assert self._known is not None
        table = _key_table(columns)
        joined = table.join(self._known, on=table.columns, how="left", maintain_order="left")
        return joined["code"].cast(pl.Int64).fill_null(NO_KEY).to_numpy()

    def _use_offset(self, column: pl.Series) -> None:
        low, high = column.min(), column.max()
        if not isinstance(low, int) or not isinstance(high, int):
            return
        # Close-packed numbers are their own codes, without a join; a wide spread would cost the
        # timeline more memory than the rows. The code of null, one below the offset, must fit too.
        if high - low < 8 * len(column) + 1024 and low > -(2**62):
            self._offset, self._highest = low, high


def _key_table(columns: Sequence[pl.Series]) -> pl.DataFrame:
    # Both sides of a join name their key columns differently: here they are numbered.
    return pl.DataFrame({f"k{index}": column for index, column in enumerate(columns)})


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


_SORT_BITS = 63
# 512 KiB of int64: a block stays in the second-level cache.
_SORT_BLOCK = 1 << 16


def stable_order(values: Ints) -> tuple[Ints, Ints]:
    """The original place of each value of the sorted sequence, and the sorted sequence.

    Equal values keep their order. A value's leading bits and its place share one number, because
    sorting numbers is several times faster than an indirect sort of places; where the leading bits
    alone cannot tell two values apart, their order is repaired afterwards.

    Args:
        values: From 0 up.
    """
    place_bits = max(1, (len(values) - 1).bit_length())
    value_bits = int(values.max()).bit_length() if len(values) else 0
    # Trailing bits that do not fit beside the place in a signed 64-bit number.
    dropped_bits = max(0, value_bits + place_bits - _SORT_BITS)
    packed = values >> dropped_bits
    packed <<= place_bits
    _add_places(packed)
    packed.sort()
    order = packed & ((1 << place_bits) - 1)
    # Fresh memory costs more than the work, so the buffer that is no longer needed is reused.
    ordered = np.take(values, order, out=packed, mode="clip")
    if dropped_bits and (ordered[1:] < ordered[:-1]).any():
        ordered >>= dropped_bits
        order = _repair_order(values, order, ordered[1:] == ordered[:-1])
        ordered = values[order]
    return order, ordered


def _add_places(packed: Ints) -> None:
    # One arange for all blocks: a second array of full length would leave the cache.
    block = np.arange(min(_SORT_BLOCK, len(packed)), dtype=np.int64)
    for start in range(0, len(packed), _SORT_BLOCK):
        part = packed[start : start + _SORT_BLOCK]
        part |= block[: len(part)] + start


def _repair_order(values: Ints, order: Ints, same: Bools) -> Ints:
    """The order with runs of the same leading bits sorted by the whole value."""
    places = _places_of_ties(same)
    # Many ties: sorting everything by value once leaves only truly equal values to repair.
    if len(places) > len(order) // 8:
        order = np.argsort(values).astype(np.int64, copy=False)
        ordered = values[order]
        places = _places_of_ties(ordered[1:] == ordered[:-1])
    ties = order[places]
    # Ties stand in ascending runs, so sorting all of them together keeps each run in its place.
    order[places] = ties[np.lexsort((ties, values[ties]))]
    return order


def _places_of_ties(same: Bools) -> Ints:
    """Places whose value equals a neighbour's."""
    is_tie = np.zeros(len(same) + 1, dtype=bool)
    is_tie[1:] |= same
    is_tie[:-1] |= same
    return np.flatnonzero(is_tie)
