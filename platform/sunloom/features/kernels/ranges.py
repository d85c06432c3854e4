"""Types that the kernels share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Array = NDArray[Any]


@dataclass(frozen=True)
class Ranges:
    """Half-open ranges of sorted rows, one a question."""

    start: Ints
    stop: Ints

    @property
    def counts(self) -> Ints:
        """Rows in each range."""
        return self.stop - self.start

    @classmethod
    def concatenated(cls, parts: Sequence[Ranges]) -> Ranges:
        """The ranges of all parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
        )

    def through(self, mask: Bools) -> Ranges:
        """The same ranges among the rows that the mask keeps."""
        kept = np.zeros(len(mask) + 1, dtype=np.int64)
        np.cumsum(mask, out=kept[1:])
        return Ranges(kept[self.start], kept[self.stop])
