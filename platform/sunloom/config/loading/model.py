"""The base class of every configuration section and recipe, and its plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr


class Model(BaseModel):
    """Base of every configuration class: frozen, closed, documented in place."""

    # Closed: with unknown keys allowed, a misspelt one would leave the default in force, unnoticed.
    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[Mapping[str, str]] = {}
    """Earlier name of a key to its present one: dotted where it moved into a section, and with a
    dot before it where it is one of the whole configuration."""

    @classmethod
    def keys_of_all_kinds(cls) -> frozenset[str]:
        """Top-level keys that an environment variable may set without being a mistake.

        A root class with several kinds of recipes overrides it: a variable in the shell may be
        meant for a recipe of another kind.
        """
        return frozenset(cls.model_fields)


def dump_with_secrets(config: Model) -> dict[str, Any]:
    """The configuration as plain data with secrets in clear, to hand to a worker in memory."""
    # pydantic's model_dump would leave SecretStr objects, or mask them in JSON mode.
    return {name: _plain(getattr(config, name)) for name in type(config).model_fields}


def dump_identity(config: Model, always: Collection[str], prefix: str = "") -> dict[str, Any]:
    """The configuration as plain data for a fingerprint: keys at their default are left out.

    So a new key changes no fingerprint until somebody sets it.

    Args:
        config: A configuration or one of its sections.
        always: Dotted keys that are written at their default too, because fingerprints from
            before this rule contain them. Elements of lists and mappings have their parent's key.
        prefix: Dotted key of ``config`` itself with a dot behind it.
    """
    identity: dict[str, Any] = _identity(config, config.model_dump(mode="json"), always, prefix)
    return identity


def _identity(value: Any, dumped: Any, always: Collection[str], prefix: str) -> Any:
    if isinstance(value, Model):
        return {
            name: _identity(getattr(value, name), dumped[name], always, f"{prefix}{name}.")
            for name, field in type(value).model_fields.items()
            # Variants at their defaults would be one without what tells them apart.
            if name == "type"
            or f"{prefix}{name}" in always
            # So a changed default leaves fingerprints as they were, unless `always` has the key.
            or getattr(value, name) != field.get_default(call_default_factory=True)
        }
    if isinstance(value, list | tuple):
        pairs = zip(value, dumped, strict=True)
        return [_identity(item, plain, always, prefix) for item, plain in pairs]
    if isinstance(value, dict):
        return {key: _identity(item, dumped[key], always, prefix) for key, item in value.items()}
    return dumped


RESOLVED = "config.resolved.yaml"
"""File in a run's folder with the configuration that it had."""


def save_resolved(config: Model, directory: Path) -> Path:
    """Write the resolved configuration as ``config.resolved.yaml``, secrets masked."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RESOLVED
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Model):
        return dump_with_secrets(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
