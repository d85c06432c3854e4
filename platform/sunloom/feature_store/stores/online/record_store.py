"""The online store over any keys and values that can compare, swap and keep the newer."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any, Protocol

import polars as pl

from sunloom.data.sources.table_files import require_columns
from sunloom.errors import NotFoundError, StoreError
from sunloom.feature_store.stores.online.key_value import (
    RawWrite,
    Write,
    check_key,
    check_space,
    raw,
)
from sunloom.feature_store.stores.online.protocol import Field, RecordSchema
from sunloom.feature_store.stores.online.record_codec import field_dtype, time_of
from sunloom.feature_store.stores.online.stored_feature_set import (
    StoredFeatureSet,
    check_names,
    evolved,
    meta_key,
    set_name,
    with_ttl,
)

_CHUNK_ROWS = 20_000
_MICROSECOND = timedelta(microseconds=1)
# How many records a write looks at for each that it writes, to drop those that hold no more.
_SWEEP_SHARE = 2


class Backend(Protocol):
    """What a store of records needs beneath it; keys are bytes, complete with their prefix."""

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key in one round trip."""
        ...

    def swap(self, key: bytes, held: bytes | None, value: bytes) -> bool:
        """Write the value if the key still holds ``held``; whether it did."""
        ...

    def put_newer(
        self, keys: Sequence[bytes], records: Sequence[bytes], ttl_us: int | None, /
    ) -> int:
        """Write each record unless its key holds one of a later time; how many were written."""
        ...

    def sweep(self, prefix: bytes, limit_us: int, looks: int) -> None:
        """Drop records of a feature time before the limit among the next ``looks`` of them."""
        ...

    def expire(self, prefix: bytes, ttl_us: int | None, /) -> None:
        """Let every record beneath the prefix hold so long after its feature time."""
        ...

    def described(self) -> list[bytes]:
        """Keys of the feature sets' descriptions."""
        ...

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values beneath the prefix."""
        ...

    def get_many(self, space: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """Plain values."""
        ...

    def apply(self, writes: Sequence[RawWrite], expected: Sequence[RawWrite]) -> bool:
        """Plain writes, all or none; none where something is not as expected."""
        ...

    def scan(self, space: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Plain keys and values of a space."""
        ...


