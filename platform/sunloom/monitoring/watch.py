"""One round of a monitor: count new rows, judge the windows that are over, raise and resolve."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from sunloom.config.monitoring.recipe import MonitoringRecipe
from sunloom.config.monitoring.watch import TableReference, TrailingReference, WatchConfig
from sunloom.core.alerts.delivery import deliver_alerts, emit_alert, resolve_alert
from sunloom.core.database import Database, open_database, utc_now
from sunloom.core.fingerprint import fingerprint
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift.compare import DriftReport
from sunloom.data.sources.table_files import data_files
from sunloom.monitoring import source_counts as feed
from sunloom.monitoring.alert_state import AlertState, lag_alert, update_alerts
from sunloom.monitoring.bins import Bins, build_bins
from sunloom.monitoring.drift_table import link_report, store_drift, unlink_reports
from sunloom.monitoring.findings import (
    Finding,
    drift_features,
    drift_findings,
    feature_quality,
    quality_findings,
)
from sunloom.monitoring.histogram_store import (
    EPOCH,
    HistogramStore,
    MonitorRow,
    floor_hour,
    floor_to,
)
from sunloom.monitoring.histograms import Histogram, count_rows, merge_histograms
from sunloom.monitoring.results_table import forget_results, store_result

KINDS = ("drift", "quality", "performance")
_HOUR = timedelta(hours=1)

Span = tuple[datetime, datetime]


@dataclass
class _WatchRound:
    """What a run works with."""

    recipe: MonitoringRecipe
    config: WatchConfig
    database: Database
    history: HistogramStore
    row: MonitorRow
    moment: datetime
    kinds: Collection[str]


def run_watch(
    recipe: MonitoringRecipe, moment: datetime | None = None, kinds: Collection[str] = KINDS
) -> dict[str, Any]:
    """Do one round.

    Args:
        recipe: With a ``watch`` section.
        moment: The present; windows that end later are not judged.
        kinds: Some of ``drift``, ``quality`` and ``performance``.

    Returns:
        ``rows`` counted, ``windows`` judged, ``drifted``: features by window, ``raised``: features
        with an alert, ``skipped``: windows with too few rows; ``report`` and ``numbers``: files of
        Evidently's report, where one was made.

    Raises:
        ConfigError: The recipe has no ``watch``.
        UsageError: The source or the reference is not there.
        DataError: A column is missing or of another type than in the reference.
    """
    config = recipe.require_watch()
    began = time.perf_counter()
    work = _open(recipe, config, moment or utc_now(), kinds)
    recorded, spans = _count_new(work)
    counting_s = time.perf_counter() - began
    summary: dict[str, Any] = {"rows": recorded.rows, "windows": 0, "drifted": {}, "raised": []}
    summary["skipped"] = 0
    due = spans if {"drift", "quality"} & set(kinds) else ()
    judged = [span for span in due if _judge_window(work, span, summary)]
    if "performance" in kinds:
        _performance(work, recorded, counting_s, summary)
    _keep(work)
    deliver_alerts(recipe)
    if judged and config.report is not None and "drift" in kinds:
        summary |= _report(work, judged[-1])
    get_logger("monitoring").info(
        "%s: %d rows, %d windows, alerts: %s", config.name, summary["rows"], summary["windows"],
        ", ".join(summary["raised"]) or "none",
    )  # fmt: skip
    return summary


def _open(
    recipe: MonitoringRecipe, config: WatchConfig, moment: datetime, kinds: Collection[str]
) -> _WatchRound:
    database = open_database(recipe)
    database.ensure(MonitorRow)
    with database.session() as session:
        row = session.get(MonitorRow, config.name)
        if row is not None:
            session.expunge(row)
    basis = _basis(config)
    if row is not None and row.basis == basis:
        history = HistogramStore(database, config.name, Bins.from_json(row.cells))
        return _WatchRound(recipe, config, database, history, row, moment, kinds)
    cells = _cells(config, moment)
    fresh = MonitorRow(
        name=config.name, cells=cells.to_json(), basis=basis, recorded_until=None,
        # A new reference says nothing about windows that were judged by the old one.
        judged=row.judged if row is not None else {},
        streaks=row.streaks if row is not None else {},
    )  # fmt: skip
    history = HistogramStore(database, config.name, cells)
    if isinstance(config.reference, TableReference):
        parts = [count_rows(part, cells) for part in feed.whole_table(config.reference.path)]
        history.put_reference(merge_histograms(parts, cells))
    return _WatchRound(recipe, config, database, history, fresh, moment, kinds)


def _basis(config: WatchConfig) -> str:
    """Changes when the cells or the reference's counts have to be made anew."""
    files: list[Any] = []
    if isinstance(config.reference, TableReference):
        files = [
            (str(file), file.stat().st_mtime_ns, file.stat().st_size)
            for file in data_files(config.reference.path)
        ]
    parts = (config.features, config.exclude, sorted(config.defaults.items()), config.cells)
    return fingerprint(str(parts), str(config.source), config.reference.type, str(files))


