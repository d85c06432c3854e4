"""Features of entities at a moment, from stored records and the tiles of streams."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sunloom.errors import NotFoundError, UsageError
from sunloom.feature_store.online.read_plan import Folded, Found, Program, build_program
from sunloom.feature_store.online.row_functions import finishing
from sunloom.feature_store.online.staleness import ends_of, has_ended, is_until
from sunloom.feature_store.online.tile_windows import Entity, IndexReader, microseconds
from sunloom.feature_store.online.tiles.heads import key_bytes, tile_key, unpack_events
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.online.tiles.layout import build_layout
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.features.plan.feature_sets import Plan

Row = dict[str, Any]


class OnlineReader:
    """Reads one feature set.

    Args:
        store: Records and tiles.
        plan: What the features mean; compiled here.
        layout: What a stream keeps of the plan's classes; None where none is streamed.
    """

    def __init__(self, store: OnlineStore, plan: Plan, layout: TileLayout | None = None) -> None:
        self.plan = plan
        self.layout = layout or build_layout(plan, ())
        self.names = plan.outputs
        self._key = plan.root.key
        self._has_text_keys = plan.root.feature(self._key).dtype == "string"
        self._store = store
        self._is_recorded = plan.feature_set in store.feature_sets()
        recorded = store.schema(plan.feature_set).names if self._is_recorded else ()
        self._recorded = recorded
        ends = ends_of(plan).items() if any(is_until(name) for name in recorded) else ()
        self._ends = {output: names for output, names in ends if set(names) & set(recorded)}
        self._defaults = {name: finishing(plan.root.feature(name))(None) for name in self._ends}
        self._programs: dict[tuple[str, ...], Program] = {}
        self._readers = [IndexReader(index) for index in self.layout.indexes]
        self._spaces = (self.layout.head_space, self.layout.tile_space)

    @property
    def grows_stale(self) -> bool:
        """Whether a stored value may be too old at the present."""
        return bool(self._ends)

    @cached_property
    def calls_functions(self) -> bool:
        """Whether a read at a moment calls functions of the user's, which may take their time."""
        features = [one for item in self.plan.classes for one in item.features]
        return any(one.resolver is not None and one.resolver.kind == "online" for one in features)

    def read(
        self,
        ids: Sequence[Any],
        now: datetime | None = None,
        features: Sequence[str] | None = None,
    ) -> list[Row | None]:
        """The features of each id in order; None where nothing is known of it.

        Args:
            ids: Entities; a number may come as its digits.
            now: The moment, with a time zone. By default the present for a streamed set and
                for one whose values grow stale; else each record as it was written.
            features: Only these.

        Raises:
            NotFoundError: Unknown feature.
            UsageError: An id is not of the key's type, or the moment has no zone or lies before
                what is kept.
        """
        if now is None and not self.layout.streamed and not self._ends:
            return self._store.read(self.plan.feature_set, ids, features)
        moment = _utc(now)
        names = self.names if features is None else self._checked(features)
        program = self._program(names)
        key = self._key
        rows: list[Row] = [{key: one} for one in self._keys(ids)]
        known = self._take_records(program, rows, ids, moment)
        run = _ReadRun(self, moment)
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
        if self._has_text_keys:
            return [str(one) for one in ids]
        name = f"{self.plan.feature_set}.{self._key}"
        return [_as_int(one, name) for one in ids]

    def _take_records(
        self, program: Program, rows: list[Row], ids: Sequence[Any], now: datetime
    ) -> list[bool]:
        """Stored values into the rows; which rows have a record."""
        if not program.stored or not self._is_recorded:
            for row in rows:
                row.update(dict.fromkeys(program.stored))
            return [False] * len(rows)
        records = self._store.read(self.plan.feature_set, ids)
        for row, record in zip(rows, records, strict=True):
            held = record or {}
            row.update({name: held.get(name) for name in program.stored})
            for name in program.stored if self._ends else ():
                if name in self._ends and has_ended(held, self._ends[name], now):
                    row[name] = self._defaults[name]
        return [record is not None for record in records]


