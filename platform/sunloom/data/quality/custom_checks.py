"""Checks that come in by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import polars as pl

from sunloom.core.plugins import load_plugin
from sunloom.errors import PluginError

GROUP = "sunloom.checks"


@runtime_checkable
class OwnCheck(Protocol):
    """A plugin of group ``sunloom.checks``: says which rows are right.

    It sees some consecutive rows at a time and must judge each by itself.
    """

    def __call__(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.Series:
        """True where a row passes, False where it fails, null where it is not judged.

        Args:
            rows: Columns in their declared types.
            options: ``options`` of the recipe.
        """
        ...


def failing_rows(name: str, rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.Series:
    """Which rows the plugin refuses.

    Raises:
        NotFoundError: There is no such plugin.
        PluginError: It raised, or its answer is not one truth value a row.
    """
    check: OwnCheck = load_plugin(GROUP, name, OwnCheck)
    try:
        answer = check(rows, options)
    except Exception as error:
        raise PluginError(f"Check {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(answer, pl.Series) or answer.dtype != pl.Boolean or len(answer) != len(rows):
        raise PluginError(
            f"Check {name!r} must give a Boolean series of {len(rows)} values.",
            "True where a row passes.",
        )
    return ~answer
