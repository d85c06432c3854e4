"""``/models``: registered model versions and their aliases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry


class Promotion(BaseModel):
    """The version that an alias shall point at."""

    version: int = Field(ge=1)


def build_router(settings: Settings) -> APIRouter:
    """Routes of the model registry."""
    router = APIRouter(prefix="/models", tags=["models"])

    def load_versions(kind: str | None) -> list[dict[str, Any]]:
        registry = open_registry(settings)
        versions = registry.list(kind)
        aliases = {version.name: registry.aliases(version.name) for version in versions}
        return [
            version.to_dict() | {"aliases": _aliases_of(version.version, aliases[version.name])}
            for version in versions
        ]

    @router.get("")
    async def list_models(kind: str | None = None) -> dict[str, Any]:
        """All model versions with their aliases."""
        return {"models": await asyncio.to_thread(load_versions, kind)}

    @router.get("/{name}")
    async def show_model(name: str) -> dict[str, Any]:
        """The version that ``name``, ``name@version`` or ``name@alias`` stands for now."""
        registry = open_registry(settings)
        version = await asyncio.to_thread(registry.get, name)
        return version.to_dict() | {"all_aliases": registry.aliases(version.name)}

    @router.post("/{name}/aliases/{alias}")
    async def promote(name: str, alias: str, body: Promotion) -> dict[str, Any]:
        """Point an alias at a version; the apps follow within seconds, without a restart."""
        registry = open_registry(settings)
        version = await asyncio.to_thread(registry.promote, name, body.version, alias)
        return {"name": name, "alias": alias, "version": version.version}

    return router


def _aliases_of(version: int, aliases: Mapping[str, int]) -> list[str]:
    return sorted(alias for alias, target in aliases.items() if target == version)
