"""Fixed cells of a monitor's features, taken from its reference once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.core.fingerprint import fingerprint
from sunloom.errors import DataError

BINNING = "reference-quantiles"
"""Name of the binning, stored beside every value that was computed on it."""

OTHER = "\0other"
_MOST_VALUES = 20

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureBins:
    """The cells of one feature.

    Attributes:
        name: The feature.
        kind: ``edges``: cells of about equally many reference rows, open at both ends; or
            ``values``: one cell a value and one for all others.
        edges: Inner edges; a value equal to one belongs to the cell above it.
        values: Numbers or texts.
        minimum, maximum: Range of the reference (numbers).
        default: The value that stands in where nothing is known, if it is counted.
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
        """How many cells there are."""
        return len(self.edges) + 1 if self.kind == "edges" else len(self.values) + 1

    @property
    def is_number(self) -> bool:
        """Whether the feature holds numbers."""
        return self.minimum is not None


@dataclass(frozen=True)
class Bins:
    """The cells of all features of a monitor, in order."""

    features: tuple[FeatureBins, ...]

    @cached_property
    def id(self) -> str:
        """Changes when any cell does: only counts on the same cells can be merged."""
        return fingerprint(self.to_json())

    @cached_property
    def starts(self) -> IntArray:
        """Where each feature's cells begin in a vector of all; the last entry is its length."""
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
        """What ``to_json`` wrote."""
        plain: list[dict[str, Any]] = json.loads(text)
        tuples = [
            one | {"edges": tuple(one["edges"]), "values": tuple(one["values"])} for one in plain
        ]
        return Bins(tuple(FeatureBins(**one) for one in tuples))


def build_bins(
    reference: pl.DataFrame,
    names: Sequence[str],
    count: int = 20,
    defaults: Mapping[str, float | str] | None = None,
) -> Bins:
    """Cells for the named features.

    Args:
        reference: Rows taken as normal.
        names: Features: numbers, truth values or text.
        count: Cells of a feature with more values than that.
        defaults: Values that count as default, by feature.

    Raises:
        DataError: A feature has no value, or is of a type that has no cells.
    """
    given = defaults or {}
    return Bins(tuple(_cells(reference[name], count, given.get(name)) for name in names))


def _cells(column: pl.Series, count: int, default: float | str | None) -> FeatureBins:
    if column.dtype.is_numeric():
        return _number_cells(column, count, default)
    if column.dtype not in (pl.Boolean, pl.String, pl.Categorical, pl.Enum):
        raise DataError(f"The feature {column.name!r} is {column.dtype}: it has no cells.")
    texts = column.cast(pl.String).drop_nulls()
    if texts.is_empty():
        raise DataError(f"The feature {column.name!r} has no value in the reference rows.")
    common = texts.alias("v").value_counts(sort=True).head(_MOST_VALUES)["v"].sort()
    return FeatureBins(column.name, "values", values=tuple(common), default=default)


def _number_cells(column: pl.Series, count: int, default: float | str | None) -> FeatureBins:
    values = column.cast(pl.Float64).drop_nulls().to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        raise DataError(f"The feature {column.name!r} has no value in the reference rows.")
    low, high = float(values.min()), float(values.max())
    distinct = np.unique(values)
    if len(distinct) <= min(count, _MOST_VALUES):
        cells = tuple(float(value) for value in distinct)
        return FeatureBins(column.name, "values", (), cells, low, high, default)
    quantiles = np.quantile(values, np.linspace(0, 1, count + 1)[1:-1])
    # A value that many rows share is one edge; the lowest value opens no cell.
    edges = tuple(float(edge) for edge in np.unique(quantiles) if edge > low)
    return FeatureBins(column.name, "edges", edges, (), low, high, default)
