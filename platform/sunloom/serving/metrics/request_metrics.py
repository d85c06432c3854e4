"""Request metrics of all replicas, gathered through the database: Prometheus text and latencies."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, utc_now

# From a hot read of features to a long completion.
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
        # Left: Prometheus' bounds (le) belong to their bucket.
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
        database: Holds the counters of all replicas.
        service: The app's name.
    """

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._service = service
        # New for each process: a restarted replica counts from zero, and its old row still adds up.
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
        # Before the counters are read: a request counted meanwhile is written next time.
        self._dirty = False
        data = [[*labels, s.count, s.seconds, s.buckets] for labels, s in self._series.items()]
        row = MetricsRow(
            replica=self._replica, service=self._service, data=data, updated_at=utc_now()
        )
        with self._database.session() as session:
            session.merge(row)


def render_metrics(database: Database) -> str:
    """Metrics of all replicas as Prometheus text."""
    return "\n".join(_render_lines(sorted(_load_series(database).items()))) + "\n"


@dataclass(frozen=True)
class RouteLatency:
    """Requests to one route of one app, and how long they took.

    Attributes:
        service: The app.
        route: Route prefix.
        requests: Number of requests.
        failed: Requests answered with status 500 or above.
        mean_ms: Mean time; None without requests.
        p50_ms: Median.
        p99_ms: 99 % quantile.
    """

    service: str
    route: str
    requests: int
    failed: int
    mean_ms: float | None
    p50_ms: float | None
    p99_ms: float | None


def route_latencies(database: Database) -> list[RouteLatency]:
    """Latencies of each app and route over all replicas, methods and statuses."""
    merged: dict[tuple[str, str], Series] = {}
    failed: Counter[tuple[str, str]] = Counter()
    for (service, route, _method, status), series in _load_series(database).items():
        merged.setdefault((service, route), Series()).merge(series)
        failed[service, route] += series.count if status >= 500 else 0
    return [
        RouteLatency(
            service=service,
            route=route,
            requests=series.count,
            failed=failed[service, route],
            mean_ms=1000 * series.seconds / series.count if series.count else None,
            p50_ms=quantile_ms(series, 0.5),
            p99_ms=quantile_ms(series, 0.99),
        )
        for (service, route), series in sorted(merged.items(), key=lambda item: item[0])
    ]


def quantile_ms(series: Series, share: float) -> float | None:
    """A quantile of the requests' times, interpolated linearly within its bucket."""
    rank, below, lower = share * series.count, 0, 0.0
    # The last bucket has no upper bound: whatever falls into it counts as the last bound.
    for upper, count in zip((*BOUNDS_S, BOUNDS_S[-1]), series.buckets, strict=True):
        if count and below + count >= rank:
            return 1000 * (lower + (upper - lower) * (rank - below) / count)
        below, lower = below + count, upper
    return None


def _load_series(database: Database) -> dict[Labels, Series]:
    """Series of all replicas, added up by labels."""
    database.ensure(MetricsRow)
    with database.session() as session:
        replicas = [row.data for row in session.scalars(select(MetricsRow))]
    merged: dict[Labels, Series] = {}
    for service, route, method, status, *values in (entry for data in replicas for entry in data):
        merged.setdefault((service, route, method, status), Series()).merge(Series(*values))
    return merged


def _render_lines(series: Iterable[tuple[Labels, Series]]) -> Iterator[str]:
    yield f"# HELP {_NAME} Time from a request's arrival to the end of its answer."
    yield f"# TYPE {_NAME} histogram"
    for (service, route, method, status), counts in series:
        labels = f'service="{service}",route="{route}",method="{method}",status="{status}"'
        # Prometheus counts the faster requests in each bucket, too; the stored buckets do not.
        cumulative = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts.buckets, strict=True):
            cumulative += count
            yield f'{_NAME}_bucket{{{labels},le="{bound}"}} {cumulative}'
        yield f"{_NAME}_sum{{{labels}}} {counts.seconds:.6f}"
        yield f"{_NAME}_count{{{labels}}} {counts.count}"
