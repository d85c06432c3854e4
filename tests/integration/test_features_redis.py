"""The online store on a real Redis."""

from __future__ import annotations

import math
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from redis_fixture import RedisServer, private_redis
from store_contract import check_counting, check_expectations

from sunloom.config import Settings, load_config
from sunloom.config.feature_store import RedisOnline
from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.redis import RedisStore
from sunloom.feature_store.stores.online.stored_feature_set import record_prefix

pytestmark = pytest.mark.integration
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def config(redis_server: RedisServer) -> RedisOnline:
    """A corner of the server that no other test has."""
    return RedisOnline(url=redis_server.url, prefix=f"t[{uuid.uuid4().hex[:8]}]*:")


@pytest.fixture
def store(config: RedisOnline) -> RedisStore:
    return RedisStore(config)


def _table(ids: list[Any], event_time: datetime = NOON, **columns: list[Any]) -> pl.DataFrame:
    times = pl.Series([event_time] * len(ids), dtype=UTC_US)
    return pl.DataFrame({"id": ids, "event_time": times, **columns})


def test_records_are_those_of_the_embedded_store(store: RedisStore, tmp_path: Path) -> None:
    embedded = EmbeddedStore(tmp_path)
    table = _table(
        [1, -(2**63), 2**63 - 1],
        n=[2**63 - 1, None, -1],
        x=[0.1, math.inf, None],
        ok=[True, None, False],
        name=["Zoë", "", None],
        tags=[["a"], None, []],
    )
    for one in (store, embedded):
        assert one.write("s", table) == 3
        one.write("s", _table([1], NOON, n=[5], more=["new"]))
        one.write("s", _table([1], NOON - timedelta(days=400), n=[6], more=["old"]))
    ids = [2**63 - 1, 7, 1, -(2**63)]
    assert store.read("s", ids) == embedded.read("s", ids)
    assert store.read("s", ids, ["more"])[2] == {"more": "new"}
    assert store.feature_times("s", ids) == embedded.feature_times("s", ids)
    assert store.schema("s") == embedded.schema("s")
    raw, other = (
        one._backend.fetch([record_prefix("s") + b"\xff" * 8]) for one in (store, embedded)
    )
    assert raw == other
    assert store.count("s") == 3
    assert store.feature_sets() == ["s"]


def test_times_are_compared_exactly(store: RedisStore) -> None:
    # Neighbours beyond what a double can tell apart, and on both sides of the epoch.
    for entity, microseconds in enumerate((-1, 0, 2**32 - 1, 2**32, 2**53 + 1, -(2**53) - 1)):
        event_time = EPOCH + timedelta(microseconds=microseconds)
        step = timedelta(microseconds=1)
        store.write("s", _table([entity], event_time, a=[1]))
        assert store.write("s", _table([entity], event_time - step, a=[0])) == 0
        assert store.write("s", _table([entity], event_time, a=[2])) == 1
        assert store.write("s", _table([entity], event_time + step, a=[3])) == 1
        assert store.read("s", [entity]) == [{"a": 3}]


def test_many_rows_over_several_round_trips(store: RedisStore) -> None:
    ids = list(range(2_300))
    assert store.write("s", _table(ids, a=ids)) == 2_300
    assert store.read("s", [0, 2_299]) == [{"a": 0}, {"a": 2_299}]
    assert store.count("s") == 2_300


def test_plain_values(store: RedisStore) -> None:
    store.apply([("s", b"a", b"1"), ("s", b"b", b"2"), ("t", b"a", b"3"), ("s", b"b", None)])
    assert store.get_many("s", [b"b", b"a"]) == [None, b"1"]
    assert store.get_many("none", []) == []
    store.apply([("s", bytes([1, number]), b"v") for number in range(250)])
    assert dict(store.scan("s")) == {b"a": b"1"} | {bytes([1, n]): b"v" for n in range(250)}
    with pytest.raises(UsageError):
        store.apply([("s", b"x", b"1"), ("s", b"", b"1")])
    assert store.get_many("s", [b"x"]) == [None]


def test_nothing_is_written_where_something_is_not_as_expected(store: RedisStore) -> None:
    check_expectations(store)
    check_counting(store)


def test_a_refused_transaction_writes_nothing(store: RedisStore, redis_server: RedisServer) -> None:
    import redis

    client = redis.Redis(port=redis_server.port)
    held = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(StoreError, match=r"refuses: .*(OOM|memory)"):
            store.apply([("s", b"a", b"1"), ("s", b"b", b"2" * 2_000_000)])
    finally:
        client.config_set("maxmemory", held)
    assert list(store.scan("s")) == []


