"""Custom checks: plugins of the entry point group ``sunloom.checks``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import polars as pl

from sunloom.core.plugins import load_plugin
from sunloom.errors import PluginError

GROUP = "sunloom.checks"


@runtime_checkable
class CustomCheck(Protocol):
    """A plugin of group ``sunloom.checks``: says which rows pass.

    It is called with some consecutive rows at a time and must judge each by itself.
    """

    def __call__(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.Series:
        """True where a row passes, False where it fails, null where it is not checked.

        Args:
            rows: Columns in their declared types.
            options: ``options`` of the recipe.
        """
        ...


def failing_rows(name: str, rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.Series:
    """Rows that the plugin refuses: True where a row fails.

    Raises:
        NotFoundError: There is no such plugin.
        PluginError: It raised, or did not return one truth value a row.
    """
    check: CustomCheck = load_plugin(GROUP, name, CustomCheck)
    try:
        passing = check(rows, options)
    # The plugin is the user's code: whatever it raises, the error must name the check.
    except Exception as error:
        raise PluginError(f"Check {name!r} failed: {type(error).__name__}: {error}") from error
    is_mask = isinstance(passing, pl.Series) and passing.dtype == pl.Boolean
    if not is_mask or len(passing) != len(rows):
        raise PluginError(
            f"Check {name!r} must return a Boolean series of {len(rows)} values.",
            "True where a row passes.",
        )
    # Null stays null: a row that the plugin does not check does not fail either.
    return ~passing
