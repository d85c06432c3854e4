"""Resolver of model names to the base model and its adapters, following the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelRegistry, ModelVersion, open_registry
from sunloom.errors import NotFoundError, UsageError
from sunloom.llm.models import require_safetensors, served_by_merging

ADAPTER = "adapter"


@dataclass(frozen=True)
class BaseLanguageModel:
    """The base model of an engine.

    Attributes:
        name: Its name for clients.
        source: Folder or hub id with its files.
        ref: ``name@version`` if it is registered, else its name.
        further: Its number in ``serving.llm.models``; None is ``serving.llm.model``.
    """

    name: str
    source: str
    ref: str
    further: int | None = None


@dataclass(frozen=True)
class ResolvedModel:
    """The model that a requested name stands for now.

    Attributes:
        engine_name: Its name inside the engine.
        folder: The adapter's files; None for the base model.
    """

    engine_name: str
    folder: Path | None = None


def find_base(settings: Settings) -> BaseLanguageModel | None:
    """The configured base model; None if it is a registry name without a version yet."""
    try:
        return _locate(settings, settings.serving.llm.model)
    except NotFoundError:
        return None


def find_bases(settings: Settings) -> list[BaseLanguageModel]:
    """All base models, ``serving.llm.model`` first; none at all while that has no version.

    Raises:
        NotFoundError: A further one is a registry name without a version.
        UsageError: Two have the same name.
    """
    first = find_base(settings)
    if first is None:
        return []
    bases = [first]
    for number, further in enumerate(settings.serving.llm.models):
        found = _locate(settings, further.model)
        name = further.name or found.name
        if any(base.name == name for base in bases):
            raise UsageError(
                f"Two models are called {name!r}.",
                f"Set serving.llm.models[{number}].name.",
                f"serving.llm.models[{number}]",
            )
        bases.append(replace(found, name=name, further=number))
    return bases


def _locate(settings: Settings, model: str) -> BaseLanguageModel:
    if "/" in model or Path(model).is_dir():
        # A folder or a hub id, outside the registry.
        name = Path(model).name
        return BaseLanguageModel(name, source=model, ref=name)
    registry = open_registry(settings)
    version = registry.get(model)
    return BaseLanguageModel(version.name, source=str(registry.path(version)), ref=version.ref)


class ModelResolver:
    """Resolves names through the registry, each at most once a second.

    Readers are tenants, each of which knows its own adapters and the operator's; None, which the
    server itself is, knows every tenant's.

    Args:
        registry: Registry of the adapters and their aliases.
        base: The engine's base model.
        cache_s: Seconds that a resolved name is cached.
    """

    def __init__(
        self, registry: ModelRegistry, base: BaseLanguageModel, cache_s: float = 1.0
    ) -> None:
        self._registry = registry
        self.base = base
        self._resolved = TtlCache[tuple[str, str | None], ResolvedModel](cache_s)
        self._names = TtlCache[str | None, frozenset[str]](cache_s)

    async def knows(self, name: str, reader: str | None = None) -> bool:
        """Whether ``name``, ``name@version`` or ``name@alias`` is this engine's to resolve.

        Args:
            name: The requested name.
            reader: The tenant that requests it.
        """
        plain = name.partition("@")[0]
        if plain == self.base.name:
            return True
        names = await self._names.get_or_await(
            reader, lambda: asyncio.to_thread(lambda: frozenset(self.names(reader)))
        )
        return plain in names

    async def resolve(self, name: str, reader: str | None = None) -> ResolvedModel:
        """The model that ``name``, ``name@version`` or ``name@alias`` stands for now.

        Args:
            name: The requested name.
            reader: The tenant that requests it.

        Raises:
            NotFoundError: This engine serves no model of that name.
            UsageError: It is an adapter that is served merged into its base only.
        """
        # The most frequent name needs no look-up: an engine never changes its base model.
        if name == self.base.name:
            return ResolvedModel(self.base.name)
        return await self._resolved.get_or_await(
            (name, reader), lambda: asyncio.to_thread(self._look_up, name, reader)
        )

    def _look_up(self, ref: str, reader: str | None) -> ResolvedModel:
        name = ref.partition("@")[0]
        known = self.names(reader)
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
            if version.ref != self.base.ref:
                raise NotFoundError(
                    f"This engine serves {self.base.ref}, not {version.ref}.",
                    "Start it again to serve another version of the base model.",
                    "model",
                )
            return ResolvedModel(name)
        if not self._fits(version):
            raise NotFoundError(
                f"{version.ref} was trained on {version.lineage.get('base')!r}; "
                f"this engine serves {self.base.ref!r}.",
                "Train it again on that base, or deploy with the other one.",
                "model",
            )
        folder = self._registry.path(version)
        require_safetensors(folder)
        if (own := served_by_merging(folder)) is not None:
            raise UsageError(
                f"{version.ref} has {own}, which vLLM cannot add to a base.",
                f"sunloom llm merge {version.ref} makes a model that it serves.",
                "model",
            )
        return ResolvedModel(version.ref, folder)

    def _fits(self, version: ModelVersion) -> bool:
        # LoRA weights are changes to one base model: added to another version they mean nothing.
        return version.kind == ADAPTER and version.lineage.get("base") == self.base.ref

    def names(self, reader: str | None = None) -> list[str]:
        """The base model and every adapter that was trained on it."""
        return [self.base.name, *sorted({version.name for version in self.adapters(reader)})]

    def adapters(self, reader: str | None = None) -> list[ModelVersion]:
        """Versions that this engine can load."""
        versions = self._registry.list(kind=ADAPTER, reader=reader)
        return [version for version in versions if self._fits(version)]

    def promoted_names(self) -> list[str]:
        """Names of the operator's adapters with a ``production`` alias."""
        # A tenant's adapter that cannot be loaded must not keep the gateway from being ready.
        names = dict.fromkeys(v.name for v in self.adapters() if v.tenant is None)
        return [name for name in names if self._is_loadable(f"{name}@production")]

    def _is_loadable(self, ref: str) -> bool:
        try:
            version = self._registry.get(ref)
        except NotFoundError:
            return False
        folder = self._registry.path(version)
        is_safe = any(folder.glob("*.safetensors"))
        return self._fits(version) and is_safe and served_by_merging(folder) is None

    def cards(self, reader: str | None = None) -> list[dict[str, Any]]:
        """OpenAI's model list: the base model and each adapter's current version; blocking."""
        cards = [_card(self.base.name, root=self.base.ref, parent=None, created=0)]
        newest = {version.name: version for version in self.adapters(reader)}
        for name, newest_version in sorted(newest.items()):
            current = self._registry.get(name)
            # The alias may point at a version for another base, which this engine cannot load.
            version = current if self._fits(current) else newest_version
            created = int(version.created_at.timestamp())
            cards.append(_card(name, root=version.ref, parent=self.base.name, created=created))
        return cards


def build_resolver(settings: Settings, base: BaseLanguageModel) -> ModelResolver:
    """The resolver for the configured registry."""
    return ModelResolver(open_registry(settings), base)


def required_models(settings: Settings, resolver: ModelResolver) -> Sequence[str]:
    """Names of the models that must have answered a request before the gateway is ready.

    Args:
        settings: Name them, or all promoted ones are.
        resolver: Of one engine.
    """
    config, further = settings.serving.llm, resolver.base.further
    named = config.adapters if further is None else config.models[further].adapters
    return list(named or resolver.promoted_names()) or [resolver.base.name]


def _card(name: str, *, root: str, parent: str | None, created: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "sunloom",
        "root": root,
        "parent": parent,
    }
