"""Time limits of tests on a machine that is busy with something else."""

from __future__ import annotations

import os


def patience(seconds: float) -> float:
    """How long to wait now for what takes at most so many seconds where nothing else runs."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
