"""Expiry, bound, order of concurrent loads and threads of ``TtlCache``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sunloom.core.caching import TtlCache


class SteppedClock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def counting_loader() -> Callable[[], int]:
    calls = iter(range(1, 1_000))
    return lambda: next(calls)


def test_a_value_is_loaded_again_once_it_has_expired() -> None:
    clock, load = SteppedClock(), counting_loader()
    cache: TtlCache[str, int] = TtlCache(10, clock=clock)
    assert cache.get_or_load("a", load) == 1
    clock.now_s = 9.9
    assert (cache.get_or_load("a", load), cache.get("a")) == (1, 1)
    clock.now_s = 10.0
    assert cache.get("a") is None
    assert cache.get_or_load("a", load) == 2


def test_a_time_of_zero_loads_every_time() -> None:
    cache: TtlCache[str, int] = TtlCache(0, clock=SteppedClock())
    load = counting_loader()
    assert [cache.get_or_load("a", load) for _ in range(3)] == [1, 2, 3]


def test_none_is_a_value_of_its_own() -> None:
    calls: list[str] = []
    cache: TtlCache[str, str | None] = TtlCache(10, clock=SteppedClock())
    for _ in range(3):
        assert cache.get_or_load("unknown", lambda: calls.append("unknown")) is None
    assert calls == ["unknown"]


def test_a_failed_load_keeps_nothing() -> None:
    cache: TtlCache[str, int] = TtlCache(10, clock=SteppedClock())
    with pytest.raises(ZeroDivisionError):
        cache.get_or_load("a", lambda: 1 // 0)
    assert cache.get_or_load("a", lambda: 7) == 7


def test_the_bound_evicts_what_expires_next() -> None:
    clock = SteppedClock()
    cache: TtlCache[str, int] = TtlCache(10, max_entries=2, clock=clock)
    for second, key in enumerate(["a", "b", "a", "c"]):
        clock.now_s = float(second)
        cache.put(key, second)
    assert [cache.get(key) for key in "abc"] == [2, None, 3]


def test_the_age_counts_from_before_the_load() -> None:
    clock = SteppedClock()
    cache: TtlCache[str, int] = TtlCache(10, clock=clock)

    def load_slowly() -> int:
        clock.now_s += 8
        return 1

    cache.get_or_load("a", load_slowly)
    clock.now_s = 10.0
    assert cache.get("a") is None


def test_a_load_that_began_earlier_does_not_replace_a_later_one() -> None:
    clock = SteppedClock()
    cache: TtlCache[str, str] = TtlCache(10, clock=clock)

    def overtaken() -> str:
        clock.now_s = 1.0
        cache.put("a", "new")
        return "old"

    assert cache.get_or_load("a", overtaken) == "old"
    assert cache.get("a") == "new"


def test_awaited_loads_are_kept_too() -> None:
    clock, load = SteppedClock(), counting_loader()
    cache: TtlCache[str, int] = TtlCache(10, clock=clock)

    async def read() -> int:
        return await cache.get_or_await("a", lambda: asyncio.to_thread(load))

    async def read_thrice() -> list[int]:
        first = [await read(), await read()]
        clock.now_s = 10.0
        return [*first, await read()]

    assert asyncio.run(read_thrice()) == [1, 1, 2]


def test_threads_share_a_small_cache() -> None:
    cache: TtlCache[int, int] = TtlCache(60, max_entries=8)

    def read(number: int) -> bool:
        key = number % 32
        return cache.get_or_load(key, lambda: key * 10) == key * 10

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(5_000)))
    assert sum(cache.get(key) is not None for key in range(32)) == 8
