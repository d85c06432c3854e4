"""Online reads: features of entities as of a time, from stored records and from tiles."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sunloom.errors import UsageError
from sunloom.feature_store.online.read_plan import (
    FeatureStep,
    LookupPart,
    ReadPlan,
    build_read_plan,
    feature_finalizer,
)
from sunloom.feature_store.online.staleness import expiry_columns, is_expired, is_expiry_column
from sunloom.feature_store.online.tile_heads import entity_key, tile_key, unpack_events
from sunloom.feature_store.online.tile_layout import TileLayout, build_layout
from sunloom.feature_store.online.tile_windows import EntityTiles, IndexReader
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.stored_feature_set import check_names, to_integer_id
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import epoch_us

Row = dict[str, Any]
EntityKey = tuple[Any, ...]


class OnlineReader:
    """Reads one feature set.

    Args:
        store: Records and tiles.
        plan: The feature set's plan; compiled on first use.
        layout: What a stream keeps of the plan's classes; None where none is streamed.
    """

    def __init__(self, store: OnlineStore, plan: Plan, layout: TileLayout | None = None) -> None:
        self.plan = plan
        self.layout = layout or build_layout(plan, ())
        self._key = plan.root.key
        self._has_text_keys = plan.root.feature(self._key).dtype == "string"
        self._store = store
        self._tiles = TileReader(store, self.layout)
        self._is_recorded = plan.feature_set in store.feature_sets()
        self._recorded = store.schema(plan.feature_set).names if self._is_recorded else ()
        self._expiry: dict[str, tuple[str, ...]] = {}
        # A set written before its features had a maximum staleness has no expiry columns.
        if any(is_expiry_column(name) for name in self._recorded):
            self._expiry = {
                output: columns
                for output, columns in expiry_columns(plan).items()
                if set(columns) & set(self._recorded)
            }
        self._defaults = {
            name: feature_finalizer(plan.root.feature(name))(None) for name in self._expiry
        }
        # Compiled by the features read: a gateway reads the same few lists again and again.
        self._read_plans: dict[tuple[str, ...], ReadPlan] = {}

    @property
    def grows_stale(self) -> bool:
        """Whether a stored value may be too old by now."""
        return bool(self._expiry)

    @cached_property
    def calls_functions(self) -> bool:
        """Whether a read as of a time calls the user's functions, which may take their time."""
        features = [feature for item in self.plan.classes for feature in item.features]
        return any(f.resolver is not None and f.resolver.kind == "online" for f in features)

    def read(
        self,
        ids: Sequence[Any],
        now: datetime | None = None,
        features: Sequence[str] | None = None,
    ) -> list[Row | None]:
        """The features of each id in order; None for an unknown entity.

        Args:
            ids: Entities; an integer key may come as its digits.
            now: The as-of time, with a time zone. By default the present for a streamed set and
                for one whose values grow stale; else each record as it was written.
            features: Only these.

        Raises:
            NotFoundError: Unknown feature.
            UsageError: An id is not of the key's type, or the time has no zone or is before what
                the tiles keep.
        """
        # No value depends on the time, so the stored record needs no plan.
        if now is None and not self.layout.streamed and not self._expiry:
            return self._store.read(self.plan.feature_set, ids, features)
        if now is not None and now.tzinfo is None:
            text = f"The time {now.isoformat()} has no time zone."
            raise UsageError(text, "Write it in UTC.", "now")
        as_of = datetime.now(UTC) if now is None else now.astimezone(UTC)
        names = self.plan.outputs if features is None else tuple(features)
        if features is not None:
            check_names(features, self.plan.feature_set, self.plan.outputs)
        read_plan = self._read_plans.get(names)
        if read_plan is None:
            read_plan = self._read_plans[names] = build_read_plan(
                self.layout, self.plan.namespace, names, self._recorded
            )
        key, feature_set = self._key, self.plan.feature_set
        if self._has_text_keys:
            rows: list[Row] = [{key: str(entity)} for entity in ids]
        else:
            rows = [{key: to_integer_id(entity, feature_set, key)} for entity in ids]
        has_record = self._fill_records(read_plan, rows, ids, as_of)
        run = _ReadRun(self._tiles, as_of)
        run.evaluate(read_plan, rows)
        # Computed features alone would give a row of defaults to any id.
        is_known = [a or b for a, b in zip(has_record, run.are_known(rows, key), strict=True)]
        return [
            {name: row[name] for name in names} if known else None
            for row, known in zip(rows, is_known, strict=True)
        ]

    def _fill_records(
        self, read_plan: ReadPlan, rows: list[Row], ids: Sequence[Any], as_of: datetime
    ) -> list[bool]:
        """Put stored values into the rows; which rows have a record."""
        if not read_plan.stored or not self._is_recorded:
            for row in rows:
                row.update(dict.fromkeys(read_plan.stored))
            return [False] * len(rows)
        # Whole records, as the expiry columns are not among the features.
        records = self._store.read(self.plan.feature_set, ids)
        expiring = [name for name in read_plan.stored if name in self._expiry]
        for row, record in zip(rows, records, strict=True):
            values = record or {}
            row.update({name: values.get(name) for name in read_plan.stored})
            for name in expiring:
                if is_expired(values, self._expiry[name], as_of):
                    row[name] = self._defaults[name]
        return [record is not None for record in records]


