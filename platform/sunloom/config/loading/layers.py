"""The merged tree of all configuration layers, with the layer that set each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Layers:
    """Layers merged so far.

    Attributes:
        tree: The merged values.
        origins: Dotted key to the layer that set it.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, data: Mapping[str, Any], origin: str) -> None:
        """Merge a layer over the ones below it: sections key by key, other values whole."""
        self._merge(self.tree, data, origin, ())

    def set(self, path: Sequence[str], value: Any, origin: str) -> None:
        """Merge one value: the layer of a variable or of a ``--set``."""
        for part in reversed(path):
            value = {part: value}
        self.add(value, origin)

    def _merge(
        self, into: dict[str, Any], data: Mapping[str, Any], origin: str, parent: tuple[str, ...]
    ) -> None:
        for key, value in data.items():
            path = (*parent, str(key))
            below = into.get(key)
            if (
                isinstance(value, Mapping)
                and isinstance(below, dict)
                and not _changes_variant(below, value)
            ):
                self._merge(below, value, origin, path)
                continue
            # A section that is replaced as a whole takes its keys' origins with it.
            self._forget_origins(path)
            self.origins[".".join(path)] = origin
            if isinstance(value, Mapping):
                # A section of its own: the layer's data must not change with later layers.
                into[key] = {}
                self._merge(into[key], value, origin, path)
            else:
                into[key] = value

    def _forget_origins(self, path: tuple[str, ...]) -> None:
        prefix = ".".join(path) + "."
        for key in [key for key in self.origins if key.startswith(prefix)]:
            del self.origins[key]


def _changes_variant(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether ``type:`` changes: the old variant's keys would not fit the new one."""
    return "type" in value and "type" in below and value["type"] != below["type"]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf, in order."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{dotted}.")
        else:
            yield dotted, value
