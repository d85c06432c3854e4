"""Plan expressions to Polars expressions."""

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
        parts: Aggregates and lookups to the columns that hold their values already.
    """

    def __init__(self, parts: Mapping[Expr, str] | None = None) -> None:
        self._parts = parts or {}

    def expression(self, node: Expr) -> pl.Expr:
        """The node as a Polars expression."""
        if isinstance(node, Column):
            return pl.col(node.name)
        if isinstance(node, Now):
            return pl.col(NOW)
        if isinstance(node, Const):
            return _constant(node)
        if isinstance(node, Call) and node.function == "rows":
            return pl.struct(self.expression(arg) for arg in node.args)
        if isinstance(node, Call):
            return lower_call(node, [self.expression(arg) for arg in node.args])
        return pl.col(self._parts[node])


def _constant(node: Const) -> pl.Expr:
    if isinstance(node.value, tuple):
        return pl.lit(list(node.value), POLARS[node.dtype])
    if node.dtype in ("datetime", "duration"):
        return pl.lit(node.value, pl.Int64).cast(POLARS[node.dtype])
    return pl.lit(node.value, POLARS[node.dtype])
