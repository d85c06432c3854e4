"""Alerts: raised once while open, resolved, and sent until they have arrived."""

from sunloom.core.alerts.alert import Alert, AlertSink, Severity
from sunloom.core.alerts.delivery import deliver_alerts, emit_alert, list_alerts, resolve_alert

__all__ = [
    "Alert",
    "AlertSink",
    "Severity",
    "deliver_alerts",
    "emit_alert",
    "list_alerts",
    "resolve_alert",
]
