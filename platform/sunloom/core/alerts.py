"""Alerts: raised once while open, resolved, and sent until every sink took them.

Built-in sinks are the log, a webhook, and a webhook in Slack's form; others are plugins.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sqlalchemy import JSON, Float, ForeignKey, Integer, String, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config import Settings
from sunloom.config.alerts import Severity, WebhookConfig
from sunloom.core.artifacts import fingerprint
from sunloom.core.database import Base, UtcDateTime, copy_row, open_database, utc_now
from sunloom.core.plugins import load_plugin
from sunloom.errors import ConfigError, SunloomError

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The least severe first."""
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


SIGNATURE = "X-Sunloom-Signature"
_FIRST_PAUSE_S = 0.2
_COLOURS = {"info": "#4a7fd6", "warning": "#d9a02b", "critical": "#c2392f", "resolved": "#1f8a5b"}


class DeliveryError(SunloomError):
    """An alert that its receiver refused or did not answer."""

    code = "alert_delivery"


class LogSink:
    """Writes alerts to the log."""

    def send(self, alert: Alert) -> None:
        """Log one alert at its severity."""
        log = logging.getLogger("sunloom.alerts")
        if alert.status == "resolved":
            log.info("%s resolved: %s", alert.name, alert.message)
            return
        level = {"info": logging.INFO, "critical": logging.ERROR}.get(alert.severity)
        log.log(level or logging.WARNING, "%s [%s] %s", alert.name, alert.severity, alert.message)


class WebhookSink:
    """Posts alerts as JSON.

    Args:
        config: Address, attempts, timeout.
        format_body: JSON body of an alert.
    """

    def __init__(self, config: WebhookConfig, format_body: Callable[[Alert], str]) -> None:
        self._config = config
        self._format_body = format_body

    def send(self, alert: Alert) -> None:
        """Post one alert and wait for a 2xx.

        Raises:
            DeliveryError: The receiver refused it or did not answer; names the host, never the
                address, which may hold a token.
        """
        if SEVERITIES.index(alert.severity) < SEVERITIES.index(self._config.min_severity):
            return
        body = self._format_body(alert).encode()
        pause = _FIRST_PAUSE_S
        for attempt in range(1, self._config.attempts + 1):
            problem, is_final = self._post(body)
            if not problem:
                return
            if is_final or attempt == self._config.attempts:
                host = urlsplit(self._config.url.get_secret_value()).hostname
                raise DeliveryError(f"{host} did not take the alert: {problem}.")
            time.sleep(pause)
            pause *= 2

    def _post(self, body: bytes) -> tuple[str, bool]:
        """The problem, empty on success, and whether another attempt is pointless."""
        request = Request(
            self._config.url.get_secret_value(), data=body, headers=self._headers(body)
        )
        opener = build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=self._config.timeout_s):
                return "", True
        except HTTPError as error:
            error.close()
            # 408 and 429 invite another attempt; other refusals and redirects would come again.
            return f"HTTP {error.code}", 300 <= error.code < 500 and error.code not in (408, 429)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            # Only the type: the text may contain the address with its token.
            return type(reason).__name__, False

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "sunloom"}
        headers |= {name: value.get_secret_value() for name, value in self._config.headers.items()}
        if self._config.secret is not None:
            key = self._config.secret.get_secret_value().encode()
            headers[SIGNATURE] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        return headers


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would carry headers with secrets to another host."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def plain_body(alert: Alert) -> str:
    """JSON body of a plain webhook."""
    return json.dumps(alert.to_dict() | {"sent_at": utc_now().isoformat()})


def slack_body(alert: Alert) -> str:
    """JSON body that Slack's incoming webhooks take."""
    word = "resolved" if alert.status == "resolved" else alert.severity
    figures = {**alert.labels}
    if alert.value is not None:
        bound = "" if alert.threshold is None else f" (bound {alert.threshold:.4g})"
        figures["value"] = f"{alert.value:.4g}{bound}"
    fields = [{"title": name, "value": str(v), "short": True} for name, v in figures.items()]
    attachment = {"color": _COLOURS[word], "fields": fields, "ts": int(utc_now().timestamp())}
    text = f"[{word}] {alert.name}: {alert.message}"
    # Slack reads these three as markup and asks for exactly these replacements.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": text, "attachments": [attachment]})


