"""A stable sort of whole numbers, by one sort of plain values."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Bools, Ints

_BITS = 63
# 512 KiB of int64: a block stays in the second-level cache.
_BLOCK = 1 << 16


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
    dropped_bits = max(0, value_bits + place_bits - _BITS)
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
    block = np.arange(min(_BLOCK, len(packed)), dtype=np.int64)
    for start in range(0, len(packed), _BLOCK):
        part = packed[start : start + _BLOCK]
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
