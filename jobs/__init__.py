"""Entry points for ``ray job submit``; each runs from a shipped source tree."""

import sys
from pathlib import Path

# The library travels in the working directory and is not installed on the cluster.
_SOURCES = str(Path(__file__).resolve().parents[1] / "platform")
if _SOURCES not in sys.path:
    sys.path.insert(0, _SOURCES)
