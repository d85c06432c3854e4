"""Skew: differences between online and offline values of features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-9, 1e-9


@dataclass(frozen=True)
class Difference:
    """A value that online and offline do not agree on."""

    entity_id: Any
    moment: datetime
    feature: str
    online: Any
    offline: Any


def is_equal(online: Any, offline: Any) -> bool:
    """Whether two values are the same: floats to nine digits, everything else exactly."""
    if isinstance(online, float) and isinstance(offline, float):
        if math.isnan(offline):
            return math.isnan(online)
        return math.isclose(online, offline, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return type(online) is type(offline) and bool(online == offline)
