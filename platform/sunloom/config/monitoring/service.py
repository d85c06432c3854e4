"""The recipe of a drift report: which rows, which columns, which bounds, which alert."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.monitoring.watch import Severity, WatchConfig
from sunloom.config.settings import Settings
from sunloom.errors import ConfigError

DriftMethod = Literal["psi", "jensenshannon", "kl_div", "wasserstein", "ks"]
"""Evidently's names; ``ks`` gives a p-value, the others a distance."""


class PeriodConfig(Model):
    """Days from ``start`` to ``end``, both included, UTC."""

    start: date
    """First day."""
    end: date
    """Last day."""

    @model_validator(mode="after")
    def _ordered(self) -> PeriodConfig:
        if self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        return self

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"


class QuotientConfig(Model):
    """A column derived as ``numerator / denominator``, null where that is no number."""

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
    """Column that says whose event it is; used for gaps, never compared."""
    event_time: str = "timestamp"
    """Column with the event's time, UTC."""
    reference: PeriodConfig = PeriodConfig(start=date(1997, 1, 1), end=date(1997, 3, 31))
    """The period that is taken as normal."""
    current: PeriodConfig = PeriodConfig(start=date(1998, 4, 1), end=date(1998, 6, 30))
    """The period that is judged."""
    quotients: tuple[QuotientConfig, ...] = ()
    """Columns derived from two others."""


class FeatureBound(Model):
    """How one feature is compared, where it differs from the rest."""

    method: DriftMethod | None = None
    """Overrides ``drift.method``."""
    threshold: float | None = None
    """Overrides ``drift.threshold``."""


class DriftConfig(Model):
    """How distributions are compared."""

    method: DriftMethod = "psi"
    """Statistic for every feature without an entry in ``per_feature``."""
    threshold: float = Field(default=0.2, gt=0)
    """Drift from this value on; for the p-value of ``ks``, below it."""
    features: tuple[str, ...] = ()
    """Columns compared; every numeric one but ids when empty."""
    per_feature: dict[str, FeatureBound] = Field(default_factory=dict)
    """Features with a method or threshold of their own."""
    engine: Literal["evidently", "direct"] = "evidently"
    """``direct`` computes the same numbers in a fraction of the time and writes no HTML."""
    exclude: tuple[str, ...] = ("id", "entity_id", "customer_id")
    """Columns that name things; never compared and never in a report."""


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

    def watched(self) -> WatchConfig:
        """What is watched.

        Raises:
            ConfigError: The recipe has no ``watch``.
        """
        if self.watch is None:
            raise ConfigError(
                "The recipe has no `watch`, which names the rows to watch.",
                "See conf/monitoring/watch.yaml.",
                "watch",
            )
        return self.watch
