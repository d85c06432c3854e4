"""The entities of a backfill: their keys, and the as-of times of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from sunloom.feature_store.materialization.backfill.grid import Grid, TimeRange
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.plan.polars_dtypes import POLARS

_SINCE = "__since__"
_TIME = POLARS["datetime"]


@dataclass(frozen=True)
class KeySource:
    """A source whose rows have the entity's key.

    Attributes:
        namespace: The source's class.
        key: The key's column there.
        time: The event time's column; None where it is not read.
    """

    namespace: str
    key: str
    time: str | None


def key_sources(plan: Plan, columns: Mapping[str, Sequence[str]]) -> list[KeySource]:
    """The sources whose rows have the key.

    Args:
        plan: The feature set.
        columns: Namespace to the columns that are read.
    """
    root = plan.root
    key_columns = {root.namespace: root.key}
    for join in root.joins:
        if join.many and join.own_keys == (root.key,):
            key_columns.setdefault(join.target, join.target_keys[0])
    sources = []
    for namespace, key in key_columns.items():
        read = columns.get(namespace, ())
        if key in read:
            time = plan.class_plan(namespace).time
            sources.append(KeySource(namespace, key, time if time in read else None))
    return sources


def keys_since(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Every key of the sources, in order, and the time of the first row that has it.

    Args:
        plan: The feature set.
        tables: Namespace to the rows that were read.
    """
    key = plan.root.key
    parts = []
    for source in key_sources(plan, {name: rows.columns for name, rows in tables.items()}):
        # A source whose time is not read: its keys were there from the beginning.
        since = pl.col(source.time).min() if source.time else pl.lit(None, _TIME).first()
        rows = tables[source.namespace]
        keyed = rows.rename({source.key: key}) if source.key != key else rows
        parts.append(keyed.group_by(key).agg(since.alias(_SINCE)))
    first = pl.col(_SINCE).fill_null(pl.lit(0).cast(_TIME)).min()
    return pl.concat(parts).drop_nulls(key).group_by(key).agg(first).sort(key)


def query_on_grid(keys: pl.DataFrame, grid: Grid, span: TimeRange) -> pl.DataFrame:
    """Every key at every as-of time of the chunk, from its first row on; by time, then by key.

    Args:
        keys: Keys in order; with ``keys_since``'s column, or without: there from the beginning.
        grid: The as-of times.
        span: The chunk's time.
    """
    times = pl.Series(NOW, list(grid.as_of_times(span)), dtype=_TIME)
    query = times.to_frame().join(keys, how="cross")
    if _SINCE in keys.columns:
        query = query.filter(pl.col(_SINCE) <= pl.col(NOW)).drop(_SINCE)
    return query


def query_in_span(rows: pl.DataFrame, span: TimeRange) -> pl.DataFrame:
    """The query rows with an as-of time in the chunk."""
    return rows.filter(pl.col(NOW).is_between(span.start, span.end, closed="left"))
