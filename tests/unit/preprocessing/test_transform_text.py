"""Text: terms and weights are scikit-learn's, vectors are the bare model's."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_wine
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from sunloom.errors import DataError
from sunloom.preprocessing.fit import FitPass, fit
from sunloom.preprocessing.tables import Batch, Source
from tests.unit.preprocessing.tables import as_array, assert_same_everywhere


def texts() -> pl.DataFrame:
    """The paragraphs that describe the wine set, and some that are odd."""
    described = str(load_wine().DESCR).split("\n\n")
    odd: list[str | None] = ["", " ", None, "ÄPFEL straße 42 a  b\tc", "!!!", "the the the cat"]
    return pl.DataFrame({"t": [*described, *odd], "n": range(len(described) + len(odd))})


OPTIONS: list[dict[str, Any]] = [
    {},
    {"ngram_range": (1, 2), "min_df": 2},
    {"analyzer": "char", "ngram_range": (1, 3), "max_features": 60},
    {"analyzer": "char_wb", "ngram_range": (2, 4), "max_features": 200, "norm": "l1"},
    {"sublinear_tf": True, "smooth_idf": False, "max_df": 0.5},
    {"use_idf": False, "binary": True, "norm": None, "lowercase": False},
    {"stop_words": ("the", "of", "and"), "max_features": 40, "token_pattern": r"(?u)\b\w+\b"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tfidf_equals_scikit_learns(options: dict[str, Any], tmp_path: Path) -> None:
    frame = texts()
    given = {k: list(v) if k == "stop_words" else v for k, v in options.items()}
    peer = TfidfVectorizer(**given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = peer.fit_transform([t or "" for t in frame["t"]]).toarray()
    step = {"type": "tfidf_vectorizer", "max_features": None, "prefix": "~"} | options
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    names = [f"~{name}" for name in peer.get_feature_names_out()]
    assert prepared.columns == [*names, "n"]
    np.testing.assert_allclose(as_array(prepared.drop("n")), wanted, rtol=1e-9, atol=1e-12)


def test_terms_are_named_as_scikit_learn_names_them() -> None:
    frame = pl.DataFrame({"t": ["red apple", "green apple"]})
    assert fit([{"type": "tfidf_vectorizer"}], frame).apply_frame(frame).columns == [
        "apple",
        "green",
        "red",
    ]
    with pytest.raises(DataError, match="'red', which the table has already"):
        fit([{"type": "tfidf_vectorizer", "columns": ["t"]}], frame.with_columns(red=pl.lit(1)))
    with pytest.raises(DataError, match="no term"):
        fit([{"type": "tfidf_vectorizer", "min_df": 3}], frame)


def test_terms_merge() -> None:
    frame = texts()

    def reader(source: Source, reading: FitPass) -> FitPass:
        parts = [copy.deepcopy(reading) for _ in range(0, frame.height, 5)]
        for i, part in enumerate(parts):
            part.collect(Batch(frame.slice(5 * i, 5).select(reading.columns), 5 * i))
            reading.merge(part)
        return reading

    step = {"type": "tfidf_vectorizer", "prefix": "~"}
    once, merged = fit([step], frame), fit([step], frame, reader=reader)
    assert once.apply_frame(frame).equals(merged.apply_frame(frame))


@pytest.mark.parametrize("options", [{}, {"analyzer": "char_wb", "ngram_range": (3, 3)},
                                     {"alternate_sign": False, "norm": None}], ids=str)  # fmt: skip
def test_hashed_terms_equal_scikit_learns(options: dict[str, Any], tmp_path: Path) -> None:
    frame = texts()
    peer = HashingVectorizer(n_features=32, **options)
    wanted = peer.transform([t or "" for t in frame["t"]]).toarray()
    step = {"type": "hashing_vectorizer", "n_features": 32} | options
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    assert prepared.columns == [*(f"t_{i}" for i in range(32)), "n"]
    np.testing.assert_allclose(as_array(prepared.drop("n")), wanted, rtol=1e-9, atol=1e-12)


def test_text_statistics(tmp_path: Path) -> None:
    figures = ["characters", "words", "mean_word_length", "unique_word_share"]
    figures += ["uppercase_share", "digit_share", "punctuation_share"]
    step = {"type": "text_statistics", "columns": ["t"], "figures": figures}
    prepared = assert_same_everywhere(fit([step], texts()), texts(), tmp_path / "a")
    row = fit([step], texts()).apply_row({"t": "Hi, hi 42!!"})
    assert row == {
        "t": "Hi, hi 42!!",
        "t_characters": 11,
        "t_words": 3,
        "t_mean_word_length": 3.0,
        "t_unique_word_share": 1.0,
        "t_uppercase_share": 1 / 11,
        "t_digit_share": 2 / 11,
        "t_punctuation_share": 3 / 11,
    }
    empty = prepared.filter(pl.col("t") == "").row(0, named=True)
    assert set(empty.values()) - {"", empty["n"]} == {0}
    missing = prepared.filter(pl.col("t").is_null()).row(0, named=True)
    assert set(missing.values()) - {missing["n"]} == {None}
