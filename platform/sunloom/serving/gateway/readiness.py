"""Whether everything behind the gateway answers, asked the way a client asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import httpx

from sunloom.config import Settings
from sunloom.serving.auth import system_key
from sunloom.serving.names import build_directory, find_base, required_names

_TRUSTED_S = 5.0
_APP_TIMEOUT_S = 2.0
_KEY_LIFE = timedelta(hours=1)


@dataclass(frozen=True)
class Readiness:
    """What answers.

    Attributes:
        ready: Whether everything does.
        parts: App or model to ``ok`` or what is wrong.
    """

    ready: bool
    parts: Mapping[str, str]


class Probe:
    """Asks each app through the gateway's own port, and each required model for one token.

    Args:
        settings: Ports, apps and models.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answered: set[str] = set()
        self._last = (float("-inf"), Readiness(False, {}))
        self._lock = asyncio.Lock()
        self._secret = ("", float("-inf"))

    async def check(self) -> Readiness:
        """The present state; asked anew every few seconds at most."""
        async with self._lock:
            at, last = self._last
            if not last.ready or time.monotonic() - at > _TRUSTED_S:
                self._last = (time.monotonic(), await self._ask())
            return self._last[1]

    async def _ask(self) -> Readiness:
        serving = self._settings.serving
        url = f"http://{serving.host}:{serving.port}"
        headers = {"authorization": f"Bearer {await self._key()}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as client:
            paths = await asyncio.to_thread(self._paths)
            states = await asyncio.gather(*(self._app(client, path) for path in paths.values()))
            parts = dict(zip(paths, states, strict=True))
            if parts.get("llm") == "ok":
                for name in await asyncio.to_thread(self._models):
                    parts[name] = await self._model(client, name)
        return Readiness(all(state == "ok" for state in parts.values()), parts)

    def _paths(self) -> dict[str, str]:
        serving = self._settings.serving
        paths = {}
        if serving.features.enabled:
            paths["features"] = "/features"
        if serving.tabular.enabled:
            paths["tabular"] = "/predict"
        if serving.agents.enabled:
            paths["agents"] = "/agents"
        if serving.llm.enabled and find_base(self._settings) is not None:
            paths["llm"] = "/v1/models"
        return paths

    def _models(self) -> list[str]:
        base = find_base(self._settings)
        if base is None:
            return []
        directory = build_directory(self._settings, base)
        return list(required_names(self._settings, directory))

    async def _app(self, client: httpx.AsyncClient, path: str) -> str:
        try:
            # Serve holds a request to an app without a replica until there is one.
            answer = await client.get(path, timeout=_APP_TIMEOUT_S)
        except httpx.HTTPError as error:
            return type(error).__name__
        # Any answer of the app's own will do; the gateway would answer for a missing app.
        served_by = answer.headers.get("x-sunloom-app")
        return "ok" if served_by not in (None, "gateway") else f"not up ({answer.status_code})"

    async def _model(self, client: httpx.AsyncClient, name: str) -> str:
        if name in self._answered:
            return "ok"
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        try:
            answer = await client.post("/v1/completions", json=body)
        except httpx.HTTPError as error:
            return type(error).__name__
        if answer.status_code != 200:
            return answer.text[:300]
        self._answered.add(name)
        return "ok"

    async def _key(self) -> str:
        secret, until = self._secret
        if time.monotonic() > until:
            scopes = ("llm", "features", "models", "agents")
            secret = await asyncio.to_thread(system_key, self._settings, scopes, _KEY_LIFE)
            self._secret = (secret, time.monotonic() + _KEY_LIFE.total_seconds() / 2)
        return self._secret[0]
