"""Lowering of a plan's expressions to Polars expressions."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from sunloom.features.expressions.functions.table import lower_call
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.expressions import Call, Column, Const, Expr, Now
from sunloom.features.plan.polars_dtypes import POLARS


class ToPolars:
    """Lowers expressions over a frame.

    Args:
        columns: Aggregates and lookups to the columns that have their values already.
    """

    def __init__(self, columns: Mapping[Expr, str] | None = None) -> None:
        self._columns = columns or {}

    def expression(self, node: Expr) -> pl.Expr:
        """The node as a Polars expression."""
        if isinstance(node, Column):
            return pl.col(node.name)
        if isinstance(node, Now):
            return pl.col(NOW)
        if isinstance(node, Const):
            value = list(node.value) if isinstance(node.value, tuple) else node.value
            return pl.lit(value, POLARS[node.dtype])
        if isinstance(node, Call) and node.function == "rows":
            return pl.struct(self.expression(arg) for arg in node.args)
        if isinstance(node, Call):
            return lower_call(node, [self.expression(arg) for arg in node.args])
        # Joins and resolvers need more than this frame: the engine computes them first.
        return pl.col(self._columns[node])
