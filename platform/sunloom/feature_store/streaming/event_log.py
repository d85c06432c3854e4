"""Log of merged events as Parquet files, in the plan's types and with the original message."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sunloom.core.files import atomic_path

OFFSET, MESSAGE = "__offset", "__message"


class EventLog:
    """One folder per class, one file per batch; a batch that is replayed overwrites its file.

    Args:
        folder: Holds the classes' folders; each can be given to ``--source NAME=PATH``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, namespace: str, source: str, first_offset: int, events: pl.DataFrame) -> None:
        """Write one batch.

        Args:
            namespace: The class.
            source: ``topic/partition``.
            first_offset: Of the batch, whether or not its first message was usable.
            events: Rows with ``OFFSET`` and ``MESSAGE``, the original message.
        """
        folder = self.folder / namespace
        # A batch starts at the stored offset: a file of that name is what an attempt left that
        # crashed before its transaction.
        file = folder / f"{source.replace('/', '-')}-{first_offset:020d}.parquet"
        if not events.height:
            file.unlink(missing_ok=True)
            return
        with atomic_path(file) as partial:
            # The stream waits for it: speed counts for more than size.
            events.write_parquet(partial, compression="lz4")