def build_sink(settings: Settings, name: str) -> AlertSink:
    """The sink of that name, built in or from an entry point.

    Raises:
        ConfigError: The settings lack the section that the sink needs.
        NotFoundError: There is no such sink.
    """
    if name == "log":
        return LogSink()
    if name in ("webhook", "slack"):
        config: WebhookConfig | None = getattr(settings.telemetry, name)
        if config is None:
            raise ConfigError(
                f"telemetry.alert_sinks names {name!r}, and there is no telemetry.{name}.",
                f"Set telemetry.{name}.url, such as ${{ALERT_URL}}.",
                f"telemetry.{name}",
            )
        return WebhookSink(config, slack_body if name == "slack" else plain_body)
    return cast(AlertSink, load_plugin("sunloom.alert_sinks", name, AlertSink))


# A delivery is tried again whenever alerts are sent; after as many tries it is given up as lost.
_MOST_ATTEMPTS = 20
# By default a sink gives up after about 15 s (3 attempts of 5 s): an older claim is a dead one's.
_CLAIM_EXPIRES = timedelta(minutes=5)


@dataclass(frozen=True)
class AlertRecord:
    """A stored alert, as lists show it.

    Attributes:
        id: Counts up with every new alert.
        name: Rule, such as ``feature_drift``.
        severity: The highest one while it has been open.
        message: Of the last time that it was raised.
        labels: The monitored thing.
        value: Of the last time that it was raised.
        threshold: The bound that the value crossed.
        status: ``open`` or ``resolved``.
        count: How often it was raised while open.
        first_at: ISO 8601, UTC.
        last_at: ISO 8601, UTC.
    """

    id: int
    name: str
    severity: str
    message: str
    labels: dict[str, str]
    value: float | None
    threshold: float | None
    status: str
    count: int
    first_at: str
    last_at: str


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


class DeliveryRow(Base):
    """One alert to be delivered to one sink."""

    __tablename__ = "alert_deliveries"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id"))
    sink: Mapped[str] = mapped_column(String(100))
    # The alert as it was queued: the row may have changed by the time it is sent.
    alert: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(20), index=True)
    attempts: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


_TABLES = (AlertRow, DeliveryRow)


def emit_alert(settings: Settings, alert: Alert) -> bool:
    """Store an alert and send it to the configured sinks, once while it is open.

    An open alert of the same name and labels counts up instead, and is sent again only when it
    has become more severe.

    Returns:
        Whether it is new.
    """
    with open_database(settings, *_TABLES).session() as session:
        row = _open_row(session, alert)
        is_new = row is None
        if row is None:
            row = _insert_row(session, alert)
            is_worse = False
        else:
            is_worse = SEVERITIES.index(alert.severity) > SEVERITIES.index(row.severity)
            row.count += 1
            row.last_at, row.message, row.value = utc_now(), alert.message, alert.value
            row.severity = alert.severity if is_worse else row.severity
        if is_new or is_worse:
            _queue(session, settings, row.id, alert)
    # After the commit: a slow sink must not hold the transaction, nor its failure undo the alert.
    deliver_alerts(settings)
    return is_new


def resolve_alert(settings: Settings, alert: Alert) -> bool:
    """Close the open alert of this name and labels, and notify the sinks.

    Returns:
        False where no such alert is open.
    """
    with open_database(settings, *_TABLES).session() as session:
        row = _open_row(session, alert)
        if row is None:
            return False
        row.status, row.last_at = "resolved", utc_now()
        # The highest severity: whatever sink got the alert also gets its resolution (min_severity).
        severity: Any = row.severity
        _queue(session, settings, row.id, replace(alert, severity=severity, status="resolved"))
    deliver_alerts(settings)
    return True


