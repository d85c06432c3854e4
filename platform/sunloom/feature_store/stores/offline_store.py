"""Offline store: feature sets as versions of Parquet files.

::

    <uri>/<feature set>/data/date=2026-03-01/<write>.parquet
    <uri>/<feature set>/versions/00000001.json

A write creates its files first and then the next manifest, which makes them a version. Of two
writers only one creates a number; the other takes the next one, on top of the first.
"""

from __future__ import annotations

import json
import re
import uuid
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import polars as pl

from sunloom.config.settings import Settings
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.field_types import (
    Field,
    canonical_type,
    cast_values,
    check_times,
    format_type,
    parse_type,
)
from sunloom.feature_store.stores.offline_storage import OfflineStorage, TimeBounds
from sunloom.features.plan.polars_dtypes import epoch_us

Mode = Literal["append", "dates", "replace"]
MODES: Sequence[Mode] = get_args(Mode)
# Raised when an older release could not read a new manifest correctly.
FORMAT = 1
# No leading dot: `..` would leave the store's folder.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DATE = "__date"
# A failed attempt means that another writer got the number: only constant writing uses them up.
_MAX_ATTEMPTS = 100


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


def open_offline_store(settings: Settings) -> OfflineStore:
    """The offline store of these settings: ``feature_store.offline`` names its place."""
    return OfflineStore(settings.feature_store.offline or str(settings.paths.outputs / "offline"))


