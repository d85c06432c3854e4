"""Paths of this machine in texts for others: only their last part is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A path begins with a folder of the root: /v1/models does not, though it looks alike.
_ROUTES = {"agents", "docs", "features", "keys", "llm", "models", "monitoring", "predict", "v1"}
_FOLDERS = sorted(path.name for path in Path("/").iterdir() if path.name not in _ROUTES)
_HOST_PATH = re.compile(
    rf"(?:file://)?(?<![\w.~:-])/(?:{'|'.join(map(re.escape, _FOLDERS))})"
    r"(?:/[^\s/'\",:;()\[\]{}<>|]+)*/([^\s/'\",:;()\[\]{}<>|]*)"
)


def hide_paths(text: str) -> str:
    """A text with the last part only of every path of this machine."""
    return _HOST_PATH.sub(r"…/\1", text) if "/" in text else text


def hide_paths_in(data: Any, below: Path | None = None) -> Any:
    """Plain data with no path of this machine in any of its texts.

    Args:
        data: What JSON can hold.
        below: A folder; paths in it are given relative to it.
    """
    if isinstance(data, str):
        return hide_paths(data.replace(f"{below}/", "") if below else data)
    if isinstance(data, Mapping):
        return {name: hide_paths_in(value, below) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [hide_paths_in(value, below) for value in data]
    return data
