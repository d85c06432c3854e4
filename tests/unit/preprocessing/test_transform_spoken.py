"""Language and sentiment of texts: the libraries' own results, and odd texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.operations.text import language_identifier, sentiment_analyzer
from tests.unit.preprocessing.tables import assert_same_everywhere

TEXTS = [
    "The parcel came late, but the record is great!",
    "Das ist ein schönes Haus mit Garten",
    "Je voudrais retourner ce disque",
    "This was the worst service that I ever had :(",
]
ODD = ["", "  ", "42 !!", None]


def texts() -> pl.DataFrame:
    return pl.DataFrame({"t": [*TEXTS, *ODD], "n": range(8)})


def test_the_language_is_py3langids(tmp_path: Path) -> None:
    from py3langid import langid

    peer = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    step = {"type": "language", "confidence": True}
    prepared = assert_same_everywhere(fit([step], texts()), texts(), tmp_path / "a")
    assert prepared.columns == ["t", "n", "t_language", "t_language_confidence"]
    wanted = [peer.classify(text) for text in TEXTS]
    assert prepared["t_language"].to_list() == [code for code, _ in wanted] + ["und"] * 3 + [None]
    assert [code for code, _ in wanted] == ["en", "de", "fr", "en"]
    sure = prepared["t_language_confidence"].to_list()
    assert sure == [one for _, one in wanted] + [0.0, 0.0, 0.0, None]


def test_languages_and_confidence_bound_the_result() -> None:
    german = texts()[1:2]
    step: dict[str, Any] = {"type": "language", "columns": ["t"], "languages": ["en", "fr"]}
    assert fit([step], german).apply_frame(german)["t_language"][0] in ("en", "fr")
    assert fit([step], texts()).apply_frame(texts())["t_language"][4] == "und"
    unsure = fit([{"type": "language", "min_confidence": 1.0}], german)
    assert unsure.apply_row({"t": TEXTS[1]})["t_language"] == "und"
    assert unsure.outputs == {"t": "String", "n": "Int64", "t_language": "String"}
    with pytest.raises(DataError, match="'xx', which py3langid does not know"):
        fit([step | {"languages": ["en", "xx"]}], texts())
    with pytest.raises(ValueError, match="at least 2 items"):
        fit([step | {"languages": ["en"]}], texts())


def test_the_sentiment_is_vaders(tmp_path: Path) -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    figures = ["compound", "positive", "negative", "neutral"]
    step = {"type": "sentiment", "figures": figures}
    prepared = assert_same_everywhere(fit([step], texts()), texts(), tmp_path / "a")
    names = [f"t_{figure}" for figure in figures]
    peer = SentimentIntensityAnalyzer()
    for i, text in enumerate(TEXTS):
        scores = peer.polarity_scores(text)
        wanted = tuple(scores[key] for key in ("compound", "pos", "neg", "neu"))
        assert prepared.select(names).row(i) == wanted
    assert prepared["t_compound"][0] == pytest.approx(0.7871, abs=1e-4)
    assert prepared["t_compound"][3] < -0.4
    for blank in (4, 5):
        assert set(prepared.select(names).row(blank)) == {0.0}
    assert set(prepared.select(names).row(7)) == {None}


@pytest.mark.parametrize("kind", ["language", "sentiment"])
def test_other_tables(kind: str) -> None:
    step = {"type": kind, "columns": ["t"]}
    nothing = pl.DataFrame({"t": pl.Series([None, None], dtype=pl.String)})
    made = fit([step], nothing).apply_frame(nothing)
    assert made.drop("t").null_count().row(0) == (2,)
    assert fit([step], nothing).apply_frame(nothing.clear()).height == 0
    with pytest.raises(DataError, match=f"{kind} needs text"):
        fit([step], pl.DataFrame({"t": [1]}))
    with pytest.raises(DataError, match="lacks"):
        fit([step], pl.DataFrame({"u": ["a"]}))


@pytest.mark.parametrize(("kind", "package"), [("language", "py3langid"),
                                               ("sentiment", "vaderSentiment")])  # fmt: skip
def test_a_missing_package_is_named(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, f"{package}.langid", f"{package}.vaderSentiment"):
        monkeypatch.setitem(sys.modules, name, None)
    language_identifier.cache_clear()
    sentiment_analyzer.cache_clear()
    with pytest.raises(DependencyError, match=f"{kind} needs {package}") as caught:
        fit([{"type": kind}], texts())
    assert caught.value.hint == f"pip install {package}"
