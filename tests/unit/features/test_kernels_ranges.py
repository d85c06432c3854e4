"""Percentiles, frequencies, extremes and variances of ranges, against each range by itself."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.features.kernels.ranges import Ranges
from sunloom.features.kernels.sums_and_variances import range_variances
from sunloom.features.kernels.value_statistics import range_extreme_rows, range_select, range_top


@st.composite
def _ranged(draw: st.DrawFn) -> tuple[Any, Any, Ranges]:
    """Sorted keys, codes, and ranges inside one key each, empty ones among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(0, 60))
    keys = np.sort(rng.integers(0, draw(st.integers(1, 5)), size)).astype(np.int64)
    codes = rng.integers(0, draw(st.integers(1, 9)), size).astype(np.int64)
    rows = rng.integers(0, max(1, size), draw(st.integers(0, 30)) if size else 0)
    low = np.searchsorted(keys, keys[rows] if size else rows, side="left")
    high = np.searchsorted(keys, keys[rows] if size else rows, side="right")
    ends = np.sort(np.stack([rng.integers(low, high + 1), rng.integers(low, high + 1)]), axis=0)
    return keys, codes, Ranges(ends[0].astype(np.int64), ends[1].astype(np.int64))


def _inside(values: Any, ranges: Ranges) -> list[Any]:
    return [values[a:b] for a, b in zip(ranges.start, ranges.stop, strict=True)]


@given(_ranged(), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_most_frequent(given: Any, size: int) -> None:
    keys, codes, ranges = given
    top, counts = range_top(codes, keys, ranges, size)
    found = np.split(top, np.cumsum(counts)[:-1]) if len(counts) else []
    for mine, inside in zip(found, _inside(codes, ranges), strict=True):
        ordered = sorted(Counter(inside.tolist()).items(), key=lambda item: (-item[1], item[0]))
        assert mine.tolist() == [code for code, _ in ordered[:size]]


@given(_ranged(), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_place_in_order_and_extremes(given: Any, share: float) -> None:
    _, codes, ranges = given
    places = (share * np.maximum(ranges.counts - 1, 0)).astype(np.int64)
    selected = range_select(codes, ranges, places)
    largest = range_extreme_rows(codes, ranges, largest=True)
    smallest = range_extreme_rows(codes, ranges, largest=False)
    for row, inside in enumerate(_inside(codes, ranges)):
        if len(inside):
            assert selected[row] == np.sort(inside)[places[row]]
            assert largest[row] == ranges.start[row] + np.argmax(inside)
            assert smallest[row] == ranges.start[row] + np.argmin(inside)


@pytest.mark.parametrize("offset", [0.0, 1e9, -1e12])
def test_variances_of_long_ranges_lose_no_digits_to_an_offset(offset: float) -> None:
    rng = np.random.default_rng(4)
    # Whole numbers and eighths are exact at these offsets: the variance does not depend on them.
    noise = rng.integers(-80, 80, 4_000) / 8
    keys = np.repeat(np.arange(4), 1_000).astype(np.int64)
    ends = np.sort(rng.integers(0, 1_001, (2, 300)), axis=0) + rng.integers(0, 4, 300) * 1_000
    ranges = Ranges(ends[0], ends[1])
    found = range_variances(noise + offset * (keys + 1), ranges)
    for mine, inside in zip(found, _inside(noise, ranges), strict=True):
        expected = np.var(inside, ddof=1) if len(inside) > 1 else np.nan
        assert mine == pytest.approx(expected, rel=1e-10, nan_ok=True)


def test_a_keys_nan_or_infinity_stays_in_its_ranges() -> None:
    values = np.concatenate([[np.nan], np.arange(99.0), [np.inf], np.arange(99.0)])
    ranges = Ranges(np.array([0, 1, 100, 101]), np.array([100, 100, 200, 200]))
    with np.errstate(invalid="ignore"):
        found = range_variances(values, ranges)
    expected = float(np.var(np.arange(99.0), ddof=1))
    assert found.tolist() == pytest.approx([np.nan, expected, np.nan, expected], nan_ok=True)


@pytest.mark.performance
def test_percentiles_and_variances_do_not_grow_with_the_ranges() -> None:
    """A hundred times longer ranges may cost a few times more, not a hundred times."""
    rng = np.random.default_rng(0)
    size = 200_000
    codes = rng.integers(0, 1_000, size).astype(np.int64)
    start = rng.integers(0, size - 20_000, 20_000).astype(np.int64)

    def cost(length: int) -> float:
        ranges = Ranges(start, start + length)
        begun = time.process_time()
        range_select(codes, ranges, ranges.counts // 2)
        range_variances(codes.astype(np.float64), ranges)
        return time.process_time() - begun

    cost(100)
    assert cost(20_000) < 10 * cost(200)
