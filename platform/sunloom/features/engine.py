"""Evaluates a plan on tables in memory: one process, Polars frames around NumPy kernels.

Every executor calls this: the one-node path on whole tables, the Ray Data path on each partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import polars as pl

from sunloom.features.aggregation import aggregate_series
from sunloom.features.kernels import Ints, Ranges, Timeline
from sunloom.features.keys import KeyCodec
from sunloom.features.lowering import NOW, Lowering
from sunloom.features.plan import (
    Aggregate,
    Bound,
    ClassPlan,
    Expr,
    FeaturePlan,
    JoinPlan,
    Lookup,
    Plan,
    Window,
    own_columns,
    walk,
)
from sunloom.features.types import POLARS


class Rows:
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
        self._timelines: dict[tuple[tuple[str, ...], str | None], JoinedRows] = {}

    def values(self, expression: Expr) -> pl.Series:
        """The expression's value in each row."""
        if expression not in self._values:
            for name in in_order(self.item, own_columns(expression)):
                self._ensure(name)
            lowered = Lowering().expression(expression)
            self._values[expression] = self.frame.select(lowered.alias("value")).to_series()
        return self._values[expression]

    def joined(self, keys: tuple[str, ...], time: str | None) -> JoinedRows:
        """The rows sorted by those keys and that time."""
        wanted = (keys, time)
        if wanted not in self._timelines:
            self._timelines[wanted] = JoinedRows(self, keys, time)
        return self._timelines[wanted]

    def _ensure(self, name: str) -> None:
        feature = self.item.feature(name)
        if name in self.frame.columns or feature.expression is None:
            return
        lowered = finished(feature, Lowering().expression(feature.expression))
        self.frame = self.frame.with_columns(lowered)


class JoinedRows:
    """Rows of a class sorted for one join.

    Args:
        rows: The class's rows.
        keys: Columns that questions are matched on.
        time: The column that windows compare, if any.
    """

    def __init__(self, rows: Rows, keys: tuple[str, ...], time: str | None) -> None:
        self.rows = rows
        for name in keys:
            rows._ensure(name)
        columns = [rows.frame[name] for name in keys]
        self.codec = KeyCodec(columns)
        codes = self.codec.codes(columns)
        times = np.zeros(len(codes), dtype=np.int64)
        if time is not None:
            column = rows.frame[time].cast(pl.Int64)
            times = column.fill_null(0).to_numpy()
            # Without a time a row is never visible.
            codes = np.where(column.is_null().to_numpy(), -1, codes)
        self.timeline = Timeline(codes, times)

    def sorted(self, expression: Expr) -> pl.Series:
        """The expression's value in each sorted row."""
        return self.rows.values(expression).gather(self.timeline.order)


class Questions:
    """What is asked of one class: a key and a moment a row, and answers as they are computed.

    Args:
        frame: The key under its feature name, ``NOW``, and inputs that are given.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.answers: dict[Expr, str] = {}
        self._codes: dict[tuple[int, tuple[str, ...]], Ints] = {}
        self._ranges: dict[tuple[int, tuple[str, ...], Window], Ranges] = {}

    @cached_property
    def now(self) -> Ints:
        """The moments in microseconds."""
        return self.frame[NOW].cast(pl.Int64).to_numpy()

    def codes(self, joined: JoinedRows, keys: tuple[str, ...]) -> Ints:
        """The rows' key codes in that join."""
        wanted = (id(joined), keys)
        if wanted not in self._codes:
            self._codes[wanted] = joined.codec.codes([self.frame[name] for name in keys])
        return self._codes[wanted]

    def ranges(self, joined: JoinedRows, keys: tuple[str, ...], window: Window) -> Ranges:
        """The joined rows in each question's window."""
        wanted = (id(joined), keys, window)
        if wanted not in self._ranges:
            codes = self.codes(joined, keys)
            self._ranges[wanted] = _window_ranges(joined.timeline, codes, self.now, window)
        return self._ranges[wanted]


