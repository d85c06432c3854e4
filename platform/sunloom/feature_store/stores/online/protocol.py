"""The online store's interface: latest records by entity, and plain keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sunloom.feature_store.stores.online.key_value import Write

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Field:
    """One value of a record.

    Attributes:
        name: The feature's name without its namespace.
        dtype: ``int64``, ``float64``, ``bool``, ``string``, ``datetime``, ``date``, ``duration``,
            ``list[…]`` or ``struct[name: …, …]``.
    """

    name: str
    dtype: str


@dataclass(frozen=True)
class RecordSchema:
    """What one feature set's records hold.

    Attributes:
        feature_set: The feature set.
        key: Name of the key.
        key_dtype: ``int64`` or ``string``.
        fields: The values, in the order they are packed.
    """

    feature_set: str
    key: str
    key_dtype: str
    fields: tuple[Field, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the values."""
        return tuple(field.name for field in self.fields)


@runtime_checkable
class OnlineStore(Protocol):
    """The latest values of each entity; many processes may read while others write.

    Beneath the records lie plain keys and values in named spaces (``get_many``, ``apply``,
    ``scan``), for what else must live and change together, such as a stream's tiles and offsets.
    """

    def write(
        self, feature_set: str, table: pl.DataFrame, *, key: str = "id", time: str = "event_time"
    ) -> int:
        """Write one record a row and return how many were written.

        Args:
            feature_set: The feature set; made on first use.
            table: Key, time (UTC) and the features. A record whose stored time is later than the
                row's stays: a newer value is never replaced by an older one.
            key: The key's column.
            time: The column that says as of when the row's values hold.

        Raises:
            StoreError: A type has no packed form, or differs from the stored one.
        """
        ...

    def read(
        self, feature_set: str, ids: Sequence[Any], features: Sequence[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """The values of each id in order; None where there is no such entity.

        Raises:
            NotFoundError: Unknown feature set or feature; lists the known ones.
            UsageError: An id is not of the key's type.
        """
        ...

    def feature_times(self, feature_set: str, ids: Sequence[Any]) -> list[int | None]:
        """Microseconds since the epoch as of which each record holds."""
        ...

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that were written, sorted."""
        ...

    def schema(self, feature_set: str) -> RecordSchema:
        """What the feature set's records hold.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        ...

    def count(self, feature_set: str) -> int:
        """Number of entities with a record that holds."""
        ...

    def set_ttl(self, feature_set: str, ttl: timedelta | None) -> None:
        """Let the set's records hold so long after their feature time; None: for ever.

        A record that holds no more is not found, and is dropped in time.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        ...

    def get_many(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key of that space, in order, in one round trip; None where none is.

        Raises:
            UsageError: A space that is empty or holds a NUL, or an empty or overlong key.
        """
        ...

    def apply(self, writes: Sequence[Write], expected: Sequence[Write] = ()) -> bool:
        """Write all of these or none, in one transaction and in this order.

        Args:
            writes: Space, key and value; a value of None deletes the key.
            expected: Space, key and the value that must be there beforehand, None where none may
                be: if one is not as expected, nothing is written.

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
