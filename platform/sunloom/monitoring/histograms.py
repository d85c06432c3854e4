"""Mergeable histograms of features: a table in parts counts as the table in one piece.

They count on fixed bins, which are taken from a monitor's reference once.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from sunloom.core.artifacts import fingerprint
from sunloom.core.telemetry import get_logger
from sunloom.data.arrays import FloatArray, IntArray
from sunloom.errors import DataError

BINNING = "reference-quantiles"
"""Name of the binning, stored beside every value that was computed on it."""

_MOST_VALUES = 20

ROWS, MISSING, DEFAULT, OUTSIDE = range(4)
"""Columns of ``tallies``."""

_NO_ROWS: IntArray = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class FeatureBins:
    """The bins of one feature.

    Attributes:
        name: The feature.
        kind: ``edges``: bins of about equally many reference rows, open at both ends; or
            ``values``: one bin a value and one for all others.
        edges: Inner edges; a value equal to one belongs to the bin above it.
        values: Numbers or texts.
        minimum, maximum: Range of the reference (numbers).
        default: The default value of missing ones, if its share is counted.
    """

    name: str
    kind: Literal["edges", "values"]
    edges: tuple[float, ...] = ()
    values: tuple[float | str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    default: float | str | None = None

    @property
    def size(self) -> int:
        """Number of bins."""
        return len(self.edges) + 1 if self.kind == "edges" else len(self.values) + 1

    @property
    def is_numeric(self) -> bool:
        """Whether the feature holds numbers."""
        return self.minimum is not None


@dataclass(frozen=True)
class Bins:
    """The bins of all features of a monitor, in order."""

    features: tuple[FeatureBins, ...]

    @cached_property
    def id(self) -> str:
        """Changes when any bin does: only counts on the same bins can be merged."""
        return fingerprint(self.to_json())

    @cached_property
    def starts(self) -> IntArray:
        """First bin of each feature in a vector of all; the last entry is its length."""
        # Features differ in size: one vector of all is counted, merged and stored at once.
        sizes = [feature.size for feature in self.features]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """The features."""
        return tuple(feature.name for feature in self.features)

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps([asdict(feature) for feature in self.features])

    @staticmethod
    def from_json(text: str) -> Bins:
        """Read the text of ``to_json``."""
        return Bins(
            tuple(
                FeatureBins(**fields | {key: tuple(fields[key]) for key in ("edges", "values")})
                for fields in json.loads(text)
            )
        )


def build_bins(
    reference: pl.DataFrame,
    names: Sequence[str],
    count: int,
    defaults: Mapping[str, float | str] | None = None,
) -> Bins:
    """Bins for the named features.

    Args:
        reference: Rows taken as normal.
        names: Features: numbers, truth values or text.
        count: Bins of a feature with more values than that.
        defaults: Feature to the value that counts as its default.

    Raises:
        DataError: A feature has no value, or is of a type that cannot be binned.
    """
    known = defaults or {}
    return Bins(tuple(_feature_bins(reference[name], count, known.get(name)) for name in names))


def _feature_bins(column: pl.Series, count: int, default: float | str | None) -> FeatureBins:
    if column.dtype.is_numeric():
        return _number_bins(column, count, default)
    if column.dtype not in (pl.Boolean, pl.String, pl.Categorical, pl.Enum):
        raise DataError(f"The feature {column.name!r} is {column.dtype}: it has no bins.")
    texts = column.cast(pl.String).drop_nulls()
    if texts.is_empty():
        raise DataError(f"The feature {column.name!r} has no value in the reference rows.")
    # Sorted by name at the end: ties of the counts must not change the bins' order.
    common = texts.alias("v").value_counts(sort=True).head(_MOST_VALUES)["v"].sort()
    return FeatureBins(column.name, "values", values=tuple(common), default=default)


def _number_bins(column: pl.Series, count: int, default: float | str | None) -> FeatureBins:
    numbers = column.cast(pl.Float64).drop_nulls().to_numpy()
    # An infinite edge would make a bin that holds nothing else.
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        raise DataError(f"The feature {column.name!r} has no value in the reference rows.")
    low, high = float(numbers.min()), float(numbers.max())
    distinct = np.unique(numbers)
    edges: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    # Quantiles of few values would be the same edges over and over.
    if len(distinct) <= min(count, _MOST_VALUES):
        values = tuple(float(value) for value in distinct)
    else:
        quantiles = np.quantile(numbers, np.linspace(0, 1, count + 1)[1:-1])
        # A value that many rows share is one edge, and no bin lies below the lowest value.
        edges = tuple(float(edge) for edge in np.unique(quantiles) if edge > low)
    return FeatureBins(
        name=column.name,
        kind="values" if values else "edges",
        edges=edges,
        values=values,
        minimum=low,
        maximum=high,
        default=default,
    )


def feature_columns(frame: pl.DataFrame, bins: Bins) -> pl.DataFrame:
    """The features' columns, each in the type of its reference."""
    return pl.DataFrame([feature_column(frame, feature) for feature in bins.features])


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
    """Count a table."""
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
    """
    counts = np.zeros((groups, int(bins.starts[-1])), dtype=np.int64)
    tallies = np.zeros((groups, len(bins.features), 4), dtype=np.int64)
    extremes = np.full((groups, len(bins.features), 2), np.nan)
    rows = np.bincount(group, minlength=groups)
    for number, feature in enumerate(bins.features):
        column = feature_column(frame, feature)
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


def feature_column(frame: pl.DataFrame, feature: FeatureBins) -> pl.Series:
    """A feature's column in the type of its reference: Float64 or String.

    All its values are missing where the rows lack it, or hold something else than numbers: one
    such part must not end the watch of all other features.
    """
    dtype = pl.Float64() if feature.is_numeric else pl.String()
    column = frame[feature.name] if feature.name in frame.columns else None
    if column is not None and _holds(column.dtype, dtype):
        return column.cast(dtype)
    if column is None or column.null_count() < len(column):
        get_logger("monitoring").warning(
            "%s counts as missing in %d rows: %s",
            feature.name, frame.height,
            "no such column" if column is None else f"{column.dtype} instead of {dtype}",
        )  # fmt: skip
    return pl.repeat(None, frame.height, dtype=dtype, eager=True).alias(feature.name)


def _holds(dtype: pl.DataType, wanted: pl.DataType) -> bool:
    if wanted.is_numeric():
        return dtype.is_numeric()
    # Numbers as text are values that the reference does not have, which is what they are.
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Categorical, pl.Enum)


class _Placed(NamedTuple):
    """Each row's bin (-1 where the value is missing), and numbers of some rows."""

    bins: IntArray
    defaults: IntArray
    outside: IntArray


