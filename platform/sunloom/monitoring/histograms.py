"""Mergeable counts: a table in parts counts as the table in one piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.monitoring.bins import Bins, FeatureBins, FloatArray, IntArray

ROWS, MISSING, DEFAULT, OUTSIDE = range(4)
"""Columns of ``tallies``."""


@dataclass(frozen=True)
class Histogram:
    """Counts of some rows on a monitor's cells.

    Attributes:
        counts: Rows in each cell, all features one after the other, [cells].
        tallies: Rows, missing, defaults, outside the reference's range, [features, 4].
        extremes: Least and greatest number, NaN where there is none, [features, 2].
    """

    counts: IntArray
    tallies: IntArray
    extremes: FloatArray

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self.tallies[:, ROWS].max(initial=0))

    def of(self, cells: Bins, index: int) -> IntArray:
        """One feature's counts."""
        return self.counts[cells.starts[index] : cells.starts[index + 1]]

    def packed(self) -> bytes:
        """As bytes: whole numbers and floats, little-endian, deflated."""
        parts = (self.counts.astype("<i8"), self.tallies.astype("<i8"), self.extremes.astype("<f8"))
        return zlib.compress(b"".join(part.tobytes() for part in parts), 1)

    @staticmethod
    def unpacked(packed: bytes, cells: Bins) -> Histogram:
        """What ``packed`` wrote, on these cells.

        Raises:
            DataError: The bytes are of other cells.
        """
        data, features = zlib.decompress(packed), len(cells.features)
        size = int(cells.starts[-1])
        if len(data) != 8 * (size + 6 * features):
            raise DataError("A stored histogram does not fit its cells.")
        whole = np.frombuffer(data, "<i8", size + 4 * features)
        extremes = np.frombuffer(data, "<f8", 2 * features, 8 * (size + 4 * features))
        return Histogram(
            whole[:size], whole[size:].reshape(features, 4), extremes.reshape(features, 2)
        )


def empty_histogram(cells: Bins) -> Histogram:
    """No rows."""
    features = len(cells.features)
    return Histogram(
        np.zeros(int(cells.starts[-1]), dtype=np.int64),
        np.zeros((features, 4), dtype=np.int64),
        np.full((features, 2), np.nan),
    )


def merge_histograms(parts: Iterable[Histogram], cells: Bins) -> Histogram:
    """All rows of the parts."""
    found = list(parts) or [empty_histogram(cells)]
    extremes = np.stack([part.extremes for part in found])
    return Histogram(
        np.sum([part.counts for part in found], axis=0, dtype=np.int64),
        np.sum([part.tallies for part in found], axis=0, dtype=np.int64),
        np.stack([np.fmin.reduce(extremes[:, :, 0]), np.fmax.reduce(extremes[:, :, 1])], axis=1),
    )


def count_rows(frame: pl.DataFrame, cells: Bins) -> Histogram:
    """Count a table.

    Raises:
        DataError: A feature is missing or of another type than in the reference.
    """
    (one,) = count_rows_by_group(frame, cells, np.zeros(frame.height, dtype=np.int64), 1)
    return one


def count_rows_by_group(
    frame: pl.DataFrame, cells: Bins, group: IntArray, groups: int
) -> list[Histogram]:
    """Count a table's rows apart by group, in one pass over each column.

    Args:
        frame: The rows.
        cells: What to count.
        group: Each row's group, from 0.
        groups: How many there are.

    Raises:
        DataError: A feature is missing or of another type than in the reference.
    """
    counts = np.zeros((groups, int(cells.starts[-1])), dtype=np.int64)
    tallies = np.zeros((groups, len(cells.features), 4), dtype=np.int64)
    extremes = np.full((groups, len(cells.features), 2), np.nan)
    rows = np.bincount(group, minlength=groups)
    for number, feature in enumerate(cells.features):
        column = _column(frame, feature)
        cell, is_default, is_outside = _placed(column, feature)
        there = cell >= 0
        at = slice(cells.starts[number], cells.starts[number + 1])
        flat = np.bincount(
            group[there] * feature.size + cell[there], minlength=groups * feature.size
        )
        counts[:, at] = flat.reshape(groups, feature.size)
        tallies[:, number, ROWS] = rows
        tallies[:, number, MISSING] = rows - np.bincount(group[there], minlength=groups)
        tallies[:, number, DEFAULT] = np.bincount(group[is_default], minlength=groups)
        tallies[:, number, OUTSIDE] = np.bincount(group[is_outside], minlength=groups)
        if feature.is_number:
            _extremes(column, group, extremes[:, number])
    return [Histogram(*parts) for parts in zip(counts, tallies, extremes, strict=True)]


def _column(frame: pl.DataFrame, feature: FeatureBins) -> pl.Series:
    if feature.name not in frame.columns:
        raise DataError(
            f"The rows have no feature {feature.name!r}.",
            f"Found: {', '.join(frame.columns)}.",
            feature.name,
        )
    column = frame[feature.name]
    if column.dtype == pl.Null:
        return column.cast(pl.Float64 if feature.is_number else pl.String)
    if column.dtype.is_numeric() != feature.is_number:
        kind = "numbers" if feature.is_number else "text"
        raise DataError(
            f"The feature {feature.name!r} is {column.dtype}, but its reference holds {kind}.",
            param=feature.name,
        )
    return column.cast(pl.Float64) if feature.is_number else column.cast(pl.String)


def _placed(column: pl.Series, feature: FeatureBins) -> tuple[IntArray, IntArray, IntArray]:
    """Each row's cell (-1 where the value is missing), and rows of defaults and outside."""
    if not feature.is_number:
        return _placed_texts(column, feature)
    values = column.fill_null(float("nan")).to_numpy()
    cell = (
        np.searchsorted(np.asarray(feature.edges), values, side="right")
        if feature.kind == "edges"
        else _matched(values, np.asarray(feature.values, dtype=np.float64))
    )
    cell = np.where(np.isnan(values), -1, cell)
    low, high = feature.minimum, feature.maximum
    assert low is not None
    assert high is not None
    outside = np.flatnonzero((values < low) | (values > high))
    default = feature.default
    held = np.flatnonzero(values == default) if isinstance(default, int | float) else _none()
    return cell, held, outside


def _matched(values: FloatArray, known: FloatArray) -> IntArray:
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[at] == values, at, len(known)).astype(np.int64)


def _placed_texts(column: pl.Series, feature: FeatureBins) -> tuple[IntArray, IntArray, IntArray]:
    known = pl.Series([str(value) for value in feature.values])
    numbers = pl.int_range(len(known), dtype=pl.Int64, eager=True)
    placed = column.replace_strict(known, numbers, default=len(known), return_dtype=pl.Int64)
    cell = placed.to_frame("c").select(
        pl.when(column.is_null()).then(-1).otherwise(pl.col("c"))
    ).to_series().to_numpy()  # fmt: skip
    default = feature.default
    held = (column == str(default)).fill_null(False).arg_true() if default is not None else None
    outside = np.flatnonzero(cell == len(known))
    return cell, held.to_numpy().astype(np.int64) if held is not None else _none(), outside


def _extremes(column: pl.Series, group: IntArray, into: FloatArray) -> None:
    finite = column.is_finite().fill_null(False)
    found = (
        pl.DataFrame({"g": group, "v": column})
        .filter(finite)
        .group_by("g")
        .agg(pl.col("v").min().alias("low"), pl.col("v").max().alias("high"))
    )
    into[found["g"].to_numpy()] = found.select("low", "high").to_numpy()


def _none() -> IntArray:
    return np.empty(0, dtype=np.int64)
