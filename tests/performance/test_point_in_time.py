"""The feature engine against Polars on the same rows: equal values, a loose bound on CPU time."""

from __future__ import annotations

import pytest

from benchmarks.features.point_in_time import latest, tables, windows

pytestmark = pytest.mark.performance


def test_latest_values_cost_no_more_than_join_asof() -> None:
    result = latest(*tables(events=200_000, rows=40_000, keys=2_000))
    print(result)
    assert result["equal"]
    assert result["ratio"] < 2.0


def test_windows_cost_far_less_than_a_join_and_a_group() -> None:
    result = windows(*tables(events=200_000, rows=40_000, keys=2_000))
    print(result)
    assert result["equal"]
    assert result["ratio"] < 0.5
