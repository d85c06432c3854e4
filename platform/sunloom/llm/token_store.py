"""Tokenised conversations on disk: Arrow shards that training workers map into memory.

A worker holds the pages that it reads, not the data set. The order of training is a file of row
numbers beside the shards, so that a conversation that is seen twice is stored once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from sunloom.llm.encoding import Encoded

ORDER = "order.npy"
"""In a store's folder: numbers of rows over all shards, in the order of training."""


def shard_path(folder: Path, number: int) -> Path:
    """Where the shard of a block goes; shards count in the order of their names."""
    return folder / f"tokens-{number:06d}.arrow"


def write_shard(rows: Sequence[Encoded], path: Path) -> NDArray[np.int32]:
    """Write rows as one Arrow file; without rows there is none.

    Returns:
        Length of each row in tokens ``[N]``.
    """
    lengths = np.asarray([len(row.ids) for row in rows], np.int32)
    if not rows:
        return lengths
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    ids = np.concatenate([row.ids for row in rows])
    # Bytes, not Arrow's bits: a reader maps them as they are.
    mask = np.concatenate([row.mask for row in rows]).view(np.uint8)
    columns = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        for name, values in (("ids", ids), ("mask", mask))
    }
    columns["rejected"] = pa.array(np.asarray([row.rejected for row in rows], np.int32))
    columns["label"] = pa.array(np.asarray([row.label for row in rows], np.uint8))
    batch = pa.record_batch(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        # One batch: its columns are each one run of memory.
        writer.write_batch(batch)
    return lengths


def write_order(order: Sequence[int] | NDArray[np.int64], folder: Path) -> None:
    """Write the order of training beside the shards."""
    np.save(folder / ORDER, np.asarray(order, np.int64))


def write_tokens(rows: Sequence[Encoded], folder: Path) -> None:
    """Write a whole store of one shard, in the order of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(rows, shard_path(folder, 0))
    write_order(range(len(rows)), folder)


class _Shard:
    """One mapped file: views of its columns."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        ids, mask = batch.column("ids"), batch.column("mask")
        self.offsets = ids.offsets.to_numpy()
        self.ids = ids.values.to_numpy(zero_copy_only=True)
        self.mask = mask.values.to_numpy(zero_copy_only=True).view(np.bool_)
        self.rejected = batch.column("rejected").to_numpy()
        self.label = batch.column("label").to_numpy()


class Rows(Sequence[Encoded], ABC):
    """Rows that are made when they are asked for."""

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...

    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        return self._row(index)

    @abstractmethod
    def _row(self, index: int) -> Encoded: ...


class TokenRows(Rows):
    """The rows of a store in the order of training, read where they lie.

    Args:
        folder: What ``write_tokens``, or the tokenising of a recipe's files, has written.

    Attributes:
        lengths: Of each row in tokens ``[N]``.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = [_Shard(path) for path in sorted(folder.glob("tokens-*.arrow"))]
        self._order: NDArray[np.int64] = np.load(folder / ORDER, mmap_mode="r")
        sizes = [len(shard.offsets) - 1 for shard in self._shards]
        self._bases = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        stored = [np.diff(shard.offsets) for shard in self._shards]
        every = np.concatenate(stored) if stored else np.zeros(0, np.int64)
        self.lengths: NDArray[np.int32] = every[self._order].astype(np.int32)

    def __len__(self) -> int:
        return len(self._order)

    @override
    def _row(self, index: int) -> Encoded:
        number = int(self._order[index])
        which = int(np.searchsorted(self._bases, number, side="right")) - 1
        shard, row = self._shards[which], number - int(self._bases[which])
        begin, end = int(shard.offsets[row]), int(shard.offsets[row + 1])
        ids, mask = shard.ids[begin:end], shard.mask[begin:end]
        return Encoded(ids, mask, int(shard.rejected[row]), bool(shard.label[row]))

    def __iter__(self) -> Iterator[Encoded]:
        return (self[index] for index in range(len(self)))
