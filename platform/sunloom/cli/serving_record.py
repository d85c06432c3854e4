"""What `serve run` holds on this machine: its URL, and the process that stops it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sunloom.config.settings import Settings

END_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ServingRecord:
    """A serving process of this state folder.

    Attributes:
        url: The gateway.
        pid: The process in the foreground.
        born_s: When that process began; a reused pid has another time.
    """

    url: str
    pid: int
    born_s: float

    @classmethod
    @contextmanager
    def held(cls, settings: Settings, url: str) -> Iterator[None]:
        """Record this process while the block runs."""
        import psutil

        from sunloom.core.files import write_atomic

        own = psutil.Process()
        record = cls(url, own.pid, own.create_time())
        write_atomic(_path(settings), json.dumps(asdict(record)))
        try:
            yield
        finally:
            _path(settings).unlink(missing_ok=True)

    @classmethod
    def read(cls, settings: Settings) -> ServingRecord | None:
        """The record, if its process is alive."""
        try:
            record = cls(**json.loads(_path(settings).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.is_alive() else None

    def is_alive(self) -> bool:
        """Whether the recorded process still runs."""
        import psutil

        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.born_s) < 1.0)
        except psutil.NoSuchProcess:
            return False

    def is_ready(self) -> bool:
        """Whether the gateway says that it is ready."""
        import httpx

        try:
            return bool(httpx.get(f"{self.url}/readyz", timeout=10).is_success)
        except httpx.HTTPError:
            return False

    def end(self) -> None:
        """Ask the process to stop and wait until it has."""
        import psutil

        if self.is_alive():
            process = psutil.Process(self.pid)
            process.send_signal(signal.SIGTERM)
            process.wait(END_TIMEOUT_S)


def _path(settings: Settings) -> Path:
    return settings.paths.state / "serve.json"
