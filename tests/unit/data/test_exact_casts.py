"""Exact casts: what survives stays, and what does not is null or refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from sunloom.data.exact_casts import cast_declared, cast_series_exactly

US, NS = pl.Datetime("us", "UTC"), pl.Datetime("ns", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("own", "values", "target", "expected"),
    [
        (pl.Float64, [3.0, 3.5, -0.5, float("nan"), 2.0**63, 1e300], pl.Int64, [3] + [None] * 5),
        (pl.Int64, [2**53, 2**53 + 1, 2**63 - 1], pl.Float64, [2.0**53, None, None]),
        (pl.UInt64, [7, 2**63], pl.Int64, [7, None]),
        (pl.Decimal(38, 0), [Decimal(7), Decimal(10**20)], pl.Int64, [7, None]),
        (pl.Int64, [0, 1, 2], pl.Boolean, [False, True, None]),
        (NS, [1000, 1600], US, [EPOCH.replace(microsecond=1), None]),
        (pl.Categorical, ["a", None], pl.String, ["a", None]),
        (pl.Null, [None], pl.Int64, [None]),
    ],
)
def test_what_does_not_survive_is_null(
    own: Any, values: list[Any], target: Any, expected: list[Any]
) -> None:
    series = pl.Series("a", values, dtype=pl.Int64 if own == NS else own).cast(own)
    assert (
        cast_series_exactly(series, target() if isinstance(target, type) else target).to_list()
        == expected
    )


def test_a_declared_type_refuses_what_it_cannot_hold() -> None:
    gaps = pl.Series("n", [3.0, float("nan"), None])
    assert cast_declared(gaps, pl.Int64()).to_list() == [3, None, None]
    with pytest.raises(ValueError, match=r"'n' holds 3\.7, which is no Int64"):
        cast_declared(pl.Series("n", [3.7]), pl.Int64())
    # To be rounded to a float is what declaring a float says.
    assert cast_declared(pl.Series("n", [2**53 + 1]), pl.Float64()).to_list() == [2.0**53]
