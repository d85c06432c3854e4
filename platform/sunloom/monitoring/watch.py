"""A monitor's round: count new rows, compare the windows that are over, raise and resolve alerts.

What it counted and compared is kept in the database, so that a round continues the one before.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sunloom.config.monitoring import (
    MonitoringRecipe,
    TableReference,
    TrailingReference,
    WatchConfig,
    WeekdayReference,
)
from sunloom.core.alerts import Alert, deliver_alerts, emit_alert, resolve_alert
from sunloom.core.artifacts import fingerprint
from sunloom.core.database import Database, open_database, utc_now
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift import DriftReport
from sunloom.data.quality.drift_statistics import has_value
from sunloom.data.sources.table_files import data_files
from sunloom.errors import DataError
from sunloom.monitoring.alert_state import update_alerts
from sunloom.monitoring.evidently_report import write_report
from sunloom.monitoring.findings import (
    Finding,
    drift_features,
    drift_findings,
    feature_quality,
    quality_findings,
)
from sunloom.monitoring.histogram_store import HistogramStore, MonitorRow
from sunloom.monitoring.histograms import Bins, build_bins, count_rows, merge_histograms
from sunloom.monitoring.source_counts import (
    HourlyCounts,
    count_hours,
    rows_before,
    sample_rows,
    table_rows,
    watched_features,
)
from sunloom.monitoring.stored_results import (
    delete_results_before,
    store_drift,
    store_result,
)
from sunloom.monitoring.windows import EPOCH, HOUR, TimeSpan, floor_to, hour_until

KINDS = ("drift", "quality", "performance")


@dataclass(frozen=True)
class PerformanceFigures:
    """Speed of a round and age of the source, as the database has them.

    Attributes:
        rows: Rows counted.
        counting_s: Time that it took.
        rows_per_s: Its speed; None where no time passed.
        microseconds_per_value: Time for each feature of each row.
        features: Watched features.
        freshness_lag_s: Age of the newest row; None where no row was ever counted.
    """

    rows: int
    counting_s: float
    rows_per_s: float | None
    microseconds_per_value: float
    features: int
    freshness_lag_s: float | None


@dataclass(frozen=True)
class WatchResult:
    """One round of a monitor.

    Attributes:
        rows: Rows counted.
        windows: Windows compared with their reference.
        drifted: Window to its drifted features.
        raised: Features with an alert.
        skipped: Windows with too few rows.
        performance: Speed and lag, where they were measured.
        report: Evidently's page, where one was written.
        numbers: Its figures, JSON.
    """

    rows: int
    windows: int
    drifted: Mapping[str, Sequence[str]]
    raised: Sequence[str]
    skipped: int
    performance: PerformanceFigures | None = None
    report: Path | None = None
    numbers: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as the command line prints it, without what was not done."""
        plain: dict[str, Any] = {
            "rows": self.rows,
            "windows": self.windows,
            "drifted": dict(self.drifted),
            "raised": list(self.raised),
            "skipped": self.skipped,
        }
        if self.performance is not None:
            plain["freshness_lag_s"] = self.performance.freshness_lag_s
        if self.report is not None:
            plain |= {"report": str(self.report), "numbers": str(self.numbers)}
        return plain


@dataclass(frozen=True)
class _WindowResult:
    """Drifted features of a window, and features with an alert."""

    drifted: Sequence[str]
    raised: Sequence[str]


@dataclass
class _WatchRound:
    """What a round works with; ``row`` is the monitor's state, changed on the way."""

    recipe: MonitoringRecipe
    config: WatchConfig
    database: Database
    store: HistogramStore
    row: MonitorRow
    now: datetime
    kinds: Collection[str]


def run_watch(
    recipe: MonitoringRecipe, now: datetime | None = None, kinds: Collection[str] = KINDS
) -> WatchResult:
    """Run one round.

    Args:
        recipe: With a ``watch`` section.
        now: The present; windows that end later are not compared.
        kinds: Some of ``drift``, ``quality`` and ``performance``.

    Raises:
        ConfigError: The recipe has no ``watch``.
        UsageError: The source or the reference does not exist.
        DataError: The event time is missing or no datetime, or no feature has a value.
    """
    config = recipe.require_watch()
    start = time.perf_counter()
    work = _open_round(recipe, config, now or utc_now(), kinds)
    counts, due = _count_new_rows(work)
    counting_s = time.perf_counter() - start
    compared = due if {"drift", "quality"} & set(kinds) else []
    results = {span: _compare_window(work, span) for span in compared}
    windows = {span: result for span, result in results.items() if result is not None}
    raised = [feature for result in windows.values() for feature in result.raised]
    performance = None
    if "performance" in kinds:
        performance = _measure_performance(work, counts, counting_s)
        if _update_lag_alert(work, performance.freshness_lag_s):
            raised.append("freshness")
    # Only now: a round that fails before this is repeated, and replaces the counts it wrote.
    with work.database.session() as session:
        session.merge(work.row)
    work.store.roll_up(work.now - _hours_kept(config))
    work.store.delete_before(work.now - config.keep_days)
    delete_results_before(work.database, config.name, work.now - config.keep_days)
    # Deliveries that failed in an earlier round, too, are tried before a report may fail this one.
    deliver_alerts(recipe)
    files = None
    if windows and config.report is not None and "drift" in kinds:
        spans = _reference_spans(config, max(windows))
        files = write_report(recipe, work.store.bins, max(windows), spans)
    report, numbers = files or (None, None)
    get_logger("monitoring").info(
        "%s: %d rows, %d windows, alerts: %s",
        config.name, counts.rows, len(windows), ", ".join(raised) or "none",
    )  # fmt: skip
    return WatchResult(
        rows=counts.rows,
        windows=len(windows),
        drifted={str(span): result.drifted for span, result in windows.items() if result.drifted},
        raised=raised,
        skipped=len(results) - len(windows),
        performance=performance,
        report=report,
        numbers=numbers,
    )


