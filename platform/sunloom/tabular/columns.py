"""Columns of a tabular model: from a table to the matrix that algorithms read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.tabular import RowsConfig
from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError, MissingColumnError, known_names_hint


@dataclass(frozen=True)
class RatioColumn:
    """A derived column, ``numerator / (denominator + plus)``."""

    name: str
    numerator: str
    denominator: str
    plus: float


@dataclass(frozen=True)
class Columns:
    """The columns that a model reads, and those that it derives from them.

    Attributes:
        features: Input columns, in order.
        ratios: Columns appended to the matrix after the inputs.
    """

    features: tuple[str, ...]
    ratios: tuple[RatioColumn, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrix's columns."""
        return (*self.features, *(ratio.name for ratio in self.ratios))

    def matrix(self, frame: pl.DataFrame) -> FloatArray:
        """The frame's features and ratios as ``[rows, columns]``; null becomes NaN.

        Raises:
            DataError: A column is missing or not numeric.
        """
        columns = {name: _numbers(frame, name) for name in self.features}
        # column_stack refuses an empty list.
        if not columns:
            return np.empty((frame.height, 0))
        derived = []
        for ratio in self.ratios:
            with np.errstate(divide="ignore", invalid="ignore"):
                quotient = columns[ratio.numerator] / (columns[ratio.denominator] + ratio.plus)
            # A quotient by zero is missing, which every algorithm here can take.
            derived.append(np.where(np.isfinite(quotient), quotient, np.nan))
        matrix = np.column_stack([*(columns[name] for name in self.features), *derived])
        return matrix.astype(np.float64, copy=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Columns:
        """Undo ``dataclasses.asdict``."""
        return cls(tuple(data["features"]), tuple(RatioColumn(**ratio) for ratio in data["ratios"]))


def build_columns(frame: pl.DataFrame, config: RowsConfig) -> Columns:
    """The columns of a recipe, checked against the training rows.

    Raises:
        DataError: A feature, or a ratio's numerator or denominator, is not a numeric column, or
            there is no feature.
    """
    numeric = feature_columns(frame, config)
    features = config.features or numeric
    parts = [part for ratio in config.ratios for part in (ratio.numerator, ratio.denominator)]
    for known, names in ((numeric, features), (features, parts)):
        for name in names:
            if name not in known:
                hint = known_names_hint(name, known)
                raise MissingColumnError(f"There is no numeric feature {name!r}.", hint, name)
    if not features:
        raise DataError(
            "The rows have no numeric feature to learn from.",
            f"Found: {', '.join(f'{name} ({dtype})' for name, dtype in frame.schema.items())}.",
        )
    ratios = (RatioColumn(**ratio.model_dump()) for ratio in config.ratios)
    return Columns(tuple(features), tuple(ratios))


def feature_columns(frame: pl.DataFrame, config: RowsConfig) -> tuple[str, ...]:
    """Every numeric or boolean column that is neither entity, time nor label."""
    excluded = {config.entity, config.event_time, config.label}
    return tuple(
        name
        for name, kind in frame.schema.items()
        if name not in excluded and (kind.is_numeric() or kind == pl.Boolean)
    )


def target(frame: pl.DataFrame, label: str) -> FloatArray:
    """The label as 0.0 and 1.0.

    Raises:
        DataError: There are no rows, or the label is missing, null, not 0 or 1, or the same in
            every row.
    """
    values = _numbers(frame, label)
    if not len(values):
        raise DataError("There are no rows.", param=label)
    labels = set(np.unique(values[~np.isnan(values)]).tolist())
    if np.isnan(values).any() or not labels <= {0.0, 1.0}:
        raise DataError(f"The label {label!r} must be 0 or 1 in every row, found {sorted(labels)}.")
    if len(labels) < 2:
        raise DataError(f"The label {label!r} is the same in all {len(values)} rows.")
    return values


def _numbers(frame: pl.DataFrame, name: str) -> FloatArray:
    if name not in frame.columns:
        hint = known_names_hint(name, frame.columns)
        raise MissingColumnError(f"The column {name!r} is missing.", hint, name)
    try:
        column = frame[name].cast(pl.Float64)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"The column {name!r} has values that are not numbers.", param=name) from (
            error
        )
    values: FloatArray = column.fill_null(float("nan")).to_numpy()
    # An infinite value would reach a scaler's mean and make every prediction NaN.
    return np.where(np.isfinite(values), values, np.nan)