class Engine:
    """A plan over source tables.

    Args:
        plan: What to compute.
        sources: Namespace to rows, conformed to the plan's types; a class may have none.
    """

    def __init__(self, plan: Plan, sources: Mapping[str, pl.DataFrame]) -> None:
        self._plan = plan
        self._rows = {name: Rows(plan.of(name), frame) for name, frame in sources.items()}

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The plan's outputs for each question, one row each, in order.

        Args:
            frame: The key under its feature name, ``NOW``, and given inputs.
        """
        if frame.height < _WORTH_SORTING:
            return self._answer(self._plan.namespace, frame, self._plan.outputs)
        # Neighbouring questions then look at neighbouring rows: several times faster.
        keys = [self._plan.root.key, NOW]
        ordered = frame.with_row_index(_ROW).sort(keys)
        answers = self._answer(self._plan.namespace, ordered.drop(_ROW), self._plan.outputs)
        return answers.select(pl.all().gather(ordered[_ROW].arg_sort()))

    def _answer(self, namespace: str, frame: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
        item = self._plan.of(namespace)
        questions = Questions(frame)
        order = in_order(item, names)
        self._read_sources(item, questions, order)
        for name in order:
            feature = item.feature(name)
            if feature.expression is not None and name not in questions.frame.columns:
                self._compute(item, questions, feature, feature.expression)
        return questions.frame.select(names)

    def _read_sources(self, item: ClassPlan, questions: Questions, names: Iterable[str]) -> None:
        """The visible row of each question: the latest not after now; null where there is none."""
        held = questions.frame.columns
        wanted = [n for n in names if item.feature(n).expression is None and n not in held]
        if not wanted:
            return
        rows = self._rows.get(item.namespace)
        if rows is None:
            empty = [
                finished(item.feature(n), pl.lit(None, POLARS[item.feature(n).dtype]))
                for n in wanted
            ]
            questions.frame = questions.frame.with_columns(empty)
            return
        joined = rows.joined((item.key,), item.time)
        window = Window(column=item.time, end=_NOW_BOUND if item.time else None)
        ranges = questions.ranges(joined, (item.key,), window)
        found = np.where(ranges.counts > 0, ranges.stop - 1, 0)
        order = joined.timeline.order
        places = order[found] if len(order) else found
        missing = pl.Series(ranges.counts == 0)
        index = pl.Series(places).set(missing, None)
        picked = rows.frame.select(pl.col(wanted).gather(index))
        done = [_defaulted(item.feature(n), missing) for n in wanted]
        questions.frame = questions.frame.hstack(picked.select(done))

    def _compute(
        self, item: ClassPlan, questions: Questions, feature: FeaturePlan, expression: Expr
    ) -> None:
        for node in walk(expression):
            if isinstance(node, Aggregate | Lookup) and node not in questions.answers:
                name = f"__part{len(questions.answers)}__"
                questions.answers[node] = name
                series = self._part(item, questions, node).alias(name)
                questions.frame = questions.frame.with_columns(series)
        lowered = Lowering(questions.answers).expression(expression)
        questions.frame = questions.frame.with_columns(finished(feature, lowered))

    def _part(self, item: ClassPlan, questions: Questions, node: Aggregate | Lookup) -> pl.Series:
        join = item.join(node.join)
        if isinstance(node, Aggregate):
            return self._aggregate(questions, join, node)
        return self._look_up(questions, join, node)

    def _aggregate(self, questions: Questions, join: JoinPlan, node: Aggregate) -> pl.Series:
        joined = self._rows[join.target].joined(join.target_keys, node.window.column)
        ranges = questions.ranges(joined, join.own_keys, node.window)
        return aggregate_series(node, joined.sorted, joined.timeline.keys, ranges)

    def _look_up(self, questions: Questions, join: JoinPlan, node: Lookup) -> pl.Series:
        target = self._plan.of(join.target)
        if join.target_keys != (target.key,):
            return self._look_up_by_keys(questions, join, target, node)
        own = pl.col(join.own_keys[0]).alias(target.key)
        asked = questions.frame.select(own, NOW)
        known = asked[target.key].is_not_null()
        answers = self._answer(target.namespace, asked, (node.feature,))[node.feature]
        return answers.set(~known, None)

    def _look_up_by_keys(
        self, questions: Questions, join: JoinPlan, target: ClassPlan, node: Lookup
    ) -> pl.Series:
        """A has-one over other columns than the key: the latest visible row decides the key."""
        joined = self._rows[join.target].joined(join.target_keys, target.time)
        window = Window(column=target.time, end=_NOW_BOUND if target.time else None)
        ranges = questions.ranges(joined, join.own_keys, window)
        keys = joined.rows.frame[target.key].gather(joined.timeline.order)
        index = pl.Series(np.maximum(ranges.stop - 1, 0)).set(pl.Series(ranges.counts == 0), None)
        asked = questions.frame.select(NOW).with_columns(keys.gather(index).alias(target.key))
        answers = self._answer(target.namespace, asked, (node.feature,))[node.feature]
        return answers.set(asked[target.key].is_null(), None)


_ROW = "__row__"
_WORTH_SORTING = 1_000
_NOW_BOUND = Bound(ago_us=0, inclusive=True)


def _window_ranges(timeline: Timeline, codes: Ints, now: Ints, window: Window) -> Ranges:
    if window.end is None:
        stop = timeline.end_of(codes)
    else:
        stop = timeline.until(codes, now - window.end.ago_us, inclusive=window.end.inclusive)
    if window.start is None:
        start = timeline.first_of(codes)
    else:
        # Rows before the window: those not after its start, or, if the start is in it, before.
        before = not window.start.inclusive
        start = timeline.until(codes, now - window.start.ago_us, inclusive=before)
    unknown = codes < 0
    start, stop = np.where(unknown, 0, start), np.where(unknown, 0, stop)
    return Ranges(np.minimum(start, stop), stop)


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
    value = value.cast(POLARS[feature.dtype])
    if feature.default is not None:
        value = value.fill_null(Lowering().expression(feature.default))
    for check in feature.validations:
        if check.strict:
            value = pl.when(Lowering.within(value, check)).then(value)
    return value.alias(feature.name)


def _defaulted(feature: FeaturePlan, missing: pl.Series) -> pl.Expr:
    """The feature's column, with its default where there is no row."""
    value = pl.col(feature.name)
    if feature.default is None:
        return value
    default = Lowering().expression(feature.default)
    return pl.when(pl.lit(missing)).then(default).otherwise(value).alias(feature.name)
