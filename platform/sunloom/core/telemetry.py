"""Logs and progress; alerts lie in ``alerts``. Nothing leaves the machine unless a sink says so."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from sunloom.config import Settings

if TYPE_CHECKING:
    from rich.console import Console

# Off before any of these libraries is imported: they read the variables at import.
QUIET_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # A table's progress is ours to show; Ray Data prints a page a step.
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "ANONYMIZED_TELEMETRY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DS_DISABLE_TELEMETRY": "1",
    # It heeds DO_NOT_TRACK only where that is "true".
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Threads of the tokenizers library can deadlock in forked processes.
    "TOKENIZERS_PARALLELISM": "false",
    # Tasks without a GPU keep CUDA_VISIBLE_DEVICES as it is (ray-project/ray#54868).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Its GPU kernels do not load on a CPU, and it says so once a process.
    "TORCHAO_FORCE_SKIP_LOADING_SO_FILES": "1",
}

# Loggers whose chatter hides our own lines; their errors still show.
_CHATTY = ("torch.utils._pytree", "torchao", "ray.serve")


def silence_libraries() -> None:
    """Turn off the telemetry of everything that Sunloom stands on; explicit settings win."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def get_logger(name: str) -> logging.Logger:
    """A logger below ``sunloom``."""
    return logging.getLogger(name if name.startswith("sunloom") else f"sunloom.{name}")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(entry)


class _ScreenHandler(logging.StreamHandler[TextIO]):
    """Looks up the stream at each line: it changes while libraries are kept off the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = screen()
        super().emit(record)


def configure_logging(settings: Settings) -> None:
    """Send ``sunloom`` logs to standard error in the configured form; safe to call again."""
    root = logging.getLogger("sunloom")
    root.setLevel(settings.telemetry.log_level.upper())
    for handler in list(root.handlers):
        root.removeHandler(handler)
    # Standard output is for results alone.
    handler = _ScreenHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonFormatter() if settings.telemetry.log_format == "json" else text)
    root.addHandler(handler)
    # A library that configures the root logger would print every line a second time.
    root.propagate = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


_screen: TextIO | None = None


def screen() -> TextIO:
    """Where people read what happens: standard error, also inside ``keep_libraries_off_screen``."""
    return _screen or sys.stderr


@cache
def screen_console(stream: TextIO) -> Console:
    """Rich's console on :func:`screen`: one a stream, since live displays nest in one only."""
    from rich.console import Console

    # Rich would colour every number.
    return Console(file=stream, highlight=False)


@contextmanager
def keep_libraries_off_screen(path: Path) -> Iterator[None]:
    """Write to a file what libraries print inside the block, Ray's processes included.

    What goes to :func:`screen` still reaches standard error.

    Args:
        path: The file; an earlier one is replaced.
    """
    global _screen
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # On the level of file descriptors: Ray's processes and C libraries write there directly.
    originals = {1: os.dup(1), 2: os.dup(2)}
    with (
        os.fdopen(os.dup(2), "w", buffering=1, errors="replace") as stream,
        path.open("w") as log,
    ):
        for number in originals:
            os.dup2(log.fileno(), number)
        _screen = stream
        try:
            yield
        finally:
            _screen = None
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in originals.items():
                os.dup2(original, number)
                os.close(original)


class ProgressBar(Protocol):
    """What long work reports to."""

    def advance(self, count: float = 1) -> None:
        """Count finished units."""

    def note(self, text: str) -> None:
        """Show a figure beside the bar."""


class _RichBar:
    def __init__(self, progress: Any, task: Any, description: str) -> None:
        self._progress, self._task, self._description = progress, task, description

    def advance(self, count: float = 1) -> None:
        self._progress.advance(self._task, count)

    def note(self, text: str) -> None:
        self._progress.update(self._task, description=f"{self._description}  {text}")


class _LogBar:
    def __init__(self, description: str, total: float) -> None:
        self._description, self._total = description, total
        self._done, self._next, self._text = 0.0, 0.25, ""

    def advance(self, count: float = 1) -> None:
        self._done += count
        # The sum of fractional counts may stay a rounding error below a quarter.
        while self._total and self._done / self._total >= self._next - 1e-9:
            share = f"{min(self._next, 1):.0%}"
            get_logger("progress").info("%s: %s %s", self._description, share, self._text)
            self._next += 0.25

    def note(self, text: str) -> None:
        self._text = text


@contextmanager
def progress_bar(description: str, total: float) -> Iterator[ProgressBar]:
    """A bar on a terminal; a log line each quarter elsewhere.

    Args:
        description: What is being done.
        total: Units of the whole work.
    """
    if not screen().isatty():
        yield _LogBar(description, total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(
        *columns, TimeRemainingColumn(), console=screen_console(screen()), transient=True
    )
    with progress as bars:
        yield _RichBar(bars, bars.add_task(description, total=total), description)
