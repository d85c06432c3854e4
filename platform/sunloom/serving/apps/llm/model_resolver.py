"""Which model names the language app answers to, read from the registry as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelRegistry, ModelVersion, open_registry
from sunloom.errors import NotFoundError

ADAPTER = "adapter"


@dataclass(frozen=True)
class BaseModel:
    """The base model that an engine holds.

    Attributes:
        name: What clients call it.
        source: Folder or hub id with its files.
        ref: ``name@version`` where the registry has it, else its name.
    """

    name: str
    source: str
    ref: str


@dataclass(frozen=True)
class Target:
    """What a requested name means now.

    Attributes:
        served: The name inside the engine.
        folder: The adapter's files; None for the base model.
    """

    served: str
    folder: Path | None = None


def find_base(settings: Settings) -> BaseModel | None:
    """The configured base model; None when it is a registry name that nothing bears yet."""
    wanted = settings.serving.llm.model
    if "/" in wanted or Path(wanted).is_dir():
        # A folder or a hub id, outside the registry.
        return BaseModel(Path(wanted).name, wanted, Path(wanted).name)
    registry = open_registry(settings)
    try:
        version = registry.get(wanted)
    except NotFoundError:
        return None
    return BaseModel(version.name, str(registry.path(version)), version.ref)


class ModelResolver:
    """Resolves names against the registry, each at most once a second.

    Args:
        registry: Where adapters are registered and promoted.
        base: The base model that the engine holds.
        cache_s: How long an answer is trusted.
    """

    def __init__(self, registry: ModelRegistry, base: BaseModel, cache_s: float = 1.0) -> None:
        self._registry = registry
        self.base = base
        self._targets = TtlCache[str, Target](cache_s)

    async def resolve(self, name: str) -> Target:
        """What ``name``, ``name@version`` or ``name@alias`` means at this moment.

        Raises:
            NotFoundError: Nothing that this engine can serve bears the name.
        """
        if name == self.base.name:
            return Target(self.base.name)
        return await self._targets.get_or_await(
            name, lambda: asyncio.to_thread(self._look_up, name)
        )

    def _look_up(self, ref: str) -> Target:
        name = ref.partition("@")[0]
        known = self.names()
        if name not in known:
            raise NotFoundError(
                f"There is no model {name!r}.", known=known, name=name, param="model"
            )
        try:
            version = self._registry.get(ref)
        except NotFoundError as error:
            error.param = "model"
            raise
        if name == self.base.name:
            return self._base_version(version)
        if not self._fits(version):
            raise NotFoundError(
                f"{version.ref} was trained on {version.lineage.get('base')!r}; "
                f"this engine holds {self.base.ref!r}.",
                "Train it again on that base, or deploy with the other one.",
                "model",
            )
        return Target(version.ref, self._registry.path(version))

    def _base_version(self, version: ModelVersion) -> Target:
        if version.ref != self.base.ref:
            raise NotFoundError(
                f"This engine holds {self.base.ref}, not {version.ref}.",
                "Start it again to serve another version of the base model.",
                "model",
            )
        return Target(self.base.name)

    def _fits(self, version: ModelVersion) -> bool:
        return version.kind == ADAPTER and version.lineage.get("base") == self.base.ref

    def names(self) -> list[str]:
        """The base model and every adapter that was trained on it."""
        return [self.base.name, *sorted({version.name for version in self.adapters()})]

    def adapters(self) -> list[ModelVersion]:
        """Versions that this engine can load."""
        return [version for version in self._registry.list(kind=ADAPTER) if self._fits(version)]

    def promoted(self) -> list[str]:
        """Names of adapters with a ``production`` alias."""
        names = dict.fromkeys(version.name for version in self.adapters())
        return [name for name in names if "production" in self._registry.aliases(name)]

    async def cards(self) -> list[dict[str, Any]]:
        """OpenAI's model list."""
        return await asyncio.to_thread(self._cards)

    def _cards(self) -> list[dict[str, Any]]:
        newest = {version.name: version for version in self.adapters()}
        adapters = [self._current(name, version) for name, version in sorted(newest.items())]
        return [_card(self.base.name, self.base.ref, None, 0), *adapters]

    def _current(self, name: str, newest: ModelVersion) -> dict[str, Any]:
        version = self._registry.get(name)
        shown = version if self._fits(version) else newest
        return _card(name, shown.ref, self.base.name, int(shown.created_at.timestamp()))


def build_directory(settings: Settings, base: BaseModel) -> ModelResolver:
    """The directory of these settings."""
    return ModelResolver(open_registry(settings), base)


def required_names(settings: Settings, directory: ModelResolver) -> Sequence[str]:
    """Models that must have answered once before the gateway calls itself ready."""
    adapters = settings.serving.llm.adapters or directory.promoted()
    return list(adapters) or [directory.base.name]


def _card(name: str, root: str, parent: str | None, created: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "sunloom",
        "root": root,
        "parent": parent,
    }
