"""Plain keys and values beneath the records of the embedded store."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_contract import check_counting, check_expectations

from sunloom.errors import UsageError
from sunloom.feature_store.stores.online.key_value import MAX_KEY_BYTES, Write
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore

_KEYS = st.binary(min_size=1, max_size=3)
_WRITES = st.lists(
    st.tuples(st.sampled_from(["a", "ab", "ü"]), _KEYS, st.none() | st.binary(max_size=4))
)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "online")


def test_values_come_back_in_order_of_the_keys(store: EmbeddedStore) -> None:
    store.apply([("s", b"a", b"1"), ("s", b"b", b""), ("t", b"a", b"other")])
    assert store.get_many("s", [b"b", b"x", b"a", b"b"]) == [b"", None, b"1", b""]
    assert store.get_many("none", [b"a"]) == [None]
    assert store.get_many("s", []) == []


def test_later_writes_of_one_call_win_and_none_deletes(store: EmbeddedStore) -> None:
    store.apply([("s", b"a", b"1"), ("s", b"a", b"2"), ("s", b"gone", None)])
    store.apply([("s", b"b", b"3"), ("s", b"a", None)])
    assert list(store.scan("s")) == [(b"b", b"3")]


def test_all_or_nothing(store: EmbeddedStore) -> None:
    with pytest.raises(UsageError, match="A key has"):
        store.apply([("s", b"a", b"1"), ("s", b"", b"2")])
    with pytest.raises(UsageError, match="not str"):
        store.apply([("s", b"a", b"1"), ("s", b"b", "not bytes")])  # type: ignore[list-item]
    assert list(store.scan("s")) == []


def test_nothing_is_written_where_something_is_not_as_expected(store: EmbeddedStore) -> None:
    check_expectations(store)
    check_counting(store)


@pytest.mark.parametrize("space", ["", "a\0b", "x" * 129])
def test_a_space_without_a_name_is_refused(store: EmbeddedStore, space: str) -> None:
    with pytest.raises(UsageError, match="space's name"):
        store.get_many(space, [b"a"])


def test_the_longest_names_fit(store: EmbeddedStore) -> None:
    store.apply([("x" * 128, b"k" * MAX_KEY_BYTES, b"v")])
    assert list(store.scan("x" * 128)) == [(b"k" * MAX_KEY_BYTES, b"v")]
    with pytest.raises(UsageError, match="376 bytes"):
        store.get_many("x", [b"k" * (MAX_KEY_BYTES + 1)])


def test_a_scan_goes_on_while_others_write(store: EmbeddedStore) -> None:
    expected = {number.to_bytes(4, "big"): b"v" * (number % 7) for number in range(2_500)}
    store.apply([("s", key, value) for key, value in expected.items()])
    seen = {}
    for key, value in store.scan("s"):
        seen[key] = value
        if len(seen) == 10:
            store.apply([("s", b"\0", b"late")])
    assert seen == expected


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(_WRITES, max_size=4))
def test_it_behaves_like_dicts(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Write]]
) -> None:
    store = EmbeddedStore(tmp_path_factory.mktemp("kv"))
    model: dict[str, dict[bytes, bytes]] = {"a": {}, "ab": {}, "ü": {}}
    for writes in batches:
        store.apply(writes)
        for space, key, value in writes:
            if value is None:
                model[space].pop(key, None)
            else:
                model[space][key] = value
    for space, held in model.items():
        assert list(store.scan(space)) == sorted(held.items())
