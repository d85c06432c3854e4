"""Numbers are scikit-learn's, in a frame, from an artifact and row by row."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import preprocessing
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from sunloom.errors import DataError
from sunloom.preprocessing.fit import fit
from tests.unit.preprocessing.tables import as_array, assert_same_everywhere, gappy, table

SETS = ("wine", "diabetes", "breast_cancer", "gappy")
SCALERS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "standard_scaler"}, preprocessing.StandardScaler()),
    (
        {"type": "standard_scaler", "with_mean": False},
        preprocessing.StandardScaler(with_mean=False),
    ),
    ({"type": "standard_scaler", "with_std": False}, preprocessing.StandardScaler(with_std=False)),
    ({"type": "min_max_scaler"}, preprocessing.MinMaxScaler()),
    (
        {"type": "min_max_scaler", "feature_range": [-2, 3]},
        preprocessing.MinMaxScaler(feature_range=(-2, 3)),
    ),
    ({"type": "max_abs_scaler"}, preprocessing.MaxAbsScaler()),
    ({"type": "robust_scaler"}, preprocessing.RobustScaler()),
    (
        {"type": "robust_scaler", "quantile_range": [10, 80], "unit_variance": True},
        preprocessing.RobustScaler(quantile_range=(10, 80), unit_variance=True),
    ),
    (
        {"type": "robust_scaler", "with_centering": False},
        preprocessing.RobustScaler(with_centering=False),
    ),
    ({"type": "quantile_transformer"}, preprocessing.QuantileTransformer(subsample=None)),
    (
        {"type": "quantile_transformer", "n_quantiles": 50, "output_distribution": "normal"},
        preprocessing.QuantileTransformer(
            n_quantiles=50, output_distribution="normal", subsample=None
        ),
    ),
    ({"type": "power_transformer"}, preprocessing.PowerTransformer()),
    (
        {"type": "power_transformer", "standardize": False},
        preprocessing.PowerTransformer(standardize=False),
    ),
]


def _id(case: tuple[dict[str, Any], Any]) -> str:
    return " ".join(f"{value}" for value in case[0].values())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("case", SCALERS, ids=_id)
def test_a_scaler_equals_scikit_learns(
    name: str, case: tuple[dict[str, Any], Any], tmp_path: Path
) -> None:
    frame = table(name)
    if name == "gappy" and case[0]["type"] == "power_transformer":
        # scikit-learn does not see that a column with gaps is constant; ours leaves it as it is.
        frame = frame.drop("constant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = case[1].fit_transform(frame.to_numpy())
    prepared = assert_same_everywhere(fit([case[0]], frame), frame, tmp_path / "a")
    assert prepared.columns == frame.columns
    np.testing.assert_allclose(as_array(prepared), wanted, rtol=1e-9, atol=1e-9)


def test_a_scaler_holds_values_within_the_range(tmp_path: Path) -> None:
    fitted = fit([{"type": "min_max_scaler", "clip": True}], pl.DataFrame({"a": [0.0, 10.0]}))
    prepared = assert_same_everywhere(
        fitted, pl.DataFrame({"a": [-5.0, 5.0, 50.0]}), tmp_path / "a"
    )
    assert prepared["a"].to_list() == [0.0, 0.5, 1.0]
    fitted = fit([{"type": "max_abs_scaler", "clip": True}], pl.DataFrame({"a": [-4.0, 2.0]}))
    assert fitted.apply_row({"a": 9})["a"] == 1.0


def test_box_cox_equals_scikit_learns(tmp_path: Path) -> None:
    frame = gappy().select("skewed", "normal")
    wanted = preprocessing.PowerTransformer(method="box-cox").fit_transform(frame.to_numpy())
    fitted = fit([{"type": "power_transformer", "method": "box-cox"}], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    np.testing.assert_allclose(as_array(prepared), wanted, rtol=1e-9, atol=1e-9)
    with pytest.raises(DataError, match="positive"):
        fitted.apply_frame(pl.DataFrame({"skewed": [0.0], "normal": [1.0]}))
    with pytest.raises(DataError, match="positive"):
        fitted.apply_row({"skewed": -1.0, "normal": 1.0})
    with pytest.raises(DataError, match="positive"):
        fit([{"type": "power_transformer", "method": "box-cox"}], pl.DataFrame({"a": [0.0, 1.0]}))


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("indicator", [False, True])
def test_a_simple_imputer_equals_scikit_learns(
    strategy: str, indicator: bool, tmp_path: Path
) -> None:
    frame = gappy()
    peer = SimpleImputer(strategy=strategy, add_indicator=indicator).fit(frame.to_pandas())
    step = {"type": "simple_imputer", "strategy": strategy, "add_indicator": indicator}
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    assert prepared.columns == list(peer.get_feature_names_out())
    np.testing.assert_allclose(as_array(prepared), peer.transform(frame.to_pandas()), rtol=1e-9)


def test_text_is_imputed_too(tmp_path: Path) -> None:
    frame = pl.DataFrame({"t": ["b", None, "b", "a"], "n": [1.0, 1.0, None, 2.0]})
    for strategy, text, number in (("most_frequent", "b", 1.0), ("constant", "missing_value", 0.0)):
        fitted = fit([{"type": "simple_imputer", "strategy": strategy}], frame)
        prepared = assert_same_everywhere(fitted, frame, tmp_path / strategy)
        assert prepared["t"].to_list() == ["b", text, "b", "a"]
        assert prepared["n"].to_list() == [1.0, 1.0, number, 2.0]
    with pytest.raises(DataError, match="needs numbers"):
        fit([{"type": "simple_imputer", "strategy": "mean", "columns": ["t"]}], frame)


def test_an_iterative_imputer_equals_scikit_learns(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))
    frame = pl.DataFrame(base, schema=["a", "b", "c", "d"])
    holes = rng.random(base.shape) < 0.2
    frame = frame.with_columns(
        pl.when(pl.Series(~holes[:, i])).then(pl.col(n)).alias(n) for i, n in enumerate("abcd")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = IterativeImputer().fit(frame.to_numpy())
    fitted = fit([{"type": "iterative_imputer"}], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    np.testing.assert_allclose(as_array(prepared), peer.transform(frame.to_numpy()), rtol=1e-9)
    capped = fit([{"type": "iterative_imputer", "min_value": 0, "max_value": 0.5}], frame)
    filled = as_array(capped.apply_frame(frame))[holes]
    assert filled.min() >= 0
    assert filled.max() <= 0.5


# Whole numbers are often equally far from each other, and exactly so in scikit-learn's arithmetic.
@pytest.mark.parametrize("names", [("normal", "tiny"), ("whole", "constant")])
@pytest.mark.parametrize("options", [{}, {"n_neighbors": 3, "weights": "distance"}])
def test_a_knn_imputer_equals_scikit_learns(
    options: dict[str, Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    # Near 0, where scikit-learn's distances lose no digits: they are differences of squares.
    frame = gappy(150).with_columns(pl.col("normal") - 100, pl.col("tiny") * 1000).select(names)
    # The last row has nothing in common with any.
    frame = frame.vstack(pl.DataFrame([[None] * len(names)], schema=frame.schema, orient="row"))
    peer = KNNImputer(**options).fit(frame.to_numpy())
    fitted = fit([{"type": "knn_imputer"} | options], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    np.testing.assert_allclose(as_array(prepared), peer.transform(frame.to_numpy()), rtol=1e-9)
    nothing = fitted.apply_row(dict.fromkeys(names))
    np.testing.assert_allclose(list(nothing.values()), as_array(frame.mean())[0], rtol=1e-9)


@pytest.mark.parametrize("strategy", ["iterative_imputer", "knn_imputer"])
def test_the_short_form_imputes_numbers_as_the_step_does(strategy: str) -> None:
    frame = gappy(100).select("normal", "whole").with_columns(city=pl.lit("york"))
    short = fit({"missing_values": {"strategy": strategy}}, frame).apply_frame(frame)
    step = fit([{"type": strategy}], frame).apply_frame(frame)
    assert short.equals(step)
    assert short.select("normal", "whole").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"degree": 3, "interaction_only": True}, {"degree": [2, 3], "include_bias": False}],
)
def test_polynomials_equal_scikit_learns(options: dict[str, Any], tmp_path: Path) -> None:
    frame = table("wine").select(pl.nth(0, 1, 2, 3))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    peer = preprocessing.PolynomialFeatures(**given).fit(frame.to_pandas())
    fitted = fit([{"type": "polynomial_features"} | options], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert prepared.columns == list(peer.get_feature_names_out())
    np.testing.assert_allclose(as_array(prepared), peer.transform(frame.to_pandas()), rtol=1e-9)


@pytest.mark.parametrize("strategy", ["uniform", "quantile", "kmeans"])
@pytest.mark.parametrize("encode", ["ordinal", "onehot"])
def test_bins_equal_scikit_learns(strategy: str, encode: str, tmp_path: Path) -> None:
    frame = table("breast_cancer").select(pl.nth(range(2))).with_columns(flat=pl.lit(2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = "onehot-dense" if encode == "onehot" else encode
        peer = preprocessing.KBinsDiscretizer(strategy=strategy, encode=dense, subsample=None)
        wanted = peer.fit_transform(frame.to_pandas())
    fitted = fit([{"type": "k_bins_discretizer", "strategy": strategy, "encode": encode}], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert prepared.columns == list(peer.get_feature_names_out())
    np.testing.assert_array_equal(as_array(prepared), wanted)


def test_interactions_are_chosen_by_mutual_information(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(rng.normal(size=(4000, 4)), schema=["a", "b", "c", "d"])
    frame = frame.with_columns(y=((pl.col("b") * pl.col("d")) > 0.2).cast(pl.Int64))
    step = {"type": "interactions", "target": "y", "top_k": 1}
    fitted = fit([step], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert prepared.columns == ["a", "b", "c", "d", "y", "b*d"]
    assert fitted.report.notes[0].startswith("b*d: ")
    every = fit([{"type": "interactions", "columns": ["a", "b"]}], frame).apply_frame(frame)
    assert every.columns[-3:] == ["a*b", "a/b", "b/a"]
    zero = fit([{"type": "interactions", "columns": ["a", "b"]}], frame)
    assert zero.apply_row({"a": 1.0, "b": 0.0})["a/b"] is None
