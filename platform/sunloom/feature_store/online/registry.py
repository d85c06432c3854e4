"""Registry of the plans that the online store keeps beside its values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sunloom.core.caching import TtlCache
from sunloom.errors import NotFoundError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.staleness import is_expiry_column
from sunloom.feature_store.online.tile_layout import TileLayout, build_layout
from sunloom.feature_store.stores.field_types import Field
from sunloom.feature_store.stores.online.key_value import PLANS, STREAMS
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.stored_feature_set import RecordSchema
from sunloom.features.plan.feature_sets import Plan

# A definition that another process stores is seen a second later at most; until then a read costs
# no round trip for it.
_TRUSTED_S = 1.0
_MAX_FEATURE_SETS = 1_000
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class EventPolicy:
    """What happens to late and early events, and to messages that cannot be used.

    Attributes:
        lateness_us: How far behind the watermark, the latest event time, an event is not late.
        drops_late: Whether late events are dropped.
        ahead_us: How far ahead of the clock an event time may be.
        max_bad_share: Share of quarantined messages above which the stream stops.
        after_us: Events up to this time are dropped: the batch source has them.
    """

    lateness_us: int = _DAY_US
    drops_late: bool = False
    ahead_us: int = _DAY_US
    max_bad_share: float = 0.01
    after_us: int | None = None


def store_plan(store: OnlineStore, plan: Plan) -> None:
    """Keep the plan of a set that was written."""
    store.apply([(PLANS, plan.feature_set.encode(), plan.model_dump_json().encode())])


def store_stream(
    store: OnlineStore,
    plan: Plan,
    streamed: Iterable[str],
    tile_s: int | None = None,
    policy: EventPolicy | None = None,
) -> TileLayout:
    """Keep the plan of a set that is streamed, and how; the layout of its tiles."""
    layout = build_layout(plan, streamed, tile_s)
    name, text = plan.feature_set.encode(), plan.model_dump_json()
    stream = {
        "streamed": list(layout.streamed),
        "tile_s": tile_s,
        "policy": asdict(policy or EventPolicy()),
        # The stream's own plan: a materialization may replace the other one by later definitions.
        "plan": text,
    }
    packed = json.dumps(stream).encode()
    store.apply([(PLANS, name, text.encode()), (STREAMS, name, packed)])
    return layout


class StoredDefinition:
    """A feature set as its stored plan defines it.

    Args:
        store: The store.
        plan: The stored plan, JSON.
        stream: What is stored of its stream, JSON; None where it is not streamed.

    Attributes:
        reader: Reads it; compiled once.
        policy: How its events are taken; None where it is not streamed.
        schema: Key and features.
    """

    def __init__(self, store: OnlineStore, plan: bytes, stream: bytes | None) -> None:
        streamed: tuple[str, ...] = ()
        tile_s: int | None = None
        self.policy: EventPolicy | None = None
        text: bytes | str = plan
        if stream is not None:
            entry = json.loads(stream)
            streamed, tile_s, text = entry["streamed"], entry.get("tile_s"), entry["plan"]
            self.policy = EventPolicy(**entry["policy"])
        parsed = Plan.model_validate_json(text)
        self.reader = OnlineReader(store, parsed, build_layout(parsed, streamed, tile_s))
        root = parsed.root
        self.schema = RecordSchema(
            feature_set=parsed.feature_set,
            key=root.key,
            key_dtype=str(root.feature(root.key).dtype),
            fields=tuple(Field(name, str(root.feature(name).dtype)) for name in parsed.outputs),
        )

    @property
    def is_streamed(self) -> bool:
        """Whether its events come by a stream."""
        return self.policy is not None

    @property
    def reads_as_of_now(self) -> bool:
        """Whether reads without an as-of time are as of the present."""
        return self.is_streamed or self.reader.grows_stale


@dataclass(frozen=True)
class OnlineFeatureSet:
    """A feature set of the online store, looked up once for a whole request.

    Attributes:
        store: The store.
        name: The feature set.
        definition: Its stored definition; None where it was written without a plan, or is unknown.
    """

    store: OnlineStore
    name: str
    definition: StoredDefinition | None

    @property
    def schema(self) -> RecordSchema:
        """Key and features.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        # A streamed set may have no stored records whose schema could be read.
        if self.definition is not None and self.definition.is_streamed:
            return self.definition.schema
        try:
            return definitions_of(self.store).recorded_schema(self.name)
        except NotFoundError as error:
            raise self._with_streamed_names(error) from error

    def as_of(self, now: datetime | None) -> datetime | None:
        """The as-of time of a read; None where records are read as they were written."""
        if now is None and self.definition is not None and self.definition.reads_as_of_now:
            return datetime.now(UTC)
        return now

    def calls_functions(self, now: datetime | None) -> bool:
        """Whether a read as of that time calls the user's functions, which may take long."""
        definition = self.definition
        if definition is None or (now is None and not definition.reads_as_of_now):
            return False
        return definition.reader.calls_functions

    def read(
        self,
        ids: Sequence[Any],
        features: Sequence[str] | None = None,
        now: datetime | None = None,
    ) -> list[dict[str, Any] | None]:
        """The features of each id: from the stream's tiles, the stored records, or both.

        Args:
            ids: Entities.
            features: Only these.
            now: The as-of time; by default the present for a streamed set and for one whose
                values grow stale, else as records were written.

        Raises:
            NotFoundError: Unknown feature set or feature.
            DefinitionError: A feature could not be bound when the plan was made.
            UsageError: An id is not of the key's type, or the as-of time is too early.
        """
        definition = self.definition
        if definition is not None:
            definition.reader.plan.refuse_unavailable(features or ())
        if definition is not None and (now is not None or definition.reads_as_of_now):
            return definition.reader.read(ids, now, features)
        try:
            return self.store.read(self.name, ids, features)
        except NotFoundError as error:
            raise self._with_streamed_names(error) from error

    def _with_streamed_names(self, error: NotFoundError) -> NotFoundError:
        if error.param != "feature_set":
            return error
        known = {*error.known, *definitions_of(self.store).streamed_sets()}
        return NotFoundError(error.message, known=known, name=self.name, param="feature_set")


