"""Processes that the tests' process has started, by their titles."""

from __future__ import annotations

import psutil


def children_titled(title: str) -> list[psutil.Process]:
    """Descendants whose command contains a text, such as ``ray::ServeReplica``.

    Their ``info`` has ``cmdline`` and ``memory_info``.
    """
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    # One that ends meanwhile has no command, and asking it for one would raise.
    return [
        process
        for process in psutil.process_iter(["cmdline", "memory_info"])
        if process.pid in own and title in " ".join(process.info["cmdline"] or [])
    ]
