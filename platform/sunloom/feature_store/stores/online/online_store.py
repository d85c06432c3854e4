"""Online store: latest records by entity, and plain keys and values, over a backend."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any, Protocol

import polars as pl

from sunloom.data.sources.table_files import require_columns
from sunloom.errors import NotFoundError, StoreError
from sunloom.feature_store.stores.field_types import Field, check_times
from sunloom.feature_store.stores.online.key_value import (
    RawWrite,
    Write,
    check_key,
    check_space,
    to_raw_write,
)
from sunloom.feature_store.stores.online.record_codec import record_type, time_of
from sunloom.feature_store.stores.online.stored_feature_set import (
    META_PREFIX,
    RecordSchema,
    StoredFeatureSet,
    check_names,
    evolve_description,
    meta_key,
    with_ttl,
)

# One transaction of LMDB per chunk: other writers wait no longer than that.
_CHUNK_ROWS = 20_000
_MICROSECOND = timedelta(microseconds=1)
# How many records a write examines for each one written, to delete expired ones: two, so that a
# set that is written regularly is swept faster than it grows.
_SWEEP_SHARE = 2


class Backend(Protocol):
    """Bytes with compare-and-swap, on which a store is built; keys come with their prefix."""

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key in one round trip."""
        ...

    def swap(self, key: bytes, expected: bytes | None, value: bytes) -> bool:
        """Write the value if the key still has the expected one; whether it did."""
        ...

    def put_newer(
        self, keys: Sequence[bytes], records: Sequence[bytes], ttl_us: int | None, /
    ) -> int:
        """Write each record unless its key has one of a later time; how many were written."""
        ...

    def sweep(self, prefix: bytes, limit_us: int, count: int) -> None:
        """Delete records of a feature time before the limit among the next ``count`` of them."""
        ...

    def expire(self, prefix: bytes, ttl_us: int | None, /) -> None:
        """Let every record below the prefix expire so long after its feature time."""
        ...

    def description_keys(self) -> list[bytes]:
        """Keys of the feature sets' descriptions."""
        ...

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values below the prefix."""
        ...

    def get_many(self, space: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """Plain values."""
        ...

    def apply(self, writes: Sequence[RawWrite], expected: Sequence[RawWrite]) -> bool:
        """Plain writes, all or none; none where a value is not the expected one."""
        ...

    def scan(self, space: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Plain keys and values of a space."""
        ...


