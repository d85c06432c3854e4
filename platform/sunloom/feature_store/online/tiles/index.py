"""Indexes of a stream's events: what is kept of them, and how aggregations read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sunloom.feature_store.stores.online.key_value import HEADS, OFFSETS, TILES
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Aggregate, Expr, Window
from sunloom.features.plan.feature_sets import Plan


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
