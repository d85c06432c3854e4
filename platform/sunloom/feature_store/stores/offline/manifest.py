"""Manifest of one version of a feature set: its schema and the files of its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sunloom.errors import StoreError
from sunloom.feature_store.stores.field_types import Field

Mode = Literal["append", "dates", "replace"]
MODES: Sequence[Mode] = get_args(Mode)
# Raised when an older release could not read a new manifest correctly.
FORMAT = 1


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of one day's rows.

    Attributes:
        path: Below the feature set's folder.
        date: The day of its event times, UTC.
        rows: How many rows it holds.
        first_us: Earliest event time, microseconds since the epoch.
        last_us: Latest event time.
    """

    path: str
    date: str
    rows: int
    first_us: int
    last_us: int


@dataclass(frozen=True)
class FeatureSetVersion:
    """The contents of a feature set after one write.

    Attributes:
        number: Counts from 1.
        written_at: UTC.
        write_id: Identifies the write that created it.
        mode: What happened to earlier rows: ``append``, ``dates`` or ``replace``.
        key: The key's column.
        time: The event time's column.
        fields: Every column but the two, in order of their first appearance, with types.
        key_dtype: The key's type.
        files: The files of its rows.
    """

    number: int
    written_at: datetime
    write_id: str
    mode: str
    key: str
    time: str
    key_dtype: str
    fields: tuple[Field, ...]
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(file.rows for file in self.files)

    @property
    def columns(self) -> dict[str, str]:
        """Every column's name and type."""
        first = {self.key: self.key_dtype, self.time: "datetime"}
        return first | {field.name: field.dtype for field in self.fields}

    def to_json(self) -> bytes:
        """The manifest's text."""
        plain = asdict(self) | {"format": FORMAT, "written_at": self.written_at.isoformat()}
        return json.dumps(plain, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, place: str) -> FeatureSetVersion:
        """The version that a manifest describes.

        Raises:
            StoreError: It is damaged, or of a later format.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
            # First of all: a later format's new fields would otherwise be reported as damage.
            if plain.pop("format") != FORMAT:
                raise StoreError(f"{place} is of a later format.", "Update sunloom.")
            plain["written_at"] = datetime.fromisoformat(plain["written_at"]).astimezone(UTC)
            plain["fields"] = tuple(Field(**field) for field in plain["fields"])
            plain["files"] = tuple(DataFile(**file) for file in plain["files"])
            return cls(**plain)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{place} is damaged: {error!r}", "Restore it from a copy.") from error

    def version_after(
        self,
        feature_set: str,
        latest: FeatureSetVersion | None,
        files: Sequence[DataFile],
        now: datetime,
    ) -> FeatureSetVersion:
        """This write as the version after the latest one.

        Args:
            feature_set: The feature set.
            latest: The latest version; None before the first write.
            files: The files of this write's rows.
            now: The present.

        Raises:
            StoreError: Key, time or a column's type differs from the stored one.
        """
        if latest is None:
            return replace(self, number=1, written_at=now, files=tuple(files))
        stored = latest.key, latest.key_dtype, latest.time
        if stored != (self.key, self.key_dtype, self.time):
            raise StoreError(
                f"Feature set {feature_set!r} is stored under key {latest.key!r} "
                f"({latest.key_dtype}) and time {latest.time!r}, not {self.key!r} "
                f"({self.key_dtype}) and {self.time!r}.",
                "Write it under another name.",
            )
        # A file holds rows of one day, so a day is replaced by leaving its files out.
        dates = {file.date for file in files}
        kept = [f for f in latest.files if self.mode == "dates" and f.date not in dates]
        return replace(
            self,
            number=latest.number + 1,
            # Versions are found by time: a clock that was set back must not change their order.
            written_at=max(now, latest.written_at),
            fields=self._merge_fields(feature_set, latest),
            # Earlier files first: rows of equal times are read in order of writing.
            files=(*(latest.files if self.mode == "append" else kept), *files),
        )

    def _merge_fields(self, feature_set: str, latest: FeatureSetVersion) -> tuple[Field, ...]:
        columns = self.columns
        for field in latest.fields:
            dtype = columns.get(field.name, field.dtype)
            if dtype != field.dtype:
                raise StoreError(
                    f"Column {feature_set}.{field.name} is stored as {field.dtype}, but "
                    f"comes as {dtype} now.",
                    "Give the changed feature a new name, cast it to the stored type, or write "
                    "the set under another name.",
                    field.name,
                )
        known = {self.key, self.time, *(field.name for field in latest.fields)}
        return (*latest.fields, *(field for field in self.fields if field.name not in known))
