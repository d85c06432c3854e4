"""Number columns as arrays and back: null is NaN in an array, and NaN is null in a column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray


def as_numbers(name: str) -> pl.Expr:
    """A column as float64 without NaN."""
    # NaN and null mean the same to a recipe; Polars tells them apart.
    return pl.col(name).cast(pl.Float64).fill_nan(None)


def array_of(frame: pl.DataFrame, name: str) -> FloatArray:
    """A column as float64 with NaN for null; shape [rows]."""
    array: FloatArray = frame[name].cast(pl.Float64).to_numpy()
    return array


def column_of(name: str, values: NDArray[Any]) -> pl.Series:
    """An array as a column, NaN as null."""
    return pl.Series(name, values, dtype=pl.Float64, nan_to_null=True)


def map_column(
    frame: pl.DataFrame, name: str, function: Callable[[FloatArray], FloatArray]
) -> pl.Series:
    """A column through a function of arrays; null stays null."""
    # Nulls go through the function as NaN: that it warns of them is no news.
    with np.errstate(invalid="ignore"):
        return column_of(name, function(array_of(frame, name)))
