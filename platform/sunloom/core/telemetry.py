"""Logs, progress and alerts; nothing leaves the machine unless a sink says so."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

from sqlalchemy import JSON, Float, Integer, String, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.artifacts import fingerprint
from sunloom.core.database import Base, UtcDateTime, now, open_database
from sunloom.core.plugins import load_plugin

Severity = Literal["info", "warning", "critical"]

# Off before any of these libraries is imported: they read the variables at import.
QUIET_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # A table's progress is ours to show; Ray Data prints a page a step.
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "ANONYMIZED_TELEMETRY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DS_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Its GPU kernels do not load on a CPU, and it says so once a process.
    "TORCHAO_FORCE_SKIP_LOADING_SO_FILES": "1",
}

# Loggers whose chatter hides our own lines; their errors still show.
_CHATTY = ("torch.utils._pytree", "torchao", "ray.serve")


def silence_libraries() -> None:
    """Turn off the telemetry of everything that Sunloom stands on; explicit settings win."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def get_logger(name: str) -> logging.Logger:
    """A logger below ``sunloom``."""
    return logging.getLogger(name if name.startswith("sunloom") else f"sunloom.{name}")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(entry)


def configure_logging(settings: Settings) -> None:
    """Send ``sunloom`` logs to standard error in the configured form; safe to call again."""
    root = logging.getLogger("sunloom")
    root.setLevel(settings.telemetry.log_level.upper())
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonFormatter() if settings.telemetry.log_format == "json" else text)
    root.addHandler(handler)
    root.propagate = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


class ProgressBar(Protocol):
    """What long work reports to."""

    def advance(self, count: float = 1) -> None:
        """Count finished units."""

    def note(self, text: str) -> None:
        """Show a figure beside the bar."""


class _RichBar:
    def __init__(self, progress: Any, task: Any, description: str) -> None:
        self._progress, self._task, self._description = progress, task, description

    def advance(self, count: float = 1) -> None:
        self._progress.advance(self._task, count)

    def note(self, text: str) -> None:
        self._progress.update(self._task, description=f"{self._description}  {text}")


class _LogBar:
    def __init__(self, description: str, total: float) -> None:
        self._description, self._total = description, total
        self._done, self._next, self._text = 0.0, 0.25, ""

    def advance(self, count: float = 1) -> None:
        self._done += count
        while self._total and self._done / self._total >= self._next - 1e-9:
            share = f"{min(self._next, 1):.0%}"
            get_logger("progress").info("%s: %s %s", self._description, share, self._text)
            self._next += 0.25

    def note(self, text: str) -> None:
        self._text = text


@contextmanager
def progress(description: str, total: float) -> Iterator[ProgressBar]:
    """A bar on a terminal; a log line each quarter elsewhere.

    Args:
        description: What is being done.
        total: Units of the whole work.
    """
    if not sys.stderr.isatty():
        yield _LogBar(description, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        yield _RichBar(bars, bars.add_task(description, total=total), description)


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
    """

    name: str
    severity: Severity
    message: str
    labels: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    threshold: float | None = None

    @property
    def key(self) -> str:
        """Identity: the same rule about the same thing."""
        return fingerprint(self.name, dict(self.labels))


@runtime_checkable
class AlertSink(Protocol):
    """Where alerts go; a plugin of group ``sunloom.alert_sinks``."""

    def send(self, alert: Alert) -> None:
        """Deliver one alert; raise on failure."""


class AlertRow(Base):
    """One alert, open or resolved; raised again it counts up instead of repeating."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(32), index=True)
    name: Mapped[str] = mapped_column(String(100))
    severity: Mapped[str] = mapped_column(String(20))
    message: Mapped[str] = mapped_column(String(4000))
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    value: Mapped[float | None] = mapped_column(Float)
    threshold: Mapped[float | None] = mapped_column(Float)
    status: Mapped[str] = mapped_column(String(20))
    count: Mapped[int] = mapped_column(Integer)
    first_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_at: Mapped[datetime] = mapped_column(UtcDateTime)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("id", "name", "severity", "message", "labels", "value", "threshold")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        plain |= {"status": self.status, "count": self.count}
        return plain | {
            "first_at": self.first_at.isoformat(),
            "last_at": self.last_at.isoformat(),
        }


def emit_alert(settings: Settings, alert: Alert) -> bool:
    """Store an alert and send it to the configured sinks, once while it is open.

    Returns:
        Whether it is new; an open alert of the same name and labels is counted up instead.
    """
    database = open_database(settings)
    database.ensure(AlertRow)
    with database.session() as session:
        held = session.scalar(
            select(AlertRow).where(AlertRow.key == alert.key, AlertRow.status == "open")
        )
        if held is not None:
            held.count += 1
            held.last_at, held.message, held.value = now(), alert.message, alert.value
            return False
        moment = now()
        columns = asdict(alert) | {"labels": dict(alert.labels)}
        session.add(
            AlertRow(
                **columns, key=alert.key, status="open", count=1, first_at=moment, last_at=moment
            )
        )
    _send(settings, alert)
    return True


def resolve_alert(settings: Settings, alert: Alert) -> bool:
    """Close the open alert of this name and labels; False where none is open."""
    database = open_database(settings)
    database.ensure(AlertRow)
    with database.session() as session:
        held = session.scalar(
            select(AlertRow).where(AlertRow.key == alert.key, AlertRow.status == "open")
        )
        if held is None:
            return False
        held.status, held.last_at = "resolved", now()
        return True


def list_alerts(settings: Settings, status: str | None = None) -> list[dict[str, Any]]:
    """Alerts, newest first; ``status`` is open or resolved."""
    database = open_database(settings)
    database.ensure(AlertRow)
    query = select(AlertRow).order_by(AlertRow.last_at.desc(), AlertRow.id.desc())
    if status is not None:
        query = query.where(AlertRow.status == status)
    with database.session() as session:
        return [row.to_dict() for row in session.scalars(query)]


def _send(settings: Settings, alert: Alert) -> None:
    log = get_logger("alerts")
    for name in settings.telemetry.alert_sinks:
        if name == "log":
            log.warning("%s [%s] %s", alert.name, alert.severity, alert.message)
            continue
        sink: AlertSink = load_plugin("sunloom.alert_sinks", name, AlertSink)
        try:
            sink.send(alert)
        except Exception as error:  # noqa: BLE001 - one sink's failure must not silence the others
            log.error("alert sink %s failed: %s", name, error)
