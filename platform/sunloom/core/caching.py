"""Cache of values that are trusted for a fixed time and then loaded again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """Values by key, each kept for at most ``ttl_s`` seconds; safe to share between threads.

    A failed load caches nothing. Concurrent loads of one key may run side by side.

    Args:
        ttl_s: Seconds a value is kept; 0 loads every time.
        max_entries: Bound on the number of values; the one closest to its expiry is evicted.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self, ttl_s: float, max_entries: int = 1_024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._clock = clock
        # Time of loading and value. Entries are inserted in order of loading, and all live equally
        # long: the first one is always the next to expire.
        self._entries: dict[K, tuple[float, V]] = {}
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """The value, or None where there is none that has not expired."""
        # One look-up in a dict is atomic; only writers need the lock.
        entry = self._entries.get(key)
        if entry is None or self._clock() - entry[0] >= self._ttl_s:
            return None
        return entry[1]

    def put(self, key: K, value: V) -> None:
        """Keep a value from now on."""
        self._insert(key, value, self._clock())

    def get_or_load(self, key: K, load: Callable[[], V]) -> V:
        """The cached value, or the one that ``load`` returns, which is then kept."""
        now = self._clock()
        entry = self._entries.get(key)
        if entry is not None and now - entry[0] < self._ttl_s:
            return entry[1]
        value = load()
        # The age counts from before the load: a change during it is seen in time.
        self._insert(key, value, now)
        return value

    async def get_or_await(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """The cached value, or the one that ``load`` gives once awaited, which is then kept."""
        now = self._clock()
        entry = self._entries.get(key)
        if entry is not None and now - entry[0] < self._ttl_s:
            return entry[1]
        value = await load()
        self._insert(key, value, now)
        return value

    def _insert(self, key: K, value: V, loaded_at: float) -> None:
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None and entry[0] > loaded_at:
                # Another load began later and ended earlier: its value is the fresher one.
                loaded_at, value = entry
            self._entries[key] = (loaded_at, value)
            if len(self._entries) > self._max_entries:
                del self._entries[next(iter(self._entries))]
