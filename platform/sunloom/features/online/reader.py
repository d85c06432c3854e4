"""Features of entities at a moment, from stored records and the tiles of streams."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sunloom.errors import NotFoundError, UsageError
from sunloom.features.online.entities import NOW as VISIBLE
from sunloom.features.online.entities import (
    Entity,
    IndexReader,
    from_events,
    microseconds,
)
from sunloom.features.online.programs import Folded, Found, Program, build_program
from sunloom.features.plan import Plan
from sunloom.features.store import OnlineStore
from sunloom.features.streaming.heads import Head, key_bytes, tile_key, unpack_events
from sunloom.features.streaming.ingest import spaces
from sunloom.features.streaming.layout import Layout, Span, build_layout

Row = dict[str, Any]


class OnlineReader:
    """Reads one feature set.

    Args:
        store: Records and tiles.
        plan: What the features mean; compiled here.
        layout: What a stream keeps of the plan's classes; None where none is streamed.
    """

    def __init__(self, store: OnlineStore, plan: Plan, layout: Layout | None = None) -> None:
        self.plan = plan
        self.layout = layout or build_layout(plan, ())
        self.names = plan.outputs
        self._store = store
        self._is_recorded = plan.feature_set in store.feature_sets()
        recorded = store.schema(plan.feature_set).names if self._is_recorded else ()
        self._recorded = recorded
        self._programs: dict[tuple[str, ...], Program] = {}
        self._readers = [IndexReader(index) for index in self.layout.indexes]
        self._spans = [_spans(self.layout, number) for number in range(len(self._readers))]
        self._spaces = spaces(self.layout)

    def read(
        self,
        ids: Sequence[Any],
        now: datetime | None = None,
        features: Sequence[str] | None = None,
    ) -> list[Row | None]:
        """The features of each id in order; None where nothing is known of it.

        Args:
            ids: Entities; a number may come as its digits.
            now: The moment, with a time zone. By default the present for a streamed set; else
                each record as it was written.
            features: Only these.

        Raises:
            NotFoundError: Unknown feature.
            UsageError: An id is not of the key's type, or the moment has no zone or lies before
                what is kept.
        """
        if now is None and not self.layout.streamed:
            return self._store.read(self.plan.feature_set, ids, features)
        moment = _utc(now)
        names = self.names if features is None else self._checked(features)
        program = self._program(names)
        rows: list[Row] = [{self.plan.root.key: one} for one in self._keys(ids)]
        known = self._take_records(program, rows, ids)
        run = _Run(self, moment)
        run.evaluate(program, rows)
        is_known = [a or b for a, b in zip(known, run.known(rows, program), strict=True)]
        return [
            {name: row[name] for name in names} if there else None
            for row, there in zip(rows, is_known, strict=True)
        ]

    def _checked(self, features: Sequence[str]) -> tuple[str, ...]:
        for name in features:
            if name not in self.names:
                raise NotFoundError(
                    f"Feature set {self.plan.feature_set!r} has no feature {name!r}.",
                    known=self.names,
                    name=name,
                    param="features",
                )
        return tuple(features)

    def _program(self, names: tuple[str, ...]) -> Program:
        if names not in self._programs:
            self._programs[names] = build_program(
                self.layout, self.plan.namespace, names, self._recorded
            )
        return self._programs[names]

    def _keys(self, ids: Sequence[Any]) -> list[Any]:
        root = self.plan.root
        if root.feature(root.key).dtype == "string":
            return [str(one) for one in ids]
        return [_as_int(one, f"{self.plan.feature_set}.{root.key}") for one in ids]

    def _take_records(self, program: Program, rows: list[Row], ids: Sequence[Any]) -> list[bool]:
        """Stored values into the rows; which rows have a record."""
        if not program.stored or not self._is_recorded:
            for row in rows:
                row.update(dict.fromkeys(program.stored))
            return [False] * len(rows)
        records = self._store.read(self.plan.feature_set, ids)
        for row, record in zip(rows, records, strict=True):
            held = record or {}
            row.update({name: held.get(name) for name in program.stored})
        return [record is not None for record in records]


class _Run:
    """One read: fetches each index's heads and edge tiles once for all rows.

    Args:
        reader: Plan and store.
        now: The moment.
    """

    def __init__(self, reader: OnlineReader, now: datetime) -> None:
        self._reader = reader
        self._now = now
        self._now_us = microseconds(now)
        self._entities: dict[int, dict[tuple[Any, ...], Entity]] = {}

    def known(self, rows: Sequence[Row], program: Program) -> list[bool]:
        """Whether the stream has anything of each row's key."""
        found = [False] * len(rows)
        key = program.item.key
        for entities in self._entities.values():
            for place, row in enumerate(rows):
                entity = entities.get((row[key],))
                found[place] = found[place] or (entity is not None and entity.is_known)
        return found

    def evaluate(self, program: Program, rows: list[Row]) -> None:
        """Fill the rows with the program's features."""
        if program.sources:
            self._read_rows(program, rows)
        for step in program.steps:
            columns = [self._part(part, rows) for part in step.parts]
            evaluate, finish, name = step.evaluate, step.finish, step.name
            for place, row in enumerate(rows):
                parts = [column[place] for column in columns]
                row[name] = finish(evaluate(row, self._now, parts))

    def _read_rows(self, program: Program, rows: list[Row]) -> None:
        assert program.row_index is not None
        reader = self._reader._readers[program.row_index]
        for row, entity in zip(
            rows, self._at(program.row_index, (program.item.key,), rows), strict=True
        ):
            latest = None if entity is None else reader.row(entity)
            for name, default in program.sources.items():
                row[name] = default if latest is None else latest[name]

    def _part(self, part: Folded | Found, rows: list[Row]) -> list[Any]:
        if isinstance(part, Found):
            return self._look_up(part, rows)
        reading = part.reading
        entities = self._at(reading.index, part.own_keys, rows)
        if part.finish is None:
            index = self._reader._readers[reading.index].index
            return [
                from_events(part.node, reading, index, [] if e is None else e.events(reading.span))
                for e in entities
            ]
        return [self._folded(part, entity) for entity in entities]

    def _folded(self, part: Folded, entity: Entity | None) -> Any:
        assert part.finish is not None
        reading = part.reading
        if entity is None:
            kinds = self._reader._readers[reading.index].kinds
            return part.finish([kinds[place].fold(()) for place in reading.slots])
        return part.finish([entity.slot(reading.span, place) for place in reading.slots])

    def _look_up(self, part: Found, rows: list[Row]) -> list[Any]:
        if part.by_row is None:
            keys = [row[part.join.own_keys[0]] for row in rows]
        else:
            reader = self._reader._readers[part.by_row]
            found = self._at(part.by_row, part.join.own_keys, rows)
            latest = [None if entity is None else reader.row(entity) for entity in found]
            keys = [None if row is None else row[part.target_key] for row in latest]
        asked = [{part.target_key: key} for key in keys if key is not None]
        for row in asked:
            row.update(dict.fromkeys(part.program.stored))
        self.evaluate(part.program, asked)
        answers = iter(asked)
        return [None if key is None else next(answers)[part.feature] for key in keys]

    def _at(self, index: int, keys: tuple[str, ...], rows: Sequence[Row]) -> list[Entity | None]:
        """The index's entity of each row; None where a key is null."""
        wanted = [tuple(row[name] for name in keys) for row in rows]
        held = self._entities.setdefault(index, {})
        missing = [k for k in dict.fromkeys(wanted) if k not in held and None not in k]
        if missing:
            held.update(self._fetched(index, missing))
        return [held.get(key) for key in wanted]

    def _fetched(self, number: int, keys: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], Entity]:
        reader = self._reader._readers[number]
        heads, tiles = self._reader._spaces
        packed = [key_bytes(reader.index, key) for key in keys]
        slots = len(reader.index.slots)
        entities = [
            Entity(reader, Head(raw, slots), self._now_us, is_known=raw is not None)
            for raw in self._reader._store.get_many(heads, packed)
        ]
        spans, all_events = self._reader._spans[number]
        wanted = [
            (entity, tile, tile_key(key, tile))
            for key, entity in zip(packed, entities, strict=True)
            for tile in entity.wants(spans, all_events=all_events)
        ]
        blobs = self._reader._store.get_many(tiles, [place for _, _, place in wanted])
        for (entity, tile, _), blob in zip(wanted, blobs, strict=True):
            entity.give(tile, unpack_events(blob) if blob else [[]])
        return dict(zip(keys, entities, strict=True))


def _spans(layout: Layout, number: int) -> tuple[tuple[Span, ...], bool]:
    """An index's windows, and whether an aggregation needs all events in them."""
    readings = [r for r in layout.readings.values() if r.index == number]
    spans = dict.fromkeys(reading.span for reading in readings)
    if layout.indexes[number].columns:
        spans[VISIBLE if layout.indexes[number].time else Span(None, None)] = None
    return tuple(spans), any(not reading.slots for reading in readings)


def _utc(now: datetime | None) -> datetime:
    if now is None:
        return datetime.now(UTC)
    if now.tzinfo is None:
        raise UsageError(
            f"The moment {now.isoformat()} has no time zone.", "Write it in UTC.", "now"
        )
    return now.astimezone(UTC)


def _as_int(one: Any, name: str) -> int:
    try:
        if isinstance(one, bool | float):
            raise ValueError(one)
        number = int(one)
    except (TypeError, ValueError):
        number = 1 << 63
    if not -(1 << 63) <= number < 1 << 63:
        raise UsageError(f"Entity id {one!r} is not an integer; {name} is one.", param="entity_id")
    return number
