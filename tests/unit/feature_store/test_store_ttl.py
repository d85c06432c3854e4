"""Records that hold only so long, in the embedded store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from sunloom.errors import NotFoundError
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.stored_feature_set import record_prefix

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class _Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return (self.now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def store(tmp_path: Path, clock: _Clock) -> EmbeddedStore:
    return EmbeddedStore(tmp_path, clock)


def _table(ids: list[int], event_time: datetime) -> pl.DataFrame:
    times = pl.Series([event_time] * len(ids), dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"id": ids, "event_time": times, "a": ids})


def _held(store: EmbeddedStore) -> int:
    return sum(1 for _ in store._backend.items(record_prefix("s")))


def test_a_record_expires_to_the_microsecond(store: EmbeddedStore, clock: _Clock) -> None:
    store.write("s", _table([1], NOON))
    store.set_ttl("s", DAY)
    clock.now = NOON + DAY
    assert store.read("s", [1]) == [{"a": 1}]
    clock.now += timedelta(microseconds=1)
    assert store.read("s", [1]) == [None]
    assert store.feature_times("s", [1]) == [None]
    assert store.count("s") == 0
    store.set_ttl("s", None)
    assert store.read("s", [1]) == [{"a": 1}]


def test_other_readers_see_the_time_to_live(store: EmbeddedStore, clock: _Clock) -> None:
    store.write("s", _table([1], NOON - 2 * DAY))
    assert store.read("s", [1]) == [{"a": 1}]
    OnlineStore(store._backend, clock).set_ttl("s", DAY)
    assert store.read("s", [1]) == [None]


def test_writes_delete_expired_records(store: EmbeddedStore, clock: _Clock) -> None:
    store.write("s", _table(list(range(1_000)), NOON - DAY))
    store.set_ttl("s", DAY)
    assert _held(store) == 1_000
    clock.now = NOON + DAY
    for batch in range(10):
        ids = list(range(1_000 + batch * 60, 1_060 + batch * 60))
        assert store.write("s", _table(ids, clock.now)) == 60
    assert _held(store) == 600
    assert store.count("s") == 600


def test_a_set_that_is_not_there_has_no_time_to_live(store: EmbeddedStore) -> None:
    with pytest.raises(NotFoundError):
        store.set_ttl("s", DAY)
