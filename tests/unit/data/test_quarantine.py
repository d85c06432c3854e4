"""Duplicates, counts and thresholds of a preparation."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from sunloom.config.data import DataRecipe
from sunloom.data.datasets import PreparationSummary, mark_duplicates, prepare_dataset
from sunloom.data.quarantine import write_quarantine
from sunloom.errors import DataError, DataQualityError
from sunloom_retail.dataset import CDNOW


def test_counts_must_add_up() -> None:
    summary = PreparationSummary(10, 7, {"duplicate": 2, "torn": 1})
    assert summary.bad_share == pytest.approx(0.3)
    with pytest.raises(DataQualityError, match="lost or doubled"):
        PreparationSummary(10, 7, {"duplicate": 2})


def test_the_threshold_names_reasons_and_file(tmp_path: Path) -> None:
    summary = PreparationSummary(10, 7, {"duplicate": 2, "torn": 1})
    summary.check(0.3, tmp_path)
    with pytest.raises(DataQualityError, match=r"30\.00%.*duplicate: 2, torn: 1") as caught:
        summary.check(0.29, tmp_path / "quarantine.jsonl")
    assert "quarantine.jsonl" in caught.value.hint


def test_quarantine_stands_in_source_order(tmp_path: Path) -> None:
    bad = pl.DataFrame({"position": [9, 2, 5], "reason": ["torn", "duplicate", "torn"]})
    assert write_quarantine(bad, tmp_path / "q.jsonl") == {"torn": 2, "duplicate": 1}
    assert pl.read_ndjson(tmp_path / "q.jsonl")["position"].to_list() == [2, 5, 9]


def test_the_first_of_equal_rows_stays_whatever_the_order_of_arrival() -> None:
    rows = pl.DataFrame(
        {
            "customer_id": [1, 1, 1, 2, 1],
            "timestamp": [10, 10, 10, 10, 10],
            "quantity": [1, 1, 1, 1, 1],
            "amount": [5.0] * 5,
            "position": [30, 10, 20, 40, 5],
            "reason": [None, None, None, None, "torn"],
        }
    )
    marked = mark_duplicates(rows, CDNOW)
    assert dict(zip(marked["position"], marked["reason"], strict=True)) == {
        5: "torn",
        10: None,
        20: "duplicate",
        30: "duplicate",
        40: None,
    }


def test_a_data_set_without_a_good_row_is_refused_whatever_share_may_be_bad(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataQualityError, match=r"2 of 2 rows .* are bad, all of them"):
        PreparationSummary(2, 0, {"torn": 2}).check(1.0, tmp_path)


def test_an_empty_source_leaves_the_tables_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty_set.py").write_text(
        "import polars as pl\nfrom sunloom_retail.dataset import CDNOW\n"
        "class Empty(type(CDNOW)):\n"
        "    def raw(self):\n        return super().raw().head(0)\nEMPTY = Empty()\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points."sunloom.datasets"]\nnothing = "empty_set:EMPTY"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="The data set nothing has no rows"):
        prepare_dataset(DataRecipe.model_validate({"dataset": "nothing"}))
