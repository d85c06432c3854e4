"""The offline store: versions, evolution, time travel, pruning, writers at once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sunloom.config import Settings
from sunloom.errors import DataError, DependencyError, NotFoundError, StoreError, UsageError
from sunloom.feature_store.stores.offline_storage import TimeBounds
from sunloom.feature_store.stores.offline_store import OfflineStore, open_offline_store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
UTC_US = pl.Datetime("us", "UTC")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OfflineStore]:
    if request.param == "local":
        yield OfflineStore(str(tmp_path / "offline"))
        return
    folder = uuid.uuid4().hex
    yield OfflineStore(f"memory://{folder}")
    memory = fsspec.filesystem("memory")
    if memory.exists(folder):
        memory.rm(folder, recursive=True)


def _table(ids: list[Any], event_times: list[datetime], **columns: list[Any]) -> pl.DataFrame:
    times = pl.Series(event_times, dtype=UTC_US)
    held = pl.Series(ids) if ids else pl.Series(dtype=pl.Int64)
    return pl.DataFrame({"id": held, "event_time": times, **columns})


def test_rows_come_back_by_event_time(store: OfflineStore) -> None:
    table = _table([3, 1, 2], [NOON + DAY, NOON, NOON], a=[0.5, None, 1.5], t=[["x"], [], None])
    version = store.write("s", table)
    assert (version.number, version.rows, len(version.files)) == (1, 3, 2)
    assert_frame_equal(store.read("s"), table.sort("event_time", maintain_order=True))
    assert store.read("s", columns=["a"]).columns == ["id", "event_time", "a"]


def test_each_write_is_a_version_and_each_version_stays(store: OfflineStore) -> None:
    store.write("s", _table([1, 2], [NOON, NOON + DAY], a=[1, 2]))
    store.write("s", _table([3], [NOON + timedelta(hours=1)], a=[3]))
    store.write("s", _table([4], [NOON], a=[4]), mode="dates")
    store.write("s", _table([5], [NOON + 9 * DAY], a=[5]), mode="replace")
    held = [store.read("s", version=number)["a"].to_list() for number in (1, 2, 3, 4)]
    assert held == [[1, 2], [1, 3, 2], [4, 2], [5]]
    assert [version.mode for version in store.versions("s")] == [
        "append",
        "append",
        "dates",
        "replace",
    ]
    assert store.feature_sets() == ["s"]


def test_time_travel(tmp_path: Path) -> None:
    clock = iter([NOON, NOON, NOON + DAY, NOON + DAY, NOON - DAY, NOON - DAY])
    store = OfflineStore(str(tmp_path), lambda: next(clock))
    for value in (1, 2, 3):
        store.write("s", _table([1], [NOON], a=[value]), mode="replace")
    # The third was written by a clock that had been set back.
    assert [v.written_at for v in store.versions("s")] == [NOON, NOON + DAY, NOON + DAY]
    east = timezone(timedelta(hours=5))
    as_of_times = [NOON, NOON + DAY - timedelta(microseconds=1), (NOON + DAY).astimezone(east)]
    assert [store.read("s", as_of=time)["a"][0] for time in as_of_times] == [1, 1, 3]
    with pytest.raises(NotFoundError, match="no version of 2026-03-01T11"):
        store.read("s", as_of=NOON - timedelta(microseconds=1))
    with pytest.raises(UsageError, match="no time zone"):
        store.read("s", as_of=NOON.replace(tzinfo=None))
    with pytest.raises(UsageError, match="not both"):
        store.read("s", as_of=NOON, version=1)


def test_an_added_column_is_null_in_older_rows(store: OfflineStore) -> None:
    store.write("s", _table([1], [NOON], a=[1]))
    store.write("s", _table([2], [NOON + DAY], b=[[{"x": 1.5}]]))
    expected = _table([1, 2], [NOON, NOON + DAY], a=[1, None], b=[None, [{"x": 1.5}]])
    assert_frame_equal(store.read("s"), expected)
    # Also where only files without the column are read.
    assert_frame_equal(store.read("s", end=NOON + DAY), expected.head(1))
    assert store.read("s", version=1).columns == ["id", "event_time", "a"]


def test_a_column_of_nothing_fits_any_type(store: OfflineStore) -> None:
    store.write("s", _table([1], [NOON], a=[1.5], b=[None]))
    assert store.write("s", _table([2], [NOON], a=[None])).columns == {
        "id": "int64",
        "event_time": "datetime",
        "a": "float64",
    }
    assert store.read("s")["a"].to_list() == [1.5, None]


def test_a_changed_type_is_refused_with_the_way_out(store: OfflineStore) -> None:
    store.write("s", _table([1], [NOON], a=[1]))
    with pytest.raises(
        StoreError, match=r"s\.a is stored as int64, but comes as float64"
    ) as caught:
        store.write("s", _table([1], [NOON], a=[1.5]))
    assert "new name" in caught.value.hint
    with pytest.raises(StoreError, match="stored under key 'id'"):
        store.write("s", _table(["x"], [NOON], a=[1]))
    assert len(store.versions("s")) == 1
    # Narrower numbers are the same type.
    table = _table([2], [NOON], a=[2]).with_columns(pl.col("a", "id").cast(pl.Int8))
    assert store.write("s", table).number == 2
    assert store.read("s").schema["a"] == pl.Int64


def test_a_range_reads_only_the_files_that_meet_it(
    store: OfflineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_times = [NOON + hours * timedelta(hours=1) for hours in range(24 * 30)]
    store.write("s", _table(list(range(len(event_times))), event_times))
    opened: list[str] = []
    read = store.storage.read_parquet
    monkeypatch.setattr(
        store.storage, "read_parquet", lambda path, *rest: opened.append(path) or read(path, *rest)
    )
    start, end = datetime(2026, 3, 5, 23, tzinfo=UTC), datetime(2026, 3, 7, tzinfo=UTC)
    found = store.read("s", start=start, end=end)
    assert [path.split("date=")[1][:10] for path in opened] == ["2026-03-05", "2026-03-06"]
    assert found["event_time"].to_list() == [m for m in event_times if start <= m < end]
    assert store.read("s", start=NOON + 90 * DAY).height == 0
    assert store.read("s", start=NOON + 90 * DAY).schema == found.schema


def test_row_groups_outside_the_range_are_not_read(tmp_path: Path) -> None:
    store = OfflineStore(str(tmp_path))
    event_times = [NOON + second * timedelta(seconds=0.01) for second in range(300_000)]
    store.write("s", _table(list(range(300_000)), event_times))
    [file] = store.version("s").files
    first = int(NOON.timestamp()) * 1_000_000
    bounds = TimeBounds("event_time", first, first + 1_000_000)
    found = store.storage.read_parquet(f"s/{file.path}", ["id", "event_time"], bounds)
    assert 100 <= found.height < 300_000
    assert store.read("s", end=NOON + timedelta(seconds=1))["id"].to_list() == list(range(100))


def test_threads_that_write_at_once_lose_no_version(store: OfflineStore) -> None:
    def write(number: int) -> int:
        return store.write("s", _table([number], [NOON + number * DAY])).number

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(write, range(16)))
    assert sorted(made) == list(range(1, 17))
    assert store.read("s")["id"].to_list() == list(range(16))
    assert [version.rows for version in store.versions("s")] == list(range(1, 17))


def test_an_unfinished_write_is_no_version(store: OfflineStore, tmp_path: Path) -> None:
    store.write("s", _table([1], [NOON]))
    store.storage.write("s/data/date=2026-03-01/left-over.parquet", b"half")
    store.storage.write("s/versions/.00000002.json.abc", b"{")
    assert store.read("s")["id"].to_list() == [1]
    assert store.write("s", _table([2], [NOON])).number == 2


def test_damage_is_named(tmp_path: Path) -> None:
    store = OfflineStore(str(tmp_path))
    version = store.write("s", _table([1], [NOON]))
    manifest = tmp_path / "s" / "versions" / "00000001.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-20])
    with pytest.raises(StoreError, match=r"00000001\.json is damaged"):
        store.read("s")
    manifest.write_text(json.dumps(json.loads(whole) | {"format": 9}))
    with pytest.raises(StoreError, match="later format"):
        store.read("s")
    manifest.write_bytes(whole)
    (tmp_path / "s" / version.files[0].path).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"\.parquet cannot be read"):
        store.read("s")


def test_what_cannot_be_kept_is_refused_before_anything_is_written(store: OfflineStore) -> None:
    naive = _table([1], [NOON]).with_columns(pl.col("event_time").dt.replace_time_zone(None))
    wrong = [
        (naive, "must be UTC datetimes"),
        (_table([None], [NOON]), "must not be null"),
        (_table([1], [NOON], a=[b"raw"]), "'a' has type Binary"),
        (_table([1], [NOON], a=[2**63]), "'a' holds a whole number beyond"),
    ]
    for table, message in wrong:
        with pytest.raises(StoreError, match=message):
            store.write("s", table)
    with pytest.raises(DataError, match="lacks the column event_time"):
        store.write("s", pl.DataFrame({"id": [1]}))
    with pytest.raises(UsageError, match="names a folder"):
        store.write("../s", _table([1], [NOON]))
    with pytest.raises(UsageError, match="mode is one of"):
        store.write("s", _table([1], [NOON]), mode="upsert")  # type: ignore[arg-type]
    assert store.feature_sets() == []


def test_unknown_names_list_the_known_ones(store: OfflineStore) -> None:
    store.write("customer", _table([1], [NOON], spend=[1]))
    with pytest.raises(NotFoundError) as caught:
        store.read("custmer")
    assert caught.value.known == ["customer"]
    with pytest.raises(NotFoundError, match="no column 'spent'"):
        store.read("customer", columns=["spent"])
    with pytest.raises(NotFoundError) as caught:
        store.read("customer", version=7)
    assert caught.value.hint == "It has 1 to 1."


def test_other_tools_read_the_folders_as_partitions(tmp_path: Path) -> None:
    store = OfflineStore(str(tmp_path))
    store.write("s", _table([1, 2], [NOON, NOON + DAY]))
    found = pl.scan_parquet(tmp_path / "s" / "data", hive_partitioning=True).collect()
    assert found.sort("id")["date"].to_list() == [date(2026, 3, 1), date(2026, 3, 2)]


def test_settings_name_the_place(settings: Settings) -> None:
    assert open_offline_store(settings).uri == str(settings.paths.outputs / "offline")
    chosen = settings.feature_store.model_copy(update={"offline": "memory://there"})
    store = open_offline_store(settings.model_copy(update={"feature_store": chosen}))
    assert store.uri == "memory://there"
    with pytest.raises(DependencyError, match="nonsense://x cannot be opened"):
        OfflineStore("nonsense://x")


_WRITES = st.lists(
    st.tuples(
        st.sampled_from(["append", "dates", "replace"]),
        st.lists(st.integers(0, 4 * 86_400 - 1), max_size=6),
    ),
    min_size=1,
    max_size=5,
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(writes=_WRITES, first=st.integers(0, 4), last=st.integers(0, 4))
def test_versions_are_what_a_list_of_rows_would_be(
    tmp_path_factory: pytest.TempPathFactory, writes: list[Any], first: int, last: int
) -> None:
    store = OfflineStore(str(tmp_path_factory.mktemp("offline")))
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    start, end = midnight + first * DAY, midnight + last * DAY
    rows: list[tuple[int, datetime]] = []
    for number, (mode, seconds) in enumerate(writes):
        fresh = [
            (number * 10 + i, midnight + s * timedelta(seconds=1)) for i, s in enumerate(seconds)
        ]
        days = {event_time.date() for _, event_time in fresh}
        if mode != "append":
            rows = [row for row in rows if mode == "dates" and row[1].date() not in days]
        rows = rows + fresh
        store.write("s", _table([i for i, _ in fresh], [m for _, m in fresh]), mode=mode)
        expected = sorted((row for row in rows if start <= row[1] < end), key=lambda row: row[1])
        assert store.read("s", start=start, end=end).rows() == expected