def _open_round(
    recipe: MonitoringRecipe, config: WatchConfig, now: datetime, kinds: Collection[str]
) -> _WatchRound:
    database = open_database(recipe, MonitorRow)
    with database.session() as session:
        row = session.get(MonitorRow, config.name)
        if row is not None:
            # Detached: the round changes it and stores it at its end, in another session.
            session.expunge(row)
    basis = _basis(config)
    if row is None or row.basis != basis:
        bins = _build_bins(config, now)
        row = MonitorRow(
            name=config.name, cells=bins.to_json(), basis=basis, recorded_until=None,
            # Windows that were compared with an earlier reference are not compared again.
            judged=row.judged if row is not None else {},
            streaks=row.streaks if row is not None else {},
        )  # fmt: skip
        store = HistogramStore(database, config.name, bins)
        if isinstance(config.reference, TableReference):
            parts = (count_rows(part, bins) for part in table_rows(config.reference.path))
            store.put_reference(merge_histograms(parts, bins))
    else:
        store = HistogramStore(database, config.name, Bins.from_json(row.cells))
    return _WatchRound(
        recipe=recipe, config=config, database=database, store=store, row=row, now=now, kinds=kinds
    )


def _basis(config: WatchConfig) -> str:
    """Changes when the bins or the reference's counts have to be made anew."""
    files: list[Any] = []
    if isinstance(config.reference, TableReference):
        # Times and sizes instead of a hash: a training set is too large to be read in each round.
        files = [
            (str(file), file.stat().st_mtime_ns, file.stat().st_size)
            for file in data_files(config.reference.path)
        ]
    parts = (config.features, config.exclude, sorted(config.defaults.items()), config.cells)
    return fingerprint(str(parts), str(config.source), config.reference.type, str(files))


def _build_bins(config: WatchConfig, now: datetime) -> Bins:
    reference, event_time = config.reference, config.source.event_time
    if isinstance(reference, TableReference):
        sample = sample_rows(reference.path, None)
    else:
        sample = sample_rows(config.source.path, event_time)
        if event_time is not None:
            newest = floor_to(now, config.window) - config.window
            sample = rows_before(sample, event_time, newest, config.min_rows)
    # A feature without any value has no bins, and must not end the watch of all others:
    # drift_findings names it in every window.
    names = [name for name in watched_features(sample, config) if has_value(sample[name])]
    if not names:
        path = reference.path if isinstance(reference, TableReference) else config.source.path
        raise DataError(f"No feature of {config.name} has a value in {path}.", param="watch")
    defaults: dict[str, float | str] = {}
    for name, value in config.defaults.items():
        if isinstance(value, str):
            defaults[name] = value
        elif sample[name].dtype.is_numeric():
            defaults[name] = float(value)
        else:
            # Truth values are counted as text, as Polars writes them.
            defaults[name] = str(value).lower()
    return build_bins(sample, names, config.cells, defaults)


def _count_new_rows(work: _WatchRound) -> tuple[HourlyCounts, list[TimeSpan]]:
    """Counts of the rows that were not counted yet, and the windows that are due."""
    config, bins = work.config, work.store.bins
    if config.source.event_time is None:
        # The whole table is the window of this hour; a second run in the hour replaces it.
        start = floor_to(work.now, HOUR)
        parts = (count_rows(part, bins) for part in table_rows(config.source.path))
        whole = merge_histograms(parts, bins)
        work.store.put({start: whole})
        return HourlyCounts({start: whole}, whole.rows, None), [TimeSpan(start, start + HOUR)]
    until = work.row.recorded_until
    # Hours that late rows may still change are counted anew, and replace their earlier counts.
    since = floor_to(until - config.late, HOUR) if until is not None else None
    counts = count_hours(config, bins, since, work.now)
    work.store.put(counts.hours)
    work.row.recorded_until = work.now
    return counts, _due_windows(work)


def _due_windows(work: _WatchRound) -> list[TimeSpan]:
    """Windows with rows that are over and not compared: the newest ``catch_up``, oldest first."""
    length = work.config.window
    end = floor_to(work.now, length)
    compared = [work.row.judged[kind] for kind in work.kinds if kind in work.row.judged]
    # The kind that is furthest behind decides: a round may have compared only one of them.
    start = min((datetime.fromisoformat(time) for time in compared), default=EPOCH)
    starts = {floor_to(hour, length) for hour in work.store.starts(TimeSpan(start, end))}
    # Bounds the work of the first round, and of one after a long pause.
    newest = sorted(starts)[-work.config.catch_up :]
    return [TimeSpan(start, start + length) for start in newest]


