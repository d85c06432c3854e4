"""A drift run: two periods of an event log compared feature by feature, stored, and alerted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from sunloom.config.monitoring import (
    EventsConfig,
    MonitoringRecipe,
    PeriodConfig,
)
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift import DriftReport, FeatureDrift, drift_report
from sunloom.data.sources.table_files import read_table
from sunloom.errors import DataError, MissingColumnError, UsageError, known_names_hint
from sunloom.monitoring.stored_results import store_drift


@dataclass(frozen=True)
class DriftRunResult:
    """A drift run's figures and files.

    Attributes:
        drifted_features: Number of features that drifted, or cannot be compared.
        alerts: Alerts raised: 0 or 1.
        report: Evidently's page, or the JSON where the engine writes none.
        numbers: The JSON.
        features: Each feature's comparison.
        drift_skipped: What has too few values to be judged; None where all have enough.
    """

    drifted_features: int
    alerts: int
    report: str
    numbers: str
    features: Sequence[FeatureDrift]
    drift_skipped: str | None

    def to_dict(self) -> dict[str, Any]:
        """The result as the command line prints it."""
        return asdict(self)


def run_drift(recipe: MonitoringRecipe) -> DriftRunResult:
    """Compare the recipe's two periods, store the report, raise or resolve its alert.

    Args:
        recipe: Rows, comparison, alert.

    Raises:
        UsageError: The rows do not exist.
        DataError: A period is empty, or a column is missing.
    """
    config = recipe.events
    # Of the whole log, because gaps and counts reach back to before a period.
    rows = event_features(read_events(recipe), config)
    reference, current = (
        in_period(rows, config.event_time, period) for period in (config.reference, config.current)
    )
    folder = recipe.paths.outputs / "monitoring" / config.name
    report = drift_report(reference, current, recipe.drift, folder)
    store_drift(recipe, config.name, str(config.reference), str(config.current), report)
    drifted = len(report.drifted_features)
    is_raised = drifted >= recipe.alert.min_features
    if is_raised:
        emit_alert(recipe, build_alert(recipe, report))
    # The alert of an earlier run stays open where this one had too few values to look.
    elif report.skipped is None:
        resolve_alert(recipe, build_alert(recipe, report))
    get_logger("monitoring").info(
        "%s: %d of %d features drifted. %s",
        config.name, drifted, len(report.features), report.skipped or "",
    )  # fmt: skip
    return DriftRunResult(
        drifted_features=drifted,
        alerts=int(is_raised),
        report=str(report.html or report.numbers),
        numbers=str(report.numbers),
        features=report.features,
        drift_skipped=report.skipped,
    )


def build_alert(recipe: MonitoringRecipe, report: DriftReport) -> Alert:
    """The alert that a report is about, whether or not it is raised."""
    config, events, drifted = recipe.alert, recipe.events, report.drifted_features
    share = len(drifted) / max(len(report.features), 1)
    names = ", ".join(f"{feature.feature} ({feature.outcome})" for feature in drifted)
    return Alert(
        name=config.name,
        severity="critical" if share >= config.critical_share else config.severity,
        message=(
            f"{len(drifted)} of {len(report.features)} features of {events.name} drifted "
            f"between {events.reference} and {events.current}: {names or 'none'}"
        ),
        labels={"report": events.name},
        value=float(len(drifted)),
        threshold=float(config.min_features),
    )


def read_events(recipe: MonitoringRecipe) -> pl.DataFrame:
    """The recipe's event log, every period.

    Raises:
        UsageError: The file or folder does not exist or holds no Parquet.
        MissingColumnError: It lacks the column of the entity or of the event time.
        DataError: It cannot be read, or its times have no time zone.
    """
    path = recipe.events.path or recipe.paths.outputs / "data" / "cdnow" / "purchases"
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UsageError(f"There are no events in {path}.", "Run the data step first.", "events")
    frame = read_table(path).rows
    for name in (recipe.events.entity, recipe.events.event_time):
        if name not in frame.columns:
            hint = known_names_hint(name, frame.columns)
            raise MissingColumnError(f"The events in {path} have no column {name!r}.", hint, name)
    name = recipe.events.event_time
    dtype = frame.schema[name]
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise DataError(
            f"The event time {name!r} is {dtype}, not datetimes with a time zone.",
            "Write them in UTC.",
            name,
        )
    return frame


def event_features(events: pl.DataFrame, config: EventsConfig) -> pl.DataFrame:
    """Each event's columns, and features of its entity's past.

    Key: one row an event; event time ``config.event_time``. Adds ``days_since_previous``
    (Float64, null at an entity's first event), ``days_since_first`` (Float64),
    ``earlier_events`` (Int64), ``weekday`` (Int64, Monday 1) and the quotients (Float64). Only
    events that are not later are used.
    """
    entity, event_time = config.entity, config.event_time
    # Events of one time keep the order of the file, so that each run gives the same features.
    ordered = events.sort(entity, event_time, maintain_order=True)
    time, day = pl.col(event_time), pl.duration(days=1)
    quotients = {q.name: pl.col(q.numerator) / pl.col(q.denominator) for q in config.quotients}
    return ordered.with_columns(
        ((time - time.shift(1).over(entity)) / day).alias("days_since_previous"),
        ((time - time.first().over(entity)) / day).alias("days_since_first"),
        pl.int_range(pl.len(), dtype=pl.Int64).over(entity).alias("earlier_events"),
        time.dt.weekday().cast(pl.Int64).alias("weekday"),
        # Division by 0 gives infinity or NaN; null says that there is no quotient.
        *[pl.when(q.is_finite()).then(q).alias(name) for name, q in quotients.items()],
    ).drop(entity)


def in_period(events: pl.DataFrame, event_time: str, period: PeriodConfig) -> pl.DataFrame:
    """Events of the period's days.

    Raises:
        DataError: There are none.
    """
    start = datetime(period.start.year, period.start.month, period.start.day, tzinfo=UTC)
    end = datetime(period.end.year, period.end.month, period.end.day, tzinfo=UTC)
    time = pl.col(event_time)
    # Both days of a period are included.
    rows = events.filter(time >= start, time < end + timedelta(days=1))
    if rows.is_empty():
        times = (time.min().cast(pl.String), time.max().cast(pl.String).alias("last"))
        first, last = events.select(*times).row(0)
        hint = f"They run from {first} to {last}." if first else "No event has a time."
        raise DataError(f"No event is in {period}.", hint)
    return rows
