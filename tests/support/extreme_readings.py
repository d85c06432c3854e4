"""Readings of extreme magnitudes, and every aggregation of them by brute force."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

CLASSES = str(Path(__file__).parents[1] / "unit" / "features" / "extreme_classes.py")
START = datetime(2026, 3, 28, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SCHEMA = {
    "id": pl.Int64,
    "meter_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "level": pl.Float64,
    "units": pl.Int64,
}
WINDOWS = {"_ever": None, "__3600__": 60 * MINUTE, "__21600__": 360 * MINUTE}
LARGEST = 1.797e308

_level = st.one_of(
    st.none(),
    st.sampled_from([0.3, 0.1, 1.14, 0.7, 0.2, 1e17, -1e17, LARGEST, -LARGEST, 5e-324, -1e-170]),
    # Near values far from 0, whose squares have more digits than a float.
    st.integers(-4, 4).map(lambda n: 1.7e9 + n * 2.0**-20),
    st.integers(-300, 300).map(lambda power: 3.7 * 10.0**power),
    st.floats(allow_nan=False, allow_infinity=False),
)
_units = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**62, -(2**63)]))
minutes = st.integers(0, 80).map(lambda n: n * 10)
readings = st.lists(st.tuples(st.sampled_from("ab"), minutes, _level, _units), max_size=20)
Reading = tuple[str, int, float | None, int | None]


def reading_frame(rows: Sequence[Reading]) -> pl.DataFrame:
    """Readings of meter, minutes after the start, level and units."""
    events = [
        (number, meter, START + minute * MINUTE, level, units)
        for number, (meter, minute, level, units) in enumerate(rows)
    ]
    return pl.DataFrame(events, schema=SCHEMA, orient="row")


def brute_force(rows: Sequence[Reading], meter: str, now: datetime) -> dict[str, Any]:
    """Every feature of ``xt_meter``."""
    mine = sorted((row for row in rows if row[0] == meter), key=lambda row: row[1])
    features: dict[str, Any] = {}
    for suffix, width in WINDOWS.items():
        inside = [
            row
            for row in mine
            if (at := START + row[1] * MINUTE) <= now and (width is None or at > now - width)
        ]
        levels = [row[2] for row in inside if row[2] is not None]
        units = [row[3] for row in inside if row[3] is not None]
        of_window = {
            "sum": _total(levels),
            "mean": float(statistics.mean(map(Fraction, levels))) if levels else None,
            "min": min(levels, default=None),
            "max": max(levels, default=None),
            "std": statistics.stdev(levels) if len(levels) > 1 else None,
            "var": _variance(levels),
            "first": levels[0] if levels else None,
            "last": levels[-1] if levels else None,
            "count_distinct": len(set(levels)),
            "median": sorted(levels)[len(levels) // 2] if levels else None,
            "units_mean": float(statistics.mean(map(Fraction, units))) if units else None,
        }
        if width is None:
            of_window |= {"min_by": of_window["min"], "max_by": of_window["max"]}
        else:
            of_window |= {
                "units_min": min(units, default=None),
                "units_max": max(units, default=None),
            }
        features |= {f"{name}{suffix}": value for name, value in of_window.items()}
    return features


def _total(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return _rounded(sum(map(Fraction, values)))


def _variance(values: Sequence[float]) -> float | None:
    return _rounded(statistics.variance(map(Fraction, values))) if len(values) > 1 else None


def _rounded(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def wrong_features(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Name to both values where they differ in their ninth digit, however small they are."""
    assert set(found) - {"id"} == set(expected)
    return {
        name: (found[name], value)
        for name, value in expected.items()
        if not _is_near(found[name], value)
    }


def _is_near(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        # Below the least normal float there are fewer digits to compare.
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-320)
    return bool(found == expected)
