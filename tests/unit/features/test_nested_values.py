"""Values inside lists and structs of a source: kept exactly, or the row is damaged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from sunloom.features.plan.dtypes import DType, ListType, StructField, StructType
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan
from sunloom.features.sources.typed_rows import conform

NS = pl.Datetime("ns", "UTC")
DAY_NS = 86_400 * 10**9
WHEN = ListType(item="datetime")
FIELDS: dict[str, DType] = {"seen": WHEN, "n": "int64"}
PLACE = StructType(fields=tuple(StructField(name=n, dtype=d) for n, d in FIELDS.items()))


def _class_of(dtype: DType) -> ClassPlan:
    feature = FeaturePlan(name="x", fqn="c.x", dtype=dtype, nullable=True)
    return ClassPlan(namespace="c", class_name="C", key="id", time=None, features=(feature,))


@pytest.mark.parametrize(
    ("values", "dtype", "own", "lost"),
    [
        ([[DAY_NS, 1_000], [None], [], None, [DAY_NS, 1_600]], WHEN, pl.List(NS), [4]),
        ([[[DAY_NS + 1]], [[DAY_NS], []], [None]], ListType(item=WHEN), pl.List(pl.List(NS)), [0]),
        ([[1_500], [2_000]], ListType(item="duration"), pl.List(pl.Duration("ns")), [0]),
        ([[2**63], [7]], ListType(item="int64"), pl.List(pl.UInt64), [0]),
        (
            [{"seen": [1], "n": 1}, {"seen": [1_000], "n": None}, {"seen": None, "n": 3}, None],
            PLACE,
            pl.Struct({"seen": pl.List(NS), "n": pl.Int32}),
            [0],
        ),
    ],
)
def test_what_does_not_survive_damages_its_row(
    values: list[object], dtype: DType, own: pl.DataType, lost: list[int]
) -> None:
    frame = pl.DataFrame({"x": pl.Series(values, dtype=own)})
    result = conform(frame, _class_of(dtype), ["x"], "rows")
    assert result.damaged["position"].to_list() == [place + 1 for place in lost]
    kept = [value for place, value in enumerate(frame["x"].to_list()) if place not in lost]
    assert result.rows["x"].to_list() == kept
    if "ns" in str(own):
        assert "finer than a microsecond: round it up" in result.damaged["reason"][0]


def test_lists_of_another_zone_are_the_same_times() -> None:
    time = datetime(2026, 3, 1, 12, tzinfo=UTC)
    zoned = pl.Series("x", [[time]]).cast(pl.List(pl.Datetime("ms", "Asia/Tokyo")))
    result = conform(zoned.to_frame(), _class_of(WHEN), ["x"], "rows")
    assert result.rows["x"].to_list() == [[time]]
    assert time - result.rows["x"][0][0] == timedelta(0)