class DefinitionRegistry:
    """The feature sets of one store with a plan, each compiled once.

    Args:
        store: The store.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._definitions = TtlCache[str, StoredDefinition | None](_TRUSTED_S, _MAX_FEATURE_SETS)
        self._schemas = TtlCache[str, RecordSchema](_TRUSTED_S, _MAX_FEATURE_SETS)
        # What the store held when a definition was compiled: compiling takes far longer than
        # reading, so an unchanged plan keeps its definition.
        self._compiled: dict[str, tuple[tuple[bytes | None, ...], StoredDefinition | None]] = {}

    def get(self, feature_set: str) -> StoredDefinition | None:
        """The feature set, or None where no plan is stored for it."""
        return self._definitions.get_or_load(feature_set, lambda: self._load(feature_set))

    def recorded_schema(self, feature_set: str) -> RecordSchema:
        """Key and features of a written set, without its expiry columns.

        Raises:
            NotFoundError: It was never written.
        """

        def load() -> RecordSchema:
            schema = self._store.schema(feature_set)
            fields = tuple(field for field in schema.fields if not is_expiry_column(field.name))
            return replace(schema, fields=fields)

        return self._schemas.get_or_load(feature_set, load)

    def streamed_sets(self) -> dict[str, StoredDefinition]:
        """Every feature set that is streamed, by name."""
        names = sorted(key.decode() for key, _ in self._store.scan(STREAMS))
        definitions = {name: self.get(name) for name in names}
        return {name: kept for name, kept in definitions.items() if kept is not None}

    def _load(self, feature_set: str) -> StoredDefinition | None:
        name = feature_set.encode()
        plan, stream = (self._store.get_many(space, [name])[0] for space in (PLANS, STREAMS))
        # The first write of records changes how the reader is compiled, too.
        recorded = name if feature_set in self._store.feature_sets() else None
        state = (plan, stream, recorded)
        compiled = self._compiled.get(feature_set)
        if compiled is None or compiled[0] != state:
            definition = None if plan is None else StoredDefinition(self._store, plan, stream)
            if len(self._compiled) >= _MAX_FEATURE_SETS:
                self._compiled.clear()
            compiled = self._compiled[feature_set] = (state, definition)
        return compiled[1]


_registries: dict[OnlineStore, DefinitionRegistry] = {}


def definitions_of(store: OnlineStore) -> DefinitionRegistry:
    """The definitions of a store; the same for the same store."""
    # Atomic: threads that come first at the same time share one registry.
    return _registries.get(store) or _registries.setdefault(store, DefinitionRegistry(store))


def open_feature_set(store: OnlineStore, name: str) -> OnlineFeatureSet:
    """The feature set of that name; whether it exists shows in its first use."""
    return OnlineFeatureSet(store, name, definitions_of(store).get(name))
