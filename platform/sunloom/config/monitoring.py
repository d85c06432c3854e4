"""The recipe of monitoring: a drift report of two periods, or a table watched window by window."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sunloom.config.alerts import Severity
from sunloom.config.data import DriftConfig
from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings
from sunloom.errors import ConfigError

_HOUR = timedelta(hours=1)


class WatchSource(Model):
    """The rows watched."""

    path: Path
    """A Parquet, CSV or JSON-lines file, or a folder to which files are added."""
    event_time: str | None = "event_time"
    """Column with the time of each row, UTC. Empty: each run takes the whole file as one
    window."""


class TableReference(Model):
    """A table taken as normal, such as the training set."""

    type: Literal["table"] = "table"
    path: Path
    """A file or folder of rows."""


class TrailingReference(Model):
    """The time right before each window."""

    type: Literal["trailing"] = "trailing"
    # Whole weeks: each weekday counts equally often.
    length: Duration = timedelta(days=28)
    """Its length."""


class WeekdayReference(Model):
    """The same hours of the same weekday in the weeks before each window."""

    type: Literal["same_weekday"] = "same_weekday"
    weeks: int = Field(default=4, ge=1, le=52)
    """How many weeks."""


class QualityBounds(Model):
    """Bounds of a feature's quality, against its reference."""

    null_rate_rise: float = Field(default=0.05, gt=0, le=1)
    """Rise of the share of missing values."""
    default_rate_rise: float = Field(default=0.05, gt=0, le=1)
    """Rise of the share of defaults."""
    outside_rate: float = Field(default=0.01, gt=0, le=1)
    """Share of values outside the reference's range, or of unknown texts."""


class WatchAlerts(Model):
    """How findings become alerts."""

    severity: Severity = "warning"
    """Severity of an alert about one feature."""
    raise_after: int = Field(default=1, ge=1)
    """Findings in consecutive windows before an alert is raised."""
    clear_after: int = Field(default=2, ge=1)
    """Calm windows in a row before it is resolved."""
    # Hysteresis: a value close to its threshold would raise and resolve the alert by turns.
    clear_share: float = Field(default=0.8, gt=0, le=1)
    """A window is calm when the value lies below this share of its threshold."""
    set_share: float = Field(default=0.3, gt=0, le=1)
    """From this share of features on there is one critical alert about the set instead of one a
    feature."""


class WatchReport(Model):
    """Evidently's report of the newest evaluated window, from a sample of its rows."""

    # Evidently takes 1.2 s for 100,000 rows of 20 features, the stored counts 2 ms.
    rows: int = Field(default=2_000, ge=10, le=100_000)
    """Rows of the window, and of its reference, drawn at random by ``seed`` and not stored."""
    path: Path | None = None
    """Folder of the reports, with one folder a window that holds ``drift.html`` and
    ``drift.json``; ``<outputs>/monitoring/<name>`` when empty."""
    keep: int = Field(default=30, ge=1)
    """Newest reports kept, of some 5 MB each."""


