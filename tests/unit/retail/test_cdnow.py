"""The CDNOW data set: its rows, its oddities, its labels."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from sunloom.core.plugins import load_plugin
from sunloom.data.datasets import GROUP, LabelledDataSet
from sunloom.errors import DataError, NotFoundError
from sunloom_retail.dataset import CDNOW, CdnowPurchases

LINES = """ customer_id  date number_of_cds  dollar_value
 00001 19970101  1   11.77
 00002 19970112  1   12.00
 00002 19970230  5   77.00
 abc 19970102  2   20.76
 00003 19970330  0   20.76
 00003 19970330  2   -1.00
 00003 19970330  2
 00004 19970101  2   0.00
"""


def test_the_packaged_log_is_whole() -> None:
    raw = CDNOW.raw()
    assert raw.height == 69_659
    parsed = CDNOW.parse(raw)
    assert parsed["reason"].null_count() == 69_659
    assert parsed["customer_id"].n_unique() == 23_570
    assert parsed["timestamp"].min() == datetime(1997, 1, 1, tzinfo=UTC)
    assert parsed["timestamp"].max() == datetime(1998, 6, 30, tzinfo=UTC)
    groups = parsed.group_by(CDNOW.identity).len().filter(pl.col("len") > 1)
    assert groups["len"].sum() == 470
    assert CDNOW.notes(parsed) == {"zero_amount": 80}


def test_damaged_lines_have_a_reason_and_keep_their_line_number(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(LINES)
    dataset = CdnowPurchases(path=log)
    parsed = dataset.parse(dataset.raw())
    assert parsed["position"].to_list() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert parsed["reason"].to_list() == [
        None,
        None,
        "day is not yyyymmdd",
        "customer is not a number",
        "quantity is not a positive number",
        "amount is not a number from zero up",
        "not four fields",
        None,
    ]


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        CdnowPurchases(path=tmp_path / "gone").raw()


def test_labels_look_at_the_180_days_after_and_no_further() -> None:
    def day(month: int, number: int, year: int = 1997) -> datetime:
        return datetime(year, month, number, tzinfo=UTC)

    bought = [
        (1, day(6, 30)),
        (2, day(7, 1)),
        (3, day(12, 27)),
        (4, day(12, 28)),
        (5, day(6, 29)),
        (5, day(8, 1)),
    ]
    purchases = pl.DataFrame(
        bought,
        schema={"customer_id": pl.Int64, "timestamp": pl.Datetime("us", "UTC")},
        orient="row",
    ).lazy()
    spine = pl.DataFrame({"id": [5, 4, 3, 2, 1], "event_time": [day(6, 30)] * 5})
    tables = {"purchases": purchases, **CDNOW.derive(purchases)}
    assert CDNOW.outcomes(tables, spine).to_list() == [1, 0, 1, 1, 0]
    assert CDNOW.entities(tables, day(6, 30))["id"].to_list() == [1, 5]


def test_it_enters_by_its_entry_point() -> None:
    assert isinstance(load_plugin(GROUP, "cdnow"), LabelledDataSet)
    with pytest.raises(NotFoundError) as caught:
        load_plugin(GROUP, "cdnwo")
    assert "'cdnow'" in caught.value.hint