def test_the_server_drops_what_expires(config: RedisOnline) -> None:
    store = RedisStore(config)
    now = datetime.now(UTC)
    store.write("s", _table([1, 2], now - timedelta(hours=1), a=[1, 2]))
    store.write("s", _table([2], now, a=[3]))
    store.set_ttl("s", timedelta(minutes=30))
    assert store.read("s", [1, 2]) == [None, {"a": 3}]
    assert [key for key, _ in store._backend.items(record_prefix("s"))] == [
        record_prefix("s") + (2 + 2**63).to_bytes(8, "big")
    ]
    late = RedisStore(
        config, lambda: (now + timedelta(hours=1) - EPOCH) // timedelta(microseconds=1)
    )
    assert late.read("s", [2]) == [None]
    store.write(
        "s", _table([3], datetime.now(UTC) - timedelta(minutes=30, milliseconds=-80), a=[4])
    )
    assert store.read("s", [3]) == [{"a": 4}]
    time.sleep(0.1)
    assert store._backend.fetch([record_prefix("s") + (3 + 2**63).to_bytes(8, "big")]) == [None]
    store.set_ttl("s", None)
    assert late.read("s", [2]) == [{"a": 3}]


_WRITER = """
import random, sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
import polars as pl
from sunloom.config.feature_store import RedisOnline
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.redis import RedisStore
kind, where, prefix, seed = sys.argv[1:]
store = EmbeddedStore(Path(where)) if kind == "embedded" else RedisStore(
    RedisOnline(url=where, prefix=prefix))
rng = random.Random(int(seed))
noon = datetime(2026, 3, 1, tzinfo=UTC)
for turn in range(15):
    ids = rng.sample(range(40), 20)
    ticks = [rng.randrange(10**6) * 4 + int(seed) for _ in ids]
    times = [noon + timedelta(microseconds=t) for t in ticks]
    table = pl.DataFrame({"id": ids, "event_time": times, "tick": ticks}).with_columns(
        pl.col("event_time").cast(pl.Datetime("us", "UTC")))
    if turn % 2:  # schemas take turns, too
        table = table.with_columns(writer=pl.lit(int(seed)))
    store.write("s", table)
    print(*(f"{i}:{t}" for i, t in zip(ids, ticks)))
"""


@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_writers_at_once_leave_the_newest_of_all(
    kind: str, config: RedisOnline, tmp_path: Path
) -> None:
    where = str(tmp_path) if kind == "embedded" else config.url
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, kind, where, config.prefix, str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": "platform", "PATH": "", "POLARS_MAX_THREADS": "1"},
        )
        for seed in range(3)
    ]
    newest: dict[int, int] = {}
    for writer in writers:
        written, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        for pair in written.split():
            entity, tick = map(int, pair.split(":"))
            newest[entity] = max(newest.get(entity, -1), tick)
    store: OnlineStore = EmbeddedStore(tmp_path) if kind == "embedded" else RedisStore(config)
    found = store.read("s", list(newest), ["tick"])
    assert found == [{"tick": tick} for tick in newest.values()]
    assert store.count("s") == len(newest)


def test_it_comes_back_with_the_server_and_says_what_is_wrong() -> None:
    with private_redis("--requirepass", "secret-word") as server:
        config = RedisOnline(url=server.url, password="secret-word", timeout_s=1)
        store = RedisStore(config)
        store.write("s", _table([1], a=[1]))
        server.stop()
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:\d+/0 does not answer") as caught:
            store.read("s", [1])
        assert "feature_store.online.url" in caught.value.hint
        with pytest.raises(StoreError, match="does not answer"):
            store.apply([("s", b"a", b"1")])
        server.start("--requirepass", "secret-word")
        assert store.read("s", [1]) == [{"a": 1}]
        for password in (None, "wrong-word"):
            with pytest.raises(StoreError, match="refuses the user or password") as caught:
                RedisStore(RedisOnline(url=server.url, password=password)).read("s", [1])
            assert "word'" not in str(caught.value).replace("password", "")


def test_an_answer_that_came_too_late_is_nobody_elses(
    config: RedisOnline, redis_server: RedisServer
) -> None:
    import redis

    store = RedisStore(config.model_copy(update={"timeout_s": 0.05}))
    store.write("s", _table([1, 2], a=[1, 2]))
    assert store.read("s", [1]) == [{"a": 1}]
    redis.Redis(port=redis_server.port).client_pause(700)
    with pytest.raises(StoreError, match="does not answer"):
        store.read("s", [1])
    time.sleep(0.8)
    assert store.read("s", [2]) == [{"a": 2}]


def test_settings_choose_it(redis_server: RedisServer, tmp_path: Path, project_root: Path) -> None:
    sets = [
        f"paths.state={tmp_path}",
        "feature_store.online.type=redis",
        f"feature_store.online.url={redis_server.socket}",
        f"feature_store.online.prefix='{uuid.uuid4().hex}:'",
    ]
    settings = load_config(Settings, sets=sets, conf_dir=project_root / "conf").config
    store = open_online_store(settings)
    assert isinstance(store, RedisStore)
    assert open_online_store(settings) is store
    store.write("s", _table(["a"], a=[1.5]))
    assert store.read("s", ["a"]) == [{"a": 1.5}]
    assert not (tmp_path / "online").exists()
    with pytest.raises(NotFoundError) as caught:
        store.schema("t")
    assert caught.value.known == ["s"]
