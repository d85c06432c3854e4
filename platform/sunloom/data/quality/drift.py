"""Drift between two tables: their comparison, feature by feature, and samples of their rows.

By the direct statistics or by Evidently; the checks of a table compare its columns with those of
a reference (``compare_with_reference``). One rule holds for all: a column that cannot be compared
is listed with its reason and does not pass, one with too few values is named and not judged, and
the others are judged.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sunloom.config.data import (
    DriftConfig,
    DriftDetection,
    FeatureBound,
    ValidationConfig,
)
from sunloom.core.files import write_atomic
from sunloom.data.quality.checked_table import CheckedTable
from sunloom.data.quality.drift_statistics import (
    BINNING,
    P_VALUES,
    choose_test,
    column_distance,
    shares,
    value_count,
)
from sunloom.data.quality.rules import declared_types
from sunloom.errors import DataError, known_names_hint

# Free text has about a category a row: a distance between such distributions says nothing.
_MOST_TEXTS = 100
# Null characters keep the names apart from every column that a source may have.
_NOTHING = "the reference has no column that can be compared"
_KEY, _AT = "\0key", "\0at"


@dataclass(frozen=True)
class FeatureDrift:
    """One feature's comparison.

    Attributes:
        feature: Column.
        method: Statistic.
        value: Value of the statistic; None where the feature cannot be compared.
        threshold: Bound of the recipe.
        drifted: Whether the value is past the bound, or there is none to judge by.
        binning: Name of the binning, where the statistic has one.
        reason: Why the feature cannot be compared; empty where it was.
    """

    feature: str
    method: str
    value: float | None
    threshold: float
    drifted: bool
    binning: str | None = None
    reason: str = ""

    @property
    def outcome(self) -> str:
        """Statistic and value, or the reason why there is none."""
        return self.reason if self.value is None else f"{self.method} {self.value:.4g}"


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

    def with_choice_for(self, reference: pl.Series, current: pl.Series) -> DriftBound:
        """The bound with Evidently's choice of a test for these samples, where it is to choose."""
        if self.method != "evidently":
            return self
        return replace(self, method=choose_test(reference, current))

    def judge(self, feature: str, value: float) -> FeatureDrift:
        """The feature's comparison, of which ``value`` came out."""
        # NaN is on neither side of a bound, and would pass for no drift.
        if math.isnan(value):
            return self.reject(feature, f"{self.method} gives no number")
        # A p-value is small where the samples differ; the other statistics are distances.
        is_p_value = self.method in P_VALUES
        return FeatureDrift(
            feature=feature,
            method=self.method,
            value=value,
            threshold=self.threshold,
            drifted=value < self.threshold if is_p_value else value >= self.threshold,
            # A PSI depends on its bins: only values on the same binning can be compared.
            binning=BINNING if self.method == "psi" else None,
        )

    def reject(self, feature: str, reason: str) -> FeatureDrift:
        """The entry of a feature that cannot be compared."""
        # Drifted: whoever reads that alone must not take the feature for steady.
        return FeatureDrift(feature, self.method, None, self.threshold, True, reason=reason)


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
class ColumnDrift:
    """The comparison of a table's columns with those of its reference.

    Attributes:
        columns: Columns that were compared, or cannot be.
        skipped: What has too few values to be judged; None where all have enough.
        shapes: Distributions of the columns that were compared.
    """

    columns: tuple[FeatureDrift, ...] = ()
    skipped: str | None = None
    shapes: Mapping[str, DriftShape] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftReport:
    """A comparison of two tables.

    Attributes:
        features: One entry a feature, in the order of the columns, without those that have too
            few values.
        reference_rows: Rows taken as normal.
        current_rows: Rows compared with them.
        skipped: What has too few values to be judged; None where all have enough.
        html: Evidently's report, where one was written.
        numbers: The same figures as JSON, where written.
    """

    features: tuple[FeatureDrift, ...]
    reference_rows: int
    current_rows: int
    skipped: str | None = None
    html: Path | None = None
    numbers: Path | None = None

    @property
    def drifted_features(self) -> tuple[FeatureDrift, ...]:
        """Features that drifted, or cannot be compared."""
        return tuple(feature for feature in self.features if feature.drifted)


class _Counts(NamedTuple):
    """Rows and values of a column and of its reference."""

    reference_rows: int
    current_rows: int
    values: int


