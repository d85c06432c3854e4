"""Drift between two tables: their comparison, feature by feature, and samples of their rows.

By the direct statistics or by Evidently; the checks of a table compare its columns with those of
a reference (``compare_with_reference``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.data import (
    BINNING,
    DriftConfig,
    DriftDetection,
    FeatureBound,
    ValidationConfig,
)
from sunloom.core.files import write_atomic
from sunloom.data.quality.checked_table import CheckedTable
from sunloom.data.quality.drift_statistics import (
    SHARE_DISTANCES,
    column_distance,
    has_value,
    shares,
)
from sunloom.errors import DataError, known_names_hint

# Free text has about a category a row: a distance between such distributions says nothing.
_MOST_TEXTS = 100
# Null characters keep the names apart from every column that a source may have.
_KEY, _AT = "\0key", "\0at"


@dataclass(frozen=True)
class FeatureDrift:
    """One feature's comparison.

    Attributes:
        feature: Column.
        method: Statistic.
        value: Value of the statistic.
        threshold: Bound of the recipe.
        drifted: Whether the value is past the bound.
        binning: Name of the binning, where the statistic has one.
    """

    feature: str
    method: str
    value: float
    threshold: float
    drifted: bool
    binning: str | None = None


@dataclass(frozen=True)
class DriftBound:
    """The method and threshold that hold for one feature."""

    method: str
    threshold: float

    @staticmethod
    def resolve(override: FeatureBound | None, method: str, threshold: float) -> DriftBound:
        """The feature's own method and threshold where it has them, else those of all."""
        if override is None:
            return DriftBound(method, threshold)
        own = override.threshold
        return DriftBound(override.method or method, threshold if own is None else own)

    def judge(self, feature: str, value: float) -> FeatureDrift:
        """The feature's comparison, of which ``value`` came out."""
        # A p-value is small where the samples differ; the other statistics are distances.
        is_p_value = self.method == "ks"
        return FeatureDrift(
            feature=feature,
            method=self.method,
            value=value,
            threshold=self.threshold,
            drifted=value < self.threshold if is_p_value else value >= self.threshold,
            # A PSI depends on its bins: only values on the same binning can be compared.
            binning=BINNING if self.method == "psi" else None,
        )


@dataclass(frozen=True)
class DriftShape:
    """Two distributions on the same bins, for a picture.

    Attributes:
        labels: The bins' edges, or the values.
        reference, current: Share of the rows in each bin.
    """

    labels: tuple[str, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]


@dataclass(frozen=True)
class DriftReport:
    """A comparison of two tables.

    Attributes:
        features: One entry a feature, in the order of the columns.
        reference_rows: Rows taken as normal.
        current_rows: Rows compared with them.
        html: Evidently's report, where one was written.
        numbers: The same figures as JSON, where written.
    """

    features: tuple[FeatureDrift, ...]
    reference_rows: int
    current_rows: int
    html: Path | None = None
    numbers: Path | None = None

    @property
    def drifted_features(self) -> tuple[FeatureDrift, ...]:
        """Features that drifted."""
        return tuple(feature for feature in self.features if feature.drifted)


def drift_report(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    config: DriftConfig,
    folder: Path | None = None,
) -> DriftReport:
    """Compare ``current`` with ``reference``.

    Args:
        reference: Rows taken as normal.
        current: Rows compared with them.
        config: Features, methods, thresholds, engine.
        folder: Folder of ``drift.html`` (Evidently's engine) and ``drift.json``.

    Raises:
        DataError: A feature is missing, is not numeric, or has no value in one of the tables.
    """
    bounds = {
        name: DriftBound.resolve(config.per_feature.get(name), config.method, config.threshold)
        for name in _feature_names(reference, current, config)
    }
    if config.engine == "direct":
        features, html = compare_columns(reference, current, bounds), None
    else:
        _require_values(reference, current, list(bounds))
        values, html = evidently_values(reference, current, bounds, folder)
        features = tuple(bounds[name].judge(name, value) for name, value in values.items())
    report = DriftReport(features, reference.height, current.height, html)
    if folder is None:
        return report
    figures = {
        "reference_rows": report.reference_rows,
        "current_rows": report.current_rows,
        "drifted_features": len(report.drifted_features),
        "features": [asdict(feature) for feature in report.features],
    }
    write_atomic(folder / "drift.json", json.dumps(figures, indent=1))
    return replace(report, numbers=folder / "drift.json")


