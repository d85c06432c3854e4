"""Record of `serve run` on this machine: its URL, and the process that stops it."""

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
class LocalStatus:
    """Status of a serving process on this machine.

    Attributes:
        url: URL of the gateway.
        pid: The process in the foreground.
        ready: Whether ``/readyz`` reports ready.
    """

    url: str
    pid: int
    ready: bool


@dataclass(frozen=True)
class ServingRecord:
    """The serving process of a state folder.

    Attributes:
        url: URL of the gateway.
        pid: The process in the foreground.
        born_s: Start time of that process, seconds since the epoch; a reused pid has another.
    """

    url: str
    pid: int
    born_s: float

    @classmethod
    @contextmanager
    def keep(cls, settings: Settings, url: str) -> Iterator[None]:
        """Record this process while the block runs."""
        import psutil

        from sunloom.core.files import write_atomic

        process = psutil.Process()
        record = cls(url, process.pid, process.create_time())
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
        # TypeError: a record with other fields, written by another version.
        except (OSError, ValueError, TypeError):
            return None
        return record if record.is_alive() else None

    def is_alive(self) -> bool:
        """Whether the recorded process still runs."""
        import psutil

        try:
            # Derived from the boot time, which adjustments of the clock shift a little.
            return bool(abs(psutil.Process(self.pid).create_time() - self.born_s) < 1.0)
        except psutil.NoSuchProcess:
            return False

    def status(self) -> LocalStatus:
        """The process, and whether its gateway reports ready."""
        import httpx

        try:
            is_ready = bool(httpx.get(f"{self.url}/readyz", timeout=10).is_success)
        except httpx.HTTPError:
            is_ready = False
        return LocalStatus(self.url, self.pid, is_ready)

    def end(self) -> None:
        """Stop the process and wait until it has ended."""
        import psutil

        if self.is_alive():
            process = psutil.Process(self.pid)
            # SIGTERM runs the clean-up of `serve run`; SIGKILL would leave HAProxy running.
            process.send_signal(signal.SIGTERM)
            process.wait(END_TIMEOUT_S)


def _path(settings: Settings) -> Path:
    return settings.paths.state / "serve.json"
