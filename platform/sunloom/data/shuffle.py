"""A shuffle's two halves: rows split by the hash of their key, and tables as IPC buffers.

Tables travel as uncompressed Arrow IPC, so that a worker copies them into its own memory and the
object store may drop or spill them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

Packet = NDArray[np.uint8]
"""A table as the bytes of an Arrow IPC file; shape [bytes]."""


def partition_by_hash(
    rows: pl.DataFrame, keys: Sequence[str], partitions: int
) -> Iterator[pl.DataFrame]:
    """Split rows by the hash of their key; rows of a partition keep their order.

    Args:
        rows: Any rows.
        keys: Columns of the key: equal keys meet in one partition.
        partitions: How many.

    Yields:
        One table a partition, empty ones included.
    """
    if partitions == 1:
        yield rows
        return
    named = [pl.col(name).alias(f"k{index}") for index, name in enumerate(keys)]
    key = pl.struct(named) if len(named) > 1 else named[0]
    # A fixed seed: all workers must put a key into the same partition.
    part = rows.select((key.hash(seed=0) % partitions).cast(pl.UInt16)).to_series().to_numpy()
    # Sorting 16-bit numbers is one pass of counting.
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=partitions)).tolist()
    ordered = rows[order]
    for start, end in zip([0, *ends], ends, strict=False):
        yield ordered.slice(start, end - start)


def to_packet(frame: pl.DataFrame) -> Packet:
    """The table as bytes that the object store shares between processes without a copy."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="uncompressed")
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def from_packet(packet: Packet) -> pl.DataFrame:
    """The table in this process's own memory."""
    return pl.read_ipc(io.BytesIO(packet.tobytes()))
