"""Where a recipe's conversations lie: files and folders, tables of the registry, the hub's data."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sunloom.config.llm import SPLIT, ConversationData, ConversationFile
from sunloom.core.artifacts import MANIFEST
from sunloom.core.model_registry import TABLE_KIND, ModelRegistry
from sunloom.data.sources.table_files import data_files, parquet_schema, read_file
from sunloom.errors import DataError, UsageError, nearest

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
"""Of files that hold conversations."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_KEY = "data.train"


def locate_files(
    data: ConversationData, open_registry: Callable[[], ModelRegistry], reader: str | None
) -> ConversationData:
    """The same data with files and folders of this machine in place of all names.

    Args:
        data: Names a path, ``name@3`` of the registry, or a hub id, tried in this order.
        open_registry: Called where a table is named.
        reader: The tenant that learns from it: it sees its own tables and the operator's.

    Raises:
        NotFoundError: The registry has no such table.
        UsageError: What is named is no table, the hub's data cannot be had, or has no such split.
    """
    located: list[ConversationFile] = []
    for entry in data.train:
        name, start, stop = _parse(entry.split)
        files = _paths_of(entry, name, open_registry, reader)
        if start is None and stop is None:
            spans: Iterable[tuple[Path, str | None]] = ((file, None) for file in files)
        else:
            spans = list(_spans_of(files, start or "0", stop or "100%"))
            if not spans:
                raise UsageError(f"{entry.path} has no rows {entry.split}.", param=_KEY)
        located += (entry.model_copy(update={"path": f, "split": rows}) for f, rows in spans)
    return data.model_copy(update={"train": tuple(located)})


def rows_of(entry: ConversationFile) -> range | None:
    """The rows of a located file that count, from 0; None is all."""
    _, start, stop = _parse(entry.split)
    return None if start is None or stop is None else range(int(start), int(stop))


def _parse(split: str | None) -> tuple[str, str | None, str | None]:
    """Name, first row and row after the last of a split, as they are written there."""
    parts = SPLIT.fullmatch(split) if split else None
    return (parts["name"], parts["start"], parts["stop"]) if parts else ("", None, None)


def _paths_of(
    entry: ConversationFile,
    split: str,
    open_registry: Callable[[], ModelRegistry],
    reader: str | None,
) -> Iterable[Path]:
    name, folder = str(entry.path), entry.path
    if not folder.exists() and folder.suffix not in SUFFIXES:
        if "@" in name and not split:
            return _files_of_table(name, open_registry(), reader)
        if _HUB_ID.fullmatch(name):
            folder, split = _fetch_from_hub(entry), split or "train"
    if not split and entry.subset is None:
        return [folder]
    return _files_of_split(folder, split or "train", entry.subset, name)


def _spans_of(paths: Iterable[Path], start: str, stop: str) -> Iterator[tuple[Path, str]]:
    """The files that have some of the rows, and which, counted over all files."""
    files = [file for path in paths for file in data_files(path, SUFFIXES)]
    counts = [_count_rows(file) for file in files]
    first, end = (_row_at(bound, sum(counts)) for bound in (start, stop))
    for file, count in zip(files, counts, strict=True):
        if max(first, 0) < min(end, count):
            yield file, f"[{max(first, 0)}:{min(end, count)}]"
        first, end = first - count, end - count


def _row_at(bound: str, rows: int) -> int:
    # As the hub's library rounds.
    return round(int(bound[:-1]) * rows / 100) if bound.endswith("%") else int(bound)


def _count_rows(file: Path) -> int:
    """Rows, of JSON lines the lines: a row's position in its file is at most this."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        # Raises what says so where the file is none.
        parquet_schema(file)
        return int(pq.ParquetFile(file).metadata.num_rows)
    if file.suffix == ".csv":
        table = read_file(file, as_text=True)
        return table.rows.height + len(table.damaged)
    if file.suffix == ".json":
        content = file.read_bytes().removeprefix(BOM_UTF8).lstrip()
        if not content.startswith(b"{"):
            try:
                rows = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file} is not JSON: {error}") from error
            return len(rows) if isinstance(rows, list) else 1
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _files_of_table(name: str, registry: ModelRegistry, reader: str | None) -> Iterator[Path]:
    version = registry.get(name, reader)
    if version.kind != TABLE_KIND:
        raise UsageError(
            f"{version.ref} is of the kind {version.kind}, and conversations are in a table.",
            "sunloom models list --kind table shows those.",
            _KEY,
        )
    files = data_files(registry.path(version), SUFFIXES)
    return (file for file in files if file.name != MANIFEST)


def _fetch_from_hub(entry: ConversationFile) -> Path:
    """A folder with the data set's files and card, from the hub or from its cache."""
    from huggingface_hub import snapshot_download

    name = str(entry.path)
    try:
        return Path(
            snapshot_download(
                name,
                repo_type="dataset",
                revision=entry.revision,
                allow_patterns=["README.md", *(f"*{suffix}" for suffix in SUFFIXES)],
            )
        )
    except (OSError, ValueError) as error:
        # The library's messages go on over many lines.
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"There is no file or folder {name!r} here, and the hub's data set cannot be had: "
            f"{reason}",
            "data.train takes a file or a folder, also a copy of the data set; a table of the "
            "registry, name@version (sunloom models list --kind table); or a hub id, which needs "
            "the hub or a cache that has it (HF_HOME, HF_HUB_OFFLINE=1).",
            _KEY,
        ) from error


def _files_of_split(folder: Path, split: str, subset: str | None, name: str) -> Iterator[Path]:
    """The files of a split, by the card or the names of files, as the hub reads them."""
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder: only a folder or a data set of the hub has splits.",
            "Leave out split.",
            _KEY,
        )
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    try:
        files = load_dataset_builder(str(folder), name=subset).config.data_files or {}
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{name} has no splits: {reason}", "Name its subset.", _KEY) from error
    if split not in files:
        close = nearest(split, list(files))
        raise UsageError(
            f"{name} has no split {split!r}; it has {', '.join(map(str, files))}.",
            f"Did you mean {close!r}?" if close else "",
            _KEY,
        )
    for file in files[split]:
        yield Path(file)
