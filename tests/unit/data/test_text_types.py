"""Types of columns of text: the whole column decides, and no value changes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.data.sources.table_files import read_table
from sunloom.data.sources.text_types import infer_types


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["100"] * 11_000 + ["12.5"], [100.0] * 11_000 + [12.5]),
        (["00501", "501"], ["00501", "501"]),
        (["007"], ["007"]),
        (["+49", "5"], ["+49", "5"]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["1e999", "0.5"], ["1e999", "0.5"]),
        (["-3", " 7", ""], [-3, 7, None]),
        (["1e3", ".5", "+2.5"], [1000.0, 0.5, 2.5]),
        (["TRUE", "False", "true"], [True, False, True]),
        (["1", "0"], [1, 0]),
        (["12,5"], ["12,5"]),
        (["2026-03-01"], [date(2026, 3, 1)]),
        (["2026-03-01 12:00:00"], [datetime(2026, 3, 1, 12)]),
        (["2026-03-01T12:00:00+02:00"], [datetime(2026, 3, 1, 10, tzinfo=UTC)]),
        (["2026-03-01T12:00:00.0000006Z"], ["2026-03-01T12:00:00.0000006Z"]),
        (["", None], [None, None]),
    ],
)
def test_a_column_has_the_type_that_all_its_values_survive(
    texts: list[str | None], expected: list[Any]
) -> None:
    values = infer_types(pl.DataFrame({"a": texts}))["a"].to_list()
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


def test_semicolons_go_with_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zip;amount;mixed\n00501;12,5;1.234,5\n501;-3;2,5\n")
    table = read_table(path)
    assert table.rows.rows() == [("00501", 12.5, "1.234,5"), ("501", -3.0, "2,5")]
    assert read_table(path, as_text=True).rows["amount"].to_list() == ["12,5", "-3"]