def _feature_names(
    reference: pl.DataFrame, current: pl.DataFrame, config: DriftConfig
) -> list[str]:
    """Features of the recipe, or every numeric column that both tables have and that is no id."""
    numeric = [
        name
        for name, dtype in reference.schema.items()
        if dtype.is_numeric() and name in current.columns and name not in config.exclude
    ]
    for name in (*config.features, *config.per_feature):
        if name not in numeric:
            hint = known_names_hint(name, numeric)
            raise DataError(f"There is no numeric feature {name!r} to compare.", hint, name)
    # Without a choice every number is compared; text is compared by the quality checks only.
    return list(config.features) or numeric


def _require_values(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]) -> None:
    for table, frame in (("reference", reference), ("current", current)):
        for name in names:
            if not has_value(frame[name]):
                raise DataError(f"The feature {name!r} has no value in the {table} rows.")


def compare_columns(
    reference: pl.DataFrame, current: pl.DataFrame, bounds: Mapping[str, DriftBound]
) -> tuple[FeatureDrift, ...]:
    """Compare columns, numbers or text, each by its own method and threshold.

    The values are Evidently's, computed directly.

    Args:
        reference: Rows taken as normal.
        current: Rows compared with them.
        bounds: Column to method and threshold.

    Raises:
        DataError: A column has no value in one of the tables.
    """
    _require_values(reference, current, list(bounds))
    return tuple(
        bound.judge(name, column_distance(bound.method, reference[name], current[name]))
        for name, bound in bounds.items()
    )


def evidently_values(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    bounds: Mapping[str, DriftBound],
    folder: Path | None,
) -> tuple[dict[str, float], Path | None]:
    """Each column's value as Evidently computes it.

    Args:
        reference: Rows taken as normal.
        current: Rows compared with them.
        bounds: Column to method and threshold.
        folder: Folder of Evidently's page ``drift.html``; None writes none.

    Returns:
        Column to value, and the page.
    """
    tables = evidently_datasets(reference, current, list(bounds))
    # Here, not at the top: the direct engine needs no Evidently, which reads DO_NOT_TRACK when it
    # is imported, and evidently_datasets has set that.
    from evidently import Report
    from evidently.metrics import ValueDrift

    metrics = [
        ValueDrift(column=name, method=bound.method, threshold=bound.threshold)
        for name, bound in bounds.items()
    ]
    snapshot = Report(metrics, include_tests=True).run(*tables)
    values = [float(entry["value"]) for entry in snapshot.dict()["metrics"]]
    html = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        html = folder / "drift.html"
        snapshot.save_html(str(html))
    return dict(zip(bounds, values, strict=True)), html


