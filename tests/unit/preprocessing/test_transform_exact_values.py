"""Values that a float or a text would change: decimals as levels, bytes as text."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.errors import DataError
from sunloom.preprocessing.artifact import load, save
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.pipeline import FittedPipeline

# All three are the same float.
LONG = ["12345678901234567.89", "12345678901234567.90", "12345678901234568.00"]
AMOUNTS = [*LONG, "0.10", "0.10", "5.00", LONG[0], None]


def _frame(values: list[Any], dtype: pl.DataType | None = None) -> pl.DataFrame:
    decimals = [Decimal(value) if isinstance(value, str) else value for value in values]
    return pl.DataFrame({"x": pl.Series(decimals, dtype=dtype or pl.Decimal(30, 2))})


def _reloaded(fitted: FittedPipeline, folder: Path) -> FittedPipeline:
    save(fitted, folder)
    return load(folder)


def _require_equal_rows(fitted: FittedPipeline, frame: pl.DataFrame) -> list[dict[str, Any]]:
    batch = fitted.apply_frame(frame).to_dicts()
    assert [fitted.apply_row(row) for row in frame.to_dicts()] == batch
    return batch


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"type": "ordinal_encoder"}, [2.0, 3.0, 4.0, 0.0, 0.0, 1.0, 2.0, -9.0]),
        ({"type": "frequency_encoder", "normalize": False}, [2, 1, 1, 2, 2, 1, 2, 1]),
    ],
)
def test_decimals_are_levels_as_they_are(
    tmp_path: Path, step: dict[str, Any], expected: list[float]
) -> None:
    if step["type"] == "ordinal_encoder":
        unknown = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
        step = step | unknown | {"encoded_missing_value": -9}
    fitted = _reloaded(fit([step | {"columns": ["x"]}], _frame(AMOUNTS)), tmp_path / "a")
    rows = _require_equal_rows(fitted, _frame(AMOUNTS))
    assert [row["x"] for row in rows] == expected
    unseen = -1.0 if step["type"] == "ordinal_encoder" else 0.0
    # Whatever type the same numbers come in; of a float, the number that it prints.
    first, second = expected[3], expected[5]
    for values, dtype in [
        (["0.1000", "5.0000", "0.1001"], pl.Decimal(20, 4)),
        ([0.1, 5.0, 0.1 + 2e-17 * 7], pl.Float64()),
        ([0.1, 5.0, float(LONG[0])], pl.Float64()),
    ]:
        rows = _require_equal_rows(fitted, _frame(values, dtype))
        last = rows[2]["x"]
        assert [row["x"] for row in rows[:2]] == [first, second]
        assert last == (expected[2] if values[2] == float(LONG[0]) else unseen)
    rows = _require_equal_rows(fitted, _frame([5, 6, None], pl.Int64()))
    assert [row["x"] for row in rows] == [second, unseen, expected[-1]]


def test_one_hot_names_decimals_as_they_are(tmp_path: Path) -> None:
    step = {"type": "one_hot_encoder", "columns": ["x"], "handle_unknown": "error"}
    fitted = _reloaded(fit([step], _frame(AMOUNTS)), tmp_path / "a")
    rows = _require_equal_rows(fitted, _frame(AMOUNTS))
    assert list(rows[0]) == ["x_0.10", "x_5.00", *(f"x_{text}" for text in LONG), "x_nan"]
    assert [sum(row.values()) for row in rows] == [1] * len(AMOUNTS)
    assert rows[1]["x_12345678901234567.90"] == 1
    with pytest.raises(DataError, match="never seen"):
        fitted.apply_frame(_frame(["0.11"]))
    with pytest.raises(DataError, match="never seen"):
        fitted.apply_row({"x": Decimal("12345678901234567.91")})


def test_named_categories_are_decimals_of_the_column() -> None:
    step = {"type": "ordinal_encoder", "columns": ["x"], "categories": [[5, 0.1]]}
    fitted = fit([step], _frame(["0.10", "5.00"]))
    assert [row["x"] for row in _require_equal_rows(fitted, _frame(["0.10", "5.00"]))] == [1, 0]
    with pytest.raises(DataError, match="are not all Decimal"):
        fit([step | {"categories": [[5, 0.105]]}], _frame(["0.10", "5.00"]))


def test_levels_of_other_numbers_meet_decimals(tmp_path: Path) -> None:
    step = {"type": "frequency_encoder", "columns": ["x"], "normalize": False}
    whole = fit([step], _frame([2**53, 2**53 + 1, 2**53 + 1], pl.Int64()))
    rows = _require_equal_rows(whole, _frame([str(2**53 + 1), f"{2**53}.00", "0.50"]))
    assert [row["x"] for row in rows] == [2, 1, 0]
    floats = fit([step], _frame([0.1, 0.1, float(LONG[0])], pl.Float64()))
    rows = _require_equal_rows(floats, _frame(["0.10", LONG[0], LONG[2]]))
    assert [row["x"] for row in rows] == [2, 0, 1]


def test_a_decimal_target_is_a_number() -> None:
    frame = _frame(["0.10", "0.10", "5.00", "5.00"]).with_columns(
        pl.Series("y", [Decimal("1.5"), Decimal("2.5"), Decimal("0.5"), Decimal("7.5")])
    )
    step = {"type": "target_encoder", "columns": ["x"], "target": "y", "smooth": 0.0, "cv": 2}
    rows = _require_equal_rows(fit([step], frame), frame.select("x"))
    assert [row["x"] for row in rows] == [2.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize("in_file", [True, False])
def test_bytes_are_text_where_they_are_utf8(tmp_path: Path, in_file: bool) -> None:
    frame = pl.DataFrame({"x": [b"gr\xc3\xbcn", b"rot", None, b"rot"], "image": [b"\xff"] * 4})
    frame.write_parquet(tmp_path / "rows.parquet")
    table: Any = tmp_path / "rows.parquet" if in_file else frame
    step = {"type": "one_hot_encoder", "columns": ["x"]}
    fitted = _reloaded(fit([step], table), tmp_path / "a")
    rows = _require_equal_rows(fitted, frame)
    assert list(rows[0]) == ["x_grün", "x_rot", "x_None", "image"]
    assert [row["x_rot"] for row in rows] == [0, 1, 0, 1]
    assert rows[0]["image"] == b"\xff"
    bad = pl.DataFrame({"x": [b"rot", b"gr\xfcn"], "image": [None, None]})
    bad.write_parquet(tmp_path / "bad.parquet")
    words = r"'x' holds bytes that are no UTF-8[\s\S]*Write the column as text"
    with pytest.raises(DataError, match=words):
        fit([step], tmp_path / "bad.parquet" if in_file else bad)
    with pytest.raises(DataError, match=words):
        fitted.apply_frame(bad)
    with pytest.raises(DataError, match=words):
        fitted.apply_row(bad.row(1, named=True))
