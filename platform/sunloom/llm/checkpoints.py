"""Checkpoints that are written beside the training, and loaded whole or not at all.

Every rank writes its files and a manifest of them with sizes and hashes; Ray merges the ranks'
folders. A folder whose manifests are incomplete, or whose files differ from them, is skipped in
favour of the one before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunloom.core.telemetry import get_logger
from sunloom.errors import CheckpointError


@dataclass(frozen=True)
class WholeCheckpoint:
    """A checked checkpoint.

    Attributes:
        path: Its folder.
        step: Optimizer steps done.
        world_size: Workers that wrote it.
    """

    path: Path
    step: int
    world_size: int


@dataclass(frozen=True)
class _Manifest:
    """Files of one rank: size and SHA-256 by relative path."""

    rank: int
    world_size: int
    step: int
    files: dict[str, dict[str, Any]]


class CheckpointWriter:
    """Writes a worker's part of checkpoints in a thread, one at a time and in order.

    Args:
        rank: Of the worker.
        world_size: Workers, each of which writes its part.

    Attributes:
        stall_s: Seconds that the training has waited.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._last: Future[None] | None = None
        self.stall_s = 0.0

    def write(
        self, save: Callable[[Path, int], Callable[[], None]], step: int, loss: float
    ) -> None:
        """Write the state of this moment; returns when the training may change it.

        Args:
            save: Takes a folder and the step, holds the state fast and returns what is left to do.
            step: Optimizer steps done.
            loss: Of the step.
        """
        started = time.perf_counter()
        # Memory for one copy of the state, and an error stops the training at the next checkpoint.
        self.wait()
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        try:
            finish = save(folder, step)
        except BaseException:
            # Half a checkpoint would go on filling the disk that is full.
            shutil.rmtree(folder)
            raise
        self._last = self._thread.submit(self._complete, folder, finish, step, loss)
        self.stall_s += time.perf_counter() - started

    def wait(self) -> None:
        """Wait until all checkpoints are where they are loaded from; raises what went wrong."""
        if self._last is not None:
            self._last.result()

    def _complete(self, folder: Path, finish: Callable[[], None], step: int, loss: float) -> None:
        # Ray loads here: whatever reads checkpoints does not need it.
        from ray import train

        try:
            finish()
            seal(folder, rank=self._rank, world_size=self._world_size, step=step)
            # Every worker reports its own files; Ray merges them into one checkpoint, and waits for
            # its controller's next look.
            checkpoint = train.Checkpoint.from_directory(folder)
            train.report({"step": step, "loss": loss}, checkpoint=checkpoint)
        finally:
            shutil.rmtree(folder)


def seal(folder: Path, *, rank: int, world_size: int, step: int) -> None:
    """Write a rank's manifest over the files that it put into ``folder``."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = _Manifest(rank=rank, world_size=world_size, step=step, files=files)
    (folder / f"manifest-{rank}.json").write_text(json.dumps(asdict(manifest)))


def check(folder: Path) -> WholeCheckpoint:
    """Compare a checkpoint with its manifests.

    Raises:
        CheckpointError: A manifest or file is missing, cut off or changed.
    """
    manifests = []
    for path in sorted(folder.glob("manifest-*.json")):
        try:
            manifests.append(_Manifest(**json.loads(path.read_text())))
        except ValueError as error:
            raise CheckpointError(f"The checkpoint's {path} is cut off.") from error
    # Without this, a checkpoint whose last rank died before its manifest would look whole.
    if not manifests or len(manifests) != manifests[0].world_size:
        raise CheckpointError(f"The checkpoint {folder} is not whole: manifests are missing.")
    for manifest in manifests:
        for name, expected in manifest.files.items():
            path, size = folder / name, expected["bytes"]
            # The size first: a truncated file is found without reading it.
            if not path.is_file() or path.stat().st_size != size:
                raise CheckpointError(f"{path} is missing or not {size} bytes long.")
            if _digest(path) != expected["sha256"]:
                raise CheckpointError(f"{path} is not what was written.")
    return WholeCheckpoint(folder, manifests[0].step, manifests[0].world_size)


def newest_whole(folder: Path) -> WholeCheckpoint | None:
    """The checkpoint furthest on among those that are whole.

    Args:
        folder: Has ``checkpoint_*`` folders at any depth up to two.
    """
    whole = []
    for path in sorted({*folder.glob("checkpoint_?*"), *folder.glob("*/checkpoint_?*")}):
        try:
            if path.is_dir():
                whole.append(check(path))
        except CheckpointError as error:
            get_logger("llm").warning("skipping a checkpoint: %s", error.message)
    # By step, not by name: Ray names the folders by the time of the report.
    return max(whole, key=lambda checkpoint: checkpoint.step, default=None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
