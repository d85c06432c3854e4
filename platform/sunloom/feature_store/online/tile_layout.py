"""Layout of a stream's tiles: what is kept of its events so that a plan can be read at any time.

An *index* holds the events of one class by one set of keys: those of a has-many join, of a has-one
join over other columns, or of the class's own latest row. Time is divided into *tiles*; each holds
its events and *slots*, partial results that merge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sunloom.errors import FeatureError
from sunloom.feature_store.stores.online.key_value import HEADS, OFFSETS, TILES
from sunloom.features.engine.source_rows import evaluation_order
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import (
    Aggregate,
    Column,
    Const,
    Expr,
    Lookup,
    Window,
    own_columns,
    walk,
)
from sunloom.features.plan.feature_sets import ClassPlan, JoinPlan, Plan

_SECOND_US = 1_000_000
_DAY_S = 86_400
# A read merges about this many partial results per window, and unpacks events of two tiles at most.
_TILES_PER_WINDOW = 30
_WIDTHS_S = (1, 10, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800, 2_592_000)
# What MessagePack holds as one scalar; times as whole microseconds, dates as days.
_KEPT_DTYPES = ("int64", "float64", "bool", "string", "datetime", "date", "duration")
_SLOTS: Mapping[str, tuple[str, ...]] = {
    "count": ("n",),
    "sum": ("sum",),
    "mean": ("n", "sum"),
    "min": ("min",),
    "max": ("max",),
    "std": ("moments",),
    "var": ("moments",),
    "first": ("first",),
    "last": ("last",),
    "any": ("n", "true"),
    "all": ("n", "true"),
    "count_distinct": ("distinct",),
}
"""Aggregations and their partial results; the others are computed from the events themselves."""


@dataclass(frozen=True)
class Measure:
    """A value of each event: null where a filter excludes the event."""

    value: Expr
    where: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True)
class Slot:
    """A partial result of one measure, by its place in the index.

    The kind ``row`` has no measure of its own: it keeps the whole latest row.
    """

    kind: str
    measure: int
    dtype: DType


@dataclass(frozen=True)
class TileSpan:
    """A window as a half-open range of whole microseconds before ``now``; None is unbounded."""

    start_ago_us: int | None
    end_ago_us: int | None

    @classmethod
    def from_window(cls, window: Window) -> TileSpan:
        """The span of a window."""
        # Times are whole microseconds: one of them turns an open edge into a closed one.
        start, end = window.start, window.end
        return cls(
            None if start is None else start.ago_us - (not start.inclusive),
            None if end is None else end.ago_us - end.inclusive,
        )


@dataclass(frozen=True)
class Reading:
    """How one aggregation is read: from slots, or from events where it has none.

    Attributes:
        index: The index's number.
        span: The window's place among the index's spans.
        slots: Places of its partial results.
        measures: Places of the measures that it reads.
    """

    index: int
    span: int
    slots: tuple[int, ...]
    measures: tuple[int, ...]


@dataclass(frozen=True)
class Index:
    """Events of one class by keys.

    Attributes:
        number: Its place in the layout.
        namespace: The class.
        keys: Columns that the events are found by.
        time: The column that windows compare; None where every event counts at any time.
        measures: Values that are kept of an event.
        slots: Partial results that are kept of a tile.
        columns: Features whose latest row is kept, in the order of ``row_measures``.
        row_measures: Their places among the measures.
        tile_us: Width of a tile.
        horizon_us: How far before ``now`` an edge of a window can be.
        spans: Every window that is read.
        reads_events: Whether an aggregation without partial results reads the events themselves.
        keeps_events: Whether one needs every event ever.
    """

    number: int
    namespace: str
    keys: tuple[str, ...]
    time: str | None
    measures: tuple[Measure, ...]
    slots: tuple[Slot, ...]
    columns: tuple[str, ...]
    row_measures: tuple[int, ...]
    tile_us: int
    horizon_us: int
    spans: tuple[TileSpan, ...]
    reads_events: bool
    keeps_events: bool


@dataclass(frozen=True)
class TileLayout:
    """Every index of a plan's streamed classes.

    Attributes:
        plan: The plan.
        streamed: Namespaces whose events come by the stream.
        indexes: The indexes.
        readings: How each aggregation over a streamed class is read.
        rows: Namespace and keys to the index that holds the latest rows by those keys.
        fingerprint: Changes with the stored form, and with nothing else.
    """

    plan: Plan
    streamed: tuple[str, ...]
    indexes: tuple[Index, ...]
    readings: Mapping[Aggregate, Reading]
    rows: Mapping[tuple[str, tuple[str, ...]], int]
    fingerprint: str

    @property
    def head_space(self) -> str:
        """The store's space of the heads."""
        return f"{HEADS}/{self.fingerprint}"

    @property
    def tile_space(self) -> str:
        """The store's space of the tiles' events."""
        return f"{TILES}/{self.fingerprint}"

    @property
    def offset_space(self) -> str:
        """The store's space of the consumers' progress."""
        return f"{OFFSETS}/{self.fingerprint}"

    def indexes_of(self, namespace: str) -> tuple[Index, ...]:
        """The indexes of one class."""
        return tuple(index for index in self.indexes if index.namespace == namespace)


