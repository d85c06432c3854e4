"""Stored description of a feature set: its key, every schema it ever had, its time to live."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.field_types import Field
from sunloom.feature_store.stores.online.key_value import MAX_KEY_BYTES, check_space
from sunloom.feature_store.stores.online.record_codec import RecordCodec, schema_id_of, time_of

META_PREFIX = b"s/"
_INT_KEY = struct.Struct(">Q")
# Added to an integer key, so that its bytes sort as the numbers do, negative ones first.
_SIGN = 1 << 63
# Compared with exact types: ``isinstance`` would let True pass as 1.
_INTS = {int}


@dataclass(frozen=True)
class RecordSchema:
    """Schema of one feature set's records.

    Attributes:
        feature_set: The feature set.
        key: Name of the entity key.
        key_dtype: ``int64`` or ``string``.
        fields: The values, in packed order.
    """

    feature_set: str
    key: str
    key_dtype: str
    fields: tuple[Field, ...]

    # A cached property writes to ``__dict__``, which a frozen dataclass permits.
    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the values."""
        return tuple(field.name for field in self.fields)


class StoredFeatureSet:
    """One feature set's records: the keys of entities, and records to values.

    Args:
        feature_set: The feature set.
        raw: Its stored description, as ``evolve_description`` returns it.

    Attributes:
        codec: Packs and unpacks records of the latest schema.
    """

    def __init__(self, feature_set: str, raw: bytes) -> None:
        self.raw = raw
        meta: dict[str, Any] = json.loads(raw)
        latest: int = meta["latest"]
        self.prefix = record_prefix(feature_set)
        schemas = [
            tuple(Field(name, dtype) for name, dtype in fields) for fields in meta["schemas"]
        ]
        self._codecs = [RecordCodec(number, fields) for number, fields in enumerate(schemas)]
        self.schema = RecordSchema(
            feature_set=feature_set,
            key=meta["key"],
            key_dtype=meta["key_dtype"],
            fields=schemas[latest],
        )
        self.ttl_us: int | None = meta.get("ttl_us")
        self.codec = self._codecs[latest]
        self._has_text_keys = self.schema.key_dtype == "string"

    def keys(self, ids: Sequence[Any]) -> list[bytes]:
        """The store's key of each entity.

        Raises:
            UsageError: An id is not of the key's type.
        """
        prefix = self.prefix
        if self._has_text_keys:
            return [prefix + _text_key(entity) for entity in ids]
        pack = _INT_KEY.pack
        try:
            # Ids that are integers already need no conversion one by one.
            if set(map(type, ids)) == _INTS:
                return [prefix + pack(entity + _SIGN) for entity in ids]
        except struct.error:
            pass  # the conversion below names the one that does not fit
        name, key = self.schema.feature_set, self.schema.key
        return [prefix + pack(to_integer_id(entity, name, key) + _SIGN) for entity in ids]

    def expiry_limit(self, now_us: int) -> int | None:
        """Records of an earlier feature time have expired; None where they never do."""
        return None if self.ttl_us is None else now_us - self.ttl_us

    def unpack(self, records: Sequence[bytes | None], now_us: int) -> list[dict[str, Any] | None]:
        """Each record's values by the latest schema; None where there is no unexpired record."""
        return self.codec.unpack_all(self.without_expired(records, now_us), self._unpack_older)

    def without_expired(
        self, records: Sequence[bytes | None], now_us: int
    ) -> Sequence[bytes | None]:
        """The records, with None in the place of expired ones."""
        limit = self.expiry_limit(now_us)
        if limit is None:
            return records
        return [None if r is None or time_of(r) < limit else r for r in records]

    def _unpack_older(self, record: bytes | None) -> dict[str, Any] | None:
        """A record of any schema, by the latest one: features that it lacks are null."""
        if record is None:
            return None
        number = schema_id_of(record)
        values = self._codecs[number].unpack(record)
        # Records of the latest schema come here too where they have nulls.
        if number == self.codec.schema_id:
            return values
        return {name: values.get(name) for name in self.schema.names}


def meta_key(feature_set: str) -> bytes:
    """The key of the feature set's description."""
    return META_PREFIX + check_space(feature_set)


def record_prefix(feature_set: str) -> bytes:
    """What the keys of the feature set's records begin with."""
    return b"d/" + check_space(feature_set) + b"\0"


def evolve_description(
    feature_set: str, raw: bytes | None, fields: Sequence[Field], key: str, key_dtype: str
) -> bytes:
    """A feature set's description with these fields as its latest schema.

    Features may be added and left out.

    Raises:
        StoreError: The key or a field's type differs from the stored one.
    """
    schema = [[field.name, field.dtype] for field in fields]
    if raw is None:
        return _dump({"key": key, "key_dtype": key_dtype, "schemas": [schema], "latest": 0})
    meta = json.loads(raw)
    if (meta["key"], meta["key_dtype"]) != (key, key_dtype):
        raise StoreError(
            f"Feature set {feature_set!r} is stored under key {meta['key']!r} "
            f"({meta['key_dtype']}), not {key!r} ({key_dtype}).",
            "Write it under another name.",
        )
    schemas = meta["schemas"]
    # The stored bytes themselves: the caller sees by comparison that nothing is to be written.
    if schemas[meta["latest"]] == schema:
        return raw
    # Writers that take turns with two schemas must not add a new one each time.
    if schema not in schemas:
        # Types of every schema, not of the latest alone: records of older ones are still read.
        stored = {name: dtype for older in schemas for name, dtype in older}
        for field in fields:
            if stored.get(field.name, field.dtype) != field.dtype:
                raise StoreError(
                    f"Feature {feature_set}.{field.name} is stored as {stored[field.name]}, "
                    f"but comes as {field.dtype} now.",
                    "Give the changed feature a new name, or cast it to the stored type.",
                    field.name,
                )
        schemas.append(schema)
    return _dump(meta | {"latest": schemas.index(schema)})


def with_ttl(raw: bytes, ttl_us: int | None) -> bytes:
    """A description with another time to live."""
    meta = json.loads(raw)
    meta.pop("ttl_us", None)
    return _dump(meta if ttl_us is None else meta | {"ttl_us": ttl_us})


def check_names(features: Sequence[str], feature_set: str, known: Sequence[str]) -> None:
    """Check that every name is one of the set's features.

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


def to_integer_id(entity: Any, feature_set: str, key: str) -> int:
    """An entity id, or its digits, as an integer of 64 bits.

    Raises:
        UsageError: It is none.
    """
    try:
        # ``int`` would turn 1.5 into another entity's id.
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


def _text_key(entity: Any) -> bytes:
    try:
        encoded = str(entity).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"Entity id {entity!a} is no Unicode text.", param="entity_id") from error
    if 0 < len(encoded) <= MAX_KEY_BYTES:
        return encoded
    # Too long for LMDB, or empty, as the prefix alone is no record's key. 0xFF begins no UTF-8
    # text: no other entity's key can be equal.
    return b"\xff" + hashlib.blake2b(encoded, digest_size=32).digest()


def _dump(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, ensure_ascii=False).encode()
