"""The hash by which an artifact of the same recipe and inputs is found again."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(*parts: Any) -> str:
    """A short stable hash of plain data: equal inputs, equal artifact."""
    # Registered artifacts are found by this text's hash: any change of its form orphans them.
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
