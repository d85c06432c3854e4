"""Kafka: the consumer that stores what its partitions bring, settings of clients, quarantine."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from threading import Event
from typing import TYPE_CHECKING, Any

from sunloom.config.features import FeaturesRecipe, KafkaSource
from sunloom.core.telemetry import get_logger
from sunloom.errors import ConflictError, DependencyError, NotFoundError, StreamError
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.streaming.partition import (
    ClassStream,
    EventLog,
    PartitionStream,
)
from sunloom.feature_store.streaming.quarantine import quarantine_into_file, quarantine_into_topic
from sunloom.features.plan.polars_dtypes import epoch_us

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

_log = get_logger("features.streaming")
_REPORT_S = 1.0
_US = 1_000_000
Partition = tuple[str, int]
"""Topic and number."""
Batch = tuple[list[int], list[bytes | None]]
"""Offsets and values."""


@dataclass(frozen=True)
class EventCounts:
    """Counts of a stream's events.

    Attributes:
        events: Events merged.
        late: Events later than allowed.
        dropped: Events that were not merged.
        quarantined: Messages that could not be used.
        tombstones: Messages without a value: deleted keys of a compacted topic, no damage.
    """

    events: int = 0
    late: int = 0
    dropped: int = 0
    quarantined: int = 0
    tombstones: int = 0


@dataclass(frozen=True)
class ConsumerReport(EventCounts):
    """What a consumer has done since it started.

    Attributes:
        batches: Transactions.
        lag: Messages known to the broker and not yet stored.
        partitions: Partitions that are assigned to it.
        seconds: How long it has run.
    """

    batches: int = 0
    lag: int = 0
    partitions: int = 0
    seconds: float = 0.0


# The stored progress counts the same.
COUNTS = tuple(field.name for field in fields(EventCounts))
Listener = Callable[[ConsumerReport], None]


class StreamConsumer:
    """One member of the group; it is the only writer of the partitions assigned to it.

    Args:
        recipe: Brokers, topics and policies.
        store: The store of tiles and progress.
        layout: The layout of the tiles.

    Attributes:
        latest: The latest report.

    Raises:
        StreamError: No broker answers.
        NotFoundError: A topic does not exist.
    """

    def __init__(self, recipe: FeaturesRecipe, store: OnlineStore, layout: TileLayout) -> None:
        self._source = recipe.kafka_source()
        self._group = self._source.group or f"sunloom-{recipe.feature_set}"
        folder, policy = recipe.features_folder(), event_policy(self._source)
        log = EventLog(folder / "log") if self._source.keep_log else None
        if self._source.quarantine_topic:
            settings = client_settings(self._source) | {"acks": "all", "linger.ms": 5}
            quarantine = quarantine_into_topic(
                _client().Producer(settings),
                self._source.quarantine_topic,
                self._source.answer_timeout_s,
            )
        else:
            quarantine = quarantine_into_file(folder / "stream-quarantine.jsonl")
        self._streams = {
            topic: ClassStream(
                store, layout, namespace, policy=policy, quarantine=quarantine, log=log
            )
            for namespace, topic in self._source.topics.items()
            # No other topic is read: only an unavailable feature would need its events.
            if namespace in layout.streamed
        }
        self.latest = ConsumerReport()
        self._partitions: dict[Partition, PartitionStream] = {}
        self._at_end: set[Partition] = set()
        self._is_assigned = False
        self._counts: Counter[str] = Counter()
        self._stopping = Event()

    def stop(self) -> None:
        """Finish the current batch and leave the group; may be called from a signal handler."""
        self._stopping.set()

    def run(self, *, until_end: bool = False, listener: Listener | None = None) -> ConsumerReport:
        """Consume.

        Args:
            until_end: Whether to leave once every assigned partition has been read to its end.
            listener: Receives what was done, about once a second.
        """
        consumer = open_consumer(self._source, self._group)
        started = reported = time.monotonic()
        try:
            check_topics(consumer, self._source)
            consumer.subscribe(
                list(self._streams),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while not self._stopping.is_set():
                if until_end and self._is_assigned and self._at_end >= set(self._partitions):
                    break
                self._consume_batch(consumer)
                if time.monotonic() - reported >= _REPORT_S:
                    reported = time.monotonic()
                    self.latest = self._build_report(consumer, started)
                    if listener is not None:
                        listener(self.latest)
            self.latest = self._build_report(consumer, started)
            return self.latest
        finally:
            # Leaves the group at once, so that others need not wait for the session to time out.
            consumer.close()

    def _consume_batch(self, consumer: Consumer) -> None:
        timeout_s = self._source.batch_timeout_ms / 1_000
        # One call for a batch; ``poll`` would be one call per message.
        messages = consumer.consume(self._source.batch_size, timeout_s)
        for partition, batch in self._group_messages(messages).items():
            stream = self._partitions.get(partition)
            # A rebalance within the call may have taken the partition away.
            if stream is not None:
                self._process(consumer, partition, stream, batch)

    def _group_messages(self, messages: list[Any]) -> Mapping[Partition, Batch]:
        from confluent_kafka import KafkaError

        batches: defaultdict[Partition, Batch] = defaultdict(lambda: ([], []))
        for message in messages:
            error = message.error()
            if error is None:
                offsets, values = batches[message.topic(), message.partition()]
                offsets.append(message.offset())
                values.append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end.add((message.topic(), message.partition()))
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise StreamError(
                    f"{message.topic()}/{message.partition()}: the broker no longer has the "
                    f"stored offset ({error.str()}).",
                    "Messages are lost to this stream: write history from the batch source, and "
                    "stream under another group of features or from `start`.",
                )
            # Others are informational: librdkafka tries to recover from them by itself.
            elif error.fatal():
                raise StreamError(f"The stream cannot go on: {error.str()}")
        return batches

    def _process(
        self, consumer: Consumer, partition: Partition, stream: PartitionStream, batch: Batch
    ) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        before = stream.progress
        try:
            stream.process(*batch)
        except ConflictError as conflict:
            # A consumer that the group believed lost has come back: go on from what it stored.
            _log.warning("%s: %s", stream.source, conflict.message)
            consumer.seek(TopicPartition(*partition, self._start_offset(stream)))
            self._at_end.discard(partition)
            return
        finally:
            # Also after an error: too many bad messages raise it after their batch was stored.
            after = stream.progress
            for name in COUNTS:
                self._counts[name] += getattr(after, name) - getattr(before, name)
        self._counts["batches"] += 1
        # Committed to the broker for tools that show the group's lag; nothing here reads it.
        try:
            offset = TopicPartition(*partition, stream.progress.next_offset or 0)
            consumer.commit(offsets=[offset], asynchronous=True)
        except KafkaException as error:
            _log.debug("the broker did not take the commit: %s", error)

    def _start_offset(self, stream: PartitionStream) -> int:
        from confluent_kafka import OFFSET_BEGINNING, OFFSET_END

        stored = stream.resume()
        if stored is not None:
            return stored
        return int(OFFSET_BEGINNING if self._source.start == "earliest" else OFFSET_END)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The default assignors are eager: each assignment is the complete one.
        self._partitions.clear()
        self._at_end.clear()
        for partition in partitions:
            topic, number = partition.topic, partition.partition
            stream = PartitionStream(self._streams[topic], f"{topic}/{number}")
            self._partitions[topic, number] = stream
            # The store, not the broker, knows what has been merged.
            partition.offset = self._start_offset(stream)
        consumer.assign(partitions)
        self._is_assigned = True
        _log.info("assigned %d partitions of group %s", len(partitions), self._group)

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Every batch is stored before the next is read: there is nothing to flush.
        for partition in partitions:
            self._partitions.pop((partition.topic, partition.partition), None)
        self._is_assigned = False

    def _build_report(self, consumer: Consumer, started: float) -> ConsumerReport:
        from confluent_kafka import TopicPartition

        lag = 0
        for partition, stream in self._partitions.items():
            # Cached ones arrive with the messages: no request to the broker per report.
            place, offset = TopicPartition(*partition), stream.progress.next_offset
            low, high = consumer.get_watermark_offsets(place, cached=True)
            lag += max(0, high - (low if offset is None else offset))
        return ConsumerReport(
            **self._counts,
            lag=lag,
            partitions=len(self._partitions),
            seconds=round(time.monotonic() - started, 3),
        )


def event_policy(source: KafkaSource) -> EventPolicy:
    """The configured policy."""
    return EventPolicy(
        lateness_us=round(source.lateness.total_seconds() * _US),
        drops_late=source.late_policy == "drop",
        ahead_us=round(source.ahead.total_seconds() * _US),
        max_bad_share=source.max_bad_share,
        after_us=None if source.history is None else epoch_us(source.history),
    )


def client_settings(source: KafkaSource) -> dict[str, Any]:
    """The settings of librdkafka that every client of these brokers shares."""
    security = source.security
    settings: dict[str, Any] = {
        "bootstrap.servers": source.bootstrap_servers,
        "security.protocol": security.protocol,
        "client.id": "sunloom",
        # librdkafka writes to stderr otherwise.
        "logger": get_logger("features.kafka"),
        # Brokers close idle connections as a matter of course.
        "log.connection.close": False,
    }
    if security.username is not None and security.password is not None:
        settings["sasl.mechanism"] = security.mechanism
        settings["sasl.username"] = security.username
        settings["sasl.password"] = security.password.get_secret_value()
    files = {
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.certificate_file,
        "ssl.key.location": security.key_file,
    }
    settings |= {name: str(file) for name, file in files.items() if file is not None}
    if security.key_password is not None:
        settings["ssl.key.password"] = security.key_password.get_secret_value()
    return settings


def open_consumer(source: KafkaSource, group: str) -> Consumer:
    """A consumer of the group; offsets come from the store, so none is committed automatically."""
    consumer: Consumer = _client().Consumer(
        client_settings(source)
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "session.timeout.ms": source.session_timeout_ms,
            # Kafka recommends at most a third of the session's timeout.
            "heartbeat.interval.ms": max(1, source.session_timeout_ms // 4),
            # Reports the end of a partition, where a run until the end stops.
            "enable.partition.eof": True,
            # A stored offset that the broker no longer has is an error, never a silent gap.
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 262_144,
            "fetch.message.max.bytes": 8_388_608,
        }
    )
    return consumer


def check_topics(consumer: Consumer, source: KafkaSource) -> None:
    """Check that the brokers answer and have the source's topics.

    Raises:
        StreamError: No broker answers.
        NotFoundError: A topic does not exist.
    """
    from confluent_kafka import KafkaException

    topics = list(source.topics.values())
    if source.quarantine_topic:
        topics.append(source.quarantine_topic)
    try:
        known = consumer.list_topics(timeout=source.answer_timeout_s).topics
    except KafkaException as error:
        raise StreamError(
            f"The brokers at {source.bootstrap_servers} do not answer: {error.args[0].str()}",
            "Start them, or correct feature_store.streaming_source.bootstrap_servers.",
        ) from error
    for topic in topics:
        if topic not in known or known[topic].error is not None:
            raise NotFoundError(
                f"There is no topic {topic!r} at {source.bootstrap_servers}.",
                known=[name for name, topic in known.items() if topic.error is None],
                name=topic,
                param="topics",
            )


def _client() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise DependencyError(
            "Streams from Kafka need the package confluent-kafka.",
            "pip install 'sunloom[streaming]'",
        ) from error
    return confluent_kafka
