"""Alerts: raised once while open, resolved, and sent until they have arrived."""

from __future__ import annotations

import logging
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
_LOST_AFTER = timedelta(minutes=5)


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


class DeliveryRow(Base):
    """One alert on its way to one sink."""

    __tablename__ = "alert_deliveries"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id"))
    sink: Mapped[str] = mapped_column(String(100))
    alert: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(20), index=True)
    attempts: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


def emit_alert(settings: Settings, alert: Alert) -> bool:
    """Store an alert and send it to the configured sinks, once while it is open.

    An open alert of the same name and labels is counted up instead, and sent again only where it
    has become more severe.

    Returns:
        Whether it is new.
    """
    database = _database(settings)
    with database.session() as session:
        held = _open(session, alert)
        worse = held is not None and _rank(alert.severity) > _rank(held.severity)
        if held is None:
            held = _new_row(alert)
            session.add(held)
            session.flush()
            is_new = True
        else:
            held.count += 1
            held.last_at, held.message, held.value = utc_now(), alert.message, alert.value
            held.severity = alert.severity if worse else held.severity
            is_new = False
        if is_new or worse:
            _post(session, settings, held.id, alert)
    deliver_alerts(settings)
    return is_new


def resolve_alert(settings: Settings, alert: Alert) -> bool:
    """Close the open alert of this name and labels and say so; False where none is open."""
    database = _database(settings)
    with database.session() as session:
        held = _open(session, alert)
        if held is None:
            return False
        held.status, held.last_at = "resolved", utc_now()
        severity: Any = held.severity
        over = Alert(
            alert.name, severity, alert.message, alert.labels, alert.value, alert.threshold,
            "resolved",
        )  # fmt: skip
        _post(session, settings, held.id, over)
    deliver_alerts(settings)
    return True


def list_alerts(settings: Settings, status: str | None = None) -> list[dict[str, Any]]:
    """Alerts, newest first; ``status`` is open or resolved."""
    query = select(AlertRow).order_by(AlertRow.last_at.desc(), AlertRow.id.desc())
    if status is not None:
        query = query.where(AlertRow.status == status)
    with _database(settings).session() as session:
        return [row.to_dict() for row in session.scalars(query)]


def deliver_alerts(settings: Settings) -> int:
    """Send what waits to be sent; what fails waits for the next call.

    Returns:
        How many were sent.
    """
    sent = 0
    for row in _claimed(settings):
        known: Any = {name: value for name, value in row.alert.items() if name != "key"}
        try:
            build_sink(settings, row.sink).send(Alert(**known))
        except Exception as error:  # noqa: BLE001 - one sink's failure must not silence the others
            # The text of an error may hold an address with its token.
            logging.getLogger("sunloom.alerts").error(
                "alert sink %s failed: %s",
                row.sink,
                error if _is_ours(error) else type(error).__name__,
            )
            _settle(settings, row, "lost" if row.attempts + 1 >= _MOST_ATTEMPTS else "waiting")
        else:
            _settle(settings, row, "sent")
            sent += 1
    return sent


def _is_ours(error: Exception) -> bool:
    return isinstance(error, SunloomError)


def _database(settings: Settings) -> Database:
    database = open_database(settings)
    database.ensure(AlertRow, DeliveryRow)
    return database


def _open(session: Session, alert: Alert) -> AlertRow | None:
    where = (AlertRow.key == alert.key, AlertRow.status == "open")
    return session.scalar(select(AlertRow).where(*where))


def _new_row(alert: Alert) -> AlertRow:
    moment = utc_now()
    columns = {name: value for name, value in alert.to_dict().items() if name != "status"}
    columns["message"] = alert.message[:4000]
    return AlertRow(**columns, status="open", count=1, first_at=moment, last_at=moment)


def _post(session: Session, settings: Settings, alert_id: int, alert: Alert) -> None:
    for name in settings.telemetry.alert_sinks:
        session.add(
            DeliveryRow(
                alert_id=alert_id, sink=name, alert=alert.to_dict(), status="waiting", attempts=0,
                updated_at=utc_now(),
            )
        )  # fmt: skip


def _claimed(settings: Settings) -> list[DeliveryRow]:
    """Deliveries that this call alone tries: each is claimed before it is sent."""
    lost = utc_now() - _LOST_AFTER
    waiting = or_(
        DeliveryRow.status == "waiting",
        (DeliveryRow.status == "sending") & (DeliveryRow.updated_at < lost),
    )
    claimed = []
    with _database(settings).session() as session:
        for row in session.scalars(select(DeliveryRow).where(waiting).order_by(DeliveryRow.id)):
            mine = (DeliveryRow.id == row.id, DeliveryRow.updated_at == row.updated_at, waiting)
            change = update(DeliveryRow).where(*mine).values(status="sending", updated_at=utc_now())
            result: Any = session.execute(change, execution_options={"synchronize_session": False})
            if result.rowcount == 1:
                claimed.append(row)
                session.expunge(row)
    return claimed


def _settle(settings: Settings, row: DeliveryRow, status: str) -> None:
    change = update(DeliveryRow).where(DeliveryRow.id == row.id)
    with _database(settings).session() as session:
        session.execute(
            change.values(status=status, attempts=row.attempts + 1, updated_at=utc_now())
        )


def _rank(severity: str) -> int:
    return [*SEVERITIES].index(severity)  # type: ignore[arg-type]
