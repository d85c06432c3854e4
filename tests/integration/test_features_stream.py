"""Streams over a real broker: rebalances, poison, both stores, the command line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker import broker, make_topics, produce
from patience import patience
from redis_fixture import RedisServer
from same_values import differences

from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.errors import NotFoundError, StreamError
from sunloom.feature_store.online.registry import open_feature_set
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.job import StreamWorker, stream
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW
from sunloom.monitoring.skew import compare_streamed

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
CLASSES = ROOT / "tests" / "unit" / "features" / "stream_classes.py"
START = datetime(2026, 3, 1, tzinfo=UTC)
RIDERS = 40


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker(tmp_path_factory.mktemp("broker")) as address:
        yield address


def _recipe(
    tmp_path: Path, address: str, topic: str, online: str = "{type: embedded}", **more: Any
) -> Path:
    source = {
        "type": "kafka",
        "bootstrap_servers": address,
        "topics": {"st_trip": topic},
        "group": f"group-{topic}",
        "session_timeout_ms": 6_000,
        "batch_timeout_ms": 200,
        "lateness": "7d",
    }
    text = f"""
definitions: {CLASSES}
feature_set: st_rider
feature_store:
  batch_source: {{type: files, tables: {{}}}}
  online: {online}
  streaming_source: {json.dumps(source | more)}
paths: {{state: {tmp_path}/state, outputs: {tmp_path}/outputs}}
"""
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return file


def _load(file: Path) -> FeaturesRecipe:
    return load_config(FeaturesRecipe, recipe=file, conf_dir=ROOT / "conf").config


def _trips(numbers: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for number in numbers:
        chosen = random.Random(number)
        rows.append(
            {
                "id": number,
                "rider_id": chosen.randint(1, RIDERS),
                "at": START + timedelta(minutes=number + chosen.randint(-300, 0)),
                "fare": chosen.choice([None, round(chosen.uniform(1, 50), 2)]),
                "seats": chosen.randint(1, 4),
                "paid": chosen.choice([True, False, None]),
                "note": chosen.choice([None, "x", "y"]),
            }
        )
    return rows


def _encoded(rows: Sequence[dict[str, Any]]) -> list[tuple[bytes | None, bytes]]:
    return [
        (str(row["rider_id"]).encode(), json.dumps(row | {"at": row["at"].isoformat()}).encode())
        for row in rows
    ]


def _check(recipe: FeaturesRecipe, rows: Sequence[dict[str, Any]]) -> None:
    """Every rider's online state is what batch makes of the same rows."""
    plan = plan_of(str(CLASSES), "st_rider")
    schema = {"at": pl.Datetime("us", "UTC"), "fare": pl.Float64, "note": pl.String}
    table = pl.DataFrame(rows, schema_overrides=schema).with_columns(
        pl.lit(None, pl.String).alias("city_id"),
        pl.lit(None, pl.Float64).alias("tip"),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("until"),
    )
    now = max(row["at"] for row in rows) + timedelta(hours=1)
    ids = list(range(1, RIDERS + 1))
    spine = pl.DataFrame({"id": ids, NOW: [now] * len(ids)})
    truth = FeatureEngine(plan, {"st_trip": table}).compute(spine).to_dicts()
    definition = open_feature_set(open_online_store(recipe), "st_rider").definition
    assert definition is not None
    reader = definition.reader
    for rider, found, row in zip(ids, reader.read(ids, now), truth, strict=True):
        assert found is not None, rider
        assert differences(found, row) == {}, rider


def _until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


class _Running:
    """A consumer in a thread of its own."""

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self.worker = StreamWorker(recipe)
        self.has_ended = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.worker.run()
        self.has_ended = True

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join(20)
        assert self.has_ended


def test_consumers_join_and_leave_and_no_event_is_lost_or_counted_twice(
    brokers: str, tmp_path: Path
) -> None:
    make_topics(brokers, ["trips", "poison"], partitions=4)
    recipe = _load(_recipe(tmp_path, brokers, "trips", quarantine_topic="poison"))
    rows = _trips(range(6_000))
    first = _Running(recipe)
    produce(brokers, "trips", _encoded(rows[:2_000]))
    produce(brokers, "trips", [(b"p", b"not json"), (b"p", b'{"id": 1, "rider_id": 1}')])
    _until(lambda: first.worker.totals().events == 2_000)
    second = _Running(recipe)
    produce(brokers, "trips", _encoded(rows[2_000:4_000]))
    _until(lambda: second.worker.report().partitions == 2)
    _until(lambda: first.worker.totals().events == 4_000)
    first.stop()
    produce(brokers, "trips", _encoded(rows[4_000:]))
    _until(lambda: second.worker.totals().events == 6_000)
    second.stop()
    totals = second.worker.totals()
    assert (totals.events, totals.quarantined) == (6_000, 2)
    assert sum(totals.offsets.values()) == 6_002
    _check(recipe, rows)
    _check_poison(brokers)


