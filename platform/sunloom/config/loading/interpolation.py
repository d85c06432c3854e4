"""References in YAML values: ``${NAME}`` to the environment, ``${file:PATH}`` to a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sunloom.errors import ConfigError

_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


def resolve_references(
    value: Any, environ: Mapping[str, str], source: str, at: tuple[str, ...] = ()
) -> Any:
    """Replace references in every string of a tree.

    Args:
        value: Plain data as YAML gives it.
        environ: Environment for ``${NAME}``.
        source: The file, for the error.
        at: Path of ``value`` inside the file.

    Raises:
        ConfigError: A variable or file does not exist; names file, key and variable.
    """
    if isinstance(value, dict):
        return {
            key: resolve_references(item, environ, source, (*at, str(key)))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            resolve_references(item, environ, source, (*at, str(index)))
            for index, item in enumerate(value)
        ]
    if isinstance(value, str):
        # One pass: a secret that itself contains `${` is taken as it is.
        return _REFERENCE.sub(lambda match: _lookup(match, environ, source, at), value)
    return value


def _lookup(
    match: re.Match[str], environ: Mapping[str, str], source: str, at: tuple[str, ...]
) -> str:
    is_file, name = match.group(1), match.group(2).strip()
    key = ".".join(at)
    if is_file:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{source}, key {key}: there is no file {name!r}.", param=key)
        # A file of a secret often ends with a newline that is not part of it.
        return path.read_text().strip()
    if name not in environ:
        raise ConfigError(
            f"{source}, key {key}: the environment variable {name} is not set.",
            f"export {name}=… or write the value.",
            key,
        )
    return environ[name]
