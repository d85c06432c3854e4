"""Cluster of one command, which leaves no process behind however the command ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sunloom.config.settings import Settings


@contextmanager
def cluster(settings: Settings, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Connect to the configured cluster, or start a private one that ends with the block.

    Args:
        settings: Which cluster.
        environment: Variables that workers need from their start.
    """
    from sunloom.core.cluster import connect, disconnect
    from sunloom.core.processes import interrupt_on_sigterm, own_processes

    # Ray is started inside both: a signal during the start must reach the clean-up too.
    with own_processes(), interrupt_on_sigterm():
        connect(settings, environment)
        try:
            # Ray has put its own handler in place, which exits at once.
            with interrupt_on_sigterm():
                yield
        finally:
            disconnect()
