"""What a third party ships: an alert sink, a conversation source and a tracker."""

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


class MemoTracker:
    """Writes each step into a file of the run's folder."""

    def __init__(self, directory: Path, steps_done: int) -> None:
        self._path = directory / f"memo-from-{steps_done}"

    def log(self, progress: Any) -> None:
        with self._path.open("a") as memo:
            memo.write(f"{progress.step} {progress.loss}\n")

    def close(self) -> None:
        with self._path.open("a") as memo:
            memo.write("end\n")


MEMO = MemoSink()
