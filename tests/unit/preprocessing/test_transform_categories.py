"""Encoders equal scikit-learn's; what is rare or was never seen has a stated answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction import FeatureHasher
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from sunloom.errors import DataError
from sunloom.preprocessing.fit import fit, fit_transform
from sunloom.preprocessing.tables import Batch
from tests.unit.preprocessing.tables import as_array, assert_same_everywhere, colours

COLUMNS = ["colour", "size"]


def _peer(frame: pl.DataFrame) -> Any:
    """The columns as scikit-learn takes them: objects, None where nothing is."""
    return frame.select(COLUMNS).to_pandas()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop": "first"},
        {"drop": "if_binary"},
        {"min_frequency": 40},
        {"min_frequency": 0.1},
        {"max_categories": 3},
        {"max_categories": 3, "handle_unknown": "infrequent_if_exist"},
        {"min_frequency": 40, "drop": "first"},
    ],
)
def test_one_hot_equals_scikit_learns(options: dict[str, Any], tmp_path: Path) -> None:
    frame = colours()
    given = {"handle_unknown": "ignore"} | options
    peer = OneHotEncoder(sparse_output=False, **given).fit(_peer(frame))
    fitted = fit([{"type": "one_hot_encoder", "columns": COLUMNS} | options], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    names = list(peer.get_feature_names_out())
    assert prepared.columns[: len(names)] == names
    assert prepared.columns[len(names) :] == frame.columns[2:]
    np.testing.assert_array_equal(as_array(prepared.select(names)), peer.transform(_peer(frame)))


def test_one_hot_of_numbers_and_chosen_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": [3, 1, 3, None], "b": [True, False, None, True]})
    step = {"type": "one_hot_encoder", "columns": ["n", "b"], "dtype": "float64"}
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    assert prepared.columns == ["n_1", "n_3", "n_nan", "b_False", "b_True", "b_nan"]
    assert set(prepared.dtypes) == {pl.Float64}
    assert prepared["n_3"].to_list() == [1.0, 0.0, 1.0, 0.0]


def test_a_level_never_seen_when_one_hot_encoding(tmp_path: Path) -> None:
    seen, new = pl.DataFrame({"c": ["a", "b", "b"]}), pl.DataFrame({"c": ["z", None, "a"]})
    ignoring = fit([{"type": "one_hot_encoder"}], seen)
    prepared = assert_same_everywhere(ignoring, new, tmp_path / "a")
    assert prepared.rows() == [(0, 0), (0, 0), (1, 0)]
    strict = fit([{"type": "one_hot_encoder", "handle_unknown": "error"}], seen)
    with pytest.raises(DataError, match="'z'"):
        strict.apply_frame(new)
    with pytest.raises(DataError, match="'z'"):
        strict.apply_row({"c": "z"})
    with pytest.raises(DataError, match="None"):
        strict.apply_row({"c": None})
    options = {"handle_unknown": "infrequent_if_exist", "max_categories": 2}
    sharing = fit([{"type": "one_hot_encoder"} | options], pl.DataFrame({"c": list("aaabbc")}))
    assert sharing.apply_row({"c": "z"}) == {"c_a": 0, "c_infrequent_sklearn": 1}


def test_named_categories(tmp_path: Path) -> None:
    frame = pl.DataFrame({"size": ["L", "S", "M"]})
    for kind in ("one_hot_encoder", "ordinal_encoder"):
        step = {"type": kind, "columns": ["size"], "categories": [["S", "M", "L", "XL"]]}
        prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / kind)
        if kind == "one_hot_encoder":
            assert prepared.columns == ["size_S", "size_M", "size_L", "size_XL"]
        else:
            assert prepared["size"].to_list() == [2.0, 0.0, 1.0]
    lacking = {"columns": ["size"], "categories": [["S", "M"]], "handle_unknown": "error"}
    with pytest.raises(DataError, match="categories lacks"):
        fit([{"type": "ordinal_encoder"} | lacking], frame)
    with pytest.raises(DataError, match="2 lists for 1"):
        fit([{"type": "ordinal_encoder", "columns": ["size"], "categories": [["S"], ["M"]]}], frame)


def test_named_categories_stay_with_their_columns_where_an_earlier_step_removes_one() -> None:
    frame = pl.DataFrame({"empty": [None, None, None], "size": ["L", "S", "M"]})
    steps = [
        {"type": "simple_imputer", "columns": ["empty"]},
        {
            "type": "ordinal_encoder",
            "columns": ["empty", "size"],
            "categories": [["a", "b"], ["S", "M", "L"]],
        },
    ]
    fitted = fit(steps, frame)
    assert fitted.apply_frame(frame)["size"].to_list() == [2.0, 0.0, 1.0]
    with pytest.raises(DataError, match="not all Int64"):
        step = {"type": "ordinal_encoder", "columns": ["n"], "categories": [[1.5, "a"]]}
        fit([step], pl.DataFrame({"n": [1, 2]}))


@pytest.mark.parametrize(
    ("columns", "name", "sources"),
    [
        ({"plan": ["None", None, "gold"]}, "plan_None", "plan"),
        (
            {"city": ["york_new", "b"], "city_york": ["new", "a"]},
            "city_york_new",
            "city, city_york",
        ),
    ],
)
def test_two_levels_that_would_make_one_column_are_refused(
    columns: dict[str, Any], name: str, sources: str
) -> None:
    with pytest.raises(DataError, match=f"two columns '{name}', of {sources}"):
        fit([{"type": "one_hot_encoder", "columns": list(columns)}], pl.DataFrame(columns))


FLOATS = [3.0, 3.5, None, 4.9, -0.5, 7.0, float("nan"), 1e300]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            {
                "type": "ordinal_encoder",
                "handle_unknown": "use_encoded_value",
                "unknown_value": -1,
            },
            [2, -1, None, -1, -1, -1, None, -1],
        ),
        ({"type": "frequency_encoder"}, [0.2, 0, 0, 0, 0, 0, 0, 0]),
        (
            {"type": "target_encoder", "target": "y", "smooth": 1e-9},
            [30.25, 31, 31, 31, 31, 31, 31, 31],
        ),
    ],
)
def test_a_fraction_is_no_level_of_whole_numbers(
    step: dict[str, Any], expected: list[float | None], tmp_path: Path
) -> None:
    known = pl.DataFrame({"n": [1, 2, 3, 4, 5], "y": [10.0, 20.25, 30.25, 40.5, 54.0]})
    later = pl.DataFrame({"n": FLOATS, "y": [0.0] * len(FLOATS)})
    fitted = fit([step | {"columns": ["n"]}], known)
    prepared = assert_same_everywhere(fitted, later, tmp_path / "a")
    assert prepared["n"].to_list() == pytest.approx(expected)


def test_a_fraction_sets_no_one_hot_column_and_is_refused_where_unknown_levels_are(
    tmp_path: Path,
) -> None:
    known, later = pl.DataFrame({"n": [1, 2, 3, 4, 5]}), pl.DataFrame({"n": FLOATS})
    fitted = fit([{"type": "one_hot_encoder", "columns": ["n"]}], known)
    prepared = assert_same_everywhere(fitted, later, tmp_path / "a")
    assert prepared.sum_horizontal().to_list() == [1, 0, 0, 0, 0, 0, 0, 0]
    strict = {"columns": ["n"], "handle_unknown": "error"}
    for kind in ("one_hot_encoder", "ordinal_encoder"):
        fitted = fit([{"type": kind} | strict], known)
        with pytest.raises(DataError, match=r"3\.5"):
            fitted.apply_frame(later)
        with pytest.raises(DataError, match=r"3\.5"):
            fitted.apply_row({"n": 3.5})
    # The other way round: a long whole number that a float would round is no level of floats.
    floats = fit([{"type": "frequency_encoder", "columns": ["n"]}], known.cast(pl.Float64))
    long = pl.DataFrame({"n": [2**53 + 1, 4]})
    assert floats.apply_frame(long)["n"].to_list() == [0.0, 0.2]


@pytest.mark.parametrize("options", [{}, {"min_frequency": 40}, {"max_categories": 3}])
def test_ordinal_equals_scikit_learns(options: dict[str, Any], tmp_path: Path) -> None:
    frame = colours()
    peer = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, **options)
    # scikit-learn's gap is NaN: it takes None for a level of its own.
    wanted = peer.fit_transform(_peer(frame).fillna(np.nan))
    fitted = fit([{"type": "ordinal_encoder", "columns": COLUMNS} | options], frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    assert prepared.columns == frame.columns
    np.testing.assert_array_equal(as_array(prepared.select(COLUMNS)), wanted)
    assert fitted.apply_row(frame.row(0, named=True) | {"size": "XXL"})["size"] == -1.0
    options = {"encoded_missing_value": -2, "unknown_value": None}
    marked = fit([{"type": "ordinal_encoder", "columns": ["colour"]} | options], frame)
    assert marked.apply_row({"colour": None})["colour"] == -2
    assert marked.apply_row({"colour": "puce"})["colour"] is None


@pytest.mark.parametrize("target", ["score", "bought", "grade"])
@pytest.mark.parametrize("smooth", ["auto", 10, 0])
def test_target_encoding_equals_scikit_learns(
    target: str, smooth: str | int, tmp_path: Path
) -> None:
    frame = colours()
    step = {"type": "target_encoder", "columns": COLUMNS, "target": target, "smooth": smooth}
    fitted, training = fit_transform([step], frame)
    y = frame[target].to_numpy()
    peer = TargetEncoder(smooth=smooth).fit(_peer(frame), y)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    names = list(peer.get_feature_names_out())
    np.testing.assert_allclose(
        as_array(prepared.select(names)), peer.transform(_peer(frame)), rtol=1e-9, atol=1e-12
    )
    folds = Batch(frame).folds(5, 0)
    splits = [(np.flatnonzero(folds != i), np.flatnonzero(folds == i)) for i in range(5)]
    wanted = TargetEncoder(smooth=smooth, cv=splits).fit_transform(_peer(frame), y)
    np.testing.assert_allclose(as_array(training.select(names)), wanted, rtol=1e-9, atol=1e-12)
    assert not np.allclose(as_array(training.select(names)), as_array(prepared.select(names)))


def test_a_level_never_seen_gets_the_targets_mean(tmp_path: Path) -> None:
    frame = colours()
    fitted = fit([{"type": "target_encoder", "columns": COLUMNS, "target": "score"}], frame)
    new = pl.DataFrame({"colour": ["puce"], "size": ["M"]})
    prepared = assert_same_everywhere(fitted, new, tmp_path / "a")
    assert prepared["colour"][0] == pytest.approx(frame["score"].mean(), rel=1e-12)


def test_rows_without_a_target_do_not_count() -> None:
    frame = colours()
    step = {"type": "target_encoder", "columns": COLUMNS, "target": "score", "smooth": 3}
    some = frame.with_columns(pl.when(pl.int_range(pl.len()) % 3 > 0).then("score").alias("score"))
    fitted = fit([step], some)
    fewer = fit([step], some.drop_nulls("score"))
    a, b = fitted.apply_frame(frame), fewer.apply_frame(frame)
    np.testing.assert_allclose(as_array(a.select(COLUMNS)), as_array(b.select(COLUMNS)), rtol=1e-12)
    assert "167 rows without a target" in fitted.report.notes[0]
    with pytest.raises(DataError, match="No row has a value of the target"):
        fit([step], frame.with_columns(score=pl.lit(None, dtype=pl.Float64)))


def test_the_kind_of_target_can_be_named() -> None:
    frame = colours().with_columns(count=pl.int_range(pl.len()) % 7)
    step = {"type": "target_encoder", "columns": ["size"], "target": "count"}
    assert len(fit([step], frame).apply_row({"size": "M"})) == 7
    named = fit([step | {"target_type": "continuous"}], frame)
    peer = TargetEncoder(target_type="continuous").fit(_peer(frame)[["size"]], frame["count"])
    wanted = peer.transform(_peer(frame)[["size"]])[:, 0]
    np.testing.assert_allclose(named.apply_frame(frame)["size"].to_numpy(), wanted, rtol=1e-9)
    with pytest.raises(DataError, match="not two"):
        fit([step | {"target_type": "binary"}], frame)


def test_frequencies(tmp_path: Path) -> None:
    frame = pl.DataFrame({"c": ["a", "b", "a", None, "a"]})
    prepared = assert_same_everywhere(fit([{"type": "frequency_encoder"}], frame), frame, tmp_path)
    assert prepared["c"].to_list() == [0.6, 0.2, 0.6, 0.2, 0.6]
    counts = fit([{"type": "frequency_encoder", "normalize": False}], frame)
    assert [counts.apply_row({"c": c})["c"] for c in ("a", None, "z")] == [3.0, 1.0, 0.0]


@pytest.mark.parametrize("sign", [True, False])
def test_hashing_equals_scikit_learns(sign: bool, tmp_path: Path) -> None:
    frame = colours().with_columns(colour=pl.col("colour") + " früh")
    columns = ["colour", "size", "amount"]
    peer = FeatureHasher(n_features=16, alternate_sign=sign)
    rows = [{k: v for k, v in r.items() if v is not None} for r in frame.select(columns).to_dicts()]
    step = {"type": "feature_hasher", "columns": columns, "n_features": 16, "alternate_sign": sign}
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    names = [f"hash_{i}" for i in range(16)]
    assert prepared.columns[:16] == names
    np.testing.assert_allclose(as_array(prepared.select(names)), peer.transform(rows).toarray())
