"""Consumes topics as one member of a group, until their end or until it is told to stop."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.config.features.streaming import KafkaSource
from sunloom.core.telemetry import get_logger
from sunloom.errors import ConflictError, StreamError
from sunloom.feature_store.online.tile_windows import microseconds
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.online.tiles.policy import Policy
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.streaming.event_log import EventLog
from sunloom.feature_store.streaming.kafka import (
    check_topics,
    open_consumer,
    quarantine_into_file,
    quarantine_into_topic,
)
from sunloom.feature_store.streaming.partition import ClassStream, PartitionStream

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

_log = get_logger("features.streaming")
_REPORT_S = 1.0
_US = 1_000_000
Partition = tuple[str, int]
Batch = tuple[list[int], list[bytes | None]]
"""Offsets and values."""


@dataclass(frozen=True)
class ConsumerReport:
    """What a consumer did since it began.

    Attributes:
        events: Events merged.
        late: Events later than allowed.
        dropped: Late events left out.
        quarantined: Messages that could not be used.
        batches: Transactions.
        lag: Messages known to the broker and not yet stored.
        partitions: Partitions that it has now.
        seconds: How long it has run.
    """

    events: int = 0
    late: int = 0
    dropped: int = 0
    quarantined: int = 0
    batches: int = 0
    lag: int = 0
    partitions: int = 0
    seconds: float = 0.0


class StreamConsumer:
    """One member of the group: every partition that it is given has this one writer.

    Args:
        recipe: Brokers, topics and policies.
        store: Where tiles and places lie.
        layout: What to keep.
        report: Receives what was done, about once a second.

    Raises:
        StreamError: No broker answers.
        NotFoundError: A topic does not exist.
    """

    def __init__(
        self,
        recipe: FeaturesRecipe,
        store: OnlineStore,
        layout: TileLayout,
        report: Callable[[ConsumerReport], None] | None = None,
    ) -> None:
        self._source = recipe.kafka_source()
        self._group = self._source.group or f"sunloom-{recipe.feature_set}"
        self._streams = class_streams(recipe, store, layout)
        self._report = report or (lambda _: None)
        self._partitions: dict[Partition, PartitionStream] = {}
        self._at_end: set[Partition] = set()
        self._is_assigned = False
        self._totals: defaultdict[str, int] = defaultdict(int)
        self._stopping = Event()
        self._failed: StreamError | None = None

    def stop(self) -> None:
        """Finish the batch at hand and leave the group; may be called from a signal handler."""
        self._stopping.set()

    def run(self, *, until_end: bool = False) -> ConsumerReport:
        """Consume.

        Args:
            until_end: Whether to leave once every partition at hand has been read to its end.
        """
        consumer = open_consumer(self._source, self._group)
        began = reported = time.monotonic()
        try:
            check_topics(consumer, self._source)
            consumer.subscribe(
                list(self._source.topics.values()),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
            while not self._stopping.is_set() and not (until_end and self._is_done()):
                self._step(consumer)
                if time.monotonic() - reported >= _REPORT_S:
                    reported = time.monotonic()
                    self._report(self._state(consumer, began))
            return self._state(consumer, began)
        finally:
            consumer.close()

    def _is_done(self) -> bool:
        return self._is_assigned and self._at_end >= set(self._partitions)

    def _step(self, consumer: Consumer) -> None:
        timeout_s = self._source.batch_timeout_ms / 1_000
        found = consumer.consume(self._source.batch_size, timeout_s)
        if self._failed is not None:
            raise self._failed
        for partition, batch in self._sorted(found).items():
            stream = self._partitions.get(partition)
            # A rebalance within the call may have taken the partition away.
            if stream is not None:
                self._process(consumer, partition, stream, batch)

    def _sorted(self, found: list[Any]) -> Mapping[Partition, Batch]:
        from confluent_kafka import KafkaError

        batches: defaultdict[Partition, Batch] = defaultdict(lambda: ([], []))
        for message in found:
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
                    f"stored place ({error.str()}).",
                    "Messages are lost to this stream: write history from the batch source, and "
                    "stream under another group of features or from `start`.",
                )
            elif error.fatal():
                raise StreamError(f"The stream cannot go on: {error.str()}")
        return batches

    def _process(
        self,
        consumer: Consumer,
        partition: Partition,
        stream: PartitionStream,
        batch: Batch,
    ) -> None:
        before = stream.progress
        try:
            stream.process(*batch)
        except ConflictError as conflict:
            _log.warning("%s: %s", stream.source, conflict.message)
            self._seek(consumer, partition, stream)
            return
        finally:
            after = stream.progress
            for name in ("events", "late", "dropped", "quarantined"):
                self._totals[name] += getattr(after, name) - getattr(before, name)
        self._totals["batches"] += 1
        self._commit(consumer, partition, stream)

    def _commit(self, consumer: Consumer, partition: Partition, stream: PartitionStream) -> None:
        """For who watches the group's lag at the broker; nothing here reads it."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            place = TopicPartition(*partition, stream.progress.next_offset or 0)
            consumer.commit(offsets=[place], asynchronous=True)
        except KafkaException as error:
            _log.debug("the broker did not take the commit: %s", error)

    def _seek(self, consumer: Consumer, partition: Partition, stream: PartitionStream) -> None:
        from confluent_kafka import TopicPartition

        consumer.seek(TopicPartition(*partition, self._start(stream)))
        self._at_end.discard(partition)

    def _start(self, stream: PartitionStream) -> int:
        from confluent_kafka import OFFSET_BEGINNING, OFFSET_END

        stored = stream.resume()
        if stored is not None:
            return stored
        return int(OFFSET_BEGINNING if self._source.start == "earliest" else OFFSET_END)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._partitions.clear()
        self._at_end.clear()
        for one in partitions:
            stream = PartitionStream(self._streams[one.topic], f"{one.topic}/{one.partition}")
            self._partitions[one.topic, one.partition] = stream
            one.offset = self._start(stream)
        consumer.assign(partitions)
        self._is_assigned = True
        _log.info("assigned %d partitions of group %s", len(partitions), self._group)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Nothing is held back between batches, so there is nothing to finish."""
        for one in partitions:
            self._partitions.pop((one.topic, one.partition), None)
        self._is_assigned = False

    def _state(self, consumer: Consumer, began: float) -> ConsumerReport:
        lag = 0
        for (topic, number), stream in self._partitions.items():
            lag += _lag(consumer, topic, number, stream.progress.next_offset)
        return ConsumerReport(
            **self._totals,
            lag=lag,
            partitions=len(self._partitions),
            seconds=round(time.monotonic() - began, 3),
        )


def _lag(consumer: Consumer, topic: str, partition: int, next_offset: int | None) -> int:
    from confluent_kafka import TopicPartition

    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
    return max(0, high - (low if next_offset is None else next_offset))


def class_streams(
    recipe: FeaturesRecipe, store: OnlineStore, layout: TileLayout
) -> dict[str, ClassStream]:
    """Topic to its class's stream."""
    source = recipe.kafka_source()
    folder = recipe.features_folder()
    refuse = (
        quarantine_into_topic(source, source.quarantine_topic)
        if source.quarantine_topic
        else quarantine_into_file(folder / "stream-quarantine.jsonl")
    )
    log = EventLog(folder / "log") if source.keep_log else None
    return {
        topic: ClassStream(store, layout, namespace, policy_of(source), refuse, log)
        for namespace, topic in source.topics.items()
    }


def policy_of(source: KafkaSource) -> Policy:
    """The configured policies."""
    return Policy(
        lateness_us=round(source.lateness.total_seconds() * _US),
        drops_late=source.late_policy == "drop",
        ahead_us=round(source.ahead.total_seconds() * _US),
        max_bad_share=source.max_bad_share,
        after_us=None if source.history is None else microseconds(source.history),
    )
