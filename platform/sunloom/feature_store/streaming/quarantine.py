"""Messages of a stream that cannot be used: where they go, with position and reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sunloom.errors import StreamError

if TYPE_CHECKING:
    from confluent_kafka import Producer


@dataclass(frozen=True)
class RejectedMessage:
    """A message that cannot be used, and why."""

    source: str
    offset: int
    reason: str
    value: bytes | None


Quarantine = Callable[[Sequence[RejectedMessage]], None]


def quarantine_into_topic(producer: Producer, topic: str, timeout_s: float) -> Quarantine:
    """Sends rejected messages on unchanged, with offset and reason in headers."""

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
        if left := producer.flush(timeout_s):
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
                value = message.value
                entry = {
                    "source": message.source,
                    "position": message.offset,
                    "reason": message.reason,
                    "content": None if value is None else value.decode(errors="backslashreplace"),
                }
                lines.write(json.dumps(entry) + "\n")

    return quarantine
