"""Contract of plain keys and values that every online store fulfils."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sunloom.feature_store.stores.online.online_store import OnlineStore


def check_expectations(store: OnlineStore) -> None:
    """Nothing is written where a value is not the expected one."""
    assert store.apply([("s", b"a", b"1")], expected=[("s", b"a", None)])
    assert not store.apply([("s", b"a", b"2")], expected=[("s", b"a", None)])
    assert not store.apply([("t", b"b", b"2")], expected=[("s", b"a", b"1"), ("u", b"a", b"")])
    assert store.get_many("s", [b"a"]) == [b"1"]
    assert store.get_many("t", [b"b"]) == [None]
    both = [("s", b"a", b""), ("t", b"b", b"2")]
    assert store.apply(both, expected=[("s", b"a", b"1"), ("u", b"a", None)])
    assert not store.apply([("s", b"a", b"3")], expected=[("s", b"a", None)])
    assert store.apply([("s", b"a", None)], expected=[("s", b"a", b"")])
    assert list(store.scan("s")) == []
    assert dict(store.scan("t")) == {b"b": b"2"}
    assert store.apply([], expected=[("s", b"a", None)])
    assert store.apply([])


def check_counting(store: OnlineStore) -> None:
    """Threads that add one at a time, each expecting what it read, lose nothing."""

    def add(_: int) -> None:
        while True:
            stored = store.get_many("n", [b"count"])[0]
            value = str(int(stored or 0) + 1).encode()
            if store.apply([("n", b"count", value)], expected=[("n", b"count", stored)]):
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(60)))
    assert store.get_many("n", [b"count"]) == [b"60"]
