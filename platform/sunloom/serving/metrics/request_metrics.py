"""Request counts and times of every replica, gathered through the database as Prometheus text."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, utc_now

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_NAME = "sunloom_http_request_seconds"


class MetricsRow(Base):
    """The counters of one replica since it started."""

    __tablename__ = "request_metrics"

    replica: Mapped[str] = mapped_column(String(80), primary_key=True)
    service: Mapped[str] = mapped_column(String(40))
    data: Mapped[list[Any]] = mapped_column(JSON)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass
class Series:
    """Requests of one service, route, method and status."""

    count: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, seconds: float) -> None:
        """Count one request."""
        self.count += 1
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1

    def merge(self, other: Series) -> None:
        """Add another replica's counts."""
        self.count += other.count
        self.seconds += other.seconds
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]


Labels = tuple[str, str, str, int]
"""Service, route prefix, method, status."""


class RequestMetrics:
    """The counters of this process.

    Args:
        database: Where the replicas' counters meet.
        service: The app's name.
    """

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._service = service
        self._replica = f"{service}-{secrets.token_hex(6)}"
        self._series: dict[Labels, Series] = {}
        self._dirty = False
        database.ensure(MetricsRow)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        labels = (self._service, route, method, status)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = Series()
        series.add(seconds)
        self._dirty = True

    def flush(self) -> None:
        """Write the counters; blocking, so call it in a thread."""
        if not self._dirty:
            return
        self._dirty = False
        data = [[*labels, s.count, s.seconds, s.buckets] for labels, s in self._series.items()]
        row = MetricsRow(
            replica=self._replica, service=self._service, data=data, updated_at=utc_now()
        )
        with self._database.session() as session:
            session.merge(row)


def render_metrics(database: Database) -> str:
    """Prometheus text over all replicas."""
    database.ensure(MetricsRow)
    with database.session() as session:
        rows = [row.data for row in session.scalars(select(MetricsRow))]
    merged: dict[Labels, Series] = {}
    for entry in (entry for row in rows for entry in row):
        labels: Labels = (entry[0], entry[1], entry[2], entry[3])
        merged.setdefault(labels, Series()).merge(Series(entry[4], entry[5], entry[6]))
    return "\n".join(_lines(sorted(merged.items()))) + "\n"


def _lines(series: Iterable[tuple[Labels, Series]]) -> Iterator[str]:
    yield f"# HELP {_NAME} Time from a request's arrival to the end of its answer."
    yield f"# TYPE {_NAME} histogram"
    for (service, route, method, status), one in series:
        labels = f'service="{service}",route="{route}",method="{method}",status="{status}"'
        running = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), one.buckets, strict=True):
            running += count
            yield f'{_NAME}_bucket{{{labels},le="{bound}"}} {running}'
        yield f"{_NAME}_sum{{{labels}}} {one.seconds:.6f}"
        yield f"{_NAME}_count{{{labels}}} {one.count}"
