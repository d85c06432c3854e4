"""The choice of an engine: this process where everything fits into memory, else the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sunloom.features.sources.scan import SourceScan

EngineName = Literal["auto", "polars", "ray"]

# Measured at 10M events: reading, sorting and running sums hold the needed columns some 4 times,
# and a query row with every output stands in memory some 3 times.
_SOURCE_COPIES = 5
_ROW_COPIES = 3
_VALUE_BYTES = 8
# Other processes need memory too.
_SHARE = 0.6
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and the reason in words."""

    engine: Literal["polars", "ray"]
    why: str


def choose_engine(
    scan: SourceScan,
    rows: int = 0,
    wanted: EngineName = "auto",
    available_bytes: int | None = None,
) -> EngineChoice:
    """The wanted engine; where that is ``auto``, this process if it has the memory.

    Args:
        scan: The plan and its sources.
        rows: Number of the query's rows.
        wanted: ``auto``, ``polars`` or ``ray``.
        available_bytes: Memory that this process may use; the system's figure by default.
    """
    if wanted != "auto":
        return EngineChoice(wanted, f"engine: {wanted}")
    need = needed_bytes(scan, rows)
    have = int(_SHARE * (available_bytes if available_bytes is not None else _available_bytes()))
    fits = need <= have
    figures = f"about {_size_text(need)} needed, {_size_text(have)} of memory to use"
    return EngineChoice("polars" if fits else "ray", figures)


def needed_bytes(scan: SourceScan, rows: int) -> int:
    """Memory that one process would need, about."""
    columns = len(scan.plan.outputs) + len(scan.plan.root.features)
    return _SOURCE_COPIES * scan.size_bytes + _ROW_COPIES * _VALUE_BYTES * columns * rows


def _available_bytes() -> int:
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        # Outside a container there is no such file, and "max" is no number.
        return free
    return max(0, min(free, limit - used))


def _size_text(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
