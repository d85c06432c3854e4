"""Which number format this machine multiplies fastest in: measured, never assumed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

_SIZE = 512
_TURNS, _SECONDS, _LONGEST_S = 3, 0.05, 0.5
# A ratio that no further turn would change.
_CLEAR = 4.0
# Below this gain the lower precision is not worth having.
_WORTHWHILE = 1.3


@dataclass(frozen=True)
class DtypeProbe:
    """What a short matrix product measured.

    Attributes:
        dtype: ``bfloat16`` or ``float32``.
        float32_gflops: Thousand million operations a second in float32.
        bfloat16_gflops: The same in bfloat16.
        device: ``cpu`` or the GPU's name.
    """

    dtype: str
    float32_gflops: float
    bfloat16_gflops: float
    device: str


def probe_dtype(state: Path | None = None) -> DtypeProbe:
    """Multiply two matrices in float32 and in bfloat16 for a moment and choose.

    Args:
        state: State folder; when given, the finding is written to ``dtype_probe.json`` there.
    """
    probe = _measure()
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        (state / "dtype_probe.json").write_text(json.dumps(asdict(probe), indent=1))
    return probe


@cache
def _measure() -> DtypeProbe:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    single = half = 0.0
    # By turns, and the best of each: what else the machine does in a moment must not decide.
    for _ in range(_TURNS):
        single = max(single, _gflops("float32", device))
        half = max(half, _gflops("bfloat16", device))
        # Where bfloat16 is some 75 times slower, one turn shows it.
        if not 1 / _CLEAR < half / single < _CLEAR:
            break
    dtype = "bfloat16" if half > _WORTHWHILE * single else "float32"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return DtypeProbe(dtype, round(single, 1), round(half, 1), name)


def _gflops(dtype: str, device: str) -> float:
    import torch

    left, right = (
        torch.randn(_SIZE, _SIZE, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    # A GPU works while the processor waits. Of a processor only our own time counts: that of
    # other processes is not how fast this one is.
    clock, threads = time.process_time, torch.get_num_threads()
    if device == "cuda":
        clock, threads = time.perf_counter, 1
    # Not timed: the first one also loads kernels.
    _product(left, right)
    began, started, count, spent = time.perf_counter(), clock(), 0, 0.0
    while count == 0 or (spent < _SECONDS and time.perf_counter() - began < _LONGEST_S):
        _product(left, right)
        count += 1
        spent = (clock() - started) / threads
    return 2 * _SIZE**3 * count / spent / 1e9


def _product(left: object, right: object) -> None:
    import torch

    torch.mm(left, right)
    if torch.cuda.is_available():
        # A GPU call returns before its work is done.
        torch.cuda.synchronize()
