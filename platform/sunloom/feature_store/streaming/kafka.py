"""The Kafka client: settings, and what goes wrong with brokers as errors that name them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunloom.config.features.streaming import KafkaSource
from sunloom.core.telemetry import get_logger
from sunloom.errors import DependencyError, NotFoundError, StreamError
from sunloom.feature_store.streaming.partition import Refused

if TYPE_CHECKING:
    from confluent_kafka import Consumer


def client_settings(source: KafkaSource) -> dict[str, Any]:
    """What every client of these brokers is told."""
    security = source.security
    settings: dict[str, Any] = {
        "bootstrap.servers": source.brokers,
        "security.protocol": security.protocol,
        "client.id": "sunloom",
        "logger": get_logger("features.kafka"),
        # Brokers close idle connections; that is no news.
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
    """A consumer of the group; places come from the store, so nothing is committed by itself."""
    consumer: Consumer = _client().Consumer(
        client_settings(source)
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "session.timeout.ms": source.session_timeout_ms,
            "heartbeat.interval.ms": max(1, source.session_timeout_ms // 4),
            "enable.partition.eof": True,
            # A stored place that the broker no longer has is an error, never a silent gap.
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

    wanted = [
        *source.topics.values(),
        *([source.quarantine_topic] if source.quarantine_topic else []),
    ]
    try:
        known = consumer.list_topics(timeout=source.answer_timeout_s).topics
    except KafkaException as error:
        raise StreamError(
            f"The brokers at {source.brokers} do not answer: {error.args[0].str()}",
            "Start them, or correct feature_store.streaming_source.brokers.",
        ) from error
    for topic in wanted:
        if topic not in known or known[topic].error is not None:
            raise NotFoundError(
                f"There is no topic {topic!r} at {source.brokers}.",
                known=[name for name, found in known.items() if found.error is None],
                name=topic,
                param="topics",
            )
    return {topic: len(known[topic].partitions) for topic in source.topics.values()}


def quarantine_into_topic(source: KafkaSource, topic: str) -> Callable[[Sequence[Refused]], None]:
    """Sends refused messages on as they came, with place and reason in headers."""
    producer = _client().Producer(client_settings(source) | {"acks": "all", "linger.ms": 5})

    def refuse(refused: Sequence[Refused]) -> None:
        for one in refused:
            producer.produce(
                topic,
                value=one.value,
                # A replay sends the same key again.
                key=f"{one.source}/{one.offset}",
                headers={"reason": one.reason, "source": one.source, "offset": str(one.offset)},
            )
        if left := producer.flush(source.answer_timeout_s):
            raise StreamError(
                f"{left} messages could not be sent to the quarantine topic {topic!r}.",
                "The batch that they came in is not stored; it comes again.",
            )

    return refuse


def quarantine_into_file(file: Path) -> Callable[[Sequence[Refused]], None]:
    """Appends refused messages to a JSON-lines file; a replay appends them again."""

    def refuse(refused: Sequence[Refused]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            for one in refused:
                content = None if one.value is None else one.value.decode(errors="backslashreplace")
                entry = {"source": one.source, "position": one.offset, "reason": one.reason}
                lines.write(json.dumps(entry | {"content": content}) + "\n")

    return refuse


def _client() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise DependencyError(
            "Streams from Kafka need the package confluent-kafka.",
            "pip install 'sunloom[streaming]'",
        ) from error
    return confluent_kafka
