"""Failures of a binding: what cannot be bound, and why."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from contextlib import contextmanager

from sunloom.errors import DefinitionError
from sunloom.features.plan.feature_sets import Unavailable


def dependent_reason(name: str | None, why: str) -> str:
    """The reason of what needs something else that is unavailable.

    Args:
        name: What it needs.
        why: Place and reason of that.
    """
    return f"it needs {name}, which is unavailable ({why})"


class Failures:
    """What could not be bound so far, in order, each with its first reason."""

    def __init__(self) -> None:
        self._unavailable: dict[str, Unavailable] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._unavailable

    def __getitem__(self, name: str) -> Unavailable:
        return self._unavailable[name]

    @property
    def records(self) -> tuple[Unavailable, ...]:
        """Every failure."""
        return tuple(self._unavailable.values())

    def add(self, error: DefinitionError, name: str = "") -> None:
        """Keep an error.

        Args:
            error: Why.
            name: Full name of what cannot be bound; by default what the error names.
        """
        name = name or error.param or error.file
        # Definitions may have been edited since another module read them.
        linecache.checkcache(error.file)
        self._unavailable.setdefault(
            name,
            Unavailable(
                feature=name,
                construct=linecache.getline(error.file, error.line or 0).strip(),
                file=error.file,
                line=error.line,
                reason=error.reason,
                hint=error.hint,
            ),
        )

    @contextmanager
    def record(self, name: str) -> Iterator[None]:
        """Keep the block's error as the failure of that name, and go on behind the block."""
        try:
            yield
        except DefinitionError as error:
            self.add(error, name)
