"""The recipe of monitoring: a drift report of two periods, or a watched table."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import Field, model_validator

from sunloom.config.data.drift import DriftConfig
from sunloom.config.loading.model import Model
from sunloom.config.monitoring.watch import Severity, WatchConfig
from sunloom.config.settings import Settings
from sunloom.errors import ConfigError


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
