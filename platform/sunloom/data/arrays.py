"""Arrays and columns of numbers: nulls are NaN in an array, and NaN is null in a column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

_STEP, _A, _B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mixed(numbers: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """SplitMix64 of each number: the same on every machine, whatever chunk it comes in."""
    state = numbers * np.uint64(_STEP) + np.uint64((seed * _A + _STEP) & _MASK)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_A)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_B)
    found: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return found


def as_numbers(name: str) -> pl.Expr:
    """A column as float64 without NaN."""
    return pl.col(name).cast(pl.Float64).fill_nan(None)


def array_of(frame: pl.DataFrame, name: str) -> FloatArray:
    """A column as float64 with NaN for null; shape [rows]."""
    found: FloatArray = frame[name].cast(pl.Float64).to_numpy()
    return found


def column_of(name: str, values: npt.NDArray[Any]) -> pl.Series:
    """An array as a column, NaN as null."""
    return pl.Series(name, values, dtype=pl.Float64, nan_to_null=True)


def mapped(
    frame: pl.DataFrame, name: str, function: Callable[[FloatArray], FloatArray]
) -> pl.Series:
    """A column through a function of arrays; null stays null."""
    with np.errstate(invalid="ignore"):
        return column_of(name, function(array_of(frame, name)))
