"""Where a recipe's conversations lie: files and folders, tables of the registry, the hub's data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sunloom.config.llm import ConversationData, ConversationFile
from sunloom.core.artifacts import MANIFEST
from sunloom.core.model_registry import TABLE_KIND, ModelRegistry
from sunloom.data.sources.table_files import data_files
from sunloom.errors import UsageError, nearest

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
    return data.model_copy(
        update={
            "train": tuple(
                entry.model_copy(update={"path": path})
                for entry in data.train
                for path in _paths_of(entry, open_registry, reader)
            )
        }
    )


def _paths_of(
    entry: ConversationFile, open_registry: Callable[[], ModelRegistry], reader: str | None
) -> Iterable[Path]:
    name, folder, split = str(entry.path), entry.path, entry.split
    if not folder.exists() and folder.suffix not in SUFFIXES:
        if "@" in name and split is None:
            return _files_of_table(name, open_registry(), reader)
        if _HUB_ID.fullmatch(name):
            folder, split = _fetch_from_hub(entry), split or "train"
    return [folder] if split is None else _files_of_split(folder, split, entry.subset, name)


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
