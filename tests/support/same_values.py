"""When two executors of a plan agree: types and whole numbers exactly, floats to nine digits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_same(found: Any, expected: Any) -> bool:
    """Whether the values agree; NaN agrees with NaN."""
    if isinstance(expected, float) and isinstance(found, float):
        if math.isnan(expected):
            return math.isnan(found)
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return type(found) is type(expected) and bool(found == expected)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Name to both values, where they disagree."""
    assert set(found) == set(expected)
    return {
        name: (found[name], value)
        for name, value in expected.items()
        if not is_same(found[name], value)
    }
