"""A resolver's arguments out of a frame of questions."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from sunloom.features.expressions.to_polars import ToPolars
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.expressions import Expr, Resolver
from sunloom.features.resolvers.resolve import resolve
from sunloom.features.resolvers.results import ResolverResults


def ask(
    resolver: Resolver, frame: pl.DataFrame, key: str, parts: Mapping[Expr, str] | None = None
) -> ResolverResults:
    """Ask a resolver about every row of a frame.

    Args:
        resolver: Whom to ask.
        frame: Rows with the features that the arguments name.
        key: The rows' key, for messages.
        parts: Aggregates and lookups to the columns that hold their values already.
    """
    lowering = ToPolars(parts)
    columns = [lowering.expression(given.value).alias(given.name) for given in resolver.args]
    args = frame.select(columns) if columns else frame.select([])

    def label(row: int) -> str:
        moment = f" at {frame[NOW][row].isoformat()}" if NOW in frame.columns else ""
        return f"{key} {frame[key][row]!r}{moment}"

    return resolve(resolver, args, label)
