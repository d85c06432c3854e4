"""A command's work on Ray, which leaves nothing behind however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sunloom.config.settings import Settings


@contextmanager
def cluster(settings: Settings) -> Iterator[None]:
    """Connect to the configured cluster, or start a private one that ends with the block."""
    from sunloom.core.cluster import connect, disconnect
    from sunloom.core.processes import interrupt_on_sigterm, own_processes

    with own_processes(), interrupt_on_sigterm():
        connect(settings)
        try:
            yield
        finally:
            disconnect()
