"""Storage of the offline store: files below a folder or fsspec URI, created whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from sunloom.core.files import create_atomic
from sunloom.core.telemetry import get_logger
from sunloom.errors import DependencyError, StoreError

# Protocols whose ``pipe_file(mode="create")`` lets exactly one of several writers succeed.
_EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}

_REQUESTS_AT_ONCE = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_log = get_logger("features.offline")


@dataclass(frozen=True)
class TimeBounds:
    """Event times to read.

    Attributes:
        column: The event time's column.
        start_us: First time, microseconds since the epoch; None is unbounded.
        end_us: Time behind the last; None is unbounded.
    """

    column: str
    start_us: int | None
    end_us: int | None

    def may_contain(self, first_us: int, last_us: int) -> bool:
        """Whether rows between these two times may be within the bounds."""
        return (self.start_us is None or last_us >= self.start_us) and (
            self.end_us is None or first_us < self.end_us
        )


class OfflineStorage:
    """The files below a URI.

    Args:
        uri: A folder, or what fsspec knows: ``s3://bucket/folder``, ``gs://…``, ``memory://…``.

    Raises:
        DependencyError: The package for that kind of URI is not installed.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            scheme = uri.partition("://")[0]
            package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme)
            install = f"pip install {package}" if package else "See fsspec's list of protocols."
            raise DependencyError(f"{uri} cannot be opened: {error}", install) from error
        protocol = self._fs.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._is_local = "file" in self._protocols

    def map(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """The work's result for each item, in order; on a server several are run at once."""
        # Local files have no latency to hide, and Polars and Arrow use several threads themselves.
        if self._is_local:
            return [work(item) for item in items]
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            return list(pool.map(work, items))

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none where there is no such folder."""
        place = self._place(folder)
        try:
            # fsspec caches listings; another process may have written since.
            self._fs.invalidate_cache(place)
            paths = self._fs.ls(place, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def read(self, path: str) -> bytes:
        """A file's content."""
        content: bytes = self._fs.cat_file(self._place(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file whose name no other writer uses."""
        place = self._place(path)
        self._make_parent(place)
        # Need not be atomic: no manifest names the file before it is complete.
        self._fs.pipe_file(place, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless it exists; whether this call created it.

        Readers see all of it or nothing.
        """
        place = self._place(path)
        self._make_parent(place)
        if self._is_local:
            return create_atomic(Path(place), content)
        if not self._protocols & _EXCLUSIVE:
            _log.warning("%s cannot create files exclusively: let one process write", self.uri)
        try:
            self._fs.pipe_file(place, content, mode="create")
        except FileExistsError:
            return False
        except OSError:
            # The response may be lost after the file was created, and not every server reports a
            # second writer by an error of its own: what the file contains decides.
            self._fs.invalidate_cache(place)
            if not self._fs.exists(place):
                raise
            return bool(self.read(path) == content)
        return True

    def write_parquet(self, path: str, table: pl.DataFrame) -> None:
        """Write a table."""
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        self.write(path, buffer.getvalue())

    def read_parquet(self, path: str, columns: Sequence[str], bounds: TimeBounds) -> pl.DataFrame:
        """Those of the columns that the file has, from the row groups that may meet the bounds.

        Args:
            path: The file.
            columns: Names.
            bounds: Event times to read.

        Raises:
            StoreError: The file is missing or damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Not downloaded whole: a server sends the footer and the chosen row groups.
            with self._fs.open(self._place(path), "rb") as opened:
                file = pq.ParquetFile(opened)
                present = [name for name in columns if name in file.schema_arrow.names]
                groups = _row_groups_within(file, bounds)
                return pl.DataFrame(pl.from_arrow(file.read_row_groups(groups, columns=present)))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{self.uri}/{path} cannot be read: {error}",
                "Read an earlier version, or write the day again (mode `dates`).",
            ) from error

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _make_parent(self, place: str) -> None:
        # Object stores have no folders to create.
        if self._is_local:
            Path(place).parent.mkdir(parents=True, exist_ok=True)


def _row_groups_within(file: Any, bounds: TimeBounds) -> list[int]:
    number = file.schema_arrow.names.index(bounds.column)
    groups = []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(number).statistics
        # Raw integers: pyarrow would import pandas to return them as datetimes.
        if statistics is None or bounds.may_contain(statistics.min_raw, statistics.max_raw):
            groups.append(group)
    return groups
