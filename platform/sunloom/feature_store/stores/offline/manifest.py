"""Manifest of one version of a feature set: its schema and the files of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class VersionDraft:
    """A write before it is known which version it becomes.

    Attributes:
        feature_set: The feature set.
        write_id: Identifies the write.
        mode: What happens to earlier rows.
        key: The key's column.
        time: The event time's column.
        columns: Every column by its name.
    """

    feature_set: str
    write_id: str
    mode: Mode
    key: str
    time: str
    columns: Mapping[str, Field]

    def next_version(
        self, latest: FeatureSetVersion | None, files: Sequence[DataFile], now: datetime
    ) -> FeatureSetVersion:
        """The version after the latest one.

        Raises:
            StoreError: Key, time or a column's type differs from the stored one.
        """
        if latest is not None:
            self._check_columns(latest)
        return FeatureSetVersion(
            number=(latest.number if latest else 0) + 1,
            # Versions are found by time: a clock that was set back must not change their order.
            written_at=max(now, latest.written_at) if latest else now,
            write_id=self.write_id,
            mode=self.mode,
            key=self.key,
            time=self.time,
            key_dtype=self.columns[self.key].dtype,
            fields=self._merge_fields(latest.fields if latest else ()),
            # Earlier files first: rows of equal times are read in order of writing.
            files=(*self._kept_files(latest.files if latest else (), files), *files),
        )

    def _check_columns(self, latest: FeatureSetVersion) -> None:
        key_dtype = self.columns[self.key].dtype
        stored = latest.key, latest.key_dtype, latest.time
        if stored != (self.key, key_dtype, self.time):
            raise StoreError(
                f"Feature set {self.feature_set!r} is stored under key {latest.key!r} "
                f"({latest.key_dtype}) and time {latest.time!r}, not {self.key!r} ({key_dtype}) "
                f"and {self.time!r}.",
                "Write it under another name.",
            )

    def _merge_fields(self, stored: Sequence[Field]) -> tuple[Field, ...]:
        for field in stored:
            new = self.columns.get(field.name, field)
            if new.dtype != field.dtype:
                raise StoreError(
                    f"Column {self.feature_set}.{field.name} is stored as {field.dtype}, but "
                    f"comes as {new.dtype} now.",
                    "Give the changed feature a new name, cast it to the stored type, or write "
                    "the set under another name.",
                    field.name,
                )
        known = {self.key, self.time, *(field.name for field in stored)}
        return (*stored, *(field for name, field in self.columns.items() if name not in known))

    def _kept_files(
        self, stored: Sequence[DataFile], files: Sequence[DataFile]
    ) -> Sequence[DataFile]:
        if self.mode == "append":
            return stored
        # A file holds rows of one day, so a day is replaced by leaving its files out.
        dates = {file.date for file in files}
        return [file for file in stored if self.mode == "dates" and file.date not in dates]
