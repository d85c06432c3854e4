"""Which number format this machine multiplies fastest in: measured, never assumed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

_SIZE = 512
_SECONDS = 0.15
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
    single = _gflops("float32", device)
    # Where bfloat16 is some 75 times slower, the warm-up and one timed product already show it.
    half = _gflops("bfloat16", device)
    dtype = "bfloat16" if half > _WORTHWHILE * single else "float32"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return DtypeProbe(dtype, round(single, 1), round(half, 1), name)


def _gflops(dtype: str, device: str) -> float:
    import torch

    left, right = (
        torch.randn(_SIZE, _SIZE, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    _product(left, right)
    # The product above is not timed: the first one also loads kernels.
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _SECONDS:
        _product(left, right)
        count += 1
    return 2 * _SIZE**3 * count / spent / 1e9


def _product(left: object, right: object) -> None:
    import torch

    torch.mm(left, right)
    if torch.cuda.is_available():
        # A GPU call returns before its work is done.
        torch.cuda.synchronize()
