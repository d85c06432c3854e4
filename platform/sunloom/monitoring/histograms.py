"""Mergeable histograms: a table in parts counts as the table in one piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.errors import DataError
from sunloom.monitoring.bins import Bins, FeatureBins

ROWS, MISSING, DEFAULT, OUTSIDE = range(4)
"""Columns of ``tallies``."""

_NO_ROWS: IntArray = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Histogram:
    """Counts of some rows on a monitor's bins.

    Attributes:
        counts: Rows in each bin, all features one after the other, [bins].
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

    def feature_counts(self, bins: Bins, index: int) -> IntArray:
        """One feature's counts."""
        return self.counts[bins.starts[index] : bins.starts[index + 1]]

    def encode(self) -> bytes:
        """As bytes: whole numbers and floats, little-endian, deflated."""
        parts = (self.counts.astype("<i8"), self.tallies.astype("<i8"), self.extremes.astype("<f8"))
        # Level 1: level 6 would save another sixth of the bytes, at four times the time.
        return zlib.compress(b"".join(part.tobytes() for part in parts), 1)

    @staticmethod
    def decode(encoded: bytes, bins: Bins) -> Histogram:
        """Read the bytes of ``encode``.

        Raises:
            DataError: They are of other bins.
        """
        data, features = zlib.decompress(encoded), len(bins.features)
        size = int(bins.starts[-1])
        if len(data) != 8 * (size + 6 * features):
            raise DataError("A stored histogram does not fit its bins.")
        whole = np.frombuffer(data, "<i8", size + 4 * features)
        extremes = np.frombuffer(data, "<f8", 2 * features, 8 * (size + 4 * features))
        return Histogram(
            whole[:size], whole[size:].reshape(features, 4), extremes.reshape(features, 2)
        )


def empty_histogram(bins: Bins) -> Histogram:
    """The histogram of no rows."""
    features = len(bins.features)
    return Histogram(
        counts=np.zeros(int(bins.starts[-1]), dtype=np.int64),
        tallies=np.zeros((features, 4), dtype=np.int64),
        extremes=np.full((features, 2), np.nan),
    )


def merge_histograms(parts: Iterable[Histogram], bins: Bins) -> Histogram:
    """The histogram of all rows of the parts."""
    histograms = list(parts) or [empty_histogram(bins)]
    extremes = np.stack([part.extremes for part in histograms])
    # fmin and fmax skip the NaN of a part without a number; min and max would keep it.
    low, high = np.fmin.reduce(extremes[:, :, 0]), np.fmax.reduce(extremes[:, :, 1])
    return Histogram(
        counts=np.sum([part.counts for part in histograms], axis=0, dtype=np.int64),
        tallies=np.sum([part.tallies for part in histograms], axis=0, dtype=np.int64),
        extremes=np.stack([low, high], axis=1),
    )


def count_rows(frame: pl.DataFrame, bins: Bins) -> Histogram:
    """Count a table.

    Raises:
        DataError: A feature is missing or of another type than in the reference.
    """
    (histogram,) = count_rows_by_group(frame, bins, np.zeros(frame.height, dtype=np.int64), 1)
    return histogram


def count_rows_by_group(
    frame: pl.DataFrame, bins: Bins, group: IntArray, groups: int
) -> list[Histogram]:
    """Count a table's rows group by group, in one pass over each column.

    Args:
        frame: The rows.
        bins: Bins of the features.
        group: Each row's group, from 0.
        groups: Number of groups.

    Raises:
        DataError: A feature is missing or of another type than in the reference.
    """
    counts = np.zeros((groups, int(bins.starts[-1])), dtype=np.int64)
    tallies = np.zeros((groups, len(bins.features), 4), dtype=np.int64)
    extremes = np.full((groups, len(bins.features), 2), np.nan)
    rows = np.bincount(group, minlength=groups)
    for number, feature in enumerate(bins.features):
        column = _column(frame, feature)
        placed = (
            _place_numbers(column, feature) if feature.is_numeric else _place_texts(column, feature)
        )
        present = placed.bins >= 0
        at = slice(bins.starts[number], bins.starts[number + 1])
        # Group and bin as one number: a single bincount counts all groups.
        flat = np.bincount(
            group[present] * feature.size + placed.bins[present], minlength=groups * feature.size
        )
        counts[:, at] = flat.reshape(groups, feature.size)
        tallies[:, number, ROWS] = rows
        tallies[:, number, MISSING] = rows - np.bincount(group[present], minlength=groups)
        tallies[:, number, DEFAULT] = np.bincount(group[placed.defaults], minlength=groups)
        tallies[:, number, OUTSIDE] = np.bincount(group[placed.outside], minlength=groups)
        if feature.is_numeric:
            _fill_extremes(column, group, extremes[:, number])
    return [Histogram(*parts) for parts in zip(counts, tallies, extremes, strict=True)]