@dataclass
class _Admission:
    """Which columns can be judged, and what is to be said of the others.

    Attributes:
        min_rows: Values that a column and its reference must have.
        key: Where a recipe sets that.
        rejected: Columns that cannot be compared.
        few: Columns with too few values.
    """

    min_rows: int
    key: str
    rejected: dict[str, FeatureDrift] = field(default_factory=dict)
    few: dict[str, _Counts] = field(default_factory=dict)

    def admits(self, bound: DriftBound, reference: pl.Series, current: pl.Series) -> bool:
        """Whether two columns can be judged; what speaks against it is kept."""
        # A pass over each column, so only once.
        counts = (value_count(reference), value_count(current))
        reason = _obstacle(reference, current, counts, self.min_rows)
        if reason is not None:
            self.rejected[current.name] = bound.reject(current.name, reason)
            return False
        values = min(counts)
        if values < self.min_rows:
            self.few[current.name] = _Counts(len(reference), len(current), values)
            return False
        return True

    def skip_reason(self) -> str | None:
        """One sentence about the columns with too few values."""
        if not self.few:
            return None
        # The rows are the same for all columns; only their values may be fewer.
        counts = next(iter(self.few.values()))
        if counts.current_rows < self.min_rows:
            cause = f"{counts.current_rows:,} row{'s' * (counts.current_rows != 1)} came"
        elif counts.reference_rows < self.min_rows:
            cause = f"The reference has {counts.reference_rows:,} rows only"
        else:
            names = (f"{name} ({counts.values:,})" for name, counts in self.few.items())
            cause = f"Too few values: {', '.join(names)}"
        return f"{cause}; drift is judged from {self.min_rows:,} on ({self.key})."


def _obstacle(
    reference: pl.Series, current: pl.Series, counts: tuple[int, int], min_rows: int
) -> str | None:
    """Why two columns cannot be compared, but for few values (``counts``); None if they can."""
    tables = (("the reference", reference), ("these rows", current))
    for (where, column), count in zip(tables, counts, strict=True):
        if count:
            continue
        if column.dtype.is_float() and column.is_infinite().any():
            return f"no finite number in {where}"
        # Few rows may lack every value by chance.
        if len(column) >= min_rows:
            return f"no value in {where}"
    # A column without a value has no type of its own: in a CSV file it is text.
    if not all(counts):
        return None
    kinds = [_kind(column.dtype) for _, column in tables]
    if kinds[0] != kinds[1]:
        return f"{current.dtype} in these rows, {reference.dtype} in the reference"
    return None if kinds[0] else f"{current.dtype} has no distribution"


