"""Messages, late events, quarantine and the log, of one partition without a broker."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from forked import start
from hypothesis import given, settings
from hypothesis import strategies as st
from killable import consume
from memory_store import MemoryStore
from pydantic import ValidationError
from same_values import differences

from sunloom.config.features import FeaturesRecipe, KafkaSecurity, KafkaSource
from sunloom.errors import ConflictError, DataQualityError, NotFoundError, UsageError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import build_layout
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.streaming.job import check_streamed, merge_history
from sunloom.feature_store.streaming.kafka import client_settings, event_policy
from sunloom.feature_store.streaming.partition import (
    ClassStream,
    EventLog,
    PartitionProgress,
    PartitionStream,
    ProgressKey,
)
from sunloom.feature_store.streaming.quarantine import RejectedMessage
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW, Plan

CLASSES = str(Path(__file__).parents[1].joinpath("features", "stream_classes.py"))
START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(CLASSES, "st_rider")


def _message(number: int, at: datetime | str, **values: Any) -> bytes:
    when = at if isinstance(at, str) else at.isoformat()
    return json.dumps({"id": number, "rider_id": 1, "at": when, "fare": 1.0} | values).encode()


def _stream(
    plan: Plan, store: Any, policy: EventPolicy | None = None, log: EventLog | None = None
) -> tuple[ClassStream, list[RejectedMessage]]:
    refused: list[RejectedMessage] = []
    policy = policy or EventPolicy(HOUR_US)
    layout = build_layout(plan, ("st_trip",))
    return ClassStream(
        store, layout, "st_trip", policy=policy, quarantine=refused.extend, log=log
    ), refused


def _ever(plan: Plan, store: Any, now: datetime) -> int:
    found = OnlineReader(store, plan, build_layout(plan, ("st_trip",))).read([1], now)
    return 0 if found[0] is None else int(found[0]["trips_ever"])


def test_poison_is_named_and_the_stream_goes_on(plan: Plan) -> None:
    store = MemoryStore()
    stream, refused = _stream(plan, store, EventPolicy(HOUR_US, max_bad_share=1.0))
    values = [
        _message(0, START),
        b"not json",
        b"[1, 2]",
        b"",
        b"\xff\xfe",
        _message(5, START, fare="dear"),
        _message(6, START, rider_id=None),
        _message(7, "2026-03-01 10:00"),
        _message(8, START, rider_id=2**70),
        json.dumps({"id": 9, "rider_id": 1}).encode(),
        _message(10, "2999-01-01T00:00:00Z"),
        # Odd, but not wrong: a table of text has it so, too.
        _message(11, "2026-03-01T05:00:00+02:00", fare="2.5", seats=3.0, extra={"a": 1}),
        _message(12, START, note="a\ud83d"),
        b'{"id": 13, "deep": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        _message(14, "+20000-01-01T00:00:00Z"),
        # Nobody reads this field.
        _message(15, START, other="a\ud83d"),
    ]
    progress = PartitionStream(stream, "trips/0").process(range(16), values)
    assert {one.offset: one.reason.split(":")[0] for one in refused} == {
        1: "not JSON",
        2: "not a JSON object",
        3: "empty message",
        4: "not JSON",
        5: "fare is not a number",
        6: "rider_id is missing",
        7: "at is not a datetime with a time zone",
        8: "rider_id is not a whole number",
        9: "at is missing",
        10: "at is in the future",
        12: "'note' is no Unicode text",
        13: "not JSON",
        14: "at is not a datetime with a time zone",
    }
    assert [one.value for one in refused][:2] == [b"not json", b"[1, 2]"]
    assert (progress.events, progress.quarantined, progress.next_offset) == (3, 13, 16)
    reader = OnlineReader(store, plan, stream.layout)
    found = reader.read([1], START + 5 * HOUR)[0]
    assert found is not None
    assert (found["trips_ever"], found["spent__86400__"], found["most_seats"]) == (3, 4.5, 3)


def test_tombstones_are_counted_and_are_no_damage(plan: Plan) -> None:
    store = MemoryStore()
    stream, refused = _stream(plan, store)
    values = [_message(i, START) if i % 21 else None for i in range(1_155)]
    progress = PartitionStream(stream, "trips/0").process(range(1_155), values)
    assert (progress.events, progress.tombstones, progress.quarantined) == (1_100, 55, 0)
    assert not refused
    # Only tombstones: nothing but the offset and the count change.
    after = PartitionStream(stream, "trips/0").process([1_155], [None])
    assert (after.events, after.tombstones, after.next_offset) == (1_100, 56, 1_156)
    # What an earlier release stored has no such count.
    stored = json.dumps({"next_offset": 7, "latest_us": None, "events": 7}).encode()
    assert PartitionProgress(**json.loads(stored)).tombstones == 0


_FIELDS = st.sampled_from(["id", "rider_id", "at", "fare", "seats", "paid", "note", "tip", "until"])
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(st.text(), parts, max_size=2),
)
_EVENTS = st.dictionaries(_FIELDS, _JSON, max_size=9)
_MESSAGES = st.one_of(
    st.none(),
    st.binary(max_size=40),
    _EVENTS.map(lambda event: json.dumps(event).encode()),
    # Whole but for some fields, so that many of them become events.
    _EVENTS.map(lambda event: _message(1, START, **{k: event[k] for k in event if k != "at"})),
    _EVENTS.map(lambda event: json.dumps(event, ensure_ascii=False).encode(errors="surrogatepass")),
)


@settings(max_examples=10, deadline=None)
@given(st.lists(_MESSAGES, min_size=1, max_size=6))
def test_whatever_the_messages_are_each_is_counted_once(
    plan: Plan, messages: list[bytes | None]
) -> None:
    store = MemoryStore()
    stream, refused = _stream(plan, store, EventPolicy(HOUR_US, max_bad_share=1.0))
    values = [_message(0, START), *messages, _message(0, START + HOUR)]
    after = PartitionStream(stream, "trips/0").process(range(len(values)), values)
    counted = after.events + after.dropped + after.quarantined + after.tombstones
    assert (counted, after.next_offset) == (len(values), len(values))
    assert all(message.reason and 0 < message.offset <= len(messages) for message in refused)
    assert after.tombstones == messages.count(None)
    assert _ever(plan, store, START + 9 * HOUR) >= 2


def test_too_much_poison_stops_the_stream(plan: Plan) -> None:
    store = MemoryStore()
    partition = PartitionStream(_stream(plan, store)[0], "trips/0")
    partition.process(range(10), [b"?"] * 10)
    with pytest.raises(DataQualityError, match=r"11 of 11 messages of trips/0"):
        partition.process([10], [b"?"])
    # What was counted is stored all the same, so the same messages do not come again.
    assert PartitionStream(_stream(plan, store)[0], "trips/0").progress.next_offset == 11


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("drops", "counted"), [(True, 3), (False, 5)])
def test_late_events_are_those_behind_all_before_them(
    plan: Plan, drops: bool, counted: int, size: int
) -> None:
    hours = [0, 5, 4, 3, 2]
    store = MemoryStore()
    stream, _ = _stream(plan, store, EventPolicy(HOUR_US, drops_late=drops))
    partition = PartitionStream(stream, "trips/0")
    values = [_message(i, START + hour * HOUR) for i, hour in enumerate(hours)]
    for at in range(0, 5, size):
        partition.process(range(at, min(at + size, 5)), values[at : at + size])
    assert partition.progress.late == 2
    assert partition.progress.dropped == (2 if drops else 0)
    assert partition.progress.latest_us == int((START + 5 * HOUR).timestamp() * 1e6)
    assert _ever(plan, store, START + 9 * HOUR) == counted


def test_a_replayed_batch_changes_nothing_and_overwrites_its_log(
    plan: Plan, tmp_path: Path
) -> None:
    store = MemoryStore()
    values = [_message(i, START + i * HOUR) for i in range(10)]
    # An attempt that came to its log and no further.
    log = EventLog(tmp_path)
    crashed, _ = _stream(plan, MemoryStore(), log=log)
    PartitionStream(crashed, "trips/0").process(range(10), values)
    partition = PartitionStream(_stream(plan, store, log=log)[0], "trips/0")
    partition.process(range(4), values[:4])
    partition.process(range(2, 10), values[2:])
    partition.process(range(10), values)
    assert partition.progress.events == 10
    assert _ever(plan, store, START + 99 * HOUR) == 10
    files = sorted((tmp_path / "st_trip").iterdir())
    assert [file.name for file in files] == [f"trips-0-{first:020d}.parquet" for first in (0, 4)]
    logged = pl.concat([pl.read_parquet(file) for file in files])
    assert logged["__offset"].to_list() == list(range(10))
    # The log is a source like any other.
    spine = pl.DataFrame({"id": [1], NOW: [START + 99 * HOUR]})
    assert FeatureEngine(plan, {"st_trip": logged}).compute(spine)["trips_ever"].item() == 10


@pytest.mark.parametrize("logs", [True, False])
def test_a_writer_that_was_replaced_writes_nothing(plan: Plan, tmp_path: Path, logs: bool) -> None:
    store = MemoryStore()
    values = [_message(i, START) for i in range(6)]
    log = EventLog(tmp_path) if logs else None
    old = PartitionStream(_stream(plan, store, log=log)[0], "trips/0")
    new = PartitionStream(_stream(plan, store, log=log)[0], "trips/0")
    new.process(range(4), values[:4])
    with pytest.raises(ConflictError, match="advanced trips/0"):
        old.process(range(3), values[:3])
    kept = [pl.read_parquet(file).height for file in tmp_path.rglob("*.parquet")]
    assert kept == ([4] if logs else [])
    assert old.resume() == 4
    old.process(range(6), values)
    assert _ever(plan, store, START) == 6


@pytest.mark.parametrize(("keep", "fare"), [("first", 8 * 1.0), ("last", 1.0 + 7 * 3.0)])
def test_history_without_repeats(plan: Plan, tmp_path: Path, keep: str, fare: float) -> None:
    # Each event but the first comes again in the next file, one of them after the history.
    rows = [{"id": i, "rider_id": 1, "at": START + i * HOUR, "fare": 1.0} for i in range(8)]
    again = [row | {"fare": 3.0} for row in rows[1:]] + [rows[7] | {"at": START + 50 * HOUR}]
    missing = {"seats": pl.Int64, "paid": pl.Boolean, "note": pl.String, "tip": pl.Float64}
    nothing = [pl.lit(None, dtype).alias(name) for name, dtype in missing.items()]
    nothing.append(pl.lit(None, pl.Datetime("us", "UTC")).alias("until"))
    for number, part in enumerate([rows, again]):
        pl.DataFrame(part).with_columns(nothing).write_parquet(tmp_path / f"{number}.parquet")
    rule = {"st_trip": {"by": "id", "keep": keep}}
    files = {"type": "files", "tables": {"st_trip": tmp_path}, "deduplicate": rule}
    source = {"type": "kafka", "bootstrap_servers": "b", "topics": {"st_trip": "t"}}
    stores = {
        "batch_source": files,
        "streaming_source": source | {"history": START + 20 * HOUR},
    }
    recipe = FeaturesRecipe.model_validate(
        {"definitions": CLASSES, "feature_set": "st_rider", "feature_store": stores}
    )
    store = MemoryStore()
    stream, _ = _stream(plan, store, event_policy(recipe.kafka_source()))
    assert merge_history(recipe, store, stream.layout) == 8
    assert _ever(plan, store, START + 19 * HOUR) == 8
    (row,) = OnlineReader(store, plan, stream.layout).read([1], START + 19 * HOUR)
    assert row["spent__86400__"] == fare


def test_history_comes_first_and_no_event_twice(plan: Plan, tmp_path: Path) -> None:
    cut = START + 4 * HOUR
    rows = [{"id": i, "rider_id": 1, "at": START + i * HOUR, "fare": 1.0} for i in range(8)]
    missing = {"seats": pl.Int64, "paid": pl.Boolean, "note": pl.String, "tip": pl.Float64}
    nothing = [pl.lit(None, dtype).alias(name) for name, dtype in missing.items()]
    table = pl.DataFrame(rows).with_columns(nothing, until=pl.lit(None, pl.Datetime("us", "UTC")))
    for part in range(2):
        table.slice(part * 4, 4).write_parquet(tmp_path / f"{part}.parquet")
    source = {"type": "kafka", "bootstrap_servers": "b", "topics": {"st_trip": "t"}, "history": cut}
    files = {"type": "files", "tables": {"st_trip": tmp_path}}
    stores = {"batch_source": files, "streaming_source": source}
    recipe = FeaturesRecipe.model_validate(
        {"definitions": CLASSES, "feature_set": "st_rider", "feature_store": stores}
    )
    store = MemoryStore()
    stream, _ = _stream(plan, store, event_policy(recipe.kafka_source()))
    assert merge_history(recipe, store, stream.layout) == 5
    assert merge_history(recipe, store, stream.layout) == 0
    assert _ever(plan, store, START + 99 * HOUR) == 5
    partition = PartitionStream(stream, "t/0")
    partition.process(range(8), [_message(i, START + i * HOUR) for i in range(8)])
    assert (partition.progress.events, partition.progress.dropped) == (3, 5)
    assert _ever(plan, store, START + 99 * HOUR) == 8


def test_what_is_streamed_is_what_the_set_reads(plan: Plan) -> None:
    with pytest.raises(NotFoundError, match="reads no rows of 'st_nobody'"):
        check_streamed(plan, ["st_trip", "st_nobody"])
    with pytest.raises(UsageError, match="needs rows of 'st_trip'"):
        check_streamed(plan, [])


def test_security_reaches_the_client_and_nothing_else() -> None:
    topics = {"st_trip": "trips"}
    security = KafkaSecurity(
        protocol="sasl_ssl", username="ann", password="secret", ca_file=Path("ca.pem")
    )
    source = KafkaSource(bootstrap_servers="b:9092", topics=topics, security=security)
    settings = client_settings(source)
    assert settings["sasl.password"] == "secret"
    assert settings["ssl.ca.location"] == "ca.pem"
    assert "secret" not in repr(source)
    for wrong in ({"protocol": "sasl_ssl"}, {"username": "ann", "password": "x"}, {"ca_file": "x"}):
        with pytest.raises(ValidationError, match="belong"):
            KafkaSecurity(**wrong)


KILLS = 20
EVENTS = 3_000


@pytest.mark.faults(kills=KILLS, share=0.5)
def test_killed_at_twenty_times_no_event_is_lost_or_counted_twice(
    plan: Plan, tmp_path: Path, fault_seed: int
) -> None:
    chosen = random.Random(3 + fault_seed)
    event_times = [
        START + timedelta(seconds=60 * i + chosen.randint(-7_000, 0)) for i in range(EVENTS)
    ]
    values = [
        _message(i, at, rider_id=chosen.randint(1, 9), fare=chosen.random(), note=f"n{i % 7}")
        for i, at in enumerate(event_times)
    ]
    folder, log = str(tmp_path / "online"), str(tmp_path / "log")
    arguments = (folder, log, plan.model_dump_json(), values)
    kills = 0
    while True:
        consumer = start(consume, *arguments, kills)
        if kills == KILLS:
            consumer.join(120)
            break
        # After it has begun to store, at any point of a batch.
        _wait_for_progress(plan, folder)
        time.sleep(chosen.uniform(0, 0.05))
        assert consumer.pid is not None
        assert consumer.is_alive(), "the stream ended before it was killed often enough"
        os.kill(consumer.pid, signal.SIGKILL)
        consumer.join()
        kills += 1
    assert consumer.exitcode == 0

    store = EmbeddedStore(Path(folder))
    layout = build_layout(plan, ("st_trip",))
    place = ProgressKey.for_source(layout, "trips/0")
    assert place.read(store)[0].events == EVENTS
    logged = pl.read_parquet(tmp_path / "log" / "st_trip" / "*.parquet").sort("__offset")
    assert logged["__offset"].to_list() == list(range(EVENTS))
    now = max(event_times)
    spine = pl.DataFrame({"id": list(range(1, 10)), NOW: [now] * 9})
    truth = FeatureEngine(plan, {"st_trip": logged}).compute(spine).to_dicts()
    for found, row in zip(
        OnlineReader(store, plan, layout).read(range(1, 10), now), truth, strict=True
    ):
        assert found is not None
        assert differences(found, row) == {}


_seen: dict[str, int] = {}


def _wait_for_progress(plan: Plan, folder: str) -> None:
    """Until the new consumer has stored something after what the last one left."""
    store = EmbeddedStore(Path(folder))
    place = ProgressKey.for_source(build_layout(plan, ("st_trip",)), "trips/0")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        progress: PartitionProgress = place.read(store)[0]
        if (progress.next_offset or 0) > _seen.get(folder, 0):
            _seen[folder] = progress.next_offset or 0
            return
        time.sleep(0.002)
    raise AssertionError("no progress")