def _column(frame: pl.DataFrame, feature: FeatureBins) -> pl.Series:
    if feature.name not in frame.columns:
        raise DataError(
            f"The rows have no feature {feature.name!r}.",
            f"Found: {', '.join(frame.columns)}.",
            feature.name,
        )
    column = frame[feature.name]
    # A part in which every value is missing has no type to compare.
    if column.dtype == pl.Null:
        return column.cast(pl.Float64 if feature.is_numeric else pl.String)
    if column.dtype.is_numeric() != feature.is_numeric:
        kind = "numbers" if feature.is_numeric else "text"
        raise DataError(
            f"The feature {feature.name!r} is {column.dtype}, but its reference holds {kind}.",
            param=feature.name,
        )
    return column.cast(pl.Float64) if feature.is_numeric else column.cast(pl.String)


class _Placed(NamedTuple):
    """Each row's bin (-1 where the value is missing), and numbers of some rows."""

    bins: IntArray
    defaults: IntArray
    outside: IntArray


def _place_numbers(column: pl.Series, feature: FeatureBins) -> _Placed:
    values = column.fill_null(float("nan")).to_numpy()
    if feature.kind == "edges":
        found: IntArray = np.searchsorted(np.asarray(feature.edges), values, side="right")
    else:
        known = np.asarray(feature.values, dtype=np.float64)
        # searchsorted points past the end for values above all known ones.
        at = np.minimum(np.searchsorted(known, values), len(known) - 1)
        found = np.where(known[at] == values, at, len(known)).astype(np.int64)
    low, high, default = feature.minimum, feature.maximum, feature.default
    assert low is not None
    assert high is not None
    return _Placed(
        bins=np.where(np.isnan(values), -1, found),
        defaults=(
            np.flatnonzero(values == default) if isinstance(default, int | float) else _NO_ROWS
        ),
        # NaN compares as false: a missing value is not outside.
        outside=np.flatnonzero((values < low) | (values > high)),
    )


def _place_texts(column: pl.Series, feature: FeatureBins) -> _Placed:
    known = pl.Series([str(value) for value in feature.values])
    numbers = pl.int_range(len(known), dtype=pl.Int64, eager=True)
    indices = column.replace_strict(known, numbers, default=len(known), return_dtype=pl.Int64)
    # Null values are mapped to the default of replace_strict, as if they were unknown texts.
    bins = (
        indices.to_frame("bin")
        .select(pl.when(column.is_null()).then(-1).otherwise(pl.col("bin")))
        .to_series()
        .to_numpy()
    )
    defaults = _NO_ROWS
    if feature.default is not None:
        is_default = (column == str(feature.default)).fill_null(False)
        defaults = is_default.arg_true().to_numpy().astype(np.int64)
    return _Placed(bins=bins, defaults=defaults, outside=np.flatnonzero(bins == len(known)))


def _fill_extremes(column: pl.Series, group: IntArray, extremes: FloatArray) -> None:
    """Write each group's least and greatest finite number into ``extremes``, [groups, 2]."""
    by_group = (
        pl.DataFrame({"g": group, "v": column})
        .filter(column.is_finite().fill_null(False))
        .group_by("g")
        .agg(pl.col("v").min().alias("low"), pl.col("v").max().alias("high"))
    )
    extremes[by_group["g"].to_numpy()] = by_group.select("low", "high").to_numpy()
