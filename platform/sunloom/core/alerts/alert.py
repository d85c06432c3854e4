"""An alert, and the protocol of the sinks that it is sent to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from sunloom.core.fingerprint import fingerprint

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
Status = Literal["open", "resolved"]


@dataclass(frozen=True)
class Alert:
    """A condition that a person should look at.

    Attributes:
        name: Rule, such as ``feature_drift``.
        severity: info, warning or critical.
        message: One sentence with the figures.
        labels: The monitored thing; name and labels identify the alert.
        value: The metric's value that raised it.
        threshold: The bound that the value crossed.
        status: ``open`` while the condition holds, ``resolved`` once it is over.
    """

    name: str
    severity: Severity
    message: str
    labels: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    threshold: float | None = None
    status: Status = "open"

    @property
    def key(self) -> str:
        """Identity: the same rule about the same thing."""
        return fingerprint(self.name, dict(self.labels))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, as sinks send it and as the database keeps it."""
        return {**asdict(self), "key": self.key}


@runtime_checkable
class AlertSink(Protocol):
    """Receiver of alerts; a plugin of the group ``sunloom.alert_sinks``."""

    def send(self, alert: Alert) -> None:
        """Deliver one alert, raised or resolved; raise on failure."""