class TileReader:
    """Reads heads and tiles of a layout from a store.

    Args:
        store: The store.
        layout: The layout.
    """

    def __init__(self, store: OnlineStore, layout: TileLayout) -> None:
        self._store = store
        self._head_space, self._tile_space = layout.head_space, layout.tile_space
        self.indexes = [IndexReader(index) for index in layout.indexes]

    def read(
        self, number: int, keys: Sequence[EntityKey], now_us: int
    ) -> dict[EntityKey, EntityTiles]:
        """Entities of one index as of a time: one round trip for heads, one for cut tiles."""
        reader = self.indexes[number]
        stored_keys = [entity_key(reader.index, key) for key in keys]
        heads = self._store.get_many(self._head_space, stored_keys)
        entities = [EntityTiles(reader, raw, now_us) for raw in heads]
        needed = [
            (entity, tile, tile_key(key, tile))
            for key, entity in zip(stored_keys, entities, strict=True)
            for tile in entity.tiles_to_fetch()
        ]
        if needed:
            blobs = self._store.get_many(self._tile_space, [key for _, _, key in needed])
            for (entity, tile, _), blob in zip(needed, blobs, strict=True):
                # A writer may have merged the tile into the totals after the heads were read.
                entity.add_events(tile, unpack_events(blob) if blob else [[]])
        return dict(zip(keys, entities, strict=True))


class _ReadRun:
    """One read: each entity's tiles are fetched once, whichever features need them.

    Args:
        tiles: Reads tiles.
        now: The as-of time.
    """

    def __init__(self, tiles: TileReader, now: datetime) -> None:
        self.tiles = tiles
        self.now = now
        self._now_us = epoch_us(now)
        self._entities: dict[int, dict[EntityKey, EntityTiles]] = {}

    def evaluate(self, read_plan: ReadPlan, rows: list[Row]) -> None:
        """Fill the rows with the read plan's features."""
        batch = _RowBatch(self, rows)
        # First, because computed features may read them.
        if read_plan.defaults:
            batch.fill_source_features(read_plan)
        for step in read_plan.steps:
            batch.fill_computed_feature(step)

    def are_known(self, rows: Sequence[Row], key: str) -> list[bool]:
        """Whether any index has events by each row's key."""
        # Any event that names the entity makes it known, whichever join brought it.
        known = [False] * len(rows)
        for entities in self._entities.values():
            for place, row in enumerate(rows):
                entity = entities.get((row[key],))
                known[place] = known[place] or (entity is not None and entity.is_known)
        return known

    def entities(self, number: int, keys: Sequence[EntityKey]) -> list[EntityTiles]:
        """The index's entity of each key; one without events where a part of the key is null."""
        fetched = self._entities.setdefault(number, {})
        missing = [key for key in dict.fromkeys(keys) if key not in fetched and None not in key]
        if missing:
            fetched.update(self.tiles.read(number, missing, self._now_us))
        unknown = self.tiles.indexes[number].unknown_entity
        return [fetched.get(key, unknown) for key in keys]


