"""The feature engine against Polars and DuckDB on the same rows: equal values, bounded CPU time."""

from __future__ import annotations

import pytest

from benchmarks.features.data import tables
from benchmarks.features.point_in_time import growth, latest, windows

pytestmark = pytest.mark.performance


def test_latest_values_cost_less_than_join_asof() -> None:
    result = latest(*tables(events=300_000, rows=60_000, keys=3_000))
    print(result)
    assert result["equal"]
    assert result["ratio"]["polars"] < 0.6
    assert result["ratio"]["duckdb"] < 0.6


def test_windows_cost_a_small_part_of_a_join_and_a_group() -> None:
    result = windows(*tables(events=200_000, rows=40_000, keys=2_000))
    print(result)
    assert result["equal"]
    assert result["ratio"]["polars"] < 1 / 7
    assert result["ratio"]["duckdb"] < 1 / 7


def test_windows_grow_in_line_with_events() -> None:
    result = growth(sizes=(10_000, 100_000, 1_000_000))
    print(result)
    assert result["slope"] <= 1.1
