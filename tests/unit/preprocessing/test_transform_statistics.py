"""What is learnt in parts and merged is what is learnt at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sunloom.preprocessing.accumulators.counts import LevelCounts, TargetLevels
from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.accumulators.values import (
    ColumnValues,
    MeanVariance,
    QuantileSketch,
    TableSample,
)
from sunloom.preprocessing.fit import FitPass, fit
from sunloom.preprocessing.tables import Batch, Source
from tests.unit.preprocessing.tables import colours, gappy

NUMBERS = st.lists(
    st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)),
    min_size=1,
    max_size=60,
)
CUTS = st.lists(st.integers(0, 60), max_size=4)


def in_parts(make: Any, frame: pl.DataFrame, cuts: Sequence[int], order: int = 1) -> Any:
    """Learn from each part alone and merge, in one order or the other."""
    edges = sorted({0, frame.height, *(cut for cut in cuts if cut < frame.height)})
    parts: list[Accumulator] = []
    for start, end in pairwise(edges):
        one = make()
        one.update(Batch(frame.slice(start, end - start), start))
        parts.append(one)
    whole = make()
    for part in parts[::order]:
        whole.merge(part)
    return whole


@settings(max_examples=60, deadline=None)
@given(NUMBERS, CUTS, st.sampled_from([1, -1]))
def test_moments_and_values_merge(values: list[Any], cuts: list[int], order: int) -> None:
    frame = pl.DataFrame({"a": values}, schema={"a": pl.Float64})
    there = np.array([v for v in values if v is not None])
    found = in_parts(lambda: MeanVariance("a"), frame, cuts, order).finish()
    assert (found.count, found.missing) == (len(there), len(values) - len(there))
    if len(there):
        assert found.mean == pytest.approx(there.mean(), rel=1e-9, abs=1e-9)
        assert found.variance == pytest.approx(there.var(), rel=1e-9, abs=1e-6)
        assert (found.least, found.greatest) == (there.min(), there.max())
    kept = in_parts(lambda: ColumnValues("a", 1 << 40), frame, cuts, order).finish()
    assert kept.values.tolist() == there.tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=60), CUTS)
def test_counts_and_samples_merge(levels: list[Any], cuts: list[int]) -> None:
    frame = pl.DataFrame({"c": levels}, schema={"c": pl.String})
    found = in_parts(lambda: LevelCounts("c", pl.String()), frame, cuts, -1).finish()
    assert {level: levels.count(level) for level in set(levels)} == dict(found.iter_rows())
    whole = in_parts(lambda: TableSample(("c",), 7), frame, []).finish()
    assert in_parts(lambda: TableSample(("c",), 7), frame, cuts, -1).finish().equals(whole)


@settings(max_examples=40, deadline=None)
@given(CUTS, st.sampled_from(["score", "bought", "grade", "mixed"]), st.integers(0, 40))
def test_targets_merge(cuts: list[int], target: str, seed: int) -> None:
    frame = colours(60, seed).with_columns(
        # Whole numbers first and fractions later: classes turn to moments on the way.
        mixed=pl.when(pl.int_range(60) < 30).then(pl.int_range(60) % 5).otherwise("score")
    )

    def make() -> TargetLevels:
        return TargetLevels("colour", target, 3, seed)

    whole = in_parts(make, frame, []).finish()
    merged = in_parts(make, frame, cuts, -1).finish()
    assert list(whole) == list(merged)
    for name, moments in whole.items():
        by = ["fold", "level"]
        assert_frame_equal(moments.sort(by), merged[name].sort(by), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("shape", ["normal", "lognormal", "steps"])
def test_a_sketchs_error_is_within_its_bound(shape: str) -> None:
    rng = np.random.default_rng(0)
    rows = 300_000
    values = {
        "normal": rng.normal(size=rows),
        "lognormal": rng.lognormal(0, 3, rows),
        "steps": np.sort(rng.integers(0, 50, rows)).astype(float),
    }[shape]
    parts = [QuantileSketch(512) for _ in range(4)]
    for i, start in enumerate(range(0, rows, 1000)):
        parts[i % 4].add(values[start : start + 1000])
    for other in parts[1:]:
        parts[0].merge(other)
    points, weights = parts[0].points()
    assert weights.sum() == rows
    assert len(points) < 20_000
    bound = parts[0].rank_error()
    assert 0 < bound < 0.02
    ranks = np.cumsum(weights) / rows
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        chosen = points[np.searchsorted(ranks, share)]
        low, high = (values < chosen).mean(), (values <= chosen).mean()
        step = weights.max() / rows
        assert low - bound - step <= share <= high + bound + step


def test_values_beyond_the_memory_are_sketched_and_the_artifact_says_so() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=400_000)})
    steps = [{"type": "robust_scaler"}]
    exact, rough = fit(steps, frame), fit(steps, frame, memory_bytes=1_000_000)
    assert exact.report.rank_error == 0
    assert 0 < rough.report.rank_error < 0.01
    a, b = exact.apply_frame(frame)["a"], rough.apply_frame(frame)["a"]
    assert (a - b).abs().max() < 0.02
    for kind in ("quantile_transformer", "power_transformer", "k_bins_discretizer"):
        a, b = (
            fit([{"type": kind}], frame, **limit).apply_frame(frame)["a"]
            for limit in ({}, {"memory_bytes": 1_000_000})
        )
        assert float((a - b).abs().mean()) < 0.01


def test_files_in_any_partition_give_what_the_frame_gives(tmp_path: Path) -> None:
    frame = gappy(1000, 3)
    folder = tmp_path / "parts"
    folder.mkdir()
    frame.head(300).write_parquet(folder / "a.parquet", row_group_size=70)
    frame.slice(300).write_parquet(folder / "b.parquet", row_group_size=999)
    frame.write_csv(tmp_path / "all.csv")
    steps = [{"type": "simple_imputer", "strategy": "median"}, {"type": "power_transformer"}]
    whole = fit(steps, frame).apply_frame(frame)
    for path in (folder, tmp_path / "all.csv"):
        assert_frame_equal(fit(steps, path).apply_frame(frame), whole, rel_tol=1e-9)


def test_parts_in_any_order_make_one_pass() -> None:
    """As a cluster reads: each part alone, merged in another order."""
    frame = colours(2000, 5)

    def reader(source: Source, reading: FitPass) -> FitPass:
        parts = []
        for start in range(0, 2000, 300):
            part = copy.deepcopy(reading)
            part.collect(Batch(frame.slice(start, 300).select(reading.columns), start))
            parts.append(part)
        for part in reversed(parts):
            reading.merge(part)
        return reading

    steps = [
        {"type": "target_encoder", "columns": ["colour"], "target": "bought"},
        {"type": "one_hot_encoder", "columns": ["size"]},
        {"type": "quantile_transformer", "columns": ["amount"]},
        {"type": "standard_scaler", "columns": ["colour"]},
    ]
    once, merged = fit(steps, frame), fit(steps, frame, reader=reader)
    assert_frame_equal(once.apply_frame(frame), merged.apply_frame(frame), rel_tol=1e-9)
