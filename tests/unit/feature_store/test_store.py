"""The embedded online store: packing, order of writes, evolution, many processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from sunloom.config import Settings
from sunloom.errors import NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.field_types import Field
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.stored_feature_set import meta_key

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "online")


def _table(ids: list, event_time: datetime = NOON, **columns: list) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "event_time": [event_time] * len(ids), **columns}).with_columns(
        pl.col("event_time").cast(UTC_US)
    )


def test_every_type_comes_back_as_it_went_in(store: EmbeddedStore) -> None:
    late = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    table = _table(
        [1, -(2**63), 2**63 - 1],
        n=[2**63 - 1, None, -1],
        x=[0.1, math.inf, None],
        ok=[True, None, False],
        name=["Zoë", "", None],
        when=[late, None, NOON],
        **{f"f{i}": [float(i), None, 1e-300] for i in range(9)},
    )
    assert store.write("mixed", table) == 3
    expected = table.drop("id", "event_time").to_dicts()
    for row in expected:
        row["when"] = None if row["when"] is None else row["when"].astimezone(UTC)
    assert store.read("mixed", [1, -(2**63), 2**63 - 1]) == expected
    assert store.feature_times("mixed", [1, 5]) == [int(NOON.timestamp() * 1e6), None]


def test_order_repeats_and_missing_ids(store: EmbeddedStore) -> None:
    store.write("s", _table([1, 2], a=[10, 20], b=["x", "y"]))
    assert store.read("s", [2, 9, "1", 2], ["a"]) == [{"a": 20}, None, {"a": 10}, {"a": 20}]
    assert store.read("s", []) == []


def test_a_newer_value_is_never_replaced_by_an_older_one(store: EmbeddedStore) -> None:
    store.write("s", _table([1, 2], NOON, a=[10, 20]))
    assert store.write("s", _table([1, 3], NOON - timedelta(microseconds=1), a=[0, 30])) == 1
    assert store.read("s", [1, 3]) == [{"a": 10}, {"a": 30}]
    assert store.write("s", _table([1], NOON, a=[11])) == 1
    assert store.read("s", [1]) == [{"a": 11}]


def test_string_keys(store: EmbeddedStore) -> None:
    store.write("s", _table(["a", "ü"], a=[1, 2]))
    assert store.read("s", ["ü", "A"]) == [{"a": 2}, None]
    assert store.schema("s").key_dtype == "string"


def test_a_key_of_any_length_is_an_entity(store: EmbeddedStore) -> None:
    keys = ["", "k" * 376, "k" * 377, "k" * 400, "ü" * 300]
    store.write("s", _table(keys, a=list(range(5))))
    assert store.read("s", [*keys, "k" * 378]) == [{"a": n} for n in range(5)] + [None]
    assert store.count("s") == 5
    with pytest.raises(UsageError, match="is no Unicode text"):
        store.read("s", ["a\ud83d"])


def test_an_added_feature_is_null_in_older_records(store: EmbeddedStore) -> None:
    store.write("s", _table([1, 2], a=[1, 2]))
    store.write("s", _table([1], a=[5], b=["new"]))
    assert store.schema("s").fields == (Field("a", "int64"), Field("b", "string"))
    assert store.read("s", [1, 2]) == [{"a": 5, "b": "new"}, {"a": 2, "b": None}]


def test_a_changed_type_is_refused_with_the_way_out(store: EmbeddedStore) -> None:
    store.write("s", _table([1], a=[1]))
    with pytest.raises(StoreError, match=r"s\.a is stored as int64, but comes as string"):
        store.write("s", _table([1], a=["1"]))
    with pytest.raises(StoreError, match="under key 'id'"):
        store.write("s", _table(["x"], a=[1]))
    assert store.read("s", [1]) == [{"a": 1}]


@pytest.mark.parametrize("value", [Decimal("0.1"), b"raw", [b"raw"]])
def test_what_cannot_be_packed_is_refused(store: EmbeddedStore, value: object) -> None:
    with pytest.raises(StoreError, match="'a' has type"):
        store.write("s", _table([1], a=[value]))
    assert store.feature_sets() == []


def test_a_whole_number_beyond_64_bits_is_refused(store: EmbeddedStore) -> None:
    with pytest.raises(StoreError, match="'a' holds a whole number beyond"):
        store.write("s", _table([1], a=[2**63]))
    assert store.count("s") == 0


def test_schemas_that_take_turns_are_kept_once(store: EmbeddedStore) -> None:
    for turn in range(4):
        store.write("s", _table([turn], **{"ab"[turn % 2]: [turn]}))
    assert store.schema("s").names == ("b",)
    assert store.read("s", [0, 1]) == [{"b": None}, {"b": 1}]
    [raw] = store._backend.fetch([meta_key("s")])
    assert raw is not None
    assert len(json.loads(raw)["schemas"]) == 2


def test_unknown_names_list_the_known_ones(store: EmbeddedStore) -> None:
    store.write("customer", _table([1], spend=[1]))
    with pytest.raises(NotFoundError) as caught:
        store.read("custmer", [1])
    assert caught.value.known == ["customer"]
    with pytest.raises(NotFoundError) as caught:
        store.read("customer", [1], ["spent"])
    assert caught.value.known == ["spend"]
    for wrong in ("abc", 1.5, True, None, 2**63):
        with pytest.raises(UsageError, match="not an integer"):
            store.read("customer", [wrong])


def test_the_map_grows_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sunloom.feature_store.stores.online.lmdb.FIRST_MAP_BYTES", 1 << 20)
    store = EmbeddedStore(tmp_path / "online")
    ids = list(range(20_000))
    store.write("s", _table(ids, a=[f"value {i}" * 10 for i in ids]))
    assert store.count("s") == 20_000
    assert store.read("s", [19_999]) == [{"a": "value 19999" * 10}]


def test_other_processes_read_while_one_writes(settings: Settings) -> None:
    store = open_online_store(settings)
    store.write("s", _table([1], a=[1]))
    code = (
        "import sys; from pathlib import Path\n"
        "from sunloom.feature_store.stores.online.lmdb import EmbeddedStore\n"
        "store = EmbeddedStore(Path(sys.argv[1]))\n"
        "print(store.read('s', [1])[0]['a'], flush=True)\n"
        "sys.stdin.readline()\n"
        "print(store.read('s', [1])[0]['a'], flush=True)\n"
    )
    folder = str(settings.paths.state / "online")
    with subprocess.Popen(
        [sys.executable, "-c", code, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": "platform", "PATH": ""},
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        assert reader.stdout.readline() == "1\n"
        store.write("s", _table([1], NOON + timedelta(days=1), a=[2]))
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "2\n"
    assert reader.returncode == 0


def test_threads_read_while_the_map_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sunloom.feature_store.stores.online.lmdb.FIRST_MAP_BYTES", 1 << 20)
    store = EmbeddedStore(tmp_path / "online")
    store.write("s", _table([0], a=["first"]))
    done = threading.Event()

    def reads() -> int:
        count = 0
        while not done.is_set():
            assert store.read("s", [0]) == [{"a": "first"}]
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(reads) for _ in range(3)]
        for batch in range(1, 6):
            ids = list(range(batch * 1_000, batch * 1_000 + 1_000))
            store.write("s", _table(ids, a=["x" * 2_000] * 1_000))
        done.set()
        assert all(reader.result(30) > 0 for reader in readers)
    assert store.count("s") == 5_001
