"""Files of every form, read in chunks; bad rows are quarantined, and the report can be read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from sunloom.config import Settings
from sunloom.config.data import ValidationConfig
from sunloom.core.database import open_database
from sunloom.data.quality.checked_table import (
    CheckedTable,
    TypedBatch,
    table_from_frame,
    table_from_path,
    table_from_records,
)
from sunloom.data.quality.gate import gate, validate_file
from sunloom.data.quality.html_report import write_report
from sunloom.data.quality.report import latest_verdicts
from sunloom.data.quality.validate import validate
from sunloom.errors import DataError, DataQualityError, NotFoundError, PluginError, UsageError

RULES = ValidationConfig.model_validate(
    {"columns": {"amount": {"type": "float64", "min": 0}, "day": "datetime", "on": "bool"}}
)
ROWS = [
    {"id": n, "amount": n - 1.5, "day": f"2026-01-{n + 1:02}T00:00:00Z", "on": n % 2 == 0}
    for n in range(20)
]


def _write(folder: Path, form: str, rows: list[dict[str, object]] = ROWS) -> Path:
    path = folder / f"rows.{form}"
    frame = pl.DataFrame(rows)
    if form == "parquet":
        frame = frame.with_columns(pl.col("day").str.to_datetime("%+", time_unit="us"))
        frame.write_parquet(path, row_group_size=3)
    elif form == "csv":
        frame.write_csv(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_every_form_and_chunk_gives_the_same_verdict(
    tmp_path: Path, form: str, chunk_rows: int
) -> None:
    path = _write(tmp_path, form)
    report = validate(table_from_path(path, chunk_rows), RULES, quarantine=tmp_path / "aside.jsonl")
    (check,) = report.failures
    assert (check.check, check.feature, check.failed, check.value) == ("range", "amount", 2, 0.9)
    assert [one.row for one in check.examples] == [1, 2]
    aside = [json.loads(line) for line in (tmp_path / "aside.jsonl").read_text().splitlines()]
    assert [one["position"] for one in aside] == [1, 2]
    assert aside[0]["reason"] == "amount is outside 0 to ∞"
    assert float(aside[1]["content"]["amount"]) == -0.5


def test_chunk_rows_is_what_is_in_memory(tmp_path: Path) -> None:
    path = _write(tmp_path, "parquet")
    assert [batch.raw.height for batch in table_from_path(path, 7).batches()] == [7, 7, 6]


def test_a_value_that_is_none_of_its_type_is_counted_not_fatal(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": 99, "amount": "much", "day": "someday", "on": "perhaps"}]
    for form in ("csv", "jsonl"):
        report = validate(table_from_path(_write_text(tmp_path, form, rows)), RULES)
        wrong = {
            one.feature: one.examples[0].value for one in report.failures if one.check == "type"
        }
        assert wrong == {"amount": "much", "day": "someday", "on": "perhaps"}


def _write_text(folder: Path, form: str, rows: list[dict[str, object]]) -> Path:
    if form == "jsonl":
        return _write(folder, form, rows)
    path = folder / "rows.csv"
    lines = [",".join(str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    return path


def test_damaged_lines_are_counted_and_quarantined(tmp_path: Path) -> None:
    path = _write(tmp_path, "jsonl")
    path.write_text(path.read_text() + "{torn\n")
    report = validate(
        table_from_path(path), ValidationConfig(), quarantine=tmp_path / "aside.jsonl"
    )
    (check,) = report.failures
    assert (check.check, check.failed, check.rows) == ("readable", 1, 21)
    (entry,) = [json.loads(line) for line in (tmp_path / "aside.jsonl").read_text().splitlines()]
    assert (entry["position"], entry["content"]) == (21, "{torn")


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as parquet"):
        validate(table_from_path(path), RULES)


def test_files_of_a_folder_may_differ_but_not_in_kind(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1], "b": [1]}).write_parquet(tmp_path / "0.parquet")
    pl.DataFrame({"a": [2.5]}).write_parquet(tmp_path / "1.parquet")
    rules = ValidationConfig.model_validate({"columns": {"a": "float64", "b": "int64"}})
    report = validate(table_from_path(tmp_path), rules)
    assert report.rows == 2
    pl.DataFrame({"a": ["x"]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"'a' is Float64 in .*1\.parquet, but String in .*2\."):
        table_from_path(tmp_path)


def test_records_are_checked_by_their_json_types() -> None:
    rules = ValidationConfig.model_validate(
        {"columns": {"n": "int64", "x": "float64", "s": "string", "at": "datetime"}, "min_rows": 0}
    )
    records = [
        {"n": 1, "x": 1, "s": "a", "at": "2026-01-01T00:00:00Z"},
        {"n": "1", "x": 1.5, "s": 3, "at": "2026-01-01"},
        {"n": 1.5, "x": True, "s": "b"},
    ]
    report = validate(table_from_records(records, "set"), rules)
    wrong = {
        one.feature: [e.row for e in one.examples] for one in report.failures if one.check == "type"
    }
    assert wrong == {"n": [2, 3], "x": [3], "s": [2], "at": [2]}
    right = validate(table_from_records(records[:1], "set"), rules)
    assert right.is_passed
    assert validate(
        table_from_records([{"n": 2**70}, {"n": [1]}, {"n": None}], "set"), rules
    ).failures


def test_a_check_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_checks.py").write_text(
        "import polars as pl\n"
        "def even(rows, options):\n    return rows[options['column']] % 2 == 0\n"
        "def broken(rows, options):\n    raise RuntimeError('boom')\n"
        "def wrong(rows, options):\n    return 3\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points."sunloom.checks"]\neven = "own_checks:even"\n'
        'broken = "own_checks:broken"\nwrong = "own_checks:wrong"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = table_from_frame(pl.DataFrame({"id": [1, 2, 3, 4]}), "rows")

    def rules(check: str, **more: object) -> ValidationConfig:
        own = {"check": check, "options": {"column": "id"}} | more
        return ValidationConfig.model_validate({"checks": [own]})

    (found,) = validate(rows, rules("even")).failures
    assert (found.check, found.value, [one.row for one in found.examples]) == (
        "even",
        0.5,
        [1, 3],
    )
    assert validate(rows, rules("even", threshold=0.5)).is_passed
    with pytest.raises(PluginError, match="boom"):
        validate(rows, rules("broken"))
    with pytest.raises(PluginError, match="Boolean series of 4"):
        validate(rows, rules("wrong"))
    with pytest.raises(NotFoundError, match="evn"):
        validate(rows, rules("evn"))


def test_the_page_stands_alone_and_shows_what_failed(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": range(50), "<b>x": [float(n % 7) - 1 for n in range(50)]})
    rules = ValidationConfig.model_validate(
        {"columns": {"<b>x": {"min": 0}}, "drift_detection": {"min_rows": 50}}
    )
    moved = table_from_frame(frame.with_columns(pl.col("<b>x") * 3), "moved")
    report = validate(table_from_frame(frame, "a & b"), rules, moved)
    written = write_report(report, tmp_path)
    assert written.html is not None
    page = written.html.read_text()
    assert not re.search(r"""(src|href)=|@import|url\(""", page)
    assert "<b>x" not in page
    assert "a &amp; b" in page
    assert page.count("<svg class='drift'") == 1
    assert "8 of 50 rows" in page
    assert written.json is not None
    plain = json.loads(written.json.read_text())
    assert plain["passed"] is False
    assert {"check", "feature", "value", "threshold", "passed", "examples"} <= set(
        plain["checks"][0]
    )
    assert {"feature", "method", "value", "threshold", "drifted"} <= set(plain["drift"][0])


def test_a_file_by_a_recipe_is_kept_in_the_database(settings: Settings, tmp_path: Path) -> None:
    path = _write(tmp_path, "parquet")
    report = validate_file(settings, RULES, path)
    assert report.html == settings.paths.outputs / "quality" / "rows" / "report.html"
    assert report.quarantine is not None
    (kept,) = latest_verdicts(settings)
    assert (kept.name, kept.passed, kept.rows) == ("rows", False, 20)
    mended = pl.read_parquet(path).with_columns(pl.col("amount").abs())
    mended.write_parquet(path)
    again = validate_file(settings, RULES, path)
    assert again.is_passed
    assert again.quarantine is None
    assert not os.path.exists(report.quarantine)
    assert [one.passed for one in latest_verdicts(settings)] == [True]
    with pytest.raises(UsageError, match=r"no file .*absent\.parquet"):
        validate_file(settings, RULES, tmp_path / "absent.parquet")


def test_the_recipes_reference_is_read_unless_another_is_given(
    settings: Settings, tmp_path: Path
) -> None:
    frames = {
        "normal": pl.DataFrame({"x": [float(n % 50) for n in range(500)]}),
        "moved": pl.DataFrame({"x": [float(n % 50) + 40 for n in range(500)]}),
    }
    for name, frame in frames.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    rules = ValidationConfig.model_validate(
        {
            "reference": str(tmp_path / "normal.parquet"),
            "quality_checks": {"uniqueness_threshold": 0},
        }
    )
    path = tmp_path / "moved.parquet"
    assert [one.drifted for one in validate_file(settings, rules, path).drift] == [True]
    same = validate_file(settings, rules, path, reference=path)
    assert [one.value for one in same.drift] == [0.0]
    assert validate_file(settings, ValidationConfig(), path).drift == ()


@pytest.mark.parametrize("chunk_rows", [3, 100])
def test_chunk_rows_of_the_recipe(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    heights: list[int] = []
    batches = CheckedTable.batches

    def counted(rows: CheckedTable) -> Iterator[TypedBatch]:
        for batch in batches(rows):
            heights.append(batch.raw.height)
            yield batch

    monkeypatch.setattr(CheckedTable, "batches", counted)
    rules = ValidationConfig.model_validate({"chunk_rows": chunk_rows})
    pl.DataFrame({"id": range(20)}).write_parquet(tmp_path / "rows.parquet")
    assert validate_file(settings, rules, tmp_path / "rows.parquet").is_passed
    assert heights == ([20] if chunk_rows == 100 else [3] * 6 + [2])


def test_the_gate_refuses_whole_and_says_why(settings: Settings, tmp_path: Path) -> None:
    batch = pl.DataFrame(ROWS).select("id", "amount")
    assert gate(open_database(settings), None, batch, "customer", tmp_path) is None
    rules = ValidationConfig.model_validate({"columns": {"amount": {"min": 0}}})
    with pytest.raises(DataQualityError, match="customer is not written") as caught:
        gate(open_database(settings), rules, batch, "customer", tmp_path)
    assert "amount: range 0.9" in caught.value.message
    assert "rejected.jsonl" in caught.value.hint
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 2
    good = batch.filter(pl.col("amount") >= 0)
    passed = gate(open_database(settings), rules, good, "customer", tmp_path)
    assert passed is not None
    assert passed.is_passed
    assert not (tmp_path / "rejected.jsonl").exists()


@pytest.mark.parametrize("value", [2**65, 1e308, float("nan"), "1e400", [1], {"a": 1}, True])
@pytest.mark.parametrize(
    "kind", ["int64", "float64", "string", "datetime", "date", "duration", "bool"]
)
def test_no_value_breaks_the_validation(value: object, kind: str) -> None:
    rules = ValidationConfig.model_validate({"columns": {"a": kind}, "min_rows": 0})
    for records in ([{"a": value}], [{"a": value}, {"a": 1}, {"a": "x"}, {"b": value}]):
        assert validate(table_from_records(records, "r"), rules).rows == len(records)