def _place_numbers(column: pl.Series, feature: FeatureBins) -> _Placed:
    values = column.to_numpy()  # null becomes NaN
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
    known = [str(value) for value in feature.values]
    # Texts that are not known become null, as missing ones are: told apart below.
    codes = column.cast(pl.Enum(known), strict=False).to_physical().cast(pl.Int64)
    bins = codes.fill_null(len(known)).to_numpy()
    if column.null_count():
        bins = np.where(column.is_null().to_numpy(), -1, bins)
    defaults = _NO_ROWS
    if feature.default is not None:
        is_default = (column == str(feature.default)).fill_null(False)
        defaults = is_default.arg_true().to_numpy().astype(np.int64)
    return _Placed(bins=bins, defaults=defaults, outside=np.flatnonzero(bins == len(known)))


def _fill_extremes(column: pl.Series, group: IntArray, extremes: FloatArray) -> None:
    """Write each group's least and greatest finite number into ``extremes``, [groups, 2]."""
    values = column.to_numpy()
    known = np.where(np.isfinite(values), values, np.nan)
    # Contiguous: in the columns of a wider array these calls take twice as long.
    low, high = np.ascontiguousarray(extremes.T)
    # fmin and fmax pass over NaN, here and where a group has no number yet.
    np.fmin.at(low, group, known)
    np.fmax.at(high, group, known)
    extremes[:, 0], extremes[:, 1] = low, high
