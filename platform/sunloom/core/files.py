"""Files that a reader sees whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".new"


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A path beside the file, which takes the file's place when the block ends without an error.

    Args:
        path: The file; its folder is made.
        durable: Whether the file outlives a power failure once the block has ended. Without it,
            an intermediate file costs no wait for the disk.

    Yields:
        Where to write: a hidden name in the same folder, removed after an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    try:
        yield partial
        if durable:
            _sync(partial)
        partial.replace(path)
        if durable:
            # The rename is a change of the folder: without this it may be lost.
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def create_atomic(path: Path, content: bytes) -> bool:
    """Write a file that must not exist yet; False where it does, which is then left as it is."""
    partial = _partial_path(path)
    try:
        partial.write_bytes(content)
        _sync(partial)
        # A hard link is made whole or refused, on network drives too.
        os.link(partial, path)
        _sync(path.parent)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half written; nobody may write to the folder now."""
    for partial in folder.rglob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    # Unique, because two processes, or two attempts at one Ray task, may write the same file.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_PARTIAL}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
