"""The direct PSI, against sums done by hand."""

from __future__ import annotations

import math

import polars as pl
import pytest

from sunloom.data.quality.drift_statistics import column_distance
from sunloom.errors import DataError


def test_equal_samples_have_none() -> None:
    sample = pl.Series("x", range(1000))
    assert column_distance("psi", sample, sample.sample(fraction=1, shuffle=True)) == 0.0


def test_few_values_are_bins_of_their_own() -> None:
    before, after = pl.Series("x", [1] * 80 + [2] * 20), pl.Series("x", [1] * 50 + [2] * 50)
    expected = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    assert column_distance("psi", before, after) == pytest.approx(expected, abs=1e-12)


def test_an_empty_bin_counts_as_one_in_ten_thousand() -> None:
    before, after = pl.Series("x", [1] * 10), pl.Series("x", [1] * 5 + [3] * 5)
    expected = 0.5 * math.log(1 / 0.5) + (1e-4 - 0.5) * math.log(1e-4 / 0.5)
    assert column_distance("psi", before, after) == pytest.approx(expected, abs=1e-12)


def test_what_is_no_number_is_left_out() -> None:
    before = pl.Series("x", [1.0, 2.0, None, math.nan, math.inf])
    assert column_distance("psi", before, pl.Series("x", [2.0, 1.0])) == 0.0


def test_nothing_to_compare_names_the_feature() -> None:
    with pytest.raises(DataError, match="'gap' has no value"):
        column_distance("psi", pl.Series("gap", [None, None], dtype=pl.Float64), pl.Series([1]))


def test_values_too_close_or_too_far_apart_are_bins_themselves() -> None:
    close = pl.Series("x", [1e300 * (1 + n * 2.3e-16) for n in range(60)])
    assert column_distance("psi", close, close) == 0.0
    far = pl.Series("x", [-1.7e308, *[float(n) for n in range(30)], 1.7e308])
    assert column_distance("psi", far, far) == 0.0