def visible_span(time: str | None) -> TileSpan:
    """All that is visible as of a time: events up to it, or every event where they have none."""
    return TileSpan(None, -1 if time else None)


def build_layout(plan: Plan, streamed: Iterable[str], tile_s: int | None = None) -> TileLayout:
    """The layout of the streamed classes' events.

    Args:
        plan: The feature set.
        streamed: Namespaces whose events come by the stream.
        tile_s: Width of a tile, seconds; by default a thirtieth of each index's longest
            window or less.

    Raises:
        FeatureError: A value's type cannot be kept in tiles.
    """
    drafts = _LayoutBuilder(plan, tuple(sorted(streamed)))
    drafts.visit(plan.namespace, plan.outputs)
    indexes = tuple(draft.build(tile_s) for draft in drafts.by_place.values())
    return TileLayout(
        plan=plan,
        streamed=drafts.streamed,
        indexes=indexes,
        readings=drafts.readings,
        rows=drafts.rows,
        fingerprint=_fingerprint(plan, indexes),
    )


@dataclass
class _IndexDraft:
    number: int
    item: ClassPlan
    keys: tuple[str, ...]
    time: str | None
    measures: dict[Measure, int] = field(default_factory=dict)
    slots: dict[Slot, int] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    spans: dict[TileSpan, int] = field(default_factory=dict)
    reads_events: bool = False
    keeps_events: bool = False

    def measure(self, value: Expr, where: tuple[Expr, ...]) -> int:
        if value.dtype not in _KEPT_DTYPES:
            raise FeatureError(
                f"{self.item.namespace}: a stream cannot keep values of type {value.dtype}.",
                "Aggregate scalars, or compute this feature in batch.",
            )
        measure = Measure(value, where, value.dtype)
        return self.measures.setdefault(measure, len(self.measures))

    def slot(self, kind: str, measure: int, dtype: DType) -> int:
        return self.slots.setdefault(Slot(kind, measure, dtype), len(self.slots))

    def span(self, span: TileSpan) -> int:
        return self.spans.setdefault(span, len(self.spans))

    def add(self, node: Aggregate) -> Reading:
        window = TileSpan.from_window(node.window)
        span = self.span(window)
        kinds = _SLOTS.get(node.kind)
        if kinds is None:
            self.reads_events = True
            # Without partial results and without a start, a window needs every event ever.
            self.keeps_events = self.keeps_events or window.start_ago_us is None
            # Value, the value to order by, and, where there are filters, whether the event counts.
            parts = [part for part in (node.value, node.by) if part is not None]
            places = [self.measure(part, ()) for part in parts]
            if node.where:
                places.append(self.measure(Const(value=True, dtype="bool"), node.where))
            return Reading(self.number, span, (), tuple(places))
        value = node.value
        if value is None:
            if not node.where:
                return Reading(self.number, span, (self.slot("n", -1, "int64"),), ())
            # A filtered count is the number of non-null values of a constant.
            value = Const(value=True, dtype="bool")
        place = self.measure(value, node.where)
        slots = tuple(self.slot(kind, place, value.dtype) for kind in kinds)
        return Reading(self.number, span, slots, (place,))

    def add_row(self, names: Iterable[str]) -> None:
        for name in names:
            dtype = self.item.feature(name).dtype
            self.columns.setdefault(name, self.measure(Column(name=name, dtype=dtype), ()))
        self.slot("row", -1, "null")
        self.span(visible_span(self.time))

    def build(self, tile_s: int | None) -> Index:
        windows = [span.start_ago_us for span in self.spans if span.start_ago_us is not None]
        edges = [ago for s in self.spans for ago in (s.start_ago_us, s.end_ago_us) if ago]
        if not tile_s:
            longest_us = max(windows, default=0)
            most_s = longest_us / _TILES_PER_WINDOW / _SECOND_US
            fitting = [width for width in _WIDTHS_S if width <= most_s]
            tile_s = max(fitting, default=1) if longest_us else _DAY_S
        return Index(
            number=self.number,
            namespace=self.item.namespace,
            keys=self.keys,
            time=self.time,
            measures=tuple(self.measures),
            slots=tuple(self.slots),
            columns=tuple(self.columns),
            row_measures=tuple(self.columns.values()),
            tile_us=tile_s * _SECOND_US,
            horizon_us=max(edges, default=0),
            spans=tuple(self.spans),
            reads_events=self.reads_events,
            keeps_events=self.keeps_events,
        )


