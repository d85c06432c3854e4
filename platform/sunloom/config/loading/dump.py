"""A configuration as plain data: secrets masked for files and screens, or in clear for a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from sunloom.config.loading.model import Model


def dump_masked(config: Model) -> dict[str, Any]:
    """The configuration as plain data; a ``SecretStr`` shows as asterisks."""
    return config.model_dump(mode="json")


def dump_with_secrets(config: Model) -> dict[str, Any]:
    """The configuration as plain data with secrets in clear, to hand to a worker in memory."""
    return {name: _plain(getattr(config, name)) for name in type(config).model_fields}


def save_resolved(config: Model, directory: Path) -> Path:
    """Write the resolved configuration as ``config.resolved.yaml``, secrets masked."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.resolved.yaml"
    path.write_text(yaml.safe_dump(dump_masked(config), sort_keys=False))
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
