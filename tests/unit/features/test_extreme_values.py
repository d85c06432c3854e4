"""Aggregations of extreme magnitudes against brute force, in one frame and in Ray's partitions."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from extreme_readings import (
    CLASSES,
    LARGEST,
    MINUTE,
    START,
    Reading,
    brute_force,
    minutes,
    reading_frame,
    readings,
    wrong_features,
)
from feature_parts import in_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.kernels.ranges import Ranges
from sunloom.features.kernels.sums_and_variances import (
    range_deviations,
    range_means,
    range_sums,
    range_variances,
)
from sunloom.features.plan.feature_sets import NOW, Plan

UTC_US = pl.Datetime("us", "UTC")
SPREAD = 0.42979064671069794
AFTER_A_SPIKE = [0.3, 0.1, 1.14, 0.7, 0.2]


@pytest.fixture(scope="module")
def plan() -> Plan:
    plan = plan_of(CLASSES, "xt_meter")
    return plan.model_copy(update={"outputs": tuple(o for o in plan.outputs if o != "id")})


def _spine(meters: list[str], now: list[datetime], time: str) -> pl.DataFrame:
    return pl.DataFrame({"id": meters, time: now}, schema={"id": pl.String, time: UTC_US})


@given(readings, st.lists(st.tuples(st.sampled_from("abc"), minutes), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_every_aggregation_equals_brute_force(plan: Plan, rows: list, queries: list) -> None:
    meters = [meter for meter, _ in queries]
    now = [START + minute * MINUTE for _, minute in queries]
    engine = FeatureEngine(plan, {"xt_reading": reading_frame(rows)})
    found = engine.compute(_spine(meters, now, NOW)).to_dicts()
    for meter, at, features in zip(meters, now, found, strict=True):
        assert not wrong_features(features, brute_force(rows, meter, at)), (meter, at)


@pytest.mark.parametrize("spike", [1e17, LARGEST, -LARGEST])
def test_rays_partitions_give_the_same(plan: Plan, tmp_path: Path, spike: float) -> None:
    rows: list[Reading] = [("a", 0, spike, 2**62), ("a", 10, spike, 2**62)]
    rows += [("a", 300 + 10 * n, level, n) for n, level in enumerate(AFTER_A_SPIKE)]
    rows += [("b", 310, 1e9 + n * 2.0**-20, -(2**63)) for n in range(5)]
    reading_frame(rows).write_parquet(tmp_path / "readings.parquet")
    now = [START + 350 * MINUTE] * 3
    spine = _spine(["a", "b", "c"], now, "event_time")
    found, _ = in_parts(plan, {"xt_reading": tmp_path / "readings.parquet"}, spine, 2)
    for meter, features in zip("abc", found.to_dicts(), strict=True):
        kept = {name: features[name] for name in plan.outputs}
        assert not wrong_features(kept, brute_force(rows, meter, now[0])), meter
    assert found["std__3600__"][0] == pytest.approx(SPREAD, rel=1e-12)


def _range(start: int, stop: int) -> Ranges:
    return Ranges(np.array([start]), np.array([stop]))


@pytest.mark.parametrize("spike", [1e17, LARGEST, math.inf, math.nan])
@pytest.mark.parametrize("repeats", [1, 30])
def test_a_spike_outside_a_range_costs_it_no_digits(spike: float, repeats: int) -> None:
    values = np.array([spike, *AFTER_A_SPIKE * repeats, spike])
    ranges = _range(1, len(values) - 1)
    inside = values[1:-1]
    keys = np.zeros(len(values), np.int64)
    variance = float(np.var(inside, ddof=1))
    assert range_variances(values, ranges).tolist() == pytest.approx([variance], rel=1e-12)
    assert range_deviations(values, ranges)[0] == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert range_sums(values, keys, ranges)[0] == pytest.approx(math.fsum(inside), rel=1e-14)


@pytest.mark.parametrize("repeats", [1, 200])
@pytest.mark.parametrize("large", [1e17, 1e300, LARGEST])
def test_values_that_cancel_leave_the_others_exact(large: float, repeats: int) -> None:
    values = np.array([large, 0.3, -large, *[0.0, 0.1, -0.1] * repeats])
    keys = np.zeros(len(values), np.int64)
    assert range_sums(values, keys, _range(0, len(values))).tolist() == [0.3]
    doubled = np.array([large, large, 0.25, -large, -large, *[0.0] * repeats])
    assert range_sums(doubled, np.zeros_like(keys, shape=len(doubled)), _range(0, 5))[0] == 0.25


@pytest.mark.parametrize("scale", [1e-200, 1e200, 8e307])
@pytest.mark.parametrize("repeats", [1, 50])
def test_a_deviation_fits_where_its_square_does_not(scale: float, repeats: int) -> None:
    values = np.array([-1.0, 0.5, 2.0] * repeats)
    ranges = _range(0, len(values))
    expected = float(np.std(values, ddof=1))
    assert range_deviations(values * scale, ranges)[0] / scale == pytest.approx(expected, rel=1e-12)
    assert range_variances(values * scale, ranges)[0] == (0.0 if scale < 1 else math.inf)


def test_a_mean_fits_where_its_sum_does_not() -> None:
    keys, ranges = np.zeros(3, np.int64), _range(0, 3)
    floats = np.array([LARGEST, LARGEST, LARGEST / 2])
    assert range_means(floats, keys, ranges)[0] == pytest.approx(LARGEST / 6 * 5, rel=1e-15)
    whole = np.array([2**62, 2**62, 2**62 + 2**40])
    assert range_means(whole, keys, ranges).tolist() == [2**62 + 2**40 / 3]
    lowest = np.full(3, -(2**63))
    assert range_means(lowest, keys, ranges).tolist() == [-(2.0**63)]


@pytest.mark.parametrize("value", [0.1, 1e17, LARGEST, 5e-324])
@pytest.mark.parametrize("size", [2, 7, 100])
def test_a_constant_has_a_variance_of_exactly_zero(value: float, size: int) -> None:
    values = np.full(size, value)
    assert range_variances(values, _range(0, size)).tolist() == [0.0]
    assert range_deviations(values, _range(0, size)).tolist() == [0.0]
