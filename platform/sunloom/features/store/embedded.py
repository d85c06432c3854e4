"""The embedded online store on LMDB: one file, many reading processes, one writer at a time.

Keys: ``m/<feature set>`` holds the set's schemas as JSON; ``d/<set number><entity>`` one record;
``k/<space>``, NUL and the key a plain value.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import polars as pl

from sunloom.data.sources import require_columns
from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.features.store.keyvalue import Write, check_key, check_space
from sunloom.features.store.online import Field, GroupSchema
from sunloom.features.store.packing import RecordCodec, field_dtype, schema_id_of, time_of

FIRST_MAP_BYTES = 256 * 1024 * 1024
_CHUNK_ROWS = 20_000
_SCAN_PAIRS = 1_000
_INT_KEY = struct.Struct(">Q")
_SIGN = 1 << 63

_T = TypeVar("_T")


def embedded_store(folder: Path) -> EmbeddedStore:
    """The store in that folder; LMDB allows one open environment per process, so it is shared."""
    return _opened(str(folder.absolute()), os.getpid())


@lru_cache(maxsize=16)
def _opened(folder: str, _pid: int) -> EmbeddedStore:
    return EmbeddedStore(Path(folder))


class _Group:
    """A feature set as stored: number, key, and every schema it ever had."""

    def __init__(self, feature_set: str, meta: dict[str, Any]) -> None:
        self.meta = meta
        self.prefix = b"d/" + int(meta["number"]).to_bytes(2, "big")
        schemas = [
            tuple(Field(name, dtype) for name, dtype in fields) for fields in meta["schemas"]
        ]
        self.codecs = [RecordCodec(number, fields) for number, fields in enumerate(schemas)]
        self.schema = GroupSchema(feature_set, meta["key"], meta["key_dtype"], schemas[-1])
        self._absent = dict.fromkeys(self.schema.names)

    def key(self, entity: Any) -> bytes:
        if self.schema.key_dtype == "string":
            return self.prefix + str(entity).encode()
        return self.prefix + _INT_KEY.pack(_as_int(entity, self.schema) + _SIGN)

    def unpack(self, record: memoryview) -> dict[str, Any]:
        number = schema_id_of(record)
        values = self.codecs[number].unpack(record)
        return values if number == len(self.codecs) - 1 else self._today(values)

    def _today(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: values.get(name) for name in self._absent}


class EmbeddedStore:
    """An ``OnlineStore`` in a folder.

    Args:
        folder: Made when missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._groups: dict[str, tuple[bytes, _Group]] = {}
        # sync=False would lose the last writes of a crashed machine; metasync only the last commit.
        self._env = lmdb.open(
            str(folder), map_size=FIRST_MAP_BYTES, max_readers=512, metasync=False
        )

    def write(
        self, feature_set: str, table: pl.DataFrame, *, key: str = "id", time: str = "event_time"
    ) -> int:
        """Write one record a row; a newer record is never replaced by an older one."""
        require_columns(table, (key, time), f"The table for feature set {feature_set!r}")
        features = [name for name in table.columns if name not in (key, time)]
        fields = tuple(Field(name, field_dtype(table.schema[name], name)) for name in features)
        key_dtype = field_dtype(table.schema[key], key)
        if key_dtype not in ("int64", "string") or table[key].null_count():
            raise StoreError(f"The key {key!r} must be integers or strings without nulls.")
        if not isinstance(table.schema[time], pl.Datetime) or table[time].null_count():
            raise StoreError(f"The time {time!r} must be UTC datetimes without nulls.")
        meta = {"key": key, "key_dtype": key_dtype}
        written = 0
        for chunk in table.iter_slices(_CHUNK_ROWS):
            written += self._write_chunk(feature_set, fields, meta, chunk.select(features), chunk)
        return written

    def read(
        self, feature_set: str, ids: Sequence[Any], features: Sequence[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """The values of each id in order; None where there is no such entity."""
        with self._reading() as txn:
            group = self._group(txn, feature_set)
            if features is not None:
                _check_names(features, group.schema)
            found: list[dict[str, Any] | None] = []
            for entity in ids:
                record = txn.get(group.key(entity))
                found.append(None if record is None else group.unpack(record))
        if features is None:
            return found
        return [None if row is None else {name: row[name] for name in features} for row in found]

    def feature_times(self, feature_set: str, ids: Sequence[Any]) -> list[int | None]:
        """Microseconds since the epoch as of which each record holds."""
        with self._reading() as txn:
            group = self._group(txn, feature_set)
            records = (txn.get(group.key(entity)) for entity in ids)
            return [None if record is None else time_of(record) for record in records]

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that were written, sorted."""
        with self._reading() as txn:
            return _names(txn)

    def schema(self, feature_set: str) -> GroupSchema:
        """What the feature set's records hold."""
        with self._reading() as txn:
            return self._group(txn, feature_set).schema

    def count(self, feature_set: str) -> int:
        """Number of entities with a record."""
        with self._reading() as txn:
            prefix = self._group(txn, feature_set).prefix
            return sum(1 for _ in _keys_from(txn, prefix))

    def get_many(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key of that space, in order; None where none is."""
        prefix = _space_prefix(space)
        with self._reading() as txn:
            values = (txn.get(prefix + check_key(key)) for key in keys)
            return [None if value is None else bytes(value) for value in values]

    def apply(self, writes: Sequence[Write]) -> None:
        """Write all of these or none, in one transaction and in this order."""
        packed = [(_space_prefix(space) + check_key(key), value) for space, key, value in writes]
        self._transact(lambda txn: _put_all(txn, packed))

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value of that space, by key."""
        prefix = _space_prefix(space)
        after = prefix
        while True:
            # A transaction held open between yields would keep every page written since then.
            with self._reading() as txn:
                pairs = _pairs_after(txn, prefix, after)
            for key, value in pairs:
                yield key[len(prefix) :], value
            if len(pairs) < _SCAN_PAIRS:
                return
            after = pairs[-1][0]

    def _write_chunk(
        self,
        feature_set: str,
        fields: tuple[Field, ...],
        meta: dict[str, str],
        values: pl.DataFrame,
        chunk: pl.DataFrame,
    ) -> int:
        def put(txn: Any) -> int:
            return _put_rows(txn, self._evolve(txn, feature_set, fields, meta), values, chunk)

        return self._transact(put)

    def _transact(self, work: Callable[[Any], _T]) -> _T:
        """Do the work in one write transaction; again from its start when the map had to grow."""
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    return work(txn)
            except lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                self._env.set_mapsize(0)
            except lmdb.DiskError as error:
                raise StoreError(
                    f"The online store in {self.folder} cannot be written: {error}",
                    "Earlier records are whole; make room and write again.",
                ) from error

    def _evolve(
        self, txn: Any, feature_set: str, fields: tuple[Field, ...], meta: dict[str, str]
    ) -> _Group:
        """The group, with this schema as its latest; added fields are fine, changed types not."""
        packed = [[field.name, field.dtype] for field in fields]
        raw = txn.get(_meta_key(feature_set))
        if raw is None:
            stored: dict[str, Any] = {"number": len(_names(txn)), **meta, "schemas": [packed]}
        else:
            stored = json.loads(bytes(raw))
            if stored["schemas"][-1] == packed and _same_key(stored, meta):
                return self._group(txn, feature_set)
            _check_evolution(feature_set, stored, fields, meta)
            stored["schemas"].append(packed)
        txn.put(_meta_key(feature_set), json.dumps(stored).encode())
        return _Group(feature_set, stored)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            txn = self._env.begin(buffers=True)
        except lmdb.MapResizedError:
            self._env.set_mapsize(0)
            txn = self._env.begin(buffers=True)
        with txn:
            yield txn

    def _group(self, txn: Any, feature_set: str) -> _Group:
        raw = txn.get(_meta_key(feature_set))
        if raw is None:
            raise NotFoundError(
                f"There is no feature set {feature_set!r} in the online store.",
                known=_names(txn),
                name=feature_set,
                param="feature_set",
            )
        held = self._groups.get(feature_set)
        if held is None or held[0] != raw:
            held = (bytes(raw), _Group(feature_set, json.loads(bytes(raw))))
            self._groups[feature_set] = held
        return held[1]


def _put_rows(txn: Any, group: _Group, values: pl.DataFrame, chunk: pl.DataFrame) -> int:
    time_column = next(
        n for n in chunk.columns if n not in values.columns and n != group.meta["key"]
    )
    utc = chunk[time_column].dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    times = utc.cast(pl.Int64)
    records = group.codecs[-1].pack(values, times)
    written = 0
    for entity, when, record in zip(chunk[group.meta["key"]], times, records, strict=True):
        key = group.key(entity)
        held = txn.get(key)
        if held is None or time_of(held) <= when:
            txn.put(key, record)
            written += 1
    return written


def _space_prefix(space: str) -> bytes:
    return b"k/" + check_space(space) + b"\0"


def _put_all(txn: Any, packed: Sequence[tuple[bytes, bytes | None]]) -> None:
    for key, value in packed:
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)


def _pairs_after(txn: Any, prefix: bytes, after: bytes) -> list[tuple[bytes, bytes]]:
    cursor = txn.cursor()
    pairs: list[tuple[bytes, bytes]] = []
    # No key is empty, so the prefix itself is never one.
    if not cursor.set_range(after + b"\0"):
        return pairs
    for key, value in cursor:
        if len(pairs) == _SCAN_PAIRS or bytes(key[: len(prefix)]) != prefix:
            break
        pairs.append((bytes(key), bytes(value)))
    return pairs


def _meta_key(feature_set: str) -> bytes:
    return b"m/" + feature_set.encode()


def _keys_from(txn: Any, prefix: bytes) -> Iterator[bytes]:
    cursor = txn.cursor()
    if not cursor.set_range(prefix):
        return
    for key in cursor.iternext(keys=True, values=False):
        if bytes(key[: len(prefix)]) != prefix:
            return
        yield bytes(key)


def _names(txn: Any) -> list[str]:
    return [key[2:].decode() for key in _keys_from(txn, b"m/")]


def _same_key(stored: dict[str, Any], meta: dict[str, str]) -> bool:
    return all(stored[name] == value for name, value in meta.items())


def _check_evolution(
    feature_set: str, stored: dict[str, Any], fields: Sequence[Field], meta: dict[str, str]
) -> None:
    if not _same_key(stored, meta):
        raise StoreError(
            f"Feature set {feature_set!r} is stored under key {stored['key']!r} "
            f"({stored['key_dtype']}), not {meta['key']!r} ({meta['key_dtype']}).",
            "Write it under another name.",
        )
    held = {name: dtype for schema in stored["schemas"] for name, dtype in schema}
    for field in fields:
        if held.get(field.name, field.dtype) != field.dtype:
            raise StoreError(
                f"Feature {feature_set}.{field.name} is stored as {held[field.name]}, "
                f"but comes as {field.dtype} now.",
                "Give the changed feature a new name, or cast it to the stored type.",
                field.name,
            )


def _check_names(features: Sequence[str], schema: GroupSchema) -> None:
    for name in features:
        if name not in schema.names:
            raise NotFoundError(
                f"Feature set {schema.feature_set!r} has no feature {name!r}.",
                known=schema.names,
                name=name,
                param="features",
            )


def _as_int(entity: Any, schema: GroupSchema) -> int:
    try:
        if isinstance(entity, bool | float):
            raise ValueError(entity)
        number = int(entity)
    except (TypeError, ValueError):
        number = _SIGN
    if not -_SIGN <= number < _SIGN:
        raise UsageError(
            f"Entity id {entity!r} is not an integer; {schema.feature_set}.{schema.key} is one.",
            param="entity_id",
        )
    return number
