"""Tiles of extreme magnitudes against brute force: any batches, whole and cut tiles."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

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
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore

from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.tile_heads import EntityHead
from sunloom.feature_store.online.tile_layout import Slot, build_layout
from sunloom.feature_store.online.tile_partials import GroupedValues, slot_kind
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.features.definitions.open import plan_of
from sunloom.features.plan.feature_sets import Plan

FOREVER_US = 10**17


@pytest.fixture(scope="module")
def plan() -> Plan:
    plan = plan_of(CLASSES, "xt_meter")
    return plan.model_copy(update={"outputs": tuple(o for o in plan.outputs if o != "id")})


def _read(
    plan: Plan, rows: list[Reading], batch: int, tile_s: int, times: list[datetime]
) -> list[list[dict[str, Any]]]:
    store, layout = MemoryStore(), build_layout(plan, ("xt_reading",), tile_s)
    ingest = TileIngest(store, layout, FOREVER_US)
    frame = reading_frame(rows)
    for start in range(0, len(rows), batch):
        ingest.apply("xt_reading", frame.slice(start, batch), None)
    reader = OnlineReader(store, plan, layout)
    return [reader.read(["a", "b"], now) for now in times]


@given(
    rows=readings,
    batch=st.sampled_from([1, 3, 20]),
    tile_s=st.sampled_from([600, 3_600, 86_400]),
    at=st.lists(minutes, min_size=1, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_every_aggregation_equals_brute_force(
    plan: Plan, rows: list, batch: int, tile_s: int, at: list[int]
) -> None:
    times = [START + minute * MINUTE for minute in at]
    for now, read in zip(times, _read(plan, rows, batch, tile_s, times), strict=True):
        for meter, features in zip("ab", read, strict=True):
            if features is not None:
                assert not wrong_features(features, brute_force(rows, meter, now)), (meter, now)


def test_whole_numbers_of_one_batch_may_sum_beyond_64_bits(plan: Plan) -> None:
    rows: list[Reading] = [("a", 10 * n, None, 2**62) for n in range(3)]
    ((features, _),) = _read(plan, rows, 3, 86_400, [START + timedelta(hours=1)])
    assert features["units_mean__21600__"] == 2.0**62
    totals = pl.Series([3 * 2**62, -(2**63)], dtype=pl.Int128)
    kept = slot_kind(Slot("sum", 0, "int64")).groups([totals], GroupedValues([], [0, 0, 0]))
    assert kept == [str(3 * 2**62), -(2**63)]


def test_heads_of_earlier_releases_are_read_and_merged(plan: Plan) -> None:
    rows: list[Reading] = [
        ("a", 0, 0.1, 3),
        ("a", 10, 0.2, 2**62),
        ("a", 20, 0.3, 2**62),
        ("a", 70, 1e9 + 0.25, 7),
        ("a", 80, 1e9 + 0.75, None),
        ("a", 500, 1.14, -5),
    ]
    store, layout = MemoryStore(), build_layout(plan, ("xt_reading",), 3_600)
    ingest = TileIngest(store, layout, FOREVER_US)
    ingest.apply("xt_reading", reading_frame(rows), None)
    ((key, raw),) = store.scan(layout.head_space)
    head = EntityHead(raw, len(layout.indexes[0].slots))
    # A sum was one float, and moments were three numbers.
    earlier = {
        Slot("sum", 0, "float64"): [0.6000000000000001, 2000000001.0, 1.14],
        Slot("moments", 0, "float64"): [
            [3, 0.20000000000000004, 0.019999999999999997],
            [2, 1000000000.5, 0.125],
            [1, 1.14, 0.0],
        ],
    }
    for slot, partials in earlier.items():
        head.states[layout.indexes[0].slots.index(slot)] = partials
    store.apply([(layout.head_space, key, head.encode())])
    reader = OnlineReader(store, plan, layout)
    for late in ([], [("a", 30, 0.7, 1), ("a", 90, 1e9, 2), ("a", 510, -1.5, 3)]):
        if late:
            ingest.apply("xt_reading", reading_frame(late), None)
            rows += late
        for minute in (30, 100, 400, 520):
            now = START + minute * MINUTE
            (features,) = reader.read(["a"], now)
            assert features is not None
            assert not wrong_features(features, brute_force(rows, "a", now)), (minute, late)


def test_moments_kept_as_three_numbers_are_merged() -> None:
    kind = slot_kind(Slot("moments", 0, "float64"))
    old, new = [2, 1.5, 0.5], kind.events([(0, 4.0), (1, 9.0)])
    count, mean, squares, low = kind.merge([old, new])
    assert (count, mean + low) == (4, 4.0)
    assert squares == pytest.approx(38.0, rel=1e-15)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_infinite_value_has_no_deviation_and_an_infinite_sum(value: float) -> None:
    sums, moments = (slot_kind(Slot(kind, 0, "float64")) for kind in ("sum", "moments"))
    ordinary = [(0, 1.0), (1, 2.0)]
    merged = moments.merge([moments.events(ordinary), moments.events([(2, value)])])
    assert math.isnan(merged[2])
    assert sums.fold is not None
    total = sums.fold([sums.merge([sums.events(ordinary), value]), LARGEST, LARGEST])
    assert total == pytest.approx(value, nan_ok=True)
    assert math.isnan(sums.fold([math.inf, -math.inf]))


def test_a_sum_comes_back_from_beyond_the_largest_float() -> None:
    sums = slot_kind(Slot("sum", 0, "float64"))
    assert sums.fold is not None
    beyond = sums.merge([LARGEST, LARGEST])
    assert sums.fold([beyond]) > LARGEST
    assert sums.fold([sums.merge([beyond, -LARGEST])]) == LARGEST
    assert sums.merge([sums.merge([beyond, 0.25]), -LARGEST, -LARGEST]) == 0.25
    assert sums.fold([sums.merge([sums.merge([1e17, 0.3]), -1e17])]) == 0.3
