"""What a third party ships: an alert sink and a conversation source, reached by entry point."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class MemoSink:
    """Appends alerts to the file that ``SUNLOOM_TEST_MEMO`` names."""

    def send(self, alert: Any) -> None:
        with Path(os.environ["SUNLOOM_TEST_MEMO"]).open("a") as memo:
            memo.write(json.dumps({"name": alert.name, "message": alert.message}) + "\n")


class WeatherConversations:
    """A source with one conversation."""

    def train(self, n: int, seed: int) -> list[Any]:
        return self._make(n, seed)

    def held_out(self, n: int, seed: int) -> list[Any]:
        return self._make(n, seed + 1)

    def _make(self, n: int, seed: int) -> list[Any]:
        from sunloom.llm.conversations import Conversation

        messages = [
            {"role": "user", "content": f"Will it rain on day {seed}?"},
            {"role": "assistant", "content": "It may."},
        ]
        return [Conversation(messages=messages, tools=[]) for _ in range(n)]


MEMO = MemoSink()
