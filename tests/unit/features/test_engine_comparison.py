"""Values of two engines: the same to nine digits, whatever holds them."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from sunloom.features.historical.compare import is_close

NEAR = 1.0 + 1e-12


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([1.0, None], [NEAR, None]),
        ([math.nan, math.inf], [math.nan, math.inf]),
        ([1, None], [1, None]),
        (["a", None], ["a", None]),
        ([[1.0, 2.0], [], None], [[NEAR, 2.0], [], None]),
        ([{"x": 1.0, "s": "a"}], [{"x": NEAR, "s": "a"}]),
        ([[{"x": 1.0}]], [[{"x": NEAR}]]),
    ],
)
def test_the_same_values(left: list[Any], right: list[Any]) -> None:
    assert is_close(pl.Series(left), pl.Series(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([1.0], [1.0 + 1e-6]),
        ([1.0], [None]),
        ([1.0], [math.nan]),
        ([math.nan], [1.0]),
        ([1.0], [math.inf]),
        ([math.inf], [-math.inf]),
        ([1], [2]),
        ([1], [1.0]),
        ([[1.0, 2.0]], [[1.0]]),
        ([[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]]),
        ([{"x": 1.0}], [{"x": 2.0}]),
    ],
)
def test_other_values(left: list[Any], right: list[Any]) -> None:
    assert not is_close(pl.Series(left), pl.Series(right))
