"""Skew: differences between online and offline values of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from sunloom.features.plan.columns import NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import POLARS

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-9, 1e-9
_MOST_EXAMPLES = 20


@dataclass(frozen=True)
class Difference:
    """A value on which online and offline differ."""

    entity_id: Any
    moment: datetime
    feature: str
    online: Any
    offline: Any


@dataclass(frozen=True)
class SkewReport:
    """A comparison of online with offline values.

    Attributes:
        questions: Entities and as-of times that were compared.
        values: Values that were compared.
        differences: Number of values that differ.
        examples: Some of them.
        passed: Whether none differs.
    """

    questions: int
    values: int
    differences: int
    examples: Sequence[Difference]
    passed: bool

    @staticmethod
    def from_differences(
        questions: int, values: int, differences: Sequence[Difference]
    ) -> SkewReport:
        """The report of these differences."""
        return SkewReport(
            questions=questions,
            values=values,
            differences=len(differences),
            examples=differences[:_MOST_EXAMPLES],
            passed=not differences,
        )


def is_equal(online: Any, offline: Any) -> bool:
    """Whether two values are the same: floats to nine digits, everything else exactly."""
    if isinstance(online, float) and isinstance(offline, float):
        if math.isnan(offline):
            return math.isnan(online)
        # Partial sums are added in another order online, so the last digits may differ.
        return math.isclose(online, offline, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    # Python says True == 1, but a truth value served as a number is a difference.
    return type(online) is type(offline) and bool(online == offline)


def spine(plan: Plan, rows: Sequence[tuple[Any, datetime]]) -> pl.DataFrame:
    """Entity keys and as-of times as the engine takes them."""
    key = plan.root.feature(plan.root.key)
    schema = {key.name: POLARS[key.dtype], NOW: POLARS["datetime"]}
    return pl.DataFrame(rows, schema=schema, orient="row")
