"""Delivery of alerts: raised once while open, resolved, and sent until every sink took them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Float, ForeignKey, Integer, String, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config import Settings
from sunloom.core.alerts.alert import SEVERITIES, Alert
from sunloom.core.alerts.sinks import build_sink
from sunloom.core.database import Base, Database, UtcDateTime, open_database, utc_now
from sunloom.errors import SunloomError

_MOST_ATTEMPTS = 20
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


def emit_alert(settings: Settings, alert: Alert) -> bool:
    """Store an alert and send it to the configured sinks, once while it is open.

    An open alert of the same name and labels counts up instead, and is sent again only when it
    has become more severe.

    Returns:
        Whether it is new.
    """
    with _open(settings).session() as session:
        row = _open_row(session, alert)
        is_new = row is None
        if row is None:
            row = _insert_row(session, alert)
            is_worse = False
        else:
            is_worse = _rank(alert.severity) > _rank(row.severity)
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
    with _open(settings).session() as session:
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
    with _open(settings).session() as session:
        return [
            AlertRecord(
                id=row.id,
                name=row.name,
                severity=row.severity,
                message=row.message,
                labels=row.labels,
                value=row.value,
                threshold=row.threshold,
                status=row.status,
                count=row.count,
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


def _open(settings: Settings) -> Database:
    database = open_database(settings)
    database.ensure(AlertRow, DeliveryRow)
    return database


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
    with _open(settings).session() as session:
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
    with _open(settings).session() as session:
        session.execute(change)


def _rank(severity: str) -> int:
    return [*SEVERITIES].index(severity)  # type: ignore[arg-type]