def _cells(config: WatchConfig, moment: datetime) -> Bins:
    rule, at = config.reference, config.source.event_time
    if isinstance(rule, TableReference):
        sample = feed.sample_rows(rule.path, None)
    else:
        sample = feed.sample_rows(config.source.path, at)
        if at is not None:
            newest = floor_to(moment, config.window) - config.window
            sample = feed.rows_before(sample, at, newest, config.min_rows)
    names = feed.watched_features(sample, config)
    defaults: dict[str, float | str] = {
        name: value if isinstance(value, str) else _plain(value, sample[name])
        for name, value in config.defaults.items()
    }
    return build_bins(sample, names, config.cells, defaults)


def _plain(value: float | bool, column: pl.Series) -> float | str:
    return float(value) if column.dtype.is_numeric() else str(value).lower()


def _count_new(work: _WatchRound) -> tuple[feed.HourlyCounts, list[Span]]:
    """Count rows not counted yet, and say which windows are to be judged."""
    config = work.config
    if config.source.event_time is None:
        start = floor_hour(work.moment)
        parts = [
            count_rows(part, work.history.cells) for part in feed.whole_table(config.source.path)
        ]
        whole = merge_histograms(parts, work.history.cells)
        work.history.put({start: whole})
        return feed.HourlyCounts({start: whole}, whole.rows, None), [(start, start + _HOUR)]
    until = work.row.recorded_until
    since = floor_hour(until - config.late) if until is not None else None
    recorded = feed.count_hours(config, work.history.cells, since, work.moment)
    work.history.put(recorded.hours)
    work.row.recorded_until = work.moment
    return recorded, _spans(work)


def _spans(work: _WatchRound) -> list[Span]:
    """Windows with rows that are over and not judged: the newest ``catch_up``, oldest first."""
    length = work.config.window
    end = floor_to(work.moment, length)
    done = [work.row.judged[kind] for kind in work.kinds if kind in work.row.judged]
    start = min((datetime.fromisoformat(text) for text in done), default=EPOCH)
    starts = {floor_to(hour, length) for hour in work.history.starts(start, end)}
    return [(one, one + length) for one in sorted(starts)[-work.config.catch_up :]]


def _judge_window(work: _WatchRound, span: Span, summary: dict[str, Any]) -> bool:
    """Whether there were rows enough to judge."""
    config, cells = work.config, work.history.cells
    current = work.history.between(*span)
    reference = _reference(work, span)
    for kind in ("drift", "quality"):
        if kind in work.kinds and config.source.event_time is not None:
            work.row.judged = work.row.judged | {kind: span[1].isoformat()}
    if min(current.rows, reference.rows) < config.min_rows:
        summary["skipped"] += 1
        return False
    window = _named(span)
    findings: list[Finding] = []
    if "drift" in work.kinds:
        findings += drift_findings(reference, current, cells, config)
        report = DriftReport(drift_features(findings, config), reference.rows, current.rows)
        store_drift(work.recipe, config.name, _shown(config), window, report)
        if report.drifted_features:
            summary["drifted"][window] = [one.feature for one in report.drifted_features]
    if "quality" in work.kinds:
        findings += quality_findings(reference, current, cells, config)
        rows = feature_quality(reference, current, cells)
        flagged = [asdict(one) for one in findings if one.flagged and one.rule != "feature_drift"]
        data = {"rows": current.rows, "features": rows, "findings": flagged}
        store_result(work.database, config.name, "quality", span, data)
    streaks = AlertState(dict(work.row.streaks))
    summary["raised"] += update_alerts(work.recipe, config, findings, streaks, window)
    work.row.streaks = streaks.held
    summary["windows"] += 1
    return True