class OnlineStore:
    """The latest values of each entity; many processes may read while others write.

    Beside the records it has plain keys and values in named spaces (``get_many``, ``apply``,
    ``scan``), for other data that must change in one transaction, such as a stream's tiles and
    offsets.

    Args:
        backend: Stores the bytes.
        now_us: The clock that records expire by, microseconds since the epoch.
    """

    def __init__(self, backend: Backend, now_us: Callable[[], int] | None = None) -> None:
        self._backend = backend
        self._now_us = now_us or (lambda: clock.time_ns() // 1_000)
        self._stored_sets: dict[str, StoredFeatureSet] = {}

    def write(
        self, feature_set: str, table: pl.DataFrame, *, key: str = "id", time: str = "event_time"
    ) -> int:
        """Write one record per row and return how many were written.

        Args:
            feature_set: The feature set; created by its first write.
            table: Key, time (UTC) and the features. A record whose stored time is later than the
                row's stays: a newer value is never replaced by an older one.
            key: The key's column.
            time: The column with the feature time of the row's values.

        Raises:
            StoreError: A type cannot be packed, or differs from the stored one.
        """
        fields = _feature_fields(feature_set, table, key, time)
        # Before the records: a reader must know the schema of every record that it finds.
        stored = self._evolve(feature_set, fields, key, record_type(table.schema[key], key))
        names = list(stored.schema.names)
        written = 0
        for chunk in table.iter_slices(_CHUNK_ROWS):
            utc = chunk[time].dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            records = stored.codec.pack(chunk.select(names), utc.cast(pl.Int64))
            keys = stored.keys(chunk[key].to_list())
            written += self._backend.put_newer(keys, records, stored.ttl_us)
        limit = stored.expiry_limit(self._now_us())
        if limit is not None:
            self._backend.sweep(stored.prefix, limit, _SWEEP_SHARE * table.height + 1)
        return written

    def read(
        self, feature_set: str, ids: Sequence[Any], features: Sequence[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """The values of each id in order; None for an unknown entity.

        Raises:
            NotFoundError: Unknown feature set or feature; lists the known ones.
            UsageError: An id is not of the key's type.
        """
        stored, records = self._fetch_records(feature_set, ids)
        rows = stored.unpack(records, self._now_us())
        if features is None:
            return rows
        check_names(features, feature_set, stored.schema.names)
        # itemgetter of one name returns the value itself, not a tuple.
        if len(features) < 2:
            return [None if row is None else {n: row[n] for n in features} for row in rows]
        pick = itemgetter(*features)
        return [
            None if row is None else dict(zip(features, pick(row), strict=True)) for row in rows
        ]

    def feature_times(self, feature_set: str, ids: Sequence[Any]) -> list[int | None]:
        """Each record's feature time, microseconds since the epoch."""
        stored, records = self._fetch_records(feature_set, ids)
        unexpired = stored.without_expired(records, self._now_us())
        return [None if record is None else time_of(record) for record in unexpired]

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that were written, sorted."""
        keys = self._backend.description_keys()
        return sorted(key.removeprefix(META_PREFIX).decode() for key in keys)

    def schema(self, feature_set: str) -> RecordSchema:
        """Schema of the feature set's records.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        return self._fetch_records(feature_set, ())[0].schema

    def count(self, feature_set: str) -> int:
        """Number of entities with a record that has not expired."""
        stored = self._fetch_records(feature_set, ())[0]
        limit = stored.expiry_limit(self._now_us())
        items = self._backend.items(stored.prefix)
        return sum(1 for _, record in items if limit is None or time_of(record) >= limit)

    def set_ttl(self, feature_set: str, ttl: timedelta | None) -> None:
        """Let the set's records expire so long after their feature time; None: never.

        An expired record is not found, and is deleted in time.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        ttl_us = None if ttl is None else ttl // _MICROSECOND
        while True:
            stored = self._fetch_records(feature_set, ())[0]
            if stored.ttl_us == ttl_us:
                return
            description = with_ttl(stored.raw, ttl_us)
            if self._backend.swap(meta_key(feature_set), stored.raw, description):
                break
        # Last: records written after the swap expire by the new description, older ones by this.
        self._backend.expire(stored.prefix, ttl_us)

    def get_many(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key of that space, in order, in one round trip; None where none is.

        Raises:
            UsageError: A space that is empty or contains a NUL, or an empty or overlong key.
        """
        return self._backend.get_many(check_space(space), [check_key(key) for key in keys])

    def apply(self, writes: Sequence[Write], expected: Sequence[Write] = ()) -> bool:
        """Write all of these or none, in one transaction and in this order.

        Args:
            writes: Space, key and value; a value of None deletes the key.
            expected: Space, key and the value that must be there beforehand, None where there
                must be none: if one differs, nothing is written.

        Returns:
            Whether it was written; always so when nothing was expected.

        Raises:
            UsageError: As ``get_many``.
            StoreError: The store cannot be written; nothing was.
        """
        return self._backend.apply(
            [to_raw_write(write) for write in writes], [to_raw_write(write) for write in expected]
        )

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value of that space.

        Changes made while it runs may or may not be seen; what stays unchanged comes exactly once.
        """
        return self._backend.scan(check_space(space))

    def _evolve(
        self, feature_set: str, fields: Sequence[Field], key: str, key_dtype: str
    ) -> StoredFeatureSet:
        """The set with these fields as its latest schema, whoever else changes it meanwhile."""
        description_key = meta_key(feature_set)
        while True:
            [stored] = self._backend.fetch([description_key])
            raw = evolve_description(feature_set, stored, fields, key, key_dtype)
            # Most writes leave the schema as it is and need no swap.
            if raw == stored or self._backend.swap(description_key, stored, raw):
                return self._stored_set(feature_set, raw)

    def _fetch_records(
        self, feature_set: str, ids: Sequence[Any]
    ) -> tuple[StoredFeatureSet, Sequence[bytes | None]]:
        """The set as it is now and the records of these entities, in one round trip."""
        description_key = meta_key(feature_set)
        stored = self._stored_sets.get(feature_set)
        if stored is None:
            stored = self._stored_set(feature_set, self._backend.fetch([description_key])[0])
        while True:
            # The description comes with the records: a schema that another process has added in
            # between shows at once, and nothing needs invalidating.
            raw, *records = self._backend.fetch([description_key, *stored.keys(ids)])
            if raw == stored.raw:
                return stored, records
            stored = self._stored_set(feature_set, raw)

    def _stored_set(self, feature_set: str, raw: bytes | None) -> StoredFeatureSet:
        if raw is None:
            self._stored_sets.pop(feature_set, None)
            raise NotFoundError(
                f"There is no feature set {feature_set!r} in the online store.",
                known=self.feature_sets(),
                name=feature_set,
                param="feature_set",
            )
        stored = self._stored_sets.get(feature_set)
        if stored is None or stored.raw != raw:
            stored = self._stored_sets[feature_set] = StoredFeatureSet(feature_set, raw)
        return stored


def _feature_fields(
    feature_set: str, table: pl.DataFrame, key: str, time: str
) -> tuple[Field, ...]:
    """The table's features; key and time are checked."""
    require_columns(table, (key, time), f"The table for feature set {feature_set!r}")
    features = [name for name in table.columns if name not in (key, time)]
    fields = tuple(Field(name, record_type(table.schema[name], name)) for name in features)
    if record_type(table.schema[key], key) not in ("int64", "string") or table[key].null_count():
        raise StoreError(f"The key {key!r} must be integers or strings without nulls.")
    check_times(table, time)
    return fields