class WatchConfig(Model):
    """A table watched window by window: drift, quality, performance."""

    name: str
    """Name of the monitor: in the database, metrics and alerts."""
    source: WatchSource
    """The rows."""
    features: tuple[str, ...] = ()
    """Columns watched; numbers, truth values and text of at most 100 values when empty."""
    exclude: tuple[str, ...] = ("id", "entity_id", "customer_id")
    """Columns never watched."""
    defaults: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Feature to the default value that replaces missing ones; its share is watched."""
    reference: Annotated[
        TableReference | TrailingReference | WeekdayReference, Field(discriminator="type")
    ] = TrailingReference()
    """The reference that windows are compared with."""
    window: Duration = timedelta(days=1)
    """Length of the windows: whole hours, counted from 1970."""
    # Stored counts belong to these bins: with another number the monitor counts anew.
    cells: int = Field(default=20, ge=4, le=200)
    """Bins of each feature, of equally many reference rows each."""
    method: Literal["psi", "jensenshannon", "kl_div"] = "psi"
    """Distance of the stored histograms."""
    threshold: float = Field(default=0.1, gt=0)
    """Drift from this value on, if it is also significant (``false_alarms``)."""
    false_alarms: float = Field(default=0.001, gt=0, lt=1)
    """Probability, in a window without a change, that any feature is reported as drifted; divided
    among the features, and independent of the number of rows."""
    min_rows: int = Field(default=100, ge=1)
    """Rows below which a window is skipped."""
    quality: QualityBounds = QualityBounds()
    """Bounds of quality."""
    max_lag: Duration | None = None
    """Age of the newest row from which an alert is raised; never when empty."""
    alerts: WatchAlerts = WatchAlerts()
    """How findings become alerts."""
    report: WatchReport | None = None
    """Evidently's report from a sample; none when empty."""
    every: Duration = timedelta(hours=1)
    """Pause between the rounds of ``jobs/monitor_service.py``."""
    # After a long pause, older windows would raise alerts about what is past.
    catch_up: int = Field(default=60, ge=1)
    """Most windows evaluated in a run, the newest ones."""
    # Hours before are not read again: rows that come still later are never counted.
    late: Duration = timedelta(hours=2)
    """Allowed lateness of rows: the last hours of this length are counted again."""
    keep_hours: Duration = timedelta(days=14)
    """Age from which the hourly counts of a day are merged into one; later where ``same_weekday``
    still compares parts of a day."""
    keep_days: Duration = timedelta(days=400)
    """Age from which counts are dropped."""

    @model_validator(mode="after")
    def _check_window(self) -> WatchConfig:
        # Histograms are stored by hour.
        if self.window % _HOUR:
            raise ValueError("window must be whole hours")
        # Only then is a window of an earlier week made of the same hours of the same weekdays.
        is_week = self.window == timedelta(days=7) or timedelta(days=1) % self.window == timedelta()
        if isinstance(self.reference, WeekdayReference) and not is_week:
            raise ValueError("same_weekday needs windows that divide a day, or whole weeks")
        return self


class PeriodConfig(Model):
    """Days from ``start`` to ``end``, both included, UTC."""

    start: date
    """First day."""
    end: date
    """Last day."""

    @model_validator(mode="after")
    def _check_order(self) -> PeriodConfig:
        if self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"


class QuotientConfig(Model):
    """A column derived as ``numerator / denominator``, null where that is not finite."""

    name: str
    """Name of the derived column."""
    numerator: str
    """A column of the rows."""
    denominator: str
    """A column of the rows."""


class EventsConfig(Model):
    """The rows to compare: an event log with an entity and a time."""

    name: str = "purchases"
    """Name of the report."""
    path: Path | None = None
    """A Parquet file or a folder of them; ``<outputs>/data/cdnow/purchases`` when empty."""
    entity: str = "customer_id"
    """Column of the entity's key; used for gaps between events, never compared."""
    event_time: str = "timestamp"
    """Column with the event's time, UTC."""
    # The first and the last quarter of the CDNOW log.
    reference: PeriodConfig = PeriodConfig(start=date(1997, 1, 1), end=date(1997, 3, 31))
    """The period that is taken as normal."""
    current: PeriodConfig = PeriodConfig(start=date(1998, 4, 1), end=date(1998, 6, 30))
    """The period that is compared with it."""
    quotients: tuple[QuotientConfig, ...] = ()
    """Columns derived from two others."""


class AlertConfig(Model):
    """When a report raises an alert; one that finds none resolves it."""

    name: str = "feature_drift"
    """Name of the alert; with the report's name it identifies it."""
    min_features: int = Field(default=1, ge=1)
    """Drifted features from which an alert is raised."""
    severity: Severity = "warning"
    """Severity below ``critical_share``."""
    critical_share: float = Field(default=0.5, gt=0, le=1)
    """Share of drifted features from which it is critical."""


class MonitoringRecipe(Settings):
    """Compares two periods of an event log and raises an alert."""

    events: EventsConfig = EventsConfig()
    """The rows."""
    drift: DriftConfig = DriftConfig()
    """The comparison."""
    alert: AlertConfig = AlertConfig()
    """The alert."""
    watch: WatchConfig | None = None
    """A table watched window by window; with it, ``events``, ``drift`` and ``alert`` are not
    used."""

    def require_watch(self) -> WatchConfig:
        """The ``watch`` section.

        Raises:
            ConfigError: The recipe has none.
        """
        if self.watch is None:
            raise ConfigError(
                "The recipe has no `watch`, which names the rows to watch.",
                "See conf/monitoring/watch.yaml.",
                "watch",
            )
        return self.watch