class OfflineStore:
    """Every version of the rows of feature sets.

    Args:
        uri: A folder, or a URI that fsspec knows (``s3://…``, ``gs://…``).
        now: The clock that versions are dated by.

    Attributes:
        storage: The files below the URI.
    """

    def __init__(self, uri: str, now: Callable[[], datetime] | None = None) -> None:
        self.uri = uri
        self.storage = OfflineStorage(uri)
        self._now = now or (lambda: datetime.now(UTC))

    def write(
        self,
        feature_set: str,
        table: pl.DataFrame,
        *,
        key: str = "id",
        time: str = "event_time",
        mode: Mode = "append",
    ) -> FeatureSetVersion:
        """Write the next version of a feature set.

        Args:
            feature_set: The feature set; created by its first write.
            table: Key, time (with a time zone) and the values. A column that earlier versions
                lack is null in their rows.
            key: The key's column.
            time: The event time's column.
            mode: ``append`` keeps all earlier rows, ``dates`` those of other days (UTC) than the
                table's, ``replace`` none.

        Raises:
            StoreError: A column's type cannot be stored or differs from the stored one; or
                others wrote so often that no number was free.
            DataError: Key or time is missing.
        """
        if mode not in MODES:
            raise UsageError(f"mode is one of {', '.join(MODES)}, not {mode!r}.", param="mode")
        rows = _canonical_rows(feature_set, table, key, time)
        fields = [_field(name, dtype) for name, dtype in rows.schema.items()]
        # Number and time are those of the attempt that succeeds.
        write = FeatureSetVersion(
            number=0,
            written_at=self._now(),
            # Part of the data files' names: two writers of one day must not share a path.
            write_id=uuid.uuid4().hex,
            mode=mode,
            key=key,
            time=time,
            key_dtype=_field(key, rows.schema[key]).dtype,
            fields=tuple(field for field in fields if field.name not in (key, time)),
            files=(),
        )
        latest = self._latest_version(feature_set)
        # A first time for its checks: a table that does not fit must leave no files behind.
        write.version_after(feature_set, latest, (), write.written_at)
        # Once for all attempts: the files do not depend on the version's number.
        files = self._write_days(feature_set, write, rows)
        for _ in range(_MAX_ATTEMPTS):
            version = write.version_after(feature_set, latest, files, self._now())
            path = _manifest_path(feature_set, version.number)
            if self.storage.create(path, version.to_json()):
                return version
            latest = self._latest_version(feature_set)
        raise StoreError(
            f"Others wrote {feature_set!r} so often that no version was free.", "Write again."
        )

    def read(
        self,
        feature_set: str,
        *,
        version: int | None = None,
        as_of: datetime | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Rows of one version by event time, those of equal times in order of writing.

        Args:
            feature_set: The feature set.
            version: Its number; the latest by default.
            as_of: The latest version that was written at or before this time.
            start: Only rows of this event time or later.
            end: Only rows of an earlier event time.
            columns: Columns to read beside key and time; all by default.

        Raises:
            NotFoundError: Unknown feature set, version or column; lists the known ones.
            UsageError: A time without a time zone, or both ``version`` and ``as_of``.
            StoreError: A file is missing or damaged.
        """
        chosen = self.version(feature_set, version=version, as_of=as_of)
        start, end = _to_utc(start, "start"), _to_utc(end, "end")
        dtypes = chosen.columns
        for name in columns or ():
            if name not in dtypes:
                raise NotFoundError(
                    f"Version {chosen.number} has no column {name!r}.",
                    known=dtypes,
                    name=name,
                    param="columns",
                )
        selected = dtypes if columns is None else (chosen.key, chosen.time, *columns)
        names = list(dict.fromkeys(selected))
        types = {name: parse_type(dtypes[name]) for name in names}
        bounds = TimeBounds(
            column=chosen.time,
            start_us=None if start is None else epoch_us(start),
            end_us=None if end is None else epoch_us(end),
        )
        files = [file for file in chosen.files if bounds.may_contain(file.first_us, file.last_us)]
        parts = self.storage.map(
            lambda file: self.storage.read_parquet(f"{feature_set}/{file.path}", names, bounds),
            files,
        )
        # The empty frame types the columns that older files lack, and a result without any file.
        frame = pl.concat([pl.DataFrame(schema=types), *parts], how="diagonal").select(names)
        # Files and row groups are kept whole where only some of their rows are within the bounds.
        if start is not None:
            frame = frame.filter(pl.col(chosen.time) >= start)
        if end is not None:
            frame = frame.filter(pl.col(chosen.time) < end)
        return frame.sort(chosen.time, maintain_order=True)

    def version(
        self, feature_set: str, *, version: int | None = None, as_of: datetime | None = None
    ) -> FeatureSetVersion:
        """One version of a feature set; the latest by default.

        Raises:
            NotFoundError: Unknown feature set or version; lists the known ones.
            UsageError: Both are given, or ``as_of`` has no time zone.
        """
        if version is not None and as_of is not None:
            raise UsageError("Give a version or a time, not both.", param="as_of")
        numbers = self._numbers(feature_set)
        if not numbers:
            raise NotFoundError(
                f"There is no feature set {feature_set!r} in the offline store {self.uri}.",
                known=self.feature_sets(),
                name=feature_set,
                param="feature_set",
            )
        if as_of is not None:
            return self._version_as_of(feature_set, numbers, as_of)
        if version is not None and version not in numbers:
            raise NotFoundError(
                f"Feature set {feature_set!r} has no version {version}.",
                f"It has 1 to {numbers[-1]}.",
                "version",
            )
        return self._load(feature_set, version or numbers[-1])

    def versions(self, feature_set: str) -> list[FeatureSetVersion]:
        """Every version, the first one first.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        self.version(feature_set)
        return [self._load(feature_set, number) for number in self._numbers(feature_set)]

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that have a version, sorted."""
        # A write that failed before its manifest leaves a folder without versions.
        storage = self.storage
        return [name for name in storage.names("") if storage.names(f"{name}/versions")]

    def _version_as_of(
        self, feature_set: str, numbers: Sequence[int], as_of: datetime
    ) -> FeatureSetVersion:
        _to_utc(as_of, "as_of")
        # Versions are in order of time: a few manifests are loaded, not all.
        position = bisect_right(
            numbers, as_of, key=lambda number: self._load(feature_set, number).written_at
        )
        if position == 0:
            first = self._load(feature_set, numbers[0])
            raise NotFoundError(
                f"Feature set {feature_set!r} has no version of {as_of.isoformat()} or before.",
                f"Its first is of {first.written_at.isoformat()}.",
                "as_of",
            )
        return self._load(feature_set, numbers[position - 1])

    def _write_days(
        self, feature_set: str, write: FeatureSetVersion, rows: pl.DataFrame
    ) -> list[DataFile]:
        # Sorted before the split: a day's first and last time are its ends, and the narrow
        # statistics of row groups let reads skip them.
        date = pl.col(write.time).dt.date().alias(_DATE)
        dated = rows.with_columns(date).sort(write.time, maintain_order=True)

        def write_day(group: tuple[tuple[Any, ...], pl.DataFrame]) -> DataFile:
            (day,), day_rows = group
            path = f"data/date={day}/{write.write_id}.parquet"
            self.storage.write_parquet(f"{feature_set}/{path}", day_rows.drop(_DATE))
            times = day_rows[write.time].cast(pl.Int64)
            return DataFile(path, str(day), day_rows.height, first_us=times[0], last_us=times[-1])

        return self.storage.map(write_day, dated.group_by([_DATE], maintain_order=True))

    def _latest_version(self, feature_set: str) -> FeatureSetVersion | None:
        numbers = self._numbers(feature_set)
        return self._load(feature_set, numbers[-1]) if numbers else None

    def _numbers(self, feature_set: str) -> list[int]:
        if not _NAME.fullmatch(feature_set):
            raise UsageError(
                f"{feature_set!r} cannot be a feature set's name: it names a folder.",
                "Use letters, digits, '_', '-' and '.'.",
                "feature_set",
            )
        names = self.storage.names(f"{feature_set}/versions")
        # An interrupted write may have left a temporary file beside the manifests.
        return [int(name[:-5]) for name in names if re.fullmatch(r"\d{8}\.json", name)]

    def _load(self, feature_set: str, number: int) -> FeatureSetVersion:
        path = _manifest_path(feature_set, number)
        return FeatureSetVersion.from_json(self.storage.read(path), f"{self.uri}/{path}")


def _manifest_path(feature_set: str, number: int) -> str:
    return f"{feature_set}/versions/{number:08d}.json"


def _canonical_rows(feature_set: str, table: pl.DataFrame, key: str, time: str) -> pl.DataFrame:
    """The rows in canonical types.

    Raises:
        DataError: Key or time is missing.
        StoreError: A type cannot be stored, or key or time is null.
    """
    require_columns(table, (key, time), f"The table for feature set {feature_set!r}")
    check_times(table, time)
    if table[key].null_count():
        raise StoreError(f"The key {key!r} must not be null.")
    # A column of nothing but nulls has no type to keep, and reads as null without being kept.
    untyped = [n for n, t in table.schema.items() if t == pl.Null and n not in (key, time)]
    columns = []
    for column in table.drop(untyped):
        _field(column.name, column.dtype)
        if isinstance(column.dtype, pl.Datetime):
            columns.append(column.dt.convert_time_zone("UTC").dt.cast_time_unit("us"))
        else:
            columns.append(cast_values(column, canonical_type(column.dtype), "Column"))
    return pl.DataFrame(columns)


def _field(name: str, dtype: pl.DataType) -> Field:
    text = format_type(dtype)
    if text is None:
        raise StoreError(
            f"Column {name!r} has type {dtype}, which the offline store does not keep.",
            "It keeps integers, floats, booleans, strings, UTC datetimes, dates, durations, and "
            "lists and structs of these.",
            name,
        )
    return Field(name, text)


def _to_utc(time: datetime | None, name: str) -> datetime | None:
    if time is not None and time.tzinfo is None:
        raise UsageError(f"{name} {time} has no time zone.", "Say UTC: …+00:00 or …Z.", name)
    return None if time is None else time.astimezone(UTC)
