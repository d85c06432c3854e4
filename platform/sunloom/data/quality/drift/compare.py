"""Compare two tables feature by feature."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.monitoring.service import DriftConfig
from sunloom.core.files import write_atomic
from sunloom.data.quality.drift.distances import column_distance
from sunloom.data.quality.drift.psi import BINNING, has_value
from sunloom.errors import DataError, known_names_hint

# A p-value: the smaller, the surer the drift.
LOW_IS_DRIFT = frozenset({"ks"})
BINNED = frozenset({"psi"})


@dataclass(frozen=True)
class FeatureDrift:
    """One feature's comparison.

    Attributes:
        feature: Column.
        method: Statistic.
        value: What it came to.
        threshold: Bound of the recipe.
        drifted: Whether the value lies on the wrong side of it.
        binning: Name of the binning, where the statistic has one.
    """

    feature: str
    method: str
    value: float
    threshold: float
    drifted: bool
    binning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class DriftReport:
    """A comparison of two tables.

    Attributes:
        features: One entry a feature, in the order of the columns.
        reference_rows: Rows taken as normal.
        current_rows: Rows judged.
        html: Evidently's report, where one was written.
        numbers: The same figures as JSON, where written.
    """

    features: tuple[FeatureDrift, ...]
    reference_rows: int
    current_rows: int
    html: Path | None = None
    numbers: Path | None = None

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """Features that drifted."""
        return tuple(feature for feature in self.features if feature.drifted)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "reference_rows": self.reference_rows,
            "current_rows": self.current_rows,
            "drifted_features": len(self.drifted),
            "features": [feature.to_dict() for feature in self.features],
        }


def drift_report(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    config: DriftConfig,
    folder: Path | None = None,
) -> DriftReport:
    """Compare ``current`` with ``reference``.

    Args:
        reference: Rows taken as normal.
        current: Rows judged.
        config: Features, methods, thresholds, engine.
        folder: Where ``drift.html`` (Evidently's engine) and ``drift.json`` are written.

    Raises:
        DataError: A feature is missing, is no number, or has no value in one of the tables.
    """
    names = compared_features(reference, current, config)
    bounds = {name: _bound(name, config) for name in names}
    if config.engine == "direct":
        features, html = judge_columns(reference, current, bounds), None
    else:
        _require_values(reference, current, names)
        values, html = _evidently(reference, current, bounds, folder)
        features = tuple(_judge(name, *bounds[name], values[name]) for name in names)
    report = DriftReport(features, reference.height, current.height, html)
    return report if folder is None else _write(report, folder)


def compared_features(
    reference: pl.DataFrame, current: pl.DataFrame, config: DriftConfig
) -> list[str]:
    """Features of the recipe, or every numeric column that both tables have and that is no id."""
    numeric = [
        name
        for name, kind in reference.schema.items()
        if kind.is_numeric() and name in current.columns and name not in config.exclude
    ]
    for name in (*config.features, *config.per_feature):
        if name not in numeric:
            hint = known_names_hint(name, numeric)
            raise DataError(f"There is no numeric feature {name!r} to compare.", hint, name)
    return list(config.features) or numeric


def _bound(name: str, config: DriftConfig) -> tuple[str, float]:
    own = config.per_feature.get(name)
    method = (own and own.method) or config.method
    threshold = config.threshold if own is None or own.threshold is None else own.threshold
    return method, threshold


def _require_values(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]) -> None:
    for table, frame in (("reference", reference), ("current", current)):
        for name in names:
            if not has_value(frame[name]):
                raise DataError(f"The feature {name!r} has no value in the {table} rows.")


def judge_columns(
    reference: pl.DataFrame, current: pl.DataFrame, bounds: Mapping[str, tuple[str, float]]
) -> tuple[FeatureDrift, ...]:
    """Compare columns, numbers or text, each by its own method and threshold.

    The numbers are Evidently's, computed directly.

    Args:
        reference: Rows taken as normal.
        current: Rows judged.
        bounds: Column to method and threshold.

    Raises:
        DataError: A column has no value in one of the tables.
    """
    _require_values(reference, current, list(bounds))
    return tuple(
        _judge(name, *bound, column_distance(bound[0], reference[name], current[name]))
        for name, bound in bounds.items()
    )


def _judge(name: str, method: str, threshold: float, value: float) -> FeatureDrift:
    drifted = value < threshold if method in LOW_IS_DRIFT else value >= threshold
    binning = BINNING if method in BINNED else None
    return FeatureDrift(name, method, value, threshold, drifted, binning)


def _evidently(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    bounds: Mapping[str, tuple[str, float]],
    folder: Path | None,
) -> tuple[dict[str, float], Path | None]:
    names = list(bounds)
    tables = datasets(reference, current, names)
    from evidently import Report
    from evidently.metrics import ValueDrift

    metrics = [
        ValueDrift(column=name, method=method, threshold=threshold)
        for name, (method, threshold) in bounds.items()
    ]
    snapshot = Report(metrics, include_tests=True).run(*tables)
    values = [float(entry["value"]) for entry in snapshot.dict()["metrics"]]
    html = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        html = folder / "drift.html"
        snapshot.save_html(str(html))
    return dict(zip(names, values, strict=True)), html


def datasets(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]) -> list[Any]:
    """The columns as Evidently's data sets, in the order in which it takes them."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read when Evidently is imported
    from evidently import DataDefinition, Dataset

    numbers = [name for name in names if reference.schema[name].is_numeric()]
    words = [name for name in names if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=words)
    plain = {name: pl.Float64 if name in numbers else pl.String for name in names}
    return [
        Dataset.from_pandas(frame.select(names).cast(plain).to_pandas(), definition)  # type: ignore[arg-type]
        for frame in (current, reference)
    ]


def _write(report: DriftReport, folder: Path) -> DriftReport:
    numbers = folder / "drift.json"
    write_atomic(numbers, json.dumps(report.to_dict(), indent=1))
    return DriftReport(
        report.features, report.reference_rows, report.current_rows, report.html, numbers
    )
