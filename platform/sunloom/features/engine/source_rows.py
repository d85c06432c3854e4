"""Source rows of a class, features computed from a row alone, and the rows sorted for a join."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sunloom.features.expressions.to_polars import to_polars
from sunloom.features.expressions.validations import finish_value, violation_count
from sunloom.features.kernels.timeline import KeyCodec, Timeline
from sunloom.features.plan.expressions import (
    Aggregate,
    Column,
    Expr,
    Lookup,
    Resolved,
    Resolver,
    own_columns,
    walk,
)
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan

if TYPE_CHECKING:
    from sunloom.features.resolvers import ResolverResults


class SourceRows:
    """One class's source rows and what is computed from a row alone.

    Args:
        item: The class.
        frame: Its rows in order of insertion, columns of the declared types.
    """

    def __init__(self, item: ClassPlan, frame: pl.DataFrame) -> None:
        self.item = item
        read = [f for f in item.features if f.name in frame.columns]
        # Columns without default and limits stay as they were read.
        changed = [f for f in read if f.validations or f.default is not None]
        self.frame = frame.with_columns([finish_value(f, pl.col(f.name)) for f in changed])
        self._values: dict[Expr, pl.Series] = {}
        self._resolver_results: dict[Resolver, ResolverResults] = {}
        self._joined_rows: dict[tuple[tuple[str, ...], str | None], JoinedRows] = {}

    def values(self, expression: Expr) -> pl.Series:
        """The expression's value in each row."""
        if expression not in self._values:
            self._compute_columns(expression)
            if isinstance(expression, Column):
                return self.frame[expression.name]
            value = to_polars(expression).alias("value")
            self._values[expression] = self.frame.select(value).to_series()
        return self._values[expression]

    def joined_rows(self, keys: tuple[str, ...], time: str | None) -> JoinedRows:
        """The rows sorted by those keys and that time; sorted once for all joins alike."""
        if (keys, time) not in self._joined_rows:
            self._joined_rows[keys, time] = JoinedRows(self, keys, time)
        return self._joined_rows[keys, time]

    def compute_column(self, name: str) -> None:
        """Compute the feature as a column, unless it is one or is read from the source."""
        feature = self.item.feature(name)
        if name in self.frame.columns or feature.expression is None:
            return
        self.frame = self.frame.with_columns(finish_value(feature, self._value(feature.expression)))

    def violations(self, feature: FeaturePlan) -> int:
        """How many rows' values of a computed feature are outside its limits."""
        if feature.expression is None:
            return 0
        self._compute_columns(feature.expression)
        count = violation_count(feature, self._value(feature.expression))
        return int(self.frame.select(count).item())

    def _compute_columns(self, expression: Expr) -> None:
        for name in evaluation_order(self.item, own_columns(expression)):
            self.compute_column(name)

    def _value(self, expression: Expr) -> pl.Expr:
        if not isinstance(expression, Resolved):
            return to_polars(expression)
        # Only plans with resolvers load user code.
        from sunloom.features.resolvers import resolve_frame

        if expression.resolver not in self._resolver_results:
            self._compute_columns(expression)
            self._resolver_results[expression.resolver] = resolve_frame(
                expression.resolver, self.frame, self.item.key
            )
        return pl.lit(self._resolver_results[expression.resolver].column(expression.output))


class JoinedRows:
    """Rows of a class sorted for one join.

    Args:
        rows: The class's rows.
        keys: Columns that query rows are matched on.
        time: The column that windows compare, if any.
    """

    def __init__(self, rows: SourceRows, keys: tuple[str, ...], time: str | None) -> None:
        self.rows = rows
        self.time = time
        for name in keys:
            rows.compute_column(name)
        columns = [rows.frame[name] for name in keys]
        self.codec = KeyCodec(columns)
        codes = self.codec.codes(columns)
        if time is None:
            # Equal times keep the order of insertion, so the row added last is the latest.
            self.timeline = Timeline(codes, np.zeros(len(codes), dtype=np.int64))
            return
        column = rows.frame[time].cast(pl.Int64)
        if column.null_count():
            # Without a time a row is never visible.
            codes = np.where(column.is_null().to_numpy(), -1, codes)
            column = column.fill_null(0)
        self.timeline = Timeline(codes, column.to_numpy())

    def sorted_values(self, expression: Expr) -> pl.Series:
        """The expression's value in each sorted row."""
        # Not gather, which is a query plan: twenty times the time of few rows.
        return self.rows.values(expression)[pl.Series(self.timeline.order)]


def evaluation_order(item: ClassPlan, names: Iterable[str]) -> list[str]:
    """The named features and all that they need of their own class, needed ones first."""
    # A dict keeps the order in which names were added, as a set does not.
    visited: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in visited:
            return
        # Sorted, as a set's order differs from run to run, and the layout of tiles, whose
        # fingerprint is stored, follows this order.
        for needed in sorted(_own_needs(item, name)):
            visit(needed)
        visited[name] = None

    for name in names:
        visit(name)
    return [name for name in visited if name != item.key]


def _own_needs(item: ClassPlan, name: str) -> set[str]:
    expression = item.feature(name).expression
    if expression is None:
        return set()
    needed = own_columns(expression)
    for node in walk(expression):
        if isinstance(node, Aggregate | Lookup):
            needed |= set(item.join(node.join).own_keys)
    return needed
