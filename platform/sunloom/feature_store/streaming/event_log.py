"""Events as Parquet files: what was merged, in the plan's types and as it came."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sunloom.core.files import atomic_path

OFFSET, MESSAGE = "__offset", "__message"


class EventLog:
    """One folder a class and partition; a batch that is replayed overwrites its file.

    A batch always starts at the stored place, so a file that begins there is the only one that a
    crashed attempt can have left.

    Args:
        folder: Where the classes' folders lie; each can be given to ``--source NAME=PATH``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, namespace: str, source: str, first_offset: int, events: pl.DataFrame) -> None:
        """Keep one batch.

        Args:
            namespace: The class.
            source: ``topic/partition``.
            first_offset: Of the batch, whether or not its first message was usable.
            events: Rows with ``OFFSET`` and ``MESSAGE``, the message as it came.
        """
        folder = self.folder / namespace
        file = folder / f"{source.replace('/', '-')}-{first_offset:020d}.parquet"
        if not events.height:
            file.unlink(missing_ok=True)
            return
        with atomic_path(file) as partial:
            events.write_parquet(partial, compression="lz4")
