"""Files below one folder or fsspec URI: made whole or not at all, and never over another."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from sunloom.core.files import create_atomic
from sunloom.core.telemetry import get_logger
from sunloom.errors import DependencyError, StoreError

# Whose ``pipe_file(mode="create")`` lets exactly one of several writers through.
_EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}

_AT_ONCE = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_log = get_logger("features.offline")


class Files:
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

    def each(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """The work on each item, in order; several at once where a server's answers take time."""
        if self._is_local:
            return [work(item) for item in items]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(work, items))

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none where there is no such folder."""
        place = self._place(folder)
        try:
            self._fs.invalidate_cache(place)
            found = self._fs.ls(place, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read(self, path: str) -> bytes:
        """A file's content."""
        content: bytes = self._fs.cat_file(self._place(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file whose name nobody else has."""
        place = self._place(path)
        self._make_parent(place)
        self._fs.pipe_file(place, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless it is there; whether this call made it.

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
            # An answer may be lost after the file was made; and not every server's refusal of a
            # second one is told apart.
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

    def read_parquet(
        self, path: str, columns: Sequence[str], bounds: tuple[str, int | None, int | None]
    ) -> pl.DataFrame:
        """Those of the columns that the file has, of the row groups that may meet the bounds.

        Args:
            path: The file.
            columns: Names.
            bounds: Time column, first moment and the moment behind the last, in microseconds
                since the epoch; either may be None.

        Raises:
            StoreError: The file is gone or damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self._fs.open(self._place(path), "rb") as opened:
                file = pq.ParquetFile(opened)
                present = [name for name in columns if name in file.schema_arrow.names]
                groups = _groups_within(file, *bounds)
                return pl.DataFrame(pl.from_arrow(file.read_row_groups(groups, columns=present)))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{self.uri}/{path} cannot be read: {error}",
                "Read an earlier version, or write the day again (mode `dates`).",
            ) from error

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _make_parent(self, place: str) -> None:
        if self._is_local:
            Path(place).parent.mkdir(parents=True, exist_ok=True)


def _groups_within(file: Any, column: str, first: int | None, behind: int | None) -> list[int]:
    number = file.schema_arrow.names.index(column)
    kept = []
    for group in range(file.metadata.num_row_groups):
        held = file.metadata.row_group(group).column(number).statistics
        # Raw ones: as moments they would cost an import of pandas.
        outside = held is not None and (
            (first is not None and held.max_raw < first)
            or (behind is not None and held.min_raw >= behind)
        )
        if not outside:
            kept.append(group)
    return kept
