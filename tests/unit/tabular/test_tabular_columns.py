"""From table to matrix."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from sunloom.config.tabular import RatioConfig, RowsConfig
from sunloom.errors import DataError
from sunloom.tabular.columns import Columns, build_columns, target

FRAME = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "event_time": [datetime(1997, 6, 30, tzinfo=UTC)] * 3,
        "recency": [10.0, None, 4.0],
        "count": [2, 0, 5],
        "active": [True, False, True],
        "last": [datetime(1997, 6, 1, tzinfo=UTC)] * 3,
        "city": ["a", "b", "c"],
        "label": [0, 1, 0],
    }
)
CONFIG = RowsConfig(
    label="label",
    ratios=(RatioConfig(name="pace", numerator="recency", denominator="count", plus=0),),
)


def test_numeric_columns_but_id_time_and_label_are_features() -> None:
    columns = build_columns(FRAME, CONFIG)
    assert columns.features == ("recency", "count", "active")
    assert columns.names == ("recency", "count", "active", "pace")


def test_matrix_keeps_order_and_marks_what_is_missing() -> None:
    matrix = build_columns(FRAME, CONFIG).matrix(FRAME.reverse())
    expected = [[4, 5, 1, 0.8], [np.nan, 0, 0, np.nan], [10, 2, 1, 5]]
    np.testing.assert_array_equal(matrix, expected)


def test_division_by_zero_is_missing() -> None:
    columns = build_columns(FRAME, CONFIG)
    row = pl.DataFrame({"recency": [3.0], "count": [0], "active": [1]})
    assert np.isnan(columns.matrix(row)[0, 3])


def test_columns_survive_a_trip_through_plain_data() -> None:
    columns = build_columns(FRAME, CONFIG)
    assert Columns.from_dict(asdict(columns)) == columns


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (RowsConfig(label="label", features=("recensy",)), "recensy"),
        (RowsConfig(label="label", features=("city",)), "city"),
        (
            RowsConfig(
                label="label",
                ratios=(RatioConfig(name="x", numerator="recency", denominator="gone"),),
            ),
            "gone",
        ),
    ],
)
def test_an_unknown_feature_is_named(config: RowsConfig, name: str) -> None:
    with pytest.raises(DataError, match=name):
        build_columns(FRAME, config)


def test_a_missing_column_is_named_with_its_neighbour() -> None:
    columns = build_columns(FRAME, CONFIG)
    with pytest.raises(DataError, match="'recency' is missing") as caught:
        columns.matrix(FRAME.rename({"recency": "recency_d"}))
    assert caught.value.param == "recency"
    assert "recency_d" in caught.value.hint


def test_words_in_a_numeric_column_are_named() -> None:
    frame = pl.DataFrame({"recency": ["soon"], "count": [1], "active": [1]})
    with pytest.raises(DataError, match="'recency' has values that are not numbers"):
        build_columns(FRAME, CONFIG).matrix(frame)


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 1, None], [1, 1, 1]])
def test_a_label_must_be_binary(values: list[int | None]) -> None:
    with pytest.raises(DataError, match="label"):
        target(pl.DataFrame({"label": values}), "label")


def test_rows_without_features_or_without_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"no numeric feature .*"):
        build_columns(FRAME.select("id", "event_time", "city", "label"), RowsConfig(label="label"))
    with pytest.raises(DataError, match="There are no rows"):
        target(FRAME.head(0), "label")
    with pytest.raises(DataError, match="the same in all 1 rows"):
        target(FRAME.head(1), "label")
