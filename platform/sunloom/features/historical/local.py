"""The historical computation in this process, on whole tables in memory."""

from __future__ import annotations

import polars as pl

from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.engine.row_validation import count_violations
from sunloom.features.historical.query_frame import append_features, build_query_frame
from sunloom.features.historical.result import HistoricalResult
from sunloom.features.sources.scan import SourceScan


def historical_polars(scan: SourceScan, entities: pl.DataFrame) -> HistoricalResult:
    """Compute in this process.

    Args:
        scan: The plan and its sources.
        entities: Key and ``event_time`` of each row, and what is carried along.
    """
    plan = scan.plan
    query = build_query_frame(plan, entities, has_source=plan.namespace in scan.paths)
    sources = scan.read()
    tables = {name: source.rows for name, source in sources.items()}
    engine = FeatureEngine(plan, tables)
    for namespace, table in tables.items():
        engine.counters.validations.update(count_violations(plan, namespace, table))
    damaged = [source.damaged for source in sources.values()]
    return HistoricalResult(
        table=append_features(entities, engine.compute(query)),
        damaged=pl.concat(damaged) if damaged else pl.DataFrame(),
        rows_read=sum(source.rows.height + source.damaged.height for source in sources.values()),
        counters=engine.counters,
    )
