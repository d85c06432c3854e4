"""The online store's interface, and how one is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sunloom.config.settings import Settings

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Field:
    """One value of a record.

    Attributes:
        name: The feature's name without its namespace.
        dtype: ``int64``, ``float64``, ``bool``, ``string`` or ``datetime``.
    """

    name: str
    dtype: str


@dataclass(frozen=True)
class GroupSchema:
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

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values."""
        return tuple(field.name for field in self.fields)


@runtime_checkable
class OnlineStore(Protocol):
    """The latest values of each entity; many processes may read while one writes."""

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

    def schema(self, feature_set: str) -> GroupSchema:
        """What the feature set's records hold.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        ...

    def count(self, feature_set: str) -> int:
        """Number of entities with a record."""
        ...


def open_online_store(settings: Settings) -> OnlineStore:
    """The online store of these settings: embedded, in ``<paths.state>/online``.

    One store per folder and process; calling it again is cheap.
    """
    from sunloom.features.store.embedded import embedded_store

    return embedded_store(settings.paths.state / "online")
