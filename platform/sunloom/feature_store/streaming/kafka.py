"""Kafka clients: their settings, checks of brokers and topics, and the quarantine of messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunloom.config.features import KafkaSource
from sunloom.core.telemetry import get_logger
from sunloom.errors import DependencyError, NotFoundError, StreamError
from sunloom.feature_store.streaming.partition import Quarantine, RejectedMessage

if TYPE_CHECKING:
    from confluent_kafka import Consumer


def client_settings(source: KafkaSource) -> dict[str, Any]:
    """The settings of librdkafka that every client of these brokers shares."""
    security = source.security
    settings: dict[str, Any] = {
        "bootstrap.servers": source.brokers,
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


def check_topics(consumer: Consumer, source: KafkaSource) -> dict[str, int]:
    """Topic to its number of partitions.

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
            f"The brokers at {source.brokers} do not answer: {error.args[0].str()}",
            "Start them, or correct feature_store.streaming_source.brokers.",
        ) from error
    for topic in topics:
        if topic not in known or known[topic].error is not None:
            raise NotFoundError(
                f"There is no topic {topic!r} at {source.brokers}.",
                known=[name for name, topic in known.items() if topic.error is None],
                name=topic,
                param="topics",
            )
    return {topic: len(known[topic].partitions) for topic in source.topics.values()}


def quarantine_into_topic(source: KafkaSource, topic: str) -> Quarantine:
    """Sends rejected messages on unchanged, with offset and reason in headers."""
    producer = _client().Producer(client_settings(source) | {"acks": "all", "linger.ms": 5})

    def quarantine(messages: Sequence[RejectedMessage]) -> None:
        for message in messages:
            producer.produce(
                topic,
                value=message.value,
                # A replayed batch sends the same key: compaction keeps one of them.
                key=f"{message.source}/{message.offset}",
                headers={
                    "reason": message.reason,
                    "source": message.source,
                    "offset": str(message.offset),
                },
            )
        if left := producer.flush(source.answer_timeout_s):
            raise StreamError(
                f"{left} messages could not be sent to the quarantine topic {topic!r}.",
                "Their batch is not stored; it will be read again.",
            )

    return quarantine


def quarantine_into_file(file: Path) -> Quarantine:
    """Appends rejected messages to a JSON-lines file; a replay appends them again."""

    def quarantine(messages: Sequence[RejectedMessage]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            for message in messages:
                content = (
                    None
                    if message.value is None
                    else message.value.decode(errors="backslashreplace")
                )
                entry = {
                    "source": message.source,
                    "position": message.offset,
                    "reason": message.reason,
                }
                lines.write(json.dumps(entry | {"content": content}) + "\n")

    return quarantine


def _client() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise DependencyError(
            "Streams from Kafka need the package confluent-kafka.",
            "pip install 'sunloom[streaming]'",
        ) from error
    return confluent_kafka