class _ReadRun:
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
        self._lists: dict[tuple[int, tuple[str, ...], int], tuple[Any, list[Entity]]] = {}

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
        now = self._now
        for step in program.steps:
            columns = [self._part(part, rows) for part in step.parts]
            evaluate, finish, name = step.evaluate, step.finish, step.name
            if step.ask is not None:
                own: list[Sequence[Any]] = [()] * len(rows)
                if columns:
                    own = list(zip(*columns, strict=True))
                for row, value in zip(rows, step.ask(rows, now, own), strict=True):
                    row[name] = finish(value)
            elif evaluate is None:
                for row, value in zip(rows, columns[0], strict=True):
                    row[name] = finish(value)
            elif columns:
                for row, parts in zip(rows, zip(*columns, strict=True), strict=True):
                    row[name] = finish(evaluate(row, now, parts))
            else:
                for row in rows:
                    row[name] = finish(evaluate(row, now, ()))

    def _read_rows(self, program: Program, rows: list[Row]) -> None:
        assert program.row_index is not None
        reader = self._reader._readers[program.row_index]
        entities = self._at(program.row_index, (program.item.key,), rows)
        for row, entity in zip(rows, entities, strict=True):
            latest = reader.row(entity)
            row.update(program.sources if latest is None else latest)
            if latest is not None and program.limits:
                age = self._now - latest[program.item.time or ""]
                late = [name for name, limit in program.limits.items() if age > limit]
                row.update({name: program.sources[name] for name in late})

    def _part(self, part: Folded | Found, rows: list[Row]) -> list[Any]:
        if isinstance(part, Found):
            return self._look_up(part, rows)
        value = part.value
        return [value(entity) for entity in self._at(part.index, part.own_keys, rows)]

    def _look_up(self, part: Found, rows: list[Row]) -> list[Any]:
        if part.by_row is None:
            keys = [row[part.join.own_keys[0]] for row in rows]
        else:
            reader = self._reader._readers[part.by_row]
            found = self._at(part.by_row, part.join.own_keys, rows)
            latest = [reader.row(entity) for entity in found]
            keys = [None if row is None else row[part.target_key] for row in latest]
        asked = [{part.target_key: key} for key in keys if key is not None]
        for row in asked:
            row.update(dict.fromkeys(part.program.stored))
        self.evaluate(part.program, asked)
        answers = iter(asked)
        return [None if key is None else next(answers)[part.feature] for key in keys]

    def _at(self, index: int, keys: tuple[str, ...], rows: Sequence[Row]) -> list[Entity]:
        """The index's entity of each row; one without events where a key is null."""
        place = (index, keys, id(rows))
        if place in self._lists:
            return self._lists[place][1]
        wanted = [tuple([row[name] for name in keys]) for row in rows]
        held = self._entities.setdefault(index, {})
        missing = [k for k in dict.fromkeys(wanted) if k not in held and None not in k]
        if missing:
            held.update(self._fetched(index, missing))
        nothing = self._reader._readers[index].nothing
        found = [held.get(key, nothing) for key in wanted]
        # The rows are kept with it, so that no other list gets their id.
        self._lists[place] = (rows, found)
        return found

    def _fetched(self, number: int, keys: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], Entity]:
        reader = self._reader._readers[number]
        heads, tiles = self._reader._spaces
        store, now_us = self._reader._store, self._now_us
        packed = [key_bytes(reader.index, key) for key in keys]
        entities = [Entity(reader, raw, now_us) for raw in store.get_many(heads, packed)]
        wanted = [
            (entity, tile, tile_key(key, tile))
            for key, entity in zip(packed, entities, strict=True)
            for tile in entity.wants()
        ]
        if wanted:
            blobs = store.get_many(tiles, [place for _, _, place in wanted])
            for (entity, tile, _), blob in zip(wanted, blobs, strict=True):
                entity.give(tile, unpack_events(blob) if blob else [[]])
        return dict(zip(keys, entities, strict=True))


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
