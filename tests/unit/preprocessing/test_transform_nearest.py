"""Nearest neighbours: scikit-learn's distances, out-of-row when fitting, ties by row."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

from sunloom.errors import DataError
from sunloom.preprocessing.fit import FitPass, fit, fit_transform
from sunloom.preprocessing.operations.vectors import build_search
from sunloom.preprocessing.tables import Batch, Source
from tests.unit.preprocessing.tables import as_array, assert_same_everywhere, bundled

STEP: dict[str, Any] = {"type": "nearest_neighbors"}
SETS = ["iris", "wine", "diabetes", "breast_cancer"]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", SETS)
def test_distances_equal_scikit_learns(name: str, metric: str, tmp_path: Path) -> None:
    # Rows that differ only by rounding have no order of their own.
    frame = bundled(name).unique(maintain_order=True)
    seen, new = frame[::2], frame[1::2].drop("target")
    fitted = fit([STEP | {"metric": metric, "target": "target", "n_neighbors": 4}], seen)
    prepared = assert_same_everywhere(fitted, new, tmp_path / "a")
    peer = NearestNeighbors(n_neighbors=4, metric=metric).fit(as_array(seen.drop("target")))
    wanted, places = peer.kneighbors(as_array(new))
    found = prepared.select(pl.col("^neighbor_distance_.*$"))
    assert prepared.columns[-5:] == [*found.columns, "neighbor_target"]
    np.testing.assert_allclose(as_array(found), wanted, rtol=1e-9, atol=1e-9)
    if name != "iris":
        means = seen["target"].to_numpy()[places].mean(axis=1)
        np.testing.assert_allclose(prepared["neighbor_target"], means, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_fitted_row_is_not_its_own_neighbour(metric: str) -> None:
    frame = bundled("wine")
    fitted, training = fit_transform([STEP | {"metric": metric, "target": "target"}], frame)
    peer = KNeighborsRegressor(metric=metric).fit(as_array(frame.drop("target")), frame["target"])
    distances, places = peer.kneighbors()
    found = as_array(training.select(pl.col("^neighbor_distance_.*$")))
    np.testing.assert_allclose(found, distances, rtol=1e-9, atol=1e-9)
    means = frame["target"].to_numpy()[places].mean(axis=1)
    np.testing.assert_allclose(training["neighbor_target"], means, rtol=1e-9)
    # Any other time, the same values are as near as can be.
    assert fitted.apply_frame(frame)["neighbor_distance_0"].max() == pytest.approx(0, abs=1e-15)


def test_parts_merge_and_rows_of_any_chunk_know_their_place() -> None:
    frame = bundled("iris")

    def reader(_source: Source, reading: FitPass) -> FitPass:
        parts = [deepcopy(reading) for _ in range(0, frame.height, 40)]
        for i, part in reversed(list(enumerate(parts))):
            part.collect(Batch(frame.slice(40 * i, 40).select(reading.columns), 40 * i))
            reading.merge(part)
        return reading

    once, whole = fit_transform([STEP], frame)
    merged = fit([STEP], frame, reader=reader)
    assert merged.apply_frame(frame).equals(once.apply_frame(frame))
    chunks = [
        merged.apply_frame(rows, Batch(rows, 40 * i))
        for i, rows in enumerate(frame.iter_slices(40))
    ]
    assert pl.concat(chunks).equals(whole)


def test_gaps_and_bounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)}).with_columns(
        y=pl.when(pl.int_range(300) % 7 > 0).then(pl.col("a")),
        b=pl.when(pl.int_range(300) % 5 > 0).then("b"),
    )
    step = STEP | {"target": "y", "n_neighbors": 2, "max_rows": 50, "prefix": "near"}
    fitted, training = fit_transform([step], frame)
    assert_same_everywhere(fitted, frame.drop("y"), tmp_path / "a")
    assert fitted.report.notes[0] == "neighbours are among 50 of 300 rows"
    assert "are no neighbours" in fitted.report.notes[1]
    (operation,) = fitted.stages[0]
    kept = operation.rows.to_list()  # type: ignore[attr-defined]
    assert 20 < len(kept) < 50
    assert all(row % 7 and row % 5 for row in kept)
    assert training["near_distance_0"].null_count() == 60
    assert training["near_y"].null_count() == 60
    # Rows beyond the sample have a neighbour in it as every other row has.
    assert training["near_distance_0"].min() > 0
    empty = {"near_distance_0": None, "near_distance_1": None, "near_y": None}
    assert fitted.apply_row({"a": None, "b": 1.0}) == {"a": None, "b": 1.0} | empty
    assert fitted.apply_row({"a": 1e200, "b": 1.0}) == {"a": 1e200, "b": 1.0} | empty


def test_of_equally_near_rows_the_first_counts(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1.0] * 6 + [2.0, 0.0], "y": range(8)})
    fitted, training = fit_transform([STEP | {"n_neighbors": 3, "target": "y"}], frame)
    assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert fitted.apply_row({"a": 1.0})["neighbor_y"] == 1.0
    assert training["neighbor_y"].to_list()[:4] == [2.0, 5 / 3, 4 / 3, 1.0]
    assert fitted.apply_row({"a": 1.5})["neighbor_distance_0"] == 0.5
    zeros = frame.with_columns(b=pl.lit(0.0), a=pl.lit(0.0))
    far = fit([STEP | {"metric": "cosine", "columns": ["a", "b"]}], zeros)
    assert far.apply_row({"a": 1.0, "b": 0.0})["neighbor_distance_0"] == 1.0


def test_rows_far_from_zero_are_measured_exactly() -> None:
    rng = np.random.default_rng(3)
    table = 1e8 + rng.normal(size=(500, 3))
    queries = 1e8 + rng.normal(size=(60, 3))
    distances, places = build_search(table, 5, "euclidean")(queries, None)
    every = np.sqrt(np.square(queries[:, None] - table).sum(axis=2))
    assert np.array_equal(places, np.argsort(every, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :5], rtol=1e-12)


def test_vectors_made_by_an_earlier_step() -> None:
    frame = bundled("wine")
    scaled = [{"type": "standard_scaler"}, STEP]
    plain = fit([{"type": "standard_scaler"}], frame).apply_frame(frame)
    wanted = fit([STEP], plain).apply_frame(plain)
    assert fit(scaled, frame).apply_frame(frame).equals(wanted)


def test_columns_may_be_a_range() -> None:
    frame = pl.DataFrame(np.random.default_rng(0).normal(size=(40, 5))).with_columns(x=pl.lit(9.0))
    named = fit([STEP | {"columns": ["column_1", "column_2", "column_3"]}], frame)
    short = fit([STEP | {"columns": ["column_{1..3}"]}], frame)
    assert short.apply_frame(frame).equals(named.apply_frame(frame))
    assert short.recipe[0]["columns"] == ["column_1", "column_2", "column_3"]
    with pytest.raises(ValueError, match="must rise"):
        fit([STEP | {"columns": ["column_{3..1}"]}], frame)


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        ({"a": [1.0] * 5}, {}, "n_neighbors is 5, but 5 rows have all numbers"),
        ({"a": [None] * 9}, {}, "but 0 rows have all numbers"),
        ({"a": [1.0, float("inf")] * 9}, {}, "infinite value"),
        ({"a": ["x"] * 9}, {"columns": ["a"]}, "nearest_neighbors needs numbers"),
        ({"a": [1.0] * 9}, {"columns": ["b"]}, "lacks"),
        ({"a": [1.0] * 9, "y": ["x"] * 9}, {"target": "y"}, "needs numbers"),
        ({"a": pl.Series([], dtype=pl.Float64)}, {}, "no rows to learn from"),
        (
            {"a": [1.0] * 9, "neighbor_distance_0": [1.0] * 9},
            {"columns": ["a"]},
            "which the table has already",
        ),
    ],
)
def test_rows_without_neighbours_are_refused(
    frame: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        fit([STEP | options], pl.DataFrame(frame))