def _kind(dtype: pl.DataType) -> str:
    """What values are compared as; empty for those that cannot be, such as lists."""
    if dtype.is_numeric():
        return "number"
    if _is_categorical(dtype):
        return "category"
    return "time" if dtype.is_temporal() else ""


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
        DataError: A feature of the recipe is no numeric column of the reference.
    """
    bounds = {
        name: DriftBound.resolve(config.per_feature.get(name), config.method, config.threshold)
        for name in _feature_names(reference, config)
    }
    admission = _Admission(config.min_rows, "drift.min_rows")
    judged: dict[str, DriftBound] = {}
    for name, bound in bounds.items():
        if name not in current.columns:
            admission.rejected[name] = bound.reject(name, "these rows have no such column")
        elif admission.admits(bound, reference[name], current[name]):
            judged[name] = bound.with_choice_for(reference[name], current[name])
    if config.engine == "direct" or not judged:
        values, html = _direct_values(reference, current, judged), None
    else:
        methods = {name: bounds[name] for name in judged}
        values, html = evidently_values(reference, current, methods, folder)
    entries = admission.rejected | {name: judged[name].judge(name, v) for name, v in values.items()}
    if not bounds:
        entries["*"] = DriftBound(config.method, config.threshold).reject("*", _NOTHING)
    report = DriftReport(
        features=tuple(entries[name] for name in (*bounds, "*") if name in entries),
        reference_rows=reference.height,
        current_rows=current.height,
        skipped=admission.skip_reason(),
        html=html,
    )
    if folder is None:
        return report
    figures = {
        "reference_rows": report.reference_rows,
        "current_rows": report.current_rows,
        "drifted_features": len(report.drifted_features),
        "features": [asdict(feature) for feature in report.features],
        "drift_skipped": report.skipped,
    }
    write_atomic(folder / "drift.json", json.dumps(figures, indent=1))
    return replace(report, numbers=folder / "drift.json")


def _feature_names(reference: pl.DataFrame, config: DriftConfig) -> list[str]:
    """Features of the recipe, or every numeric column of the reference that is no id."""
    numeric = [
        name
        for name, dtype in reference.schema.items()
        if dtype.is_numeric() and name not in config.exclude
    ]
    for name in (*config.features, *config.per_feature):
        if name not in numeric:
            hint = known_names_hint(name, numeric)
            raise DataError(f"There is no numeric feature {name!r} to compare.", hint, name)
    # Without a choice every number is compared; text is compared by the quality checks only.
    return list(config.features) or numeric


def _direct_values(
    reference: pl.DataFrame, current: pl.DataFrame, bounds: Mapping[str, DriftBound]
) -> dict[str, float]:
    """Each column's value, which is Evidently's, computed directly."""
    return {
        name: column_distance(bound.method, reference[name], current[name])
        for name, bound in bounds.items()
    }


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
        ValueDrift(
            column=name,
            # Without a method Evidently chooses one.
            method=None if bound.method == "evidently" else bound.method,
            threshold=bound.threshold,
        )
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
) -> ColumnDrift:
    """Compare columns with those of a reference, one column in memory at a time."""
    # Both sides in the same types, or a CSV reference would not compare with Parquet rows.
    reference = reference.with_types(declared_types(config))
    detection = config.drift_detection
    admission = _Admission(detection.min_rows, "validation.drift_detection.min_rows")
    entries: dict[str, FeatureDrift] = {}
    shapes: dict[str, DriftShape] = {}
    for name in _compared_names(table, reference, detection, keys):
        override = detection.per_column.get(name)
        bound = DriftBound.resolve(override, detection.method, detection.threshold)
        if name not in reference.schema:
            entries[name] = bound.reject(name, "the reference has no such column")
            continue
        before = reference.column(name)
        is_named = name in detection.columns or name in detection.per_column
        if not is_named and not is_comparable(before):
            continue
        # Wasserstein and KS compare ordered values, which text lacks: PSI replaces them there.
        if not before.dtype.is_numeric() and bound.method in ("wasserstein", "ks"):
            bound = replace(bound, method="psi")
        if name not in table.schema:
            entries[name] = bound.reject(name, "these rows have no such column")
            continue
        after = _column_like(table, name, before.dtype)
        if admission.admits(bound, before, after):
            bound = bound.with_choice_for(before, after)
            entries[name] = bound.judge(name, column_distance(bound.method, before, after))
            both = shares(before, after)
            shapes[name] = DriftShape(
                labels=tuple(f"{c:g}" if isinstance(c, float) else str(c) for c in both.cells),
                reference=tuple(both.reference.tolist()),
                current=tuple(both.current.tolist()),
            )
        elif name in admission.rejected:
            entries[name] = admission.rejected[name]
    if not entries and not admission.few:
        bound = DriftBound(detection.method, detection.threshold)
        entries["*"] = bound.reject("*", _NOTHING)
    return ColumnDrift(tuple(entries.values()), admission.skip_reason(), shapes)


def _compared_names(
    table: CheckedTable, reference: CheckedTable, config: DriftDetection, keys: Sequence[str]
) -> list[str]:
    """Columns of the rules, or those that the reference has, also where the table lost them."""
    if config.columns:
        return list(config.columns)
    known = [name for name in table.schema if name in reference.schema]
    lost = [name for name in reference.schema if name not in table.schema]
    named = [name for name in config.per_column if name not in reference.schema]
    excluded = {*keys, *config.exclude}
    return [name for name in (*known, *lost, *named) if name not in excluded]


def _column_like(table: CheckedTable, name: str, dtype: pl.DataType) -> pl.Series:
    """A column; as text where its reference is, and a file without types gave it another type."""
    if _is_categorical(dtype) and dtype != pl.Boolean and table.forms.get(name) == "text":
        return table.with_types({name: "string"}).column(name)
    return table.column(name)


def is_comparable(column: pl.Series) -> bool:
    """Whether a column of the reference is compared where the rules name none."""
    if _is_categorical(column.dtype):
        return column.n_unique() <= _MOST_TEXTS
    return column.dtype.is_numeric() or column.dtype == pl.Null


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
