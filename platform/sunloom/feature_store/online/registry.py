"""Plans in the store beside the values: how a read finds out what a feature set means."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sunloom.errors import NotFoundError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.staleness import is_until
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.online.tiles.layout import build_layout
from sunloom.feature_store.online.tiles.policy import Policy
from sunloom.feature_store.stores.online.protocol import Field, OnlineStore, RecordSchema
from sunloom.feature_store.stores.online.spaces import PLANS, STREAMS
from sunloom.features.plan.feature_sets import Plan

_TRUSTED_S = 1.0
_MOST_HELD = 1_000


def store_plan(store: OnlineStore, plan: Plan) -> None:
    """Keep the plan of a set that was written."""
    store.apply([(PLANS, plan.feature_set.encode(), plan.model_dump_json().encode())])


def store_stream(
    store: OnlineStore,
    plan: Plan,
    streamed: Iterable[str],
    tile_s: int | None = None,
    policy: Policy | None = None,
) -> TileLayout:
    """Keep the plan of a set that is streamed, and how; what its tiles hold."""
    layout = build_layout(plan, streamed, tile_s)
    policy = policy or Policy()
    name, text = plan.feature_set.encode(), plan.model_dump_json()
    stream = {"streamed": list(layout.streamed), "tile_s": tile_s, "policy": asdict(policy)}
    # The stream's own plan: what is materialised beside it may be of another day's definitions.
    packed = json.dumps(stream | {"plan": text}).encode()
    store.apply([(PLANS, name, text.encode()), (STREAMS, name, packed)])
    return layout


class Definition:
    """A feature set as the store knows it.

    Attributes:
        reader: Reads it; compiled once.
        policy: How its events are taken; None where it is not streamed.
        schema: Key and features.
    """

    def __init__(self, store: OnlineStore, plan: Plan, stream: dict[str, Any] | None) -> None:
        held = stream or {"streamed": ()}
        layout = build_layout(plan, held["streamed"], held.get("tile_s"))
        self.reader = OnlineReader(store, plan, layout)
        self.policy = Policy(**stream["policy"]) if stream else None
        self.schema = _schema(plan)

    @property
    def is_streamed(self) -> bool:
        """Whether its events come by a stream."""
        return self.policy is not None

    @property
    def is_of_the_present(self) -> bool:
        """Whether reads without a moment are as of the present."""
        return self.is_streamed or self.reader.grows_stale

    def calls_functions(self, now: datetime | None) -> bool:
        """Whether a read as of that moment calls the user's functions, which may take long."""
        return (now is not None or self.is_of_the_present) and self.reader.calls_functions


class Definitions:
    """The feature sets of one store with a plan, each compiled once.

    What is held is trusted for a second before the store is asked whether it still holds.

    Args:
        store: The store.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._held: dict[str, tuple[float, tuple[bytes | None, ...], Definition | None]] = {}
        self._schemas: dict[str, tuple[float, RecordSchema]] = {}

    def get(self, feature_set: str) -> Definition | None:
        """The feature set, or None where no plan is stored for it."""
        held = self._held.get(feature_set)
        now = time.monotonic()
        if held is not None and now - held[0] < _TRUSTED_S:
            return held[2]
        name = feature_set.encode()
        plan, stream = (self._store.get_many(space, [name])[0] for space in (PLANS, STREAMS))
        recorded = feature_set.encode() if feature_set in self._store.feature_sets() else None
        raw = (plan, stream, recorded)
        same = held is not None and held[1] == raw
        found = held[2] if held is not None and same else _compiled(self._store, plan, stream)
        if len(self._held) >= _MOST_HELD:
            self._held.clear()
        self._held[feature_set] = (now, raw, found)
        return found

    def recorded_schema(self, feature_set: str) -> RecordSchema:
        """Key and features of a written set, without what only says how long a value holds.

        Raises:
            NotFoundError: It was never written.
        """
        held = self._schemas.get(feature_set)
        now = time.monotonic()
        if held is not None and now - held[0] < _TRUSTED_S:
            return held[1]
        schema = self._store.schema(feature_set)
        fields = tuple(field for field in schema.fields if not is_until(field.name))
        found = schema if len(fields) == len(schema.fields) else replace(schema, fields=fields)
        if len(self._schemas) >= _MOST_HELD:
            self._schemas.clear()
        self._schemas[feature_set] = (now, found)
        return found

    def streamed(self) -> dict[str, Definition]:
        """Every feature set that is streamed, by name."""
        names = sorted(key.decode() for key, _ in self._store.scan(STREAMS))
        found = {name: self.get(name) for name in names}
        return {name: one for name, one in found.items() if one is not None}


def definitions_of(store: OnlineStore) -> Definitions:
    """The definitions of a store; the same for the same store."""
    # Each holds its store, so that no other gets its id.
    if id(store) not in _by_store:
        _by_store[id(store)] = Definitions(store)
    return _by_store[id(store)]


_by_store: dict[int, Definitions] = {}


def open_reader(store: OnlineStore, feature_set: str) -> OnlineReader | None:
    """The reader of a feature set, compiled once; None where no plan is stored for it."""
    found = definitions_of(store).get(feature_set)
    return None if found is None else found.reader


def schema_of(store: OnlineStore, feature_set: str) -> RecordSchema:
    """Key and features of a set, streamed or written.

    Raises:
        NotFoundError: Unknown feature set; lists the known ones.
    """
    definitions = definitions_of(store)
    found = definitions.get(feature_set)
    if found is not None and found.is_streamed:
        return found.schema
    try:
        return definitions.recorded_schema(feature_set)
    except NotFoundError as error:
        raise _unknown(store, feature_set, error) from error


def read_online(
    store: OnlineStore,
    feature_set: str,
    ids: Sequence[Any],
    features: Sequence[str] | None = None,
    now: datetime | None = None,
) -> list[dict[str, Any] | None]:
    """The features of each id: from the stream's tiles, the stored records, or both.

    Args:
        store: The store.
        feature_set: The feature set.
        ids: Entities.
        features: Only these.
        now: The moment; by default the present for a streamed set and for one whose values grow
            stale, else as records were written.

    Raises:
        NotFoundError: Unknown feature set or feature.
        UsageError: An id is not of the key's type, or the moment cannot be answered.
    """
    found = definitions_of(store).get(feature_set)
    if found is not None and (now is not None or found.is_of_the_present):
        return found.reader.read(ids, now, features)
    try:
        return store.read(feature_set, ids, features)
    except NotFoundError as error:
        raise _unknown(store, feature_set, error) from error


def _compiled(store: OnlineStore, plan: bytes | None, stream: bytes | None) -> Definition | None:
    if plan is None:
        return None
    held = None if stream is None else json.loads(stream)
    return Definition(store, Plan.model_validate_json(held["plan"] if held else plan), held)


def _schema(plan: Plan) -> RecordSchema:
    root = plan.root
    fields = tuple(Field(name, str(root.feature(name).dtype)) for name in plan.outputs)
    return RecordSchema(plan.feature_set, root.key, str(root.feature(root.key).dtype), fields)


def _unknown(store: OnlineStore, name: str, error: NotFoundError) -> NotFoundError:
    """The error with streamed sets among the known names."""
    if error.param != "feature_set":
        return error
    known = {*error.known, *definitions_of(store).streamed()}
    return NotFoundError(error.message, known=known, name=name, param="feature_set")