def _named(span: Span) -> str:
    return f"{span[0]:%Y-%m-%dT%H}/{span[1]:%Y-%m-%dT%H}"


def _reference(work: _WatchRound, span: Span) -> Histogram:
    spans = _reference_spans(work.config, span)
    return work.history.reference() if spans is None else work.history.within(spans)


def _reference_spans(config: WatchConfig, span: Span) -> list[Span] | None:
    """What is normal for a window; None where it is a table."""
    rule = config.reference
    if isinstance(rule, TableReference):
        return None
    if isinstance(rule, TrailingReference):
        return [(span[0] - rule.length, span[0])]
    week = timedelta(days=7)
    return [(span[0] - n * week, span[1] - n * week) for n in range(1, rule.weeks + 1)]


def _report(work: _WatchRound, span: Span) -> dict[str, str]:
    from sunloom.monitoring.evidently_report import draw_samples, write_pages

    config = work.config
    samples = draw_samples(work.recipe, work.history.cells, span, _reference_spans(config, span))
    pages = write_pages(work.recipe, samples, span[0], _named(span)) if samples else None
    if pages is None:
        return {}
    link_report(work.recipe, config.name, _named(span), pages.html)
    unlink_reports(work.recipe, pages.gone)
    return {"report": str(pages.html), "numbers": str(pages.json)}


def _shown(config: WatchConfig) -> str:
    rule = config.reference
    if isinstance(rule, TableReference):
        return rule.path.name[-100:]
    if isinstance(rule, TrailingReference):
        return f"the {rule.length.total_seconds() / 86_400:g} days before"
    return f"the same weekday of {rule.weeks} weeks before"


def _performance(
    work: _WatchRound, recorded: feed.HourlyCounts, counting_s: float, summary: dict[str, Any]
) -> None:
    config = work.config
    lag = (work.moment - recorded.newest).total_seconds() if recorded.newest else None
    known = work.row.judged.get("newest")
    if lag is None and known is not None:
        lag = (work.moment - datetime.fromisoformat(known)).total_seconds()
    if recorded.newest is not None:
        work.row.judged = work.row.judged | {"newest": recorded.newest.isoformat()}
    features = len(work.history.cells.features)
    data = {
        "rows": recorded.rows,
        "counting_s": counting_s,
        "rows_per_s": recorded.rows / counting_s if counting_s else None,
        "microseconds_per_value": counting_s * 1e6 / max(recorded.rows * features, 1),
        "features": features,
        "freshness_lag_s": lag,
    }
    span = (floor_hour(work.moment), work.moment)
    store_result(work.database, config.name, "performance", span, data)
    summary["freshness_lag_s"] = lag
    if config.max_lag is None or lag is None:
        return
    alert = lag_alert(config, lag)
    if lag > config.max_lag.total_seconds():
        emit_alert(work.recipe, alert)
        summary["raised"].append("freshness")
    else:
        resolve_alert(work.recipe, alert)


def _keep(work: _WatchRound) -> None:
    """Write down what the next run needs, and thin out what is old."""
    with work.database.session() as session:
        session.merge(work.row)
    work.history.roll_up(work.moment - work.config.keep_hours)
    work.history.forget(work.moment - work.config.keep_days)
    forget_results(work.database, work.config.name, work.moment - work.config.keep_days)
