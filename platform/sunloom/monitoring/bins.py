"""Fixed bins of a monitor's features, taken from its reference once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from sunloom.core.artifacts import fingerprint
from sunloom.data.arrays import IntArray
from sunloom.errors import DataError

BINNING = "reference-quantiles"
"""Name of the binning, stored beside every value that was computed on it."""

_MOST_VALUES = 20


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
                FeatureBins(**{**fields, "edges": tuple(fields["edges"]),
                               "values": tuple(fields["values"])})
                for fields in json.loads(text)
            )
        )  # fmt: skip


def build_bins(
    reference: pl.DataFrame,
    names: Sequence[str],
    count: int = 20,
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
