"""A stable order of whole numbers, by one sort of plain values."""

from __future__ import annotations

import numpy as np

from sunloom.features.kernels.ranges import Bools, Ints

_BITS = 63
_BLOCK = 1 << 16


def stable_order(values: Ints) -> tuple[Ints, Ints]:
    """Where each value of the sorted sequence stood, and the sorted sequence.

    Equal values keep their order. A value's leading bits and its place share one number, because
    sorting numbers is several times faster than sorting places by what lies at them; where the
    leading bits alone cannot tell two values apart, their order is mended afterwards.

    Args:
        values: From 0 up.
    """
    places = max(1, (len(values) - 1).bit_length())
    need = int(values.max()).bit_length() if len(values) else 0
    cut = max(0, need + places - _BITS)
    packed = values >> cut
    packed <<= places
    _add_places(packed)
    packed.sort()
    order = packed & ((1 << places) - 1)
    # Fresh memory costs more than the work: what is no longer needed is written over.
    ordered = np.take(values, order, out=packed, mode="clip")
    if cut and (ordered[1:] < ordered[:-1]).any():
        ordered >>= cut
        order = _mended(values, order, ordered[1:] == ordered[:-1])
        ordered = values[order]
    return order, ordered


def _add_places(packed: Ints) -> None:
    block = np.arange(min(_BLOCK, len(packed)), dtype=np.int64)
    for start in range(0, len(packed), _BLOCK):
        part = packed[start : start + _BLOCK]
        part |= block[: len(part)] + start


def _mended(values: Ints, order: Ints, same: Bools) -> Ints:
    """The order with runs of the same leading bits put right."""
    places = _tied(same)
    if len(places) > len(order) // 8:
        order = np.argsort(values).astype(np.int64, copy=False)
        ordered = values[order]
        places = _tied(ordered[1:] == ordered[:-1])
    within = order[places]
    order[places] = within[np.lexsort((within, values[within]))]
    return order


def _tied(same: Bools) -> Ints:
    """Places that are the same as a neighbour."""
    tied = np.zeros(len(same) + 1, dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    return np.flatnonzero(tied)