def evidently_datasets(
    reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]
) -> list[Any]:
    """The columns as Evidently's data sets, in the order that its ``Report.run`` takes."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read when Evidently is imported
    from evidently import DataDefinition, Dataset

    numbers = [name for name in names if reference.schema[name].is_numeric()]
    texts = [name for name in names if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    # Truth values and categories are compared as text, as column_distance compares them.
    dtypes = {name: pl.Float64 if name in numbers else pl.String for name in names}
    return [
        Dataset.from_pandas(frame.select(names).cast(dtypes).to_pandas(), definition)  # type: ignore[arg-type]
        for frame in (current, reference)
    ]


def compare_with_reference(
    table: CheckedTable, reference: CheckedTable, config: ValidationConfig, keys: Sequence[str]
) -> tuple[tuple[FeatureDrift, ...], dict[str, DriftShape]]:
    """Each compared column's drift and both its distributions, one column in memory at a time.

    Raises:
        DataError: A column that the rules name is not in the reference, or has no value.
    """
    # Both sides in the same types, or a CSV reference would not compare with Parquet rows.
    reference = reference.with_types(table.types)
    drift: list[FeatureDrift] = []
    shapes: dict[str, DriftShape] = {}
    detection = config.drift_detection
    for name in _compared_columns(table, reference, detection, keys):
        override = detection.per_column.get(name)
        bound = DriftBound.resolve(override, detection.method, detection.threshold)
        # Wasserstein and KS compare ordered values, which text lacks: PSI replaces them there.
        if not table.dtype(name).is_numeric() and bound.method not in SHARE_DISTANCES:
            bound = replace(bound, method="psi")
        before, after = reference.column(name).to_frame(), table.column(name).to_frame()
        drift += compare_columns(before, after, {name: bound})
        both = shares(before[name], after[name])
        shapes[name] = DriftShape(
            labels=tuple(f"{c:g}" if isinstance(c, float) else str(c) for c in both.cells),
            reference=tuple(both.reference.tolist()),
            current=tuple(both.current.tolist()),
        )
    return tuple(drift), shapes


def _compared_columns(
    table: CheckedTable, reference: CheckedTable, config: DriftDetection, keys: Sequence[str]
) -> Iterator[str]:
    # Before any column is read: a misspelt name must not cost a pass over the table.
    for name in (*config.columns, *config.per_column):
        if name not in reference.schema:
            raise DataError(
                f"The reference {reference.name} has no column {name!r}.",
                known_names_hint(name, reference.schema),
                name,
            )
    for name in config.columns:
        dtype, reference_dtype = table.dtype(name), reference.dtype(name)
        if dtype.is_numeric() != reference_dtype.is_numeric():
            raise DataError(
                f"validation.drift_detection.columns: {name} is {dtype}, but {reference_dtype} in "
                f"{reference.name}.",
                "Give the column's type, or compare columns of one kind.",
                name,
            )
        yield name
    if config.columns:
        return
    excluded = {*keys, *config.exclude}
    for name in table.schema:
        if name in excluded or name not in reference.schema:
            continue
        dtypes = (table.dtype(name), reference.dtype(name))
        if not (all(dtype.is_numeric() for dtype in dtypes) or all(map(_is_categorical, dtypes))):
            continue
        if has_value(table.column(name)) and is_comparable(reference.column(name)):
            yield name


def is_comparable(column: pl.Series) -> bool:
    """Whether a column of the reference is compared where the rules name none."""
    if _is_categorical(column.dtype):
        return has_value(column) and column.n_unique() <= _MOST_TEXTS
    return column.dtype.is_numeric() and has_value(column)


def _is_categorical(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Boolean | pl.String | pl.Categorical | pl.Enum)


class RowSample:
    """Keeps a fixed number of all rows that were added, each as likely as any other.

    Every row draws a number in turn, and the rows of the smallest numbers stay: the same rows, in
    the same order and with the same seed, give the same sample, however they are divided.

    Args:
        rows: How many to keep; all where there are no more.
        seed: Of the draws.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self._rows = rows
        self._random = np.random.default_rng(seed)
        self._kept: pl.DataFrame | None = None
        self.seen = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Draw a number for each row of a part."""
        keys = self._random.random(frame.height)
        at = np.arange(self.seen, self.seen + frame.height)
        self.seen += frame.height
        drawn = frame.with_columns(pl.Series(_KEY, keys), pl.Series(_AT, at))
        candidates = drawn if self._kept is None else pl.concat([self._kept, drawn])
        # A row that is not among the smallest of the parts so far is not among those of all.
        self._kept = candidates.bottom_k(self._rows, by=_KEY)

    def sampled_rows(self) -> pl.DataFrame | None:
        """The sample in the order of the rows; None where no part was added."""
        return None if self._kept is None else self._kept.sort(_AT).drop(_KEY, _AT)
