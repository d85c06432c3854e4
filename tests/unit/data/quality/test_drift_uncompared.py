"""A check of drift that cannot look at a column says so and fails; it judges all others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.config.data import ValidationConfig
from sunloom.data.quality.checked_table import table_from_frame, table_from_path
from sunloom.data.quality.drift_statistics import column_distance
from sunloom.data.quality.html_report import render_page
from sunloom.data.quality.report import QualityReport
from sunloom.data.quality.validate import validate

NUMBERS = {"quality_checks": {"completeness_threshold": 0}}


def _table(rows: int = 600, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": range(rows),
            "size": random.normal(0, 1, rows),
            "count": random.integers(0, 50, rows),
            "kind": random.choice(["a", "b"], rows),
        }
    )


def checked(current: pl.DataFrame, reference: pl.DataFrame, **drift: Any) -> QualityReport:
    return validate(
        table_from_frame(current, "rows"),
        ValidationConfig.model_validate(NUMBERS | {"drift_detection": drift}),
        table_from_frame(reference, "normal"),
    )


NULL = pl.lit(None, dtype=pl.Float64)
BROKEN = {
    "infinite": ("size", pl.lit(math.inf), "no finite number in"),
    "null": ("size", NULL, "no value in"),
    "nothing but NaN": ("size", pl.lit(math.nan), "no value in"),
    "untyped": ("kind", pl.lit(None), "no value in"),
    "text": ("count", pl.col("count").cast(pl.String), "String in these rows, Int64 in"),
    "list": ("kind", pl.concat_list("count"), "List(Int64) in these rows, String in"),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("case", BROKEN)
def test_a_column_that_cannot_be_compared_fails_with_its_reason(case: str, named: bool) -> None:
    name, values, reason = BROKEN[case]
    broken = _table(seed=1).with_columns(values.alias(name))
    rules = {"columns": ["size", "count", "kind"]} if named else {}
    report = checked(broken, _table(5_000), **rules)
    entries = {entry.feature: entry for entry in report.drift}
    assert list(entries) == ["size", "count", "kind"]
    entry = entries.pop(name)
    assert (entry.value, entry.drifted, report.is_passed) == (None, True, False)
    assert entry.reason.startswith(reason)
    assert not any(other.drifted or other.reason for other in entries.values())
    assert reason in report.summary()
    assert "cannot be compared: " in render_page(report)


def test_a_column_that_either_table_lacks_fails_and_a_drifted_one_is_still_found() -> None:
    moved = _table(seed=1).drop("count").with_columns(pl.col("size") + 3)
    lost = {entry.feature: entry for entry in checked(moved, _table(5_000)).drift}
    assert lost["count"].reason == "these rows have no such column"
    assert (lost["size"].value or 0) > 2
    new = checked(_table(seed=1), _table(5_000).drop("count"), columns=["count", "size"])
    assert new.drift[0].reason == "the reference has no such column"
    assert not new.is_passed
    assert checked(_table(seed=1), _table(5_000).drop("count")).is_passed
    nothing = checked(_table(seed=1).select("id"), _table(5_000).select("size", "kind"))
    assert [entry.drifted for entry in nothing.drift] == [True, True]


def test_a_reference_without_values_fails_and_an_excluded_column_does_not() -> None:
    empty = _table(5_000).with_columns(size=NULL)
    report = checked(_table(seed=1), empty)
    assert report.drift[0].reason == "no value in the reference"
    assert checked(_table(seed=1), empty, exclude=["size"]).is_passed


def test_too_few_values_are_named_and_not_judged() -> None:
    few = checked(_table(8, seed=1), _table(5_000))
    assert few.is_passed
    assert few.drift == ()
    assert few.drift_skipped == (
        "8 rows came; drift is judged from 500 on (validation.drift_detection.min_rows)."
    )
    assert few.drift_skipped in render_page(few)
    assert few.to_dict()["drift_skipped"] == few.drift_skipped
    assert few.drift_skipped[:-1] in few.summary()
    small = checked(_table(600), _table(499))
    assert small.drift_skipped is not None
    assert small.drift_skipped.startswith("The reference has 499 rows")
    sparse = _table(600).with_columns(size=pl.when(pl.col("id") < 8).then("size"))
    report = checked(sparse, _table(5_000))
    assert [entry.feature for entry in report.drift] == ["count", "kind"]
    assert str(report.drift_skipped).startswith("Too few values: size (8); drift is judged")
    # What needs no statistic is found in one row.
    assert not checked(_table(1).drop("size"), _table(5_000)).is_passed
    assert checked(_table(8, seed=1), _table(5_000), min_rows=8).drift_skipped is None


def test_the_reference_decides_how_a_file_without_types_is_read(tmp_path: Path) -> None:
    codes = pl.DataFrame({"zip": [f"{n % 40:05}" for n in range(600)]})
    codes.write_parquet(tmp_path / "normal.parquet")
    codes.write_csv(tmp_path / "rows.csv")
    rules = ValidationConfig.model_validate({"quality_checks": {"uniqueness_threshold": 0}})
    normal = table_from_path(tmp_path / "normal.parquet")
    report = validate(table_from_path(tmp_path / "rows.csv"), rules, normal)
    assert [(entry.feature, entry.value) for entry in report.drift] == [("zip", 0.0)]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e160, 1e307])
def test_wasserstein_does_not_depend_on_the_scale(scale: float) -> None:
    before, after = np.arange(600.0), np.arange(600.0) + 300
    distance = column_distance(
        "wasserstein", pl.Series(before / 900 * scale), pl.Series(after / 900 * scale)
    )
    expected = 300 / before.std() if scale > 1e-9 else 300 / 900 * scale / 0.001
    assert distance == pytest.approx(expected, rel=1e-9)


def test_a_table_without_rows_is_checked(tmp_path: Path) -> None:
    _table(0).write_parquet(tmp_path / "none.parquet")
    _table(600).write_parquet(tmp_path / "normal.parquet")
    none, normal = (table_from_path(tmp_path / f"{n}.parquet") for n in ("none", "normal"))
    report = validate(none, ValidationConfig(), normal)
    assert [check.check for check in report.failures] == ["rows"]
    assert str(report.drift_skipped).startswith("0 rows came")
    assert validate(normal, ValidationConfig(), none).is_passed


def test_a_reference_with_nothing_to_compare_does_not_pass() -> None:
    for reference in (_table().select("id"), pl.DataFrame()):
        (entry,) = checked(_table(), reference).drift
        assert (entry.feature, entry.drifted) == ("*", True)
        assert entry.reason == "the reference has no column that can be compared"


def test_values_that_do_not_have_the_declared_type_are_no_values() -> None:
    rules = ValidationConfig.model_validate({"columns": {"size": "float64"}})
    broken = table_from_frame(_table(seed=1).with_columns(size=pl.lit("much")), "rows")
    assert len(broken.with_types({"size": "float64"}).column("size")) == 600
    report = validate(broken, rules, table_from_frame(_table(5_000), "normal"))
    entry = next(entry for entry in report.drift if entry.feature == "size")
    assert (entry.drifted, entry.reason) == (True, "no value in these rows")
    assert report.drift_skipped is None
