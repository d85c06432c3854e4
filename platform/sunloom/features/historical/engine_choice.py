"""Who computes: this process where everything fits into memory, else the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.splits import chunks_of

EngineName = Literal["auto", "polars", "ray"]

# Measured at 10M events: reading, sorting and running sums hold the needed columns some 4 times,
# and a question its row with every output some 3 times.
_SOURCE_COPIES = 5
_ROW_COPIES = 3
_VALUE_BYTES = 8
# Other processes want memory too.
_SHARE = 0.6
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and the reason in words."""

    engine: Literal["polars", "ray"]
    why: str


def choose_engine(
    plan: Plan,
    sources: Mapping[str, Path],
    rows: int = 0,
    wanted: EngineName = "auto",
    available_bytes: int | None = None,
) -> EngineChoice:
    """The wanted engine; where that is ``auto``, this process if it has the memory.

    Args:
        plan: What to compute.
        sources: Namespace to the file or folder with its rows.
        rows: How many rows ask.
        wanted: ``auto``, ``polars`` or ``ray``.
        available_bytes: Memory that this process may use; asked of the system by default.
    """
    if wanted != "auto":
        return EngineChoice(wanted, f"engine: {wanted}")
    need = needed_bytes(plan, sources, rows)
    have = int(_SHARE * (available_bytes if available_bytes is not None else _available_bytes()))
    fits = need <= have
    figures = f"about {_shown(need)} needed, {_shown(have)} of memory to use"
    return EngineChoice("polars" if fits else "ray", figures)


def needed_bytes(plan: Plan, sources: Mapping[str, Path], rows: int) -> int:
    """Memory that one process would need, about."""
    read = sum(chunk.size for chunk in chunks_of(plan, sources))
    columns = len(plan.outputs) + len(plan.root.features)
    return _SOURCE_COPIES * read + _ROW_COPIES * _VALUE_BYTES * columns * rows


def _available_bytes() -> int:
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        # No limit, or no such file.
        return free
    return max(0, min(free, limit - used))


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
