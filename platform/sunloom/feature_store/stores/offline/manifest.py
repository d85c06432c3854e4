"""One version of a feature set: its schema and the files that hold its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sunloom.errors import StoreError
from sunloom.feature_store.stores.online.protocol import Field

Mode = Literal["append", "dates", "replace"]
MODES: Sequence[Mode] = ("append", "dates", "replace")
FORMAT = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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

    def meets(self, start: datetime | None, end: datetime | None) -> bool:
        """Whether a row of it may lie at or after ``start`` and before ``end``."""
        return (start is None or self.last_us >= microseconds_of(start)) and (
            end is None or self.first_us < microseconds_of(end)
        )


@dataclass(frozen=True)
class Version:
    """What a feature set held after one write.

    Attributes:
        number: Counts from 1.
        written_at: UTC.
        write_id: Which write made it.
        mode: What became of the rows before: ``append``, ``dates`` or ``replace``.
        key: The key's column.
        time: The event time's column.
        fields: Every column but the two, in order of their first appearance, with types.
        key_dtype: The key's type.
        files: Where its rows lie.
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

    def files_within(self, start: datetime | None, end: datetime | None) -> list[DataFile]:
        """Files that may hold rows at or after ``start`` and before ``end`` (UTC)."""
        return [file for file in self.files if file.meets(start, end)]

    def to_json(self) -> bytes:
        """The manifest's text."""
        plain = asdict(self) | {"format": FORMAT, "written_at": self.written_at.isoformat()}
        return json.dumps(plain, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, place: str) -> Version:
        """The version that a manifest describes.

        Raises:
            StoreError: It is damaged, or of a later format.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
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
    """What one write brings, before it is known which version it becomes.

    Attributes:
        feature_set: The feature set.
        write_id: Names the write.
        mode: What becomes of the rows before.
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

    def upon(self, held: Version | None, files: Sequence[DataFile], now: datetime) -> Version:
        """The version that it is on top of the held one.

        Raises:
            StoreError: Key, time or a column's type differs from the stored one.
        """
        if held is not None:
            self._check(held)
        return Version(
            number=(held.number if held else 0) + 1,
            # A clock that was set back makes no version older than the one before.
            written_at=max(now, held.written_at) if held else now,
            write_id=self.write_id,
            mode=self.mode,
            key=self.key,
            time=self.time,
            key_dtype=self.columns[self.key].dtype,
            fields=self._merged(held.fields if held else ()),
            files=(*self._kept(held.files if held else (), files), *files),
        )

    def _check(self, held: Version) -> None:
        ours = self.key, self.columns[self.key].dtype, self.time
        if (held.key, held.key_dtype, held.time) != ours:
            raise StoreError(
                f"Feature set {self.feature_set!r} is stored under key {held.key!r} "
                f"({held.key_dtype}) and time {held.time!r}, not {ours[0]!r} ({ours[1]}) and "
                f"{ours[2]!r}.",
                "Write it under another name.",
            )

    def _merged(self, held: Sequence[Field]) -> tuple[Field, ...]:
        for field in held:
            fresh = self.columns.get(field.name, field)
            if fresh.dtype != field.dtype:
                raise StoreError(
                    f"Column {self.feature_set}.{field.name} is stored as {field.dtype}, but "
                    f"comes as {fresh.dtype} now.",
                    "Give the changed feature a new name, cast it to the stored type, or write "
                    "the set under another name.",
                    field.name,
                )
        known = {self.key, self.time, *(field.name for field in held)}
        return (*held, *(field for name, field in self.columns.items() if name not in known))

    def _kept(self, held: Sequence[DataFile], files: Sequence[DataFile]) -> Sequence[DataFile]:
        if self.mode == "append":
            return held
        days = {file.date for file in files}
        return [file for file in held if self.mode == "dates" and file.date not in days]


def microseconds_of(moment: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    whole = moment - _EPOCH
    return (whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds
