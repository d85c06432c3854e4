"""A class's source rows, what follows from a row alone, and the rows sorted for a join."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sunloom.features.expressions.to_polars import ToPolars
from sunloom.features.expressions.validations import enforce_limits, violation_count
from sunloom.features.kernels.key_codes import KeyCodec
from sunloom.features.kernels.timeline import Timeline
from sunloom.features.plan.expressions import (
    Aggregate,
    Expr,
    Lookup,
    Resolved,
    Resolver,
    own_columns,
    walk,
)
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan
from sunloom.features.plan.polars_dtypes import POLARS

if TYPE_CHECKING:
    from sunloom.features.resolvers.results import ResolverResults


class SourceRows:
    """One class's source rows and what is computed from a row alone.

    Args:
        item: The class.
        frame: Its rows in order of insertion, columns of the declared types.
    """

    def __init__(self, item: ClassPlan, frame: pl.DataFrame) -> None:
        self.item = item
        checked = [f for f in item.features if f.name in frame.columns]
        limited = [f for f in checked if f.validations or f.default is not None]
        self.frame = frame.with_columns([finished(f, pl.col(f.name)) for f in limited])
        self._values: dict[Expr, pl.Series] = {}
        self._asked: dict[Resolver, ResolverResults] = {}
        self._timelines: dict[tuple[tuple[str, ...], str | None], JoinedRows] = {}

    def values(self, expression: Expr) -> pl.Series:
        """The expression's value in each row."""
        if expression not in self._values:
            for name in in_order(self.item, own_columns(expression)):
                self.ensure(name)
            lowered = ToPolars().expression(expression)
            self._values[expression] = self.frame.select(lowered.alias("value")).to_series()
        return self._values[expression]

    def joined(self, keys: tuple[str, ...], time: str | None) -> JoinedRows:
        """The rows sorted by those keys and that time."""
        wanted = (keys, time)
        if wanted not in self._timelines:
            self._timelines[wanted] = JoinedRows(self, keys, time)
        return self._timelines[wanted]

    def ensure(self, name: str) -> None:
        """Compute the feature, if it is computed from its own row, as a column."""
        feature = self.item.feature(name)
        if name in self.frame.columns or feature.expression is None:
            return
        self.frame = self.frame.with_columns(finished(feature, self._lowered(feature.expression)))

    def outside(self, feature: FeaturePlan) -> int:
        """How many rows' values of a computed feature lie outside its limits."""
        if feature.expression is None:
            return 0
        for name in in_order(self.item, own_columns(feature.expression)):
            self.ensure(name)
        value = filled(feature, self._lowered(feature.expression))
        return int(self.frame.select(violation_count(feature, value)).item())

    def _lowered(self, expression: Expr) -> pl.Expr:
        if not isinstance(expression, Resolved):
            return ToPolars().expression(expression)
        from sunloom.features.resolvers.arguments import ask

        if expression.resolver not in self._asked:
            for name in in_order(self.item, own_columns(expression)):
                self.ensure(name)
            self._asked[expression.resolver] = ask(expression.resolver, self.frame, self.item.key)
        return pl.lit(self._asked[expression.resolver].column(expression.output))


class JoinedRows:
    """Rows of a class sorted for one join.

    Args:
        rows: The class's rows.
        keys: Columns that questions are matched on.
        time: The column that windows compare, if any.
    """

    def __init__(self, rows: SourceRows, keys: tuple[str, ...], time: str | None) -> None:
        self.rows = rows
        self.time = time
        for name in keys:
            rows.ensure(name)
        columns = [rows.frame[name] for name in keys]
        self.codec = KeyCodec(columns)
        codes = self.codec.codes(columns)
        if time is None:
            self.timeline = Timeline(codes, np.zeros(len(codes), dtype=np.int64))
            return
        column = rows.frame[time].cast(pl.Int64)
        if column.null_count():
            # Without a time a row is never visible.
            codes = np.where(column.is_null().to_numpy(), -1, codes)
            column = column.fill_null(0)
        self.timeline = Timeline(codes, column.to_numpy())

    def sorted(self, expression: Expr) -> pl.Series:
        """The expression's value in each sorted row."""
        return self.rows.values(expression).gather(self.timeline.order)


def in_order(item: ClassPlan, names: Iterable[str]) -> list[str]:
    """The named features and all that they need of their own class, needed ones first."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in done:
            return
        for needed in sorted(_own_needs(item, name)):
            visit(needed)
        done[name] = None

    for name in names:
        visit(name)
    return [name for name in done if name != item.key]


def _own_needs(item: ClassPlan, name: str) -> set[str]:
    expression = item.feature(name).expression
    if expression is None:
        return set()
    needed = own_columns(expression)
    for node in walk(expression):
        if isinstance(node, Aggregate | Lookup):
            needed |= set(item.join(node.join).own_keys)
    return needed


def finished(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """The value as the feature bears it: its type, its default, its limits, its name.

    The default stands for what is missing, never for what a strict limit refused.
    """
    return enforce_limits(feature, filled(feature, value)).alias(feature.name)


def filled(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """The value in the feature's type, and its default where there is none."""
    value = value.cast(POLARS[feature.dtype])
    if feature.default is None:
        return value
    return value.fill_null(ToPolars().expression(feature.default))