@pytest.mark.faults(kills=2, share=0.06)
def test_a_consumer_killed_in_mid_stream_is_replaced_and_no_event_counts_twice(
    brokers: str, tmp_path: Path, fault_seed: int
) -> None:
    topic = f"killed-trips-{fault_seed}"
    make_topics(brokers, [topic], partitions=4)
    file = _recipe(tmp_path, brokers, topic, batch_size=50)
    recipe, rows, chosen = _load(file), _trips(range(16_000)), random.Random(7 + fault_seed)
    command = [str(Path(sys.executable).with_name("sunloom")), "features", "stream", str(file)]
    survivor = _Running(recipe)
    for part in (rows[:8_000], rows[8_000:]):
        before = survivor.worker.totals().events
        # A process of its own takes half of the partitions, and dies in the middle of its work.
        with (tmp_path / "killed.log").open("w") as log:
            victim = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        _until(lambda: survivor.worker.report().partitions == 2, 60)
        produce(brokers, topic, _encoded(part))
        enough = before + chosen.randint(1_000, 4_000)
        _until(lambda: survivor.worker.totals().events >= enough)  # noqa: B023
        victim.kill()
        victim.wait()
        left = before + len(part) - survivor.worker.totals().events
        assert left > 0, "it was killed too late"
        _until(lambda: survivor.worker.totals().events >= before + len(part), 60)  # noqa: B023
    survivor.stop()
    totals = survivor.worker.totals()
    assert (totals.events, sum(totals.offsets.values())) == (16_000, 16_000)
    _check(recipe, rows)


def _check_poison(brokers: str) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "look", "auto.offset.reset": "earliest"}
    )
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition

    consumer.assign([TopicPartition("poison", number, OFFSET_BEGINNING) for number in range(4)])
    found = []
    _until(lambda: bool(found.extend(consumer.consume(10, 0.2))) or len(found) == 2)
    consumer.close()
    by_value = {one.value(): dict(one.headers()) for one in found}
    assert by_value[b"not json"]["reason"].startswith(b"not JSON")
    lacking = by_value[b'{"id": 1, "rider_id": 1}']
    assert lacking["reason"] == b"at is missing"
    assert {one.key().decode().rsplit("/", 1)[0] for one in found} == {lacking["source"].decode()}


def test_the_command_streams_into_redis_as_its_log_has_it(
    brokers: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    make_topics(brokers, ["cli-trips"])
    prefix = f"stream-{uuid.uuid4().hex[:8]}:"
    online = json.dumps({"type": "redis", "url": redis_server.url, "prefix": prefix})
    file = _recipe(tmp_path, brokers, "cli-trips", online)
    rows = _trips(range(400))
    produce(brokers, "cli-trips", [*_encoded(rows), (None, b"?")])
    sunloom = str(Path(sys.executable).with_name("sunloom"))
    command = [sunloom, "features", "stream", str(file)]
    done = subprocess.run(
        [*command, "--until-end", "--json"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["events"], result["quarantined"], result["lag"]) == (400, 1, 0)
    quarantined = tmp_path / "outputs" / "features" / "st_rider" / "stream-quarantine.jsonl"
    entry = json.loads(quarantined.read_text())
    assert (entry["source"], entry["position"], entry["content"]) == ("cli-trips/0", 400, "?")
    recipe = _load(file)
    _check(recipe, rows)
    logged = pl.read_parquet(tmp_path / "outputs" / "features" / "st_rider" / "log" / "st_trip")
    assert sorted(json.loads(message)["id"] for message in logged["__message"]) == list(range(400))
    compared = compare_streamed(recipe, questions=200)
    assert (compared.differences, compared.questions) == (0, 200)
    # An event that the log lacks is found out.
    (tmp_path / "outputs/features/st_rider/log/st_trip").joinpath(
        f"cli-trips-0-{0:020d}.parquet"
    ).unlink()
    logged.slice(1).write_parquet(tmp_path / "outputs/features/st_rider/log/st_trip/x.parquet")
    assert compare_streamed(recipe, questions=200).passed is False


def test_a_broker_or_topic_that_is_not_there_is_named(brokers: str, tmp_path: Path) -> None:
    make_topics(brokers, ["some-trips"])
    with pytest.raises(NotFoundError, match="no topic 'same-trips'"):
        stream(_load(_recipe(tmp_path, brokers, "same-trips")), until_end=True)
    silent = _recipe(tmp_path, "127.0.0.1:1", "some-trips", answer_timeout_s=1.0)
    with pytest.raises(StreamError, match=r"127\.0\.0\.1:1 do not answer"):
        stream(_load(silent), until_end=True)


def test_a_group_of_actors_shares_the_partitions(
    brokers: str, ray_local: str, tmp_path: Path
) -> None:
    make_topics(brokers, ["ray-trips"], partitions=4)
    rows = _trips(range(1_000))
    produce(brokers, "ray-trips", _encoded(rows))
    recipe = _load(_recipe(tmp_path, brokers, "ray-trips"))
    result = stream(recipe, until_end=True, workers=2)
    assert (result.events, result.total.events) == (1_000, 1_000)
    _check(recipe, rows)
