"""Recipes: the short form, lists of steps, and the stated results for odd tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, RobustScaler, TargetEncoder

from sunloom.errors import ArtifactError, ConfigError, DataError, UsageError
from sunloom.preprocessing.artifact import load, save
from sunloom.preprocessing.fit import fit, fit_transform
from tests.unit.preprocessing.tables import as_array, assert_same_everywhere, colours

MISSION: dict[str, Any] = {
    "categorical_encoding": {"method": "target_encoding", "smoothing": 10},
    "numerical_scaling": {"method": "robust_scaler"},
    "missing_values": {"strategy": "median"},
    "target": "bought",
}


def mixed_table() -> pl.DataFrame:
    frame = colours()
    gap = pl.int_range(pl.len()) % 9 == 0
    return frame.drop("grade").with_columns(
        pl.when(~gap).then("amount").alias("amount"),
        at=pl.lit("2026-01-01").str.to_datetime(),
        vip=pl.int_range(pl.len()) % 2 == 0,
        id=pl.int_range(pl.len()),
    )


def test_the_missions_short_form_equals_a_scikit_learn_pipeline(tmp_path: Path) -> None:
    frame = mixed_table()
    recipe = MISSION | {"exclude": ["id"]}
    fitted = fit(recipe, frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert prepared.columns == frame.columns
    untouched = ["bought", "at", "vip", "id"]
    assert prepared.select(untouched).equals(frame.select(untouched))
    numbers, texts = ["amount", "score"], ["colour", "size"]
    peer = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(strategy="median"), RobustScaler()), numbers),
            ("c", TargetEncoder(smooth=10), texts),
        ]
    ).fit(frame.to_pandas(), frame["bought"].to_numpy())
    wanted = peer.transform(frame.to_pandas())
    ours = as_array(prepared.select(numbers + texts))
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-12)
    assert fitted.report.passes == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("categorical_encoding", {"method": "target_encoding", "smoothing": 500}),
        ("categorical_encoding", {"method": "one_hot_encoding"}),
        ("categorical_encoding", {"method": "frequency_encoding"}),
        ("numerical_scaling", {"method": "standard_scaler"}),
        ("missing_values", {"strategy": "mean"}),
        ("missing_values", {"strategy": "constant", "fill_value": 9}),
        ("target", "vip"),
        ("exclude", ["amount"]),
    ],
)
def test_every_key_of_the_short_form_matters(key: str, value: Any) -> None:
    frame = mixed_table()
    usual = fit(MISSION, frame).apply_frame(frame)
    assert not fit(MISSION | {key: value}, frame).apply_frame(frame).equals(usual)


def test_a_list_of_steps_equals_a_scikit_learn_pipeline(tmp_path: Path) -> None:
    frame = mixed_table()
    steps = [
        {"type": "one_hot_encoder", "columns": ["size"]},
        {"type": "simple_imputer", "columns": ["amount"], "strategy": "mean"},
        {"type": "robust_scaler", "columns": ["amount", "score"]},
    ]
    fitted = fit(steps, frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert prepared.columns[:5] == ["colour", "size_L", "size_M", "size_S", "amount"]
    amount = SimpleImputer().fit_transform(frame.select("amount").to_numpy())
    scaled = RobustScaler().fit_transform(np.c_[amount, frame["score"].to_numpy()])
    ours = as_array(prepared.select("amount", "score"))
    np.testing.assert_allclose(ours, scaled, rtol=1e-9, atol=1e-12)
    hot = OneHotEncoder(sparse_output=False).fit_transform(frame.select("size").to_pandas())
    np.testing.assert_array_equal(as_array(prepared.select(pl.nth(1, 2, 3))), hot)


def test_a_step_sees_out_of_fold_encodings_when_fitting() -> None:
    frame = colours()
    steps = [
        {"type": "target_encoder", "columns": ["colour"], "target": "score"},
        {"type": "standard_scaler", "columns": ["colour"]},
    ]
    fitted, training = fit_transform(steps, frame)
    assert training["colour"].mean() == pytest.approx(0, abs=1e-12)
    assert training["colour"].std(ddof=0) == pytest.approx(1)
    assert fitted.apply_frame(frame)["colour"].std(ddof=0) != pytest.approx(1, abs=1e-6)


def test_steps_without_columns_follow_what_came_before() -> None:
    frame = mixed_table()
    steps = [{"type": "one_hot_encoder"}, {"type": "simple_imputer"}, {"type": "max_abs_scaler"}]
    fitted = fit(steps, frame, keep=["id", "bought"])
    prepared = fitted.apply_frame(frame)
    assert prepared["id"].equals(frame["id"])
    assert prepared["amount"].null_count() == 0
    assert prepared.select(pl.col("^colour_.*$")).sum_horizontal().unique().to_list() == [1]


def test_an_unknown_column_is_named() -> None:
    frame = colours()
    with pytest.raises(DataError, match="lacks the column amont") as caught:
        fit([{"type": "robust_scaler", "columns": ["amont"]}], frame)
    assert "'amont' → 'amount'?" in caught.value.hint
    with pytest.raises(DataError, match="lacks the column nope"):
        fit(MISSION | {"target": "nope"}, frame)
    fitted = fit([{"type": "robust_scaler", "columns": ["amount"]}], frame)
    with pytest.raises(DataError, match="lacks the column amount"):
        fitted.apply_frame(frame.drop("amount"))
    with pytest.raises(DataError, match="lacks the column amount"):
        fitted.apply_row({"size": "M"})


def test_a_wrong_type_is_named() -> None:
    frame = colours()
    with pytest.raises(DataError, match="robust_scaler needs numbers, but column 'size'"):
        fit([{"type": "robust_scaler", "columns": ["size"]}], frame)
    fitted = fit(MISSION | {"target": "bought"}, frame)
    with pytest.raises(DataError, match="'amount' is String"):
        fitted.apply_frame(frame.with_columns(amount=pl.lit("x")))
    with pytest.raises(DataError, match="'amount' is a number, but the row holds 'x'"):
        fitted.apply_row(frame.row(0, named=True) | {"amount": "x"})
    with pytest.raises(DataError, match="'size' is text, but the row holds 3"):
        fitted.apply_row(frame.row(0, named=True) | {"size": 3})
    whole = frame.with_columns(amount=pl.lit(2))
    assert fitted.apply_frame(whole)["amount"].dtype == pl.Float64


def test_a_column_without_any_value(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1.0, 2.0], "gone": [None, None]}, schema_overrides={"gone": float})
    steps = [{"type": "simple_imputer"}, {"type": "standard_scaler", "columns": ["a", "gone"]}]
    fitted = fit(steps, frame)
    assert assert_same_everywhere(fitted, frame, tmp_path / "a").columns == ["a"]
    assert fitted.report.notes == ["gone has no value and was left out (keep_empty_features)"]
    assert fitted.apply_frame(frame.drop("gone")).columns == ["a"]
    kept = fit([{"type": "simple_imputer", "keep_empty_features": True}], frame)
    assert kept.apply_frame(frame)["gone"].to_list() == [0.0, 0.0]
    types = ["standard_scaler", "min_max_scaler", "max_abs_scaler", "robust_scaler"]
    types += ["quantile_transformer", "power_transformer", "k_bins_discretizer"]
    for kind in types:
        prepared = fit([{"type": kind}], frame).apply_frame(frame)
        assert prepared["gone"].null_count() == 2
    empty = pl.DataFrame({"c": [None, None]}, schema={"c": pl.String})
    assert fit([{"type": "one_hot_encoder"}], empty).apply_frame(empty)["c_None"].to_list() == [
        1,
        1,
    ]
    assert fit([{"type": "ordinal_encoder"}], empty).apply_row({"c": "x"})["c"] == -1.0


def test_a_constant_column_and_a_single_row(tmp_path: Path) -> None:
    for rows in (1, 5):
        frame = pl.DataFrame({"a": [7.0] * rows, "c": ["x"] * rows, "y": [1.0] * rows})
        for kind in ("standard_scaler", "min_max_scaler", "robust_scaler", "power_transformer"):
            fitted = fit([{"type": kind, "columns": ["a"]}], frame)
            assert fitted.apply_frame(frame)["a"].to_list() == [0.0] * rows
        for kind in ("quantile_transformer", "k_bins_discretizer"):
            fitted = fit([{"type": kind, "columns": ["a"]}], frame)
            assert assert_same_everywhere(fitted, frame, tmp_path / kind)["a"][0] == 0.0
        encoder = {"type": "target_encoder", "target": "y", "target_type": "continuous"}
        assert fit([encoder], frame).apply_row({"c": "x"})["c"] == 1.0


@pytest.mark.parametrize("bad", [float("inf"), float("-inf")])
def test_an_infinite_value_is_refused(bad: float) -> None:
    frame = pl.DataFrame({"a": [1.0, bad, 2.0]})
    for kind in ("standard_scaler", "robust_scaler", "simple_imputer", "polynomial_features"):
        with pytest.raises(DataError, match=r"'a' holds an infinite value \(row 1\)"):
            fit([{"type": kind}], frame)
    fitted = fit([{"type": "standard_scaler"}], pl.DataFrame({"a": [1.0, 2.0]}))
    with pytest.raises(DataError, match="infinite"):
        fitted.apply_frame(frame)
    with pytest.raises(DataError, match="infinite"):
        fitted.apply_row({"a": bad})


def test_nan_is_missing() -> None:
    frame = pl.DataFrame({"a": [1.0, float("nan"), 3.0]})
    fitted = fit([{"type": "simple_imputer"}], frame)
    assert fitted.apply_frame(frame)["a"].to_list() == [1.0, 2.0, 3.0]
    assert fitted.apply_row({"a": float("nan")})["a"] == 2.0
    scaled = fit([{"type": "standard_scaler"}], frame)
    assert scaled.apply_row({"a": float("nan")})["a"] is None


def test_no_rows() -> None:
    frame = mixed_table()
    with pytest.raises(DataError, match="no rows to learn from"):
        fit(MISSION, frame.clear())
    prepared = fit(MISSION, frame).apply_frame(frame.clear())
    assert prepared.schema == fit(MISSION, frame).apply_frame(frame).schema
    assert prepared.height == 0


def test_a_table_that_the_recipe_is_not_for() -> None:
    with pytest.raises(DataError, match="no column that the recipe is for"):
        fit({"missing_values": {"strategy": "mean"}}, pl.DataFrame({"t": ["x"]}))
    with pytest.raises(DataError, match="found no column of its kind"):
        fit([{"type": "one_hot_encoder"}], pl.DataFrame({"n": [1.0]}))
    with pytest.raises(DataError, match="its own target"):
        fit([{"type": "target_encoder", "columns": ["size"], "target": "size"}], colours())
    with pytest.raises(DataError, match="already"):
        fit([{"type": "one_hot_encoder", "columns": ["c"]}], pl.DataFrame({"c": "x", "c_x": [1]}))


@pytest.mark.parametrize(
    "recipe",
    [
        {"categorical_encoding": {"method": "one_hot_encoding", "smoothing": 3}},
        {"missing_values": {"strategy": "mean", "fill_value": 3}},
        {"target": "y"},
        [{"type": "simple_imputer", "fill_value": 3}],
        [{"type": "no_such_scaler"}],
        [{"type": "robust_scaler", "colums": ["a"]}],
    ],
)
def test_keys_without_effect_are_refused(recipe: Any) -> None:
    with pytest.raises(ValidationError):
        fit(recipe, colours())


def test_target_encoding_names_the_target_that_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"no transformations\.target"):
        fit({"categorical_encoding": {"method": "target_encoding"}}, colours())


def test_an_artifact_is_plain_checked_and_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"c": [f"c{i}" for i in rng.integers(0, 900, 5000)]})
    fitted = fit([{"type": "frequency_encoder"}], frame)
    folder = tmp_path / "artifact"
    first = save(fitted, folder)
    assert save(fitted, folder) == first
    assert {path.suffix for path in folder.iterdir()} == {".json", ".parquet"}
    plain = json.loads((folder / "transform.json").read_text())
    assert plain["schema"] == {"c": "String"}
    assert plain["about"]["rows"] == 5000
    assert set(plain["about"]["versions"]) == {"sunloom", "polars", "python"}
    long = next(folder.glob("*.parquet"))
    whole = long.read_bytes()
    long.write_bytes(whole[:-9])
    with pytest.raises(ArtifactError, match="missing or changed"):
        load(folder)
    (folder / "transform.json").write_text('{"format": 1, "stages"')
    with pytest.raises(ArtifactError, match="damaged"):
        load(folder)
    with pytest.raises(UsageError, match="no fitted artifact"):
        load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        save(fitted, tmp_path / "other")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_a_table_without_rows_says_so_in_every_form(tmp_path: Path, name: str) -> None:
    empty = pl.DataFrame(schema={"bought": pl.Int64, "amount": pl.Float64})
    path = tmp_path / name
    if path.suffix == ".parquet":
        empty.write_parquet(path)
    else:
        path.write_text("bought,amount\n" if path.suffix == ".csv" else "")
    for recipe in (MISSION, {"numerical_scaling": {"method": "robust_scaler"}}):
        with pytest.raises(DataError, match="no rows to learn from"):
            fit(recipe, path)
