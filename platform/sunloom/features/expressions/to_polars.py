"""Lowering of a plan's expressions to Polars expressions."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from sunloom.features.expressions.functions.casts import lower_cast
from sunloom.features.expressions.functions.table import FUNCTIONS
from sunloom.features.plan.expressions import Call, Column, Const, Expr, Now
from sunloom.features.plan.feature_sets import NOW
from sunloom.features.plan.polars_dtypes import POLARS


def to_polars(node: Expr, columns: Mapping[Expr, str] | None = None) -> pl.Expr:
    """The expression as a Polars expression over a frame.

    Args:
        node: The expression.
        columns: Aggregates and lookups to the columns that have their values already.
    """
    if isinstance(node, Column):
        return pl.col(node.name)
    if isinstance(node, Now):
        return pl.col(NOW)
    if isinstance(node, Const):
        value = list(node.value) if isinstance(node.value, tuple) else node.value
        return pl.lit(value, POLARS[node.dtype])
    if not isinstance(node, Call):
        # Joins and resolvers need more than this frame: the engine computes them first.
        return pl.col((columns or {})[node])
    args = [to_polars(arg, columns) for arg in node.args]
    if node.function == "rows":
        return pl.struct(args)
    if node.function == "cast":
        return lower_cast(args[0], node.args[0].dtype, node.dtype)
    return FUNCTIONS[node.function].frame(args, node)
