"""Files that a reader sees whole or not at all, and folders that only their owner enters."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sunloom.errors import UsageError

_PARTIAL = ".new"
PRIVATE_UMASK = 0o077
"""File mode creation mask of processes that write secrets: nobody but the owner reads."""


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


def private_folder(path: Path, *, is_shared_place: bool = False) -> Path:
    """A folder that only its owner may enter; one made earlier with a wider mode is tightened.

    Args:
        path: The folder; made where it is missing.
        is_shared_place: Whether anybody may make folders beside it, as in ``/tmp``: then another
            user's is refused. Elsewhere it is one that an administrator has prepared, such as a
            mounted volume.

    Raises:
        UsageError: It belongs to another user, in a place where anybody may have made it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_link = is_shared_place and path.is_symlink()
    if is_link or (is_shared_place and path.stat().st_uid != os.getuid()):
        raise UsageError(
            f"{path} belongs to another user.", f"Remove it (rm -r {path}) and start again."
        )
    make_private(path)
    return path


def make_private(path: Path) -> bool:
    """Take a file's or folder's rights from everybody but its owner.

    Returns:
        Whether nobody else has a right now: what belongs to another user stays as it is.
    """
    status = path.stat()
    if status.st_uid != os.getuid():
        return False
    # A folder such as /tmp, which a configuration names by mistake, has to stay open.
    if status.st_mode & stat.S_ISVTX:
        return False
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        try:
            path.chmod(mode & ~0o077)
        except OSError:
            # A volume that is mounted to be read only.
            return False
    return True


@contextmanager
def private_umask() -> Iterator[None]:
    """Whatever is made inside the block, by child processes too, only its owner may read."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


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
