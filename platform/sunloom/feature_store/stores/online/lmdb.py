"""Embedded online store on LMDB: one file, many reading processes, one writer at a time.

Keys: ``s/<feature set>`` is the set's description; ``d/<feature set>``, NUL and the entity one
record; ``k/<space>``, NUL and the key a plain value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from sunloom.core.files import private_folder
from sunloom.errors import StoreError
from sunloom.feature_store.stores.online.key_value import RawWrite
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.record_codec import time_of
from sunloom.feature_store.stores.online.stored_feature_set import META_PREFIX

# Address space rather than disk: the file grows as pages are written.
FIRST_MAP_BYTES = 256 * 1024 * 1024
_SCAN_PAIRS = 1_000

_T = TypeVar("_T")
_Pairs = list[tuple[bytes, bytes]]


class EmbeddedStore(OnlineStore):
    """The online store in a folder.

    Args:
        folder: Created if missing; only its owner may enter it.
        now_us: The clock that records expire by, microseconds since the epoch.
    """

    def __init__(self, folder: Path, now_us: Callable[[], int] | None = None) -> None:
        super().__init__(LmdbBackend(folder), now_us)


class LmdbBackend:
    """Keys and values in one LMDB environment.

    Args:
        folder: Created if missing; only its owner may enter it.
    """

    def __init__(self, folder: Path) -> None:
        private_folder(folder)
        self._folder = folder
        # The map may be resized only while no transaction of this process is open: a writer takes
        # the first lock, a reader the second, and a resize both, in this order.
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        # Feature set's prefix to the last key that its sweep has examined.
        self._sweep_positions: dict[bytes, bytes] = {}
        # Readers: a slot per reading thread of every process; LMDB's default is 126.
        # metasync=False may lose the last commit when the machine crashes; sync=False would risk
        # the whole file.
        self._env = lmdb.open(
            str(folder), map_size=FIRST_MAP_BYTES, max_readers=512, metasync=False
        )

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, from one snapshot."""
        # The loop of ``_read``, unrolled once: this is most of the time of reading one entity.
        with self._reading:
            try:
                with self._env.begin() as txn:
                    return list(map(txn.get, keys))
            except lmdb.MapResizedError:
                pass
        return self._read(lambda txn: list(map(txn.get, keys)))

    def swap(self, key: bytes, expected: bytes | None, value: bytes) -> bool:
        """Write the value if the key still has the expected one; whether it did."""
        return self._write(lambda txn: txn.get(key) == expected and bool(txn.put(key, value)))

    def put_newer(
        self, keys: Sequence[bytes], records: Sequence[bytes], _ttl_us: int | None
    ) -> int:
        """Write each record unless its key has one of a later time; how many were written."""

        def put(txn: Any) -> int:
            written = 0
            for key, record in zip(keys, records, strict=True):
                stored = txn.get(key)
                # Of equal times the later write counts: corrected rows may be written again.
                if stored is None or time_of(stored) <= time_of(record):
                    txn.put(key, record)
                    written += 1
            return written

        return self._write(put)

    def sweep(self, prefix: bytes, limit_us: int, count: int) -> None:
        """Delete records of a feature time before the limit among the next ``count`` of them."""
        position = self._sweep_positions.get(prefix, prefix)
        # A read transaction: LMDB has one writer, and others need not wait for the scan.
        pairs = self._read(lambda txn: _next_pairs(txn, prefix, position, count))
        # Behind the last record the next sweep starts from the first.
        self._sweep_positions[prefix] = pairs[-1][0] if len(pairs) == count else prefix
        expired = [key for key, record in pairs if time_of(record) < limit_us]

        def delete(txn: Any) -> None:
            for key in expired:
                record = txn.get(key)
                # A writer may have renewed it since it was read.
                if record is not None and time_of(record) < limit_us:
                    txn.delete(key)

        if expired:
            self._write(delete)

    def expire(self, _prefix: bytes, _ttl_us: int | None) -> None:
        """Nothing to do: readers and the sweep read the time to live from the description."""

    def description_keys(self) -> list[bytes]:
        """Keys of the feature sets' descriptions."""
        return [key for key, _ in self.items(META_PREFIX)]

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values below the prefix, by key."""
        after = prefix
        while True:
            # A transaction that stays open between yields would keep every page written meanwhile.
            pairs = self._read(partial(_next_pairs, prefix=prefix, after=after, count=_SCAN_PAIRS))
            yield from pairs
            if len(pairs) < _SCAN_PAIRS:
                return
            after = pairs[-1][0]

    def get_many(self, space: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """Plain values."""
        prefix = _space_prefix(space)
        return self.fetch([prefix + key for key in keys])

    def apply(self, writes: Sequence[RawWrite], expected: Sequence[RawWrite]) -> bool:
        """Plain writes in one transaction; none where a value is not the expected one."""
        conditions = [(_space_prefix(space) + key, value) for space, key, value in expected]
        values = [(_space_prefix(space) + key, value) for space, key, value in writes]

        def put(txn: Any) -> bool:
            if any(txn.get(key) != value for key, value in conditions):
                return False
            for key, value in values:
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
            return True

        return self._write(put)

    def scan(self, space: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Plain keys and values of a space, by key."""
        prefix = _space_prefix(space)
        return ((key[len(prefix) :], value) for key, value in self.items(prefix))

    def _read(self, work: Callable[[Any], _T]) -> _T:
        while True:
            with self._reading:
                try:
                    with self._env.begin() as txn:
                        return work(txn)
                except lmdb.MapResizedError:
                    pass
            # Another process has enlarged the file: 0 takes over its size.
            with self._writing:
                self._resize_map(0)

    def _write(self, work: Callable[[Any], _T]) -> _T:
        """Do the work in one write transaction; from its start again if the map had to grow."""
        with self._writing:
            while True:
                try:
                    with self._env.begin(write=True) as txn:
                        return work(txn)
                except lmdb.MapFullError:
                    # Doubled, because each resize repeats the whole transaction.
                    self._resize_map(self._env.info()["map_size"] * 2)
                except lmdb.MapResizedError:
                    self._resize_map(0)
                except lmdb.DiskError as error:
                    raise StoreError(
                        f"The online store in {self._folder} cannot be written: {error}",
                        "Earlier records are whole; make room and write again.",
                    ) from error

    def _resize_map(self, size: int) -> None:
        with self._reading:
            self._env.set_mapsize(size)


def _space_prefix(space: bytes) -> bytes:
    return b"k/" + space + b"\0"


def _next_pairs(txn: Any, prefix: bytes, after: bytes, count: int) -> _Pairs:
    """At most so many pairs below the prefix, from the first key behind ``after``."""
    cursor = txn.cursor()
    pairs: _Pairs = []
    # The prefix itself is never a key, so that a scan may begin behind it.
    if not cursor.set_range(after + b"\0"):
        return pairs
    for key, value in cursor:
        if len(pairs) == count or not key.startswith(prefix):
            break
        pairs.append((key, value))
    return pairs