def _compare_window(work: _WatchRound, span: TimeSpan) -> _WindowResult | None:
    """Compare a window with its reference; None where either has too few rows."""
    config, bins = work.config, work.store.bins
    spans = _reference_spans(config, span)
    reference = work.store.read_reference() if spans is None else work.store.read(spans)
    current = work.store.read([span])
    for kind in ("drift", "quality"):
        if kind in work.kinds and config.source.event_time is not None:
            # A new dict, because SQLAlchemy does not see changes inside a JSON column.
            work.row.judged = work.row.judged | {kind: span.end.isoformat()}
    # Marked as compared above all the same: a window that is over gets no more rows.
    if min(current.rows, reference.rows) < config.min_rows:
        return None
    findings: list[Finding] = []
    drifted: list[str] = []
    if "drift" in work.kinds:
        findings += drift_findings(reference, current, bins, config)
        report = DriftReport(drift_features(findings, config), reference.rows, current.rows)
        store_drift(work.recipe, config.name, _reference_name(config), str(span), report)
        drifted = [feature.feature for feature in report.drifted_features]
    if "quality" in work.kinds:
        quality = quality_findings(reference, current, bins, config)
        features = feature_quality(reference, current, bins)
        figures = {
            "rows": current.rows,
            "features": [asdict(feature) for feature in features],
            "findings": [asdict(finding) for finding in quality if finding.flagged],
        }
        store_result(work.database, config.name, "quality", span, figures)
        findings += quality
    streaks = dict(work.row.streaks)
    raised = update_alerts(work.recipe, config, findings, streaks, str(span))
    work.row.streaks = streaks
    return _WindowResult(drifted=drifted, raised=raised)


def _hours_kept(config: WatchConfig) -> timedelta:
    """Age from which a day's hours are merged: no window compares the hours within it any more."""
    reference, day = config.reference, timedelta(days=1)
    if not isinstance(reference, WeekdayReference) or config.window % day == timedelta(0):
        return config.keep_hours
    # A part of a day, weeks before a window that may itself be the oldest that is caught up with.
    needed = timedelta(weeks=reference.weeks) + (config.catch_up + 1) * config.window + day
    return max(config.keep_hours, needed)


def _reference_spans(config: WatchConfig, span: TimeSpan) -> list[TimeSpan] | None:
    """The spans that a window is compared with; None where that is a table."""
    reference = config.reference
    if isinstance(reference, TableReference):
        return None
    if isinstance(reference, TrailingReference):
        return [TimeSpan(span.start - reference.length, span.start)]
    weeks = [timedelta(weeks=number) for number in range(1, reference.weeks + 1)]
    return [TimeSpan(span.start - length, span.end - length) for length in weeks]


def _reference_name(config: WatchConfig) -> str:
    reference = config.reference
    if isinstance(reference, TableReference):
        # The column of the database has 100 characters.
        return reference.path.name[-100:]
    if isinstance(reference, TrailingReference):
        return f"the {reference.length.total_seconds() / 86_400:g} days before"
    return f"the same weekday of {reference.weeks} weeks before"


def _measure_performance(
    work: _WatchRound, counts: HourlyCounts, counting_s: float
) -> PerformanceFigures:
    """Speed of the counting and age of the newest row, also where no new one came; stored."""
    if counts.newest is not None:
        work.row.judged = work.row.judged | {"newest": counts.newest.isoformat()}
    newest = work.row.judged.get("newest")
    lag = work.now - datetime.fromisoformat(newest) if newest is not None else None
    features = len(work.store.bins.features)
    figures = PerformanceFigures(
        rows=counts.rows,
        counting_s=counting_s,
        rows_per_s=counts.rows / counting_s if counting_s else None,
        microseconds_per_value=counting_s * 1e6 / max(counts.rows * features, 1),
        features=features,
        freshness_lag_s=None if lag is None else lag.total_seconds(),
    )
    span = hour_until(work.now)
    store_result(work.database, work.config.name, "performance", span, asdict(figures))
    return figures


def _update_lag_alert(work: _WatchRound, lag_s: float | None) -> bool:
    """Raise or resolve the alert about the newest row's age; whether it is raised."""
    config = work.config
    if config.max_lag is None:
        return False
    bound_s = config.max_lag.total_seconds()
    is_late = lag_s is None or lag_s > bound_s
    # A source in which no row was ever counted is as late as can be.
    age = "was never seen" if lag_s is None else f"is {lag_s / 3600:.1f} hours old"
    alert = Alert(
        name="feature_freshness",
        severity=config.alerts.severity,
        message=f"The newest row of {config.name} {age}",
        labels={"monitor": config.name},
        value=lag_s,
        threshold=bound_s,
    )
    (emit_alert if is_late else resolve_alert)(work.recipe, alert)
    return is_late
