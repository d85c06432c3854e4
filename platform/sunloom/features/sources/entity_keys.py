"""Which entities a feature set knows at a moment, by its sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

from sunloom.errors import UsageError
from sunloom.features.plan.columns import EVENT_TIME
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.typed_rows import read_source


def known_entities(plan: Plan, sources: Mapping[str, Path], moment: datetime) -> pl.DataFrame:
    """Every key that a source row of the moment or before bears, sorted, once each.

    Keys come from the feature set's own source and from sources that it joins by its key.

    Args:
        plan: The feature set.
        sources: Namespace to file or folder.
        moment: With a time zone.

    Returns:
        The key under its name, and ``event_time``: the moment.

    Raises:
        UsageError: No source bears the key.
    """
    key = plan.root.key
    found = [
        _keys(plan, namespace, column, sources[namespace], moment).rename({column: key})
        for namespace, column in _bearers(plan)
        if namespace in sources
    ]
    if not found:
        raise UsageError(
            f"No source of {plan.feature_set!r} bears its key {key!r}.",
            "Name a file with the entities' keys in online.entities.",
            "online.entities",
        )
    when = pl.lit(moment).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME)
    return pl.concat(found).drop_nulls().unique().sort(key).with_columns(when)


def _bearers(plan: Plan) -> Iterator[tuple[str, str]]:
    """Namespaces and the column of each that holds the feature set's key."""
    root = plan.root
    yield root.namespace, root.key
    for join in root.joins:
        if join.own_keys == (root.key,):
            yield join.target, join.target_keys[0]


def _keys(plan: Plan, namespace: str, column: str, path: Path, moment: datetime) -> pl.DataFrame:
    item = plan.class_plan(namespace)
    names = [column] if item.time is None else list(dict.fromkeys((column, item.time)))
    rows = read_source(item, names, path).rows
    if item.time is not None:
        rows = rows.filter(pl.col(item.time) <= moment)
    return rows.select(column).unique()
