"""The base class of every configuration section and recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Base of every configuration class: frozen, closed, documented in place."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def keys_of_all_kinds(cls) -> frozenset[str]:
        """Top-level keys that an environment variable may set without being a mistake.

        A root class with several kinds of recipes overrides it: a variable in the shell may be
        meant for a recipe of another kind.
        """
        return frozenset(cls.model_fields)
