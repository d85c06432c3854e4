"""The comparison of two tables, feature by feature."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.data import DriftConfig, FeatureBound
from sunloom.core.files import write_atomic
from sunloom.data.quality.drift.distances import column_distance
from sunloom.data.quality.drift.psi import BINNING, has_value
from sunloom.errors import DataError, known_names_hint

_PSI, _P_VALUE = "psi", "ks"


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
        is_p_value = self.method == _P_VALUE
        return FeatureDrift(
            feature=feature,
            method=self.method,
            value=value,
            threshold=self.threshold,
            drifted=value < self.threshold if is_p_value else value >= self.threshold,
            # A PSI depends on its bins: only values on the same binning can be compared.
            binning=BINNING if self.method == _PSI else None,
        )


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
    return report if folder is None else _write_numbers(report, folder / "drift.json")


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


def _write_numbers(report: DriftReport, path: Path) -> DriftReport:
    numbers = {
        "reference_rows": report.reference_rows,
        "current_rows": report.current_rows,
        "drifted_features": len(report.drifted_features),
        "features": [asdict(feature) for feature in report.features],
    }
    write_atomic(path, json.dumps(numbers, indent=1))
    return replace(report, numbers=path)
