"""How long routes take, from the counters of all replicas."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from sunloom.core.database import Database
from sunloom.serving.metrics.request_metrics import BOUNDS_S, MetricsRow, Series


def route_latencies(database: Database) -> list[dict[str, Any]]:
    """Requests, failures, mean and quantiles of each service and route, in milliseconds."""
    database.ensure(MetricsRow)
    with database.session() as session:
        rows = [row.data for row in session.scalars(select(MetricsRow))]
    merged: dict[tuple[str, str], Series] = {}
    failed: dict[tuple[str, str], int] = {}
    for service, route, _method, status, count, seconds, buckets in (
        e for row in rows for e in row
    ):
        key = (service, route)
        merged.setdefault(key, Series()).merge(Series(count, seconds, buckets))
        failed[key] = failed.get(key, 0) + (count if status >= 500 else 0)
    return [
        {
            "service": service,
            "route": route,
            "requests": series.count,
            "failed": failed[service, route],
            "mean_ms": 1000 * series.seconds / series.count if series.count else None,
            "p50_ms": quantile_ms(series, 0.5),
            "p99_ms": quantile_ms(series, 0.99),
        }
        for (service, route), series in sorted(merged.items())
    ]


def quantile_ms(series: Series, share: float) -> float | None:
    """The time below which that share of the requests stayed, linear within a bucket."""
    wanted, passed, low = share * series.count, 0, 0.0
    for high, count in zip((*BOUNDS_S, BOUNDS_S[-1]), series.buckets, strict=True):
        if count and passed + count >= wanted:
            return 1000 * (low + (high - low) * (wanted - passed) / count)
        passed, low = passed + count, high
    return None
