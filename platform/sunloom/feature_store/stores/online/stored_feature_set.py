"""A feature set as stored: its key, every schema it ever had, how long its records hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import polars as pl

from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.online.key_value import MAX_KEY_BYTES, check_space
from sunloom.feature_store.stores.online.protocol import Field, RecordSchema
from sunloom.feature_store.stores.online.record_codec import RecordCodec, schema_id_of, time_of

META_PREFIX = b"s/"
_INT_KEY = struct.Struct(">Q")
_SIGN = 1 << 63
_INTS = {int}


class StoredFeatureSet:
    """One feature set's records: their keys, and their bytes to values.

    Args:
        feature_set: The feature set.
        raw: What the store holds of it, as ``evolved`` makes it.
    """

    def __init__(self, feature_set: str, raw: bytes) -> None:
        self.raw = raw
        meta: dict[str, Any] = json.loads(raw)
        latest: int = meta["latest"]
        self.prefix = record_prefix(feature_set)
        schemas = [
            tuple(Field(name, dtype) for name, dtype in fields) for fields in meta["schemas"]
        ]
        self.codecs = [RecordCodec(number, fields) for number, fields in enumerate(schemas)]
        self.schema = RecordSchema(feature_set, meta["key"], meta["key_dtype"], schemas[latest])
        self.ttl_us: int | None = meta.get("ttl_us")
        self._codec = self.codecs[latest]
        self._is_text = self.schema.key_dtype == "string"

    def keys(self, ids: Sequence[Any]) -> list[bytes]:
        """The store's key of each entity.

        Raises:
            UsageError: An id is not of the key's type, or too long.
        """
        prefix = self.prefix
        if self._is_text:
            return [prefix + self._text_key(entity) for entity in ids]
        pack = _INT_KEY.pack
        try:
            if set(map(type, ids)) == _INTS:
                return [prefix + pack(entity + _SIGN) for entity in ids]
        except struct.error:
            pass  # the slow way names the one that does not fit
        return [
            prefix + pack(to_integer_id(entity, self.schema.feature_set, self.schema.key) + _SIGN)
            for entity in ids
        ]

    def _text_key(self, entity: Any) -> bytes:
        encoded = str(entity).encode()
        if not 0 < len(encoded) <= MAX_KEY_BYTES:
            raise UsageError(
                f"An entity id has 1 to {MAX_KEY_BYTES} bytes, not {len(encoded)}.",
                param="entity_id",
            )
        return encoded

    def expired_before(self, now_us: int) -> int | None:
        """Records of an earlier feature time hold no more; None where they hold for ever."""
        return None if self.ttl_us is None else now_us - self.ttl_us

    def pack(self, values: pl.DataFrame, times: pl.Series) -> list[bytes]:
        """One record a row by the latest schema; ``times`` are microseconds since the epoch."""
        return self._codec.pack(values, times)

    def unpack(self, records: Sequence[bytes | None], now_us: int) -> list[dict[str, Any] | None]:
        """Each record's values by the latest schema; None where there is no record that holds."""
        return self._codec.unpack_all(self.holding(records, now_us), self._today)

    def holding(self, records: Sequence[bytes | None], now_us: int) -> Sequence[bytes | None]:
        """The records with None in the place of those that hold no more."""
        limit = self.expired_before(now_us)
        if limit is None:
            return records
        return [None if r is None or time_of(r) < limit else r for r in records]

    def _today(self, record: bytes | None) -> dict[str, Any] | None:
        if record is None:
            return None
        number = schema_id_of(record)
        values = self.codecs[number].unpack(record)
        if number == self._codec.schema_id:
            return values
        return {name: values.get(name) for name in self.schema.names}


def meta_key(feature_set: str) -> bytes:
    """Where the feature set's description lies."""
    return META_PREFIX + check_space(feature_set)


def set_name(key: bytes) -> str:
    """The feature set whose description lies there."""
    return key[len(META_PREFIX) :].decode()


def record_prefix(feature_set: str) -> bytes:
    """What the keys of the feature set's records begin with."""
    return b"d/" + check_space(feature_set) + b"\0"


def evolved(
    feature_set: str, raw: bytes | None, fields: Sequence[Field], key: str, key_dtype: str
) -> bytes:
    """What the store shall hold of a feature set once these fields are its latest schema.

    Added and left out fields are fine.

    Raises:
        StoreError: The key or a field's type differs from the stored one.
    """
    packed = [[field.name, field.dtype] for field in fields]
    if raw is None:
        return _dump({"key": key, "key_dtype": key_dtype, "schemas": [packed], "latest": 0})
    meta = json.loads(raw)
    if (meta["key"], meta["key_dtype"]) != (key, key_dtype):
        raise StoreError(
            f"Feature set {feature_set!r} is stored under key {meta['key']!r} "
            f"({meta['key_dtype']}), not {key!r} ({key_dtype}).",
            "Write it under another name.",
        )
    schemas = meta["schemas"]
    if schemas[meta["latest"]] == packed:
        return raw
    if packed not in schemas:
        _check_types(feature_set, schemas, fields)
        schemas.append(packed)
    return _dump(meta | {"latest": schemas.index(packed)})


def with_ttl(raw: bytes, ttl_us: int | None) -> bytes:
    """What the store shall hold of a feature set whose records hold so long."""
    meta = json.loads(raw)
    meta.pop("ttl_us", None)
    return _dump(meta if ttl_us is None else meta | {"ttl_us": ttl_us})


def check_names(features: Sequence[str], feature_set: str, known: Sequence[str]) -> None:
    """Check that every name is one of the set's known features.

    Raises:
        NotFoundError: Names one that is not; lists the known ones.
    """
    for name in features:
        if name not in known:
            raise NotFoundError(
                f"Feature set {feature_set!r} has no feature {name!r}.",
                known=known,
                name=name,
                param="features",
            )


def _dump(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, ensure_ascii=False).encode()


def _check_types(
    feature_set: str, schemas: Sequence[Sequence[Sequence[str]]], fields: Sequence[Field]
) -> None:
    held = {name: dtype for schema in schemas for name, dtype in schema}
    for field in fields:
        if held.get(field.name, field.dtype) != field.dtype:
            raise StoreError(
                f"Feature {feature_set}.{field.name} is stored as {held[field.name]}, "
                f"but comes as {field.dtype} now.",
                "Give the changed feature a new name, or cast it to the stored type.",
                field.name,
            )


def to_integer_id(entity: Any, feature_set: str, key: str) -> int:
    """An entity id, or its digits, as an integer of 64 bits.

    Raises:
        UsageError: It is none.
    """
    try:
        if isinstance(entity, bool | float):
            raise ValueError(entity)
        number = int(entity)
    except (TypeError, ValueError):
        number = _SIGN
    if not -_SIGN <= number < _SIGN:
        raise UsageError(
            f"Entity id {entity!r} is not an integer; {feature_set}.{key} is one.",
            param="entity_id",
        )
    return number