class _LayoutBuilder:
    """Walks what the outputs need and collects an index for each set of keys and time column."""

    def __init__(self, plan: Plan, streamed: tuple[str, ...]) -> None:
        self.plan = plan
        self.streamed = streamed
        self.by_place: dict[tuple[str, tuple[str, ...], str | None], _IndexDraft] = {}
        self.readings: dict[Aggregate, Reading] = {}
        self.rows: dict[tuple[str, tuple[str, ...]], int] = {}
        # Classes may join each other: each feature is visited once.
        self._seen: set[tuple[str, str]] = set()

    def visit(self, namespace: str, names: Sequence[str]) -> None:
        item = self.plan.class_plan(namespace)
        for name in evaluation_order(item, names):
            if (namespace, name) in self._seen:
                continue
            self._seen.add((namespace, name))
            feature = item.feature(name)
            expression = feature.expression
            if expression is None:
                # The row's own time tells how old the value is.
                timed = item.time if feature.max_staleness_us is not None else None
                self._keep_row(item, (item.key,), (name, timed) if timed else (name,))
                continue
            for node in walk(expression):
                if isinstance(node, Aggregate | Lookup):
                    self._visit_join(item.join(node.join), node)

    def _draft(self, namespace: str, keys: tuple[str, ...], time: str | None) -> _IndexDraft:
        # Events are sorted by one time column, so each has an index of its own.
        place = (namespace, keys, time)
        if place not in self.by_place:
            self.by_place[place] = _IndexDraft(
                len(self.by_place), self.plan.class_plan(namespace), keys, time
            )
        return self.by_place[place]

    def _keep_row(self, item: ClassPlan, keys: tuple[str, ...], names: Sequence[str]) -> None:
        if item.namespace not in self.streamed:
            return
        draft = self._draft(item.namespace, keys, item.time)
        draft.add_row(names)
        self.rows[item.namespace, keys] = draft.number

    def _visit_join(self, join: JoinPlan, node: Aggregate | Lookup) -> None:
        if isinstance(node, Aggregate):
            if join.target in self.streamed and node not in self.readings:
                draft = self._draft(join.target, join.target_keys, node.window.column)
                self.readings[node] = draft.add(node)
            return
        target = self.plan.class_plan(join.target)
        if join.target_keys != (target.key,):
            # The key alone: the feature is read by it, as of the same time, from an index of its
            # own.
            self._keep_row(target, join.target_keys, (target.key,))
        self.visit(join.target, (node.feature,))


def _fingerprint(plan: Plan, indexes: Sequence[Index]) -> str:
    # Only what the tiles depend on: a new description or another derived feature keeps them.
    kept = [
        [asdict(index), _source_features(plan.class_plan(index.namespace), index)]
        for index in indexes
    ]
    text = json.dumps([plan.feature_set, kept], default=lambda node: node.model_dump())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source_features(item: ClassPlan, index: Index) -> list[dict[str, Any]]:
    """What the index's keys, time and measures are computed from."""
    measured = [m.value for m in index.measures] + [w for m in index.measures for w in m.where]
    names = {*index.keys, *(name for node in measured for name in own_columns(node))}
    names |= {index.time} if index.time else set()
    meaning = {"name", "dtype", "expression", "default", "validations"}
    features = [item.feature(name) for name in evaluation_order(item, sorted(names))]
    return [feature.model_dump(mode="json", include=meaning) for feature in features]
