"""Measuring on a machine that others use too: CPU seconds, the best of several turns."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Runs = Mapping[str, Callable[[], Any]]


def cpu_s() -> float:
    """CPU seconds of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_turn(runs: Runs, repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Least CPU seconds of each and its last result; in turn, so that a mood meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = cpu_s()
            results[name] = run()
            times[name].append(cpu_s() - start)
    return {name: round(min(taken), 4) for name, taken in times.items()}, results


def peak_bytes() -> int:
    """The most memory that this process has held; ``ru_maxrss`` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def circumstances(*packages: str) -> dict[str, Any]:
    """Date, machine and versions."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in packages},
    }


def wall_s(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds by the clock, and the result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def report(result: Mapping[str, Any], path: Path | None) -> None:
    """Print a result as JSON, and write it where a path is given."""
    text = json.dumps(result, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
