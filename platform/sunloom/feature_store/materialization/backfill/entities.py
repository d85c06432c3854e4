"""Who is asked about, and as of which moments."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from sunloom.feature_store.materialization.backfill.grid import Grid, TimeRange
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.plan.projection import source_projections

_SINCE = "__since__"
_TIME = POLARS["datetime"]


def bearers(plan: Plan) -> list[tuple[str, str, str | None]]:
    """Sources whose rows bear the key: namespace, the key's column there, the time's, if read."""
    needs, root = source_projections(plan), plan.root
    columns = {root.namespace: root.key}
    for join in root.joins:
        if join.many and join.own_keys == (root.key,):
            columns.setdefault(join.target, join.target_keys[0])
    found: list[tuple[str, str, str | None]] = []
    for namespace, column in columns.items():
        if namespace in needs and column in needs[namespace].columns:
            time = plan.class_plan(namespace).time
            found.append((namespace, column, time if time in needs[namespace].columns else None))
    return found


def known_since(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Every key of the sources, in order, and the time of the first row that bears it."""
    key = plan.root.key
    parts = []
    for namespace, column, time in bearers(plan):
        if namespace in tables:
            # A source whose time is not read: its keys were there from the beginning.
            since = pl.col(time).min() if time else pl.lit(None, _TIME).first()
            rows = tables[namespace].rename({column: key}) if column != key else tables[namespace]
            parts.append(rows.group_by(key).agg(since.alias(_SINCE)))
    first = pl.col(_SINCE).fill_null(pl.lit(0).cast(_TIME)).min()
    return pl.concat(parts).drop_nulls(key).group_by(key).agg(first).sort(key)


def on_grid(keys: pl.DataFrame, grid: Grid, span: TimeRange) -> pl.DataFrame:
    """Every key at every moment of the chunk, from its first row on; by moment, then by key.

    Args:
        keys: Keys in order; with ``known_since``'s column, or without: known from the beginning.
        grid: The moments.
        span: The chunk's time.
    """
    moments = pl.Series(NOW, list(grid.moments(span)), dtype=_TIME)
    asked = moments.to_frame().join(keys, how="cross")
    if _SINCE in keys.columns:
        asked = asked.filter(pl.col(_SINCE) <= pl.col(NOW)).drop(_SINCE)
    return asked


def of_span(rows: pl.DataFrame, span: TimeRange) -> pl.DataFrame:
    """The rows that ask about a moment of the chunk."""
    return rows.filter(pl.col(NOW).is_between(span.start, span.end, closed="left"))
