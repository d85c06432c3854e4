"""Exact sums of floats: rounded once, at the end, whatever cancels or overflows on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def exact_total(values: Sequence[float | Fraction]) -> float | Fraction:
    """The sum, rounded once; a fraction where it is beyond the largest float.

    Args:
        values: Floats, whose infinities and NaN add up as in IEEE arithmetic, and fractions beyond
            the largest float.
    """
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        # fsum refuses infinities of both signs, and partial sums beyond the largest float even
        # where the sum itself is not.
        infinite = [v for v in values if isinstance(v, float) and not math.isfinite(v)]
    if infinite:
        return sum(infinite)
    total = sum((Fraction(value) for value in values), Fraction(0))
    try:
        return float(total)
    except OverflowError:
        return total


def exact_sum(values: Sequence[float]) -> float:
    """The sum, rounded once; infinite where it is beyond the largest float."""
    return to_float(exact_total(values))


def to_float(total: float | Fraction) -> float:
    """A total as a float; infinite where it is beyond the largest one."""
    if isinstance(total, Fraction):
        return math.inf if total > 0 else -math.inf
    return total
