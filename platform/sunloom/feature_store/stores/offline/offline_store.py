"""Feature sets as versions of Parquet files.

::

    <uri>/<feature set>/data/date=2026-03-01/<write>.parquet
    <uri>/<feature set>/versions/00000001.json

A write puts its files down first and then creates the next manifest, which makes it a version. Of
two writers only one creates a number; the other takes the next one, on top of the first.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from sunloom.config.settings import Settings
from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.offline.files import Files
from sunloom.feature_store.stores.offline.manifest import (
    MODES,
    DataFile,
    Mode,
    Version,
    VersionDraft,
    microseconds_of,
)
from sunloom.feature_store.stores.offline.stored_types import prepared
from sunloom.feature_store.stores.online.type_codec import parse

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DATE = "__date"
_MOST_TRIES = 100


def open_offline_store(settings: Settings) -> OfflineStore:
    """The offline store of these settings: ``feature_store.offline`` names its place."""
    return OfflineStore(settings.feature_store.offline or str(settings.paths.outputs / "offline"))


class OfflineStore:
    """Every version of the rows of feature sets.

    Args:
        uri: A folder, or a URI that fsspec knows (``s3://…``, ``gs://…``).
        now: The clock of versions.
    """

    def __init__(self, uri: str, now: Callable[[], datetime] | None = None) -> None:
        self.uri = uri
        self._files = Files(uri)
        self._now = now or (lambda: datetime.now(UTC))

    def write(
        self,
        feature_set: str,
        table: pl.DataFrame,
        *,
        key: str = "id",
        time: str = "event_time",
        mode: Mode = "append",
    ) -> Version:
        """Make the next version of a feature set.

        Args:
            feature_set: The feature set; made on first use.
            table: Key, time (with a time zone) and the values. A column that earlier versions
                lack is null in their rows.
            key: The key's column.
            time: The column that says as of when the row's values hold.
            mode: ``append`` keeps the rows before, ``dates`` those of other days (UTC) than the
                table's, ``replace`` none.

        Raises:
            StoreError: A column's type has no stored form or differs from the stored one; or
                others wrote so often that no number was free.
            DataError: Key or time is missing.
        """
        if mode not in MODES:
            raise UsageError(f"mode is one of {', '.join(MODES)}, not {mode!r}.", param="mode")
        rows, fields = prepared(feature_set, table, key, time)
        draft = VersionDraft(feature_set, uuid.uuid4().hex, mode, key, time, fields)
        held = self._latest(feature_set)
        draft.upon(held, (), self._now())  # refuses before anything is written
        files = self._put_days(self._folder(feature_set), rows, time, draft.write_id)
        for _ in range(_MOST_TRIES):
            version = draft.upon(held, files, self._now())
            path = _manifest_path(self._folder(feature_set), version.number)
            if self._files.create(path, version.to_json()):
                return version
            held = self._latest(feature_set)
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
        """Rows of one version by event time, those of one moment in order of writing.

        Args:
            feature_set: The feature set.
            version: Its number; the latest by default.
            as_of: The latest version that was written at or before this moment.
            start: Only rows of this event time or later.
            end: Only rows of an earlier event time.
            columns: Columns to read beside key and time; all by default.

        Raises:
            NotFoundError: Unknown feature set, version or column; lists the known ones.
            UsageError: A moment without a time zone, or both ``version`` and ``as_of``.
            StoreError: A file is gone or damaged.
        """
        found = self.version(feature_set, version=version, as_of=as_of)
        start, end = _utc(start, "start"), _utc(end, "end")
        names = _chosen(found, columns)
        types = {name: parse(found.columns[name]) for name in names}
        bounds = found.time, _microseconds(start), _microseconds(end)
        folder = self._folder(feature_set)

        def part(file: DataFile) -> pl.DataFrame:
            return self._files.read_parquet(f"{folder}/{file.path}", names, bounds)

        parts = self._files.each(part, found.files_within(start, end))
        frame = pl.concat([pl.DataFrame(schema=types), *parts], how="diagonal").select(names)
        moment = pl.col(found.time)
        if start is not None:
            frame = frame.filter(moment >= start)
        if end is not None:
            frame = frame.filter(moment < end)
        return frame.sort(found.time, maintain_order=True)

    def version(
        self, feature_set: str, *, version: int | None = None, as_of: datetime | None = None
    ) -> Version:
        """One version of a feature set; the latest by default.

        Raises:
            NotFoundError: Unknown feature set or version; lists the known ones.
            UsageError: Both are given, or ``as_of`` has no time zone.
        """
        if version is not None and as_of is not None:
            raise UsageError("Give a version or a moment, not both.", param="as_of")
        numbers = self._numbers(feature_set)
        if not numbers:
            raise NotFoundError(
                f"There is no feature set {feature_set!r} in the offline store {self.uri}.",
                known=self.feature_sets(),
                name=feature_set,
                param="feature_set",
            )
        if as_of is not None:
            return self._written_by(feature_set, numbers, as_of)
        if version is not None and version not in numbers:
            raise NotFoundError(
                f"Feature set {feature_set!r} has no version {version}.",
                f"It has 1 to {numbers[-1]}.",
                "version",
            )
        return self._load(feature_set, version or numbers[-1])

    def versions(self, feature_set: str) -> list[Version]:
        """Every version, the first one first.

        Raises:
            NotFoundError: Unknown feature set; lists the known ones.
        """
        self.version(feature_set)
        return [self._load(feature_set, number) for number in self._numbers(feature_set)]

    def feature_sets(self) -> list[str]:
        """Names of the feature sets that have a version, sorted."""
        return [name for name in self._files.names("") if self._files.names(f"{name}/versions")]

    def _written_by(self, feature_set: str, numbers: Sequence[int], as_of: datetime) -> Version:
        _utc(as_of, "as_of")
        low, high = 0, len(numbers)
        found: Version | None = None
        while low < high:
            middle = (low + high) // 2
            tried = self._load(feature_set, numbers[middle])
            if tried.written_at <= as_of:
                low, found = middle + 1, tried
            else:
                high = middle
        if found is None:
            first = self._load(feature_set, numbers[0])
            raise NotFoundError(
                f"Feature set {feature_set!r} has no version of {as_of.isoformat()} or before.",
                f"Its first is of {first.written_at.isoformat()}.",
                "as_of",
            )
        return found

    def _put_days(
        self, folder: str, rows: pl.DataFrame, time: str, write_id: str
    ) -> list[DataFile]:
        dated = rows.with_columns(pl.col(time).dt.date().alias(_DATE)).sort(
            time, maintain_order=True
        )

        def put(part: tuple[tuple[Any, ...], pl.DataFrame]) -> DataFile:
            (day,), held = part
            path = f"data/date={day}/{write_id}.parquet"
            self._files.write_parquet(f"{folder}/{path}", held.drop(_DATE))
            times = held[time].cast(pl.Int64)
            return DataFile(path, str(day), held.height, times[0], times[-1])

        return self._files.each(put, dated.group_by([_DATE], maintain_order=True))

    def _latest(self, feature_set: str) -> Version | None:
        numbers = self._numbers(feature_set)
        return self._load(feature_set, numbers[-1]) if numbers else None

    def _numbers(self, feature_set: str) -> list[int]:
        names = self._files.names(f"{self._folder(feature_set)}/versions")
        return [int(name[:-5]) for name in names if re.fullmatch(r"\d{8}\.json", name)]

    def _load(self, feature_set: str, number: int) -> Version:
        path = _manifest_path(self._folder(feature_set), number)
        return Version.from_json(self._files.read(path), f"{self.uri}/{path}")

    def _folder(self, feature_set: str) -> str:
        if not _NAME.fullmatch(feature_set):
            raise UsageError(
                f"{feature_set!r} cannot be a feature set's name: it names a folder.",
                "Use letters, digits, '_', '-' and '.'.",
                "feature_set",
            )
        return feature_set


def _manifest_path(folder: str, number: int) -> str:
    return f"{folder}/versions/{number:08d}.json"


def _chosen(version: Version, columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return list(version.columns)
    for name in columns:
        if name not in version.columns:
            raise NotFoundError(
                f"Version {version.number} has no column {name!r}.",
                known=version.columns,
                name=name,
                param="columns",
            )
    return list(dict.fromkeys((version.key, version.time, *columns)))


def _utc(moment: datetime | None, name: str) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise UsageError(f"{name} {moment} has no time zone.", "Say UTC: …+00:00 or …Z.", name)
    return None if moment is None else moment.astimezone(UTC)


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else microseconds_of(moment)
