"""An alert, and what a sink of alerts is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from sunloom.core.fingerprint import fingerprint

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
Status = Literal["open", "resolved"]


@dataclass(frozen=True)
class Alert:
    """Something that a person should look at.

    Attributes:
        name: Rule, such as ``feature_drift``.
        severity: info, warning or critical.
        message: One sentence with the figures.
        labels: What it is about; name and labels identify the alert.
        value: The figure that raised it.
        threshold: The bound that it passed.
        status: ``open`` when it is raised, ``resolved`` when it is over.
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
        """Plain data for JSON, as sinks send it."""
        return {
            "name": self.name,
            "severity": self.severity,
            "status": self.status,
            "message": self.message,
            "labels": dict(self.labels),
            "value": self.value,
            "threshold": self.threshold,
            "key": self.key,
        }


@runtime_checkable
class AlertSink(Protocol):
    """Where alerts go; a plugin of group ``sunloom.alert_sinks``."""

    def send(self, alert: Alert) -> None:
        """Deliver one alert, raised or resolved; raise on failure."""
