"""Entity keys that a feature set's sources know at an as-of time."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from sunloom.errors import UsageError
from sunloom.features.plan.columns import EVENT_TIME
from sunloom.features.sources.scan import SourceScan
from sunloom.features.sources.typed_rows import read_source


def known_entities(scan: SourceScan, as_of: datetime) -> pl.DataFrame:
    """Every key in a source row of that time or before, sorted, once each.

    Keys come from the feature set's own source and from sources that it joins by its key.

    Args:
        scan: The feature set and its sources.
        as_of: With a time zone.

    Returns:
        The key under its name, and ``event_time``: the as-of time.

    Raises:
        UsageError: No source has the key.
    """
    root = scan.plan.root
    key_columns = [(root.namespace, root.key)]
    key_columns += [
        (join.target, join.target_keys[0]) for join in root.joins if join.own_keys == (root.key,)
    ]
    keys = [
        _keys(scan, namespace, column, as_of).rename({column: root.key})
        for namespace, column in key_columns
        if namespace in scan.paths
    ]
    if not keys:
        raise UsageError(
            f"No source of {scan.plan.feature_set!r} has its key {root.key!r}.",
            "Name a file with the entities' keys in online.entities.",
            "online.entities",
        )
    event_time = pl.lit(as_of).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME)
    # Sorted, because ``unique`` gives no stable order and a materialization is repeatable.
    return pl.concat(keys).drop_nulls().unique().sort(root.key).with_columns(event_time)


def _keys(scan: SourceScan, namespace: str, column: str, as_of: datetime) -> pl.DataFrame:
    item = scan.plan.class_plan(namespace)
    names = [column] if item.time is None else list(dict.fromkeys((column, item.time)))
    rows = read_source(item, names, scan.paths[namespace]).rows
    if item.time is not None:
        # An entity whose first row is later was not known at the as-of time.
        rows = rows.filter(pl.col(item.time) <= as_of)
    # Within each source first: its rows may be many times the keys that are concatenated.
    return rows.select(column).unique()
