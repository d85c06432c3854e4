"""Types of the NumPy arrays that rooms exchange; NumPy alone is imported, so trials start fast."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
"""Float64; missing values are NaN."""
IntArray: TypeAlias = NDArray[np.int64]
"""Int64: codes, positions and counts."""
