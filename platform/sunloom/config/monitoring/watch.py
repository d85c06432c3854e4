"""The ``watch`` section of a monitoring recipe: a table watched window by window."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model

Severity = Literal["info", "warning", "critical"]
"""Severity of an alert."""

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
    catch_up: int = Field(default=60, ge=1)
    """Most windows evaluated in a run, the newest ones."""
    late: Duration = timedelta(hours=2)
    """Allowed lateness of rows: the last hours of this length are counted again."""
    keep_hours: Duration = timedelta(days=14)
    """Age from which the hourly counts of a day are merged into one."""
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
