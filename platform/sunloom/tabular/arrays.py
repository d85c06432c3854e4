"""The array type that this room computes with; kept apart so that trials import NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
"""Float64; missing values are NaN."""