class _RowBatch:
    """Rows of one class that are filled together.

    Args:
        run: The read.
        rows: The rows; features are added to them.
    """

    def __init__(self, run: _ReadRun, rows: list[Row]) -> None:
        self._run = run
        self._rows = rows
        # Several aggregates of one join share the list.
        self._entities: dict[tuple[int, tuple[str, ...]], list[EntityTiles]] = {}

    def fill_source_features(self, read_plan: ReadPlan) -> None:
        """Features of the latest streamed row, or their defaults."""
        number, item = read_plan.row_index, read_plan.item
        assert number is not None
        reader = self._run.tiles.indexes[number]
        for row, entity in zip(self._rows, self._entities_by(number, (item.key,)), strict=True):
            latest = reader.latest_row(entity)
            row.update(read_plan.defaults if latest is None else latest)
            if latest is not None and read_plan.max_ages:
                age = self._run.now - latest[item.time or ""]
                stale = [name for name, limit in read_plan.max_ages.items() if age > limit]
                row.update({name: read_plan.defaults[name] for name in stale})

    def fill_computed_feature(self, step: FeatureStep) -> None:
        """One computed feature in every row."""
        rows, now = self._rows, self._run.now
        columns = [
            self._look_up(part)
            if isinstance(part, LookupPart)
            else list(map(part.aggregate, self._entities_by(part.index, part.own_keys)))
            for part in step.parts
        ]
        # One loop per kind of step: this runs for every feature of every read.
        function, finalize, name = step.row_function, step.finalize, step.name
        if step.batch_function is not None:
            parts: list[Sequence[Any]] = [()] * len(rows)
            if columns:
                parts = list(zip(*columns, strict=True))
            for row, value in zip(rows, step.batch_function(rows, now, parts), strict=True):
                row[name] = finalize(value)
        elif function is None:
            for row, value in zip(rows, columns[0], strict=True):
                row[name] = finalize(value)
        elif columns:
            for row, row_parts in zip(rows, zip(*columns, strict=True), strict=True):
                row[name] = finalize(function(row, now, row_parts))
        else:
            for row in rows:
                row[name] = finalize(function(row, now, ()))

    def _look_up(self, part: LookupPart) -> list[Any]:
        if part.row_index is None:
            keys = [row[part.join.own_keys[0]] for row in self._rows]
        else:
            reader = self._run.tiles.indexes[part.row_index]
            entities = self._entities_by(part.row_index, part.join.own_keys)
            latest = [reader.latest_row(entity) for entity in entities]
            keys = [None if row is None else row[part.target_key] for row in latest]
        joined = [{part.target_key: key} for key in keys if key is not None]
        # Only the root class has stored records: what cannot be computed of a joined one is null.
        for row in joined:
            row.update(dict.fromkeys(part.read_plan.stored))
        self._run.evaluate(part.read_plan, joined)
        # Rows without a key were left out above, so the others' values are taken in order.
        values = iter(joined)
        return [None if key is None else next(values)[part.feature] for key in keys]

    def _entities_by(self, number: int, names: tuple[str, ...]) -> list[EntityTiles]:
        """The index's entity of each row by the values of these features."""
        if (number, names) not in self._entities:
            # A list inside: a generator costs more than the one or two values of a key.
            keys = [tuple([row[name] for name in names]) for row in self._rows]
            self._entities[number, names] = self._run.entities(number, keys)
        return self._entities[number, names]