class RecordStore:
    """An ``OnlineStore`` over a backend.

    Args:
        backend: Where the bytes lie.
        now_us: The clock that records expire by, microseconds since the epoch.
    """

    def __init__(self, backend: Backend, now_us: Callable[[], int] | None = None) -> None:
        self._backend = backend
        self._now_us = now_us or _wall_us
        self._groups: dict[str, StoredFeatureSet] = {}

    def write(
        self, feature_set: str, table: pl.DataFrame, *, key: str = "id", time: str = "event_time"
    ) -> int:
        """Write one record a row; a newer record is never replaced by an older one."""
        fields, key_dtype = _described(feature_set, table, key, time)
        group = self._evolve(feature_set, fields, key, key_dtype)
        names = list(group.schema.names)
        written = 0
        for chunk in table.iter_slices(_CHUNK_ROWS):
            utc = chunk[time].dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            records = group.pack(chunk.select(names), utc.cast(pl.Int64))
            keys = group.keys(chunk[key].to_list())
            written += self._backend.put_newer(keys, records, group.ttl_us)
        limit = group.expired_before(self._now_us())
        if limit is not None:
            self._backend.sweep(group.prefix, limit, _SWEEP_SHARE * table.height + 1)
        return written

    def read(
        self, feature_set: str, ids: Sequence[Any], features: Sequence[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """The values of each id in order; None where there is no such entity."""
        group, records = self._records(feature_set, ids)
        rows = group.unpack(records, self._now_us())
        return rows if features is None else _selected(rows, features, group.schema)

    def feature_times(self, feature_set: str, ids: Sequence[Any]) -> list[int | None]:
        """Microseconds since the epoch as of which each record holds."""
        group, records = self._records(feature_set, ids)
        held = group.holding(records, self._now_us())
        return [None if record is None else time_of(record) for record in held]

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that were written, sorted."""
        return sorted(set_name(key) for key in self._backend.described())

    def schema(self, feature_set: str) -> RecordSchema:
        """What the feature set's records hold."""
        return self._records(feature_set, ())[0].schema

    def count(self, feature_set: str) -> int:
        """Number of entities with a record that holds."""
        group = self._records(feature_set, ())[0]
        limit = group.expired_before(self._now_us())
        items = self._backend.items(group.prefix)
        return sum(1 for _, record in items if limit is None or time_of(record) >= limit)

    def set_ttl(self, feature_set: str, ttl: timedelta | None) -> None:
        """Let the set's records hold so long after their feature time; None: for ever."""
        ttl_us = None if ttl is None else ttl // _MICROSECOND
        while True:
            group = self._records(feature_set, ())[0]
            if group.ttl_us == ttl_us:
                return
            if self._backend.swap(meta_key(feature_set), group.raw, with_ttl(group.raw, ttl_us)):
                break
        self._backend.expire(group.prefix, ttl_us)

    def get_many(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key of that space, in order; None where none is."""
        return self._backend.get_many(check_space(space), [check_key(key) for key in keys])

    def apply(self, writes: Sequence[Write], expected: Sequence[Write] = ()) -> bool:
        """Write all of these in one transaction if everything expected is there; else nothing."""
        return self._backend.apply([raw(one) for one in writes], [raw(one) for one in expected])

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value of that space."""
        return self._backend.scan(check_space(space))

    def _evolve(
        self, feature_set: str, fields: Sequence[Field], key: str, key_dtype: str
    ) -> StoredFeatureSet:
        """The set with these fields as its latest schema, whoever else changes it meanwhile."""
        where = meta_key(feature_set)
        while True:
            [held] = self._backend.fetch([where])
            raw = evolved(feature_set, held, fields, key, key_dtype)
            if raw == held or self._backend.swap(where, held, raw):
                return self._group(feature_set, raw)

    def _records(
        self, feature_set: str, ids: Sequence[Any]
    ) -> tuple[StoredFeatureSet, Sequence[bytes | None]]:
        """The set as it is now and the records of these entities, in one round trip."""
        where = meta_key(feature_set)
        group = self._groups.get(feature_set)
        if group is None:
            group = self._group(feature_set, self._backend.fetch([where])[0])
        while True:
            raw, *records = self._backend.fetch([where, *group.keys(ids)])
            if raw == group.raw:
                return group, records
            group = self._group(feature_set, raw)

    def _group(self, feature_set: str, raw: bytes | None) -> StoredFeatureSet:
        if raw is None:
            self._groups.pop(feature_set, None)
            raise NotFoundError(
                f"There is no feature set {feature_set!r} in the online store.",
                known=self.feature_sets(),
                name=feature_set,
                param="feature_set",
            )
        group = self._groups.get(feature_set)
        if group is None or group.raw != raw:
            group = self._groups[feature_set] = StoredFeatureSet(feature_set, raw)
        return group


def _described(
    feature_set: str, table: pl.DataFrame, key: str, time: str
) -> tuple[tuple[Field, ...], str]:
    """The table's features, and the type of its key."""
    require_columns(table, (key, time), f"The table for feature set {feature_set!r}")
    features = [name for name in table.columns if name not in (key, time)]
    fields = tuple(Field(name, field_dtype(table.schema[name], name)) for name in features)
    key_dtype = field_dtype(table.schema[key], key)
    if key_dtype not in ("int64", "string") or table[key].null_count():
        raise StoreError(f"The key {key!r} must be integers or strings without nulls.")
    moment = table.schema[time]
    if not isinstance(moment, pl.Datetime) or moment.time_zone is None or table[time].null_count():
        raise StoreError(f"The time {time!r} must be UTC datetimes without nulls.")
    return fields, key_dtype


def _selected(
    rows: Sequence[dict[str, Any] | None], features: Sequence[str], schema: RecordSchema
) -> list[dict[str, Any] | None]:
    check_names(features, schema.feature_set, schema.names)
    if len(features) < 2:
        return [None if row is None else {name: row[name] for name in features} for row in rows]
    pick = itemgetter(*features)
    return [None if row is None else dict(zip(features, pick(row), strict=True)) for row in rows]


def _wall_us() -> int:
    return clock.time_ns() // 1_000