def list_alerts(settings: Settings, status: str | None = None) -> list[AlertRecord]:
    """Alerts, newest first; ``status`` is open or resolved."""
    query = select(AlertRow).order_by(AlertRow.last_at.desc(), AlertRow.id.desc())
    if status is not None:
        query = query.where(AlertRow.status == status)
    with open_database(settings, *_TABLES).session() as session:
        return [
            copy_row(
                row,
                AlertRecord,
                first_at=row.first_at.isoformat(),
                last_at=row.last_at.isoformat(),
            )
            for row in session.scalars(query)
        ]


def deliver_alerts(settings: Settings) -> int:
    """Send what is waiting; a delivery that fails waits for the next call.

    Returns:
        How many were sent.
    """
    sent = 0
    for row in _claim_deliveries(settings):
        columns: Any = {name: value for name, value in row.alert.items() if name != "key"}
        try:
            build_sink(settings, row.sink).send(Alert(**columns))
        except Exception as error:  # noqa: BLE001 - one sink's failure must not silence the others
            # Foreign errors may hold the sink's address with its token; ours never do.
            logging.getLogger("sunloom.alerts").error(
                "alert sink %s failed: %s",
                row.sink,
                error if isinstance(error, SunloomError) else type(error).__name__,
            )
            _finish(settings, row, "lost" if row.attempts + 1 >= _MOST_ATTEMPTS else "waiting")
        else:
            _finish(settings, row, "sent")
            sent += 1
    return sent


def _open_row(session: Session, alert: Alert) -> AlertRow | None:
    where = (AlertRow.key == alert.key, AlertRow.status == "open")
    return session.scalar(select(AlertRow).where(*where))


def _insert_row(session: Session, alert: Alert) -> AlertRow:
    raised_at = utc_now()
    row = AlertRow(
        key=alert.key,
        name=alert.name,
        severity=alert.severity,
        # PostgreSQL refuses a text longer than its column; SQLite would take it.
        message=alert.message[:4000],
        labels=dict(alert.labels),
        value=alert.value,
        threshold=alert.threshold,
        status="open",
        count=1,
        first_at=raised_at,
        last_at=raised_at,
    )
    session.add(row)
    # The database gives the id that the deliveries refer to.
    session.flush()
    return row


def _queue(session: Session, settings: Settings, alert_id: int, alert: Alert) -> None:
    """One delivery for each sink, in the transaction that stores the alert: none is forgotten."""
    for name in settings.telemetry.alert_sinks:
        session.add(
            DeliveryRow(
                alert_id=alert_id,
                sink=name,
                alert=alert.to_dict(),
                status="waiting",
                attempts=0,
                updated_at=utc_now(),
            )
        )


def _claim_deliveries(settings: Settings) -> list[DeliveryRow]:
    """Deliveries that this call alone tries: each is claimed before it is sent."""
    # A process that died while sending leaves its claim; after a while others take it over.
    abandoned = utc_now() - _CLAIM_EXPIRES
    waiting = or_(
        DeliveryRow.status == "waiting",
        (DeliveryRow.status == "sending") & (DeliveryRow.updated_at < abandoned),
    )
    claimed = []
    with open_database(settings, *_TABLES).session() as session:
        for row in session.scalars(select(DeliveryRow).where(waiting).order_by(DeliveryRow.id)):
            # The update counts only if nobody else has touched the row since it was read.
            unchanged = (DeliveryRow.id == row.id, DeliveryRow.updated_at == row.updated_at)
            change = (
                update(DeliveryRow)
                .where(*unchanged, waiting)
                .values(status="sending", updated_at=utc_now())
            )
            result: Any = session.execute(change, execution_options={"synchronize_session": False})
            if result.rowcount == 1:
                claimed.append(row)
                session.expunge(row)
    return claimed


def _finish(settings: Settings, row: DeliveryRow, status: str) -> None:
    change = update(DeliveryRow).where(DeliveryRow.id == row.id)
    change = change.values(status=status, attempts=row.attempts + 1, updated_at=utc_now())
    with open_database(settings, *_TABLES).session() as session:
        session.execute(change)
