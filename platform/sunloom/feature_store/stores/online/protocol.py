"""Interface of the online store: latest records by entity, and plain keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sunloom.feature_store.stores.online.key_value import Write

# Importing Polars takes seconds; plain keys and values need none of it.
if TYPE_CHECKING:
    import polars as pl

    from sunloom.feature_store.stores.field_types import Field


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


@runtime_checkable
class OnlineStore(Protocol):
    """The latest values of each entity; many processes may read while others write.

    Beside the records it has plain keys and values in named spaces (``get_many``, ``apply``,
    ``scan``), for other data that must change in one transaction, such as a stream's tiles and
    offsets.
    """

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
        ...

    def read(
        self, feature_set: str, ids: Sequence[Any], features: Sequence[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """The values of each id in order; None for an unknown entity.

        Raises:
            NotFoundError: Unknown feature set or feature; lists the known ones.
            UsageError: An id is not of the key's type.
        """
        ...

    def feature_times(self, feature_set: str, ids: Sequence[Any]) -> list[int | None]:
        """Each record's feature time, microseconds since the epoch."""
        ...

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that were written, sorted."""
        ...

    def schema(self, feature_set: str) -> RecordSchema:
        """Schema of the feature set's records.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        ...

    def count(self, feature_set: str) -> int:
        """Number of entities with a record that has not expired."""
        ...

    def set_ttl(self, feature_set: str, ttl: timedelta | None) -> None:
        """Let the set's records expire so long after their feature time; None: never.

        An expired record is not found, and is deleted in time.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        ...

    def get_many(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key of that space, in order, in one round trip; None where none is.

        Raises:
            UsageError: A space that is empty or contains a NUL, or an empty or overlong key.
        """
        ...

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
        ...

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value of that space.

        Changes made while it runs may or may not be seen; what stays unchanged comes exactly once.
        """
        ...
