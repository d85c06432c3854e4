"""Whether everything behind the gateway answers, asked the way a client asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.apps.llm.model_resolver import build_directory, find_base, required_names

_TRUSTED_S = 5.0
_APP_TIMEOUT_S = 2.0


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
        settings: Apps and models.
        client: Reaches the apps.
    """

    def __init__(self, settings: Settings, client: InnerClient) -> None:
        self._settings = settings
        self._client = client
        self._answered: set[str] = set()
        self._ready = TtlCache[str, Readiness](_TRUSTED_S)
        self._lock = asyncio.Lock()

    async def check(self) -> Readiness:
        """The present state; asked anew every few seconds at most."""
        async with self._lock:
            readiness = self._ready.get("gateway")
            if readiness is None:
                readiness = await self._ask()
                # Whoever waits for the gateway to come up must see it at once.
                if readiness.ready:
                    self._ready.put("gateway", readiness)
            return readiness

    async def _ask(self) -> Readiness:
        paths = await asyncio.to_thread(app_paths, self._settings)
        states = await asyncio.gather(*(self._app(path) for path in paths.values()))
        parts = dict(zip(paths, states, strict=True))
        if parts.get("llm") == "ok":
            for name in await asyncio.to_thread(self._models):
                parts[name] = await self._model(name)
        return Readiness(all(state == "ok" for state in parts.values()), parts)

    def _models(self) -> list[str]:
        base = find_base(self._settings)
        if base is None:
            return []
        return list(required_names(self._settings, build_directory(self._settings, base)))

    async def _app(self, path: str) -> str:
        try:
            # Serve holds a request to an app without a replica until there is one.
            answer = await self._client.request("GET", path, timeout_s=_APP_TIMEOUT_S)
        except httpx.HTTPError as error:
            return f"no answer ({type(error).__name__})"
        # Any answer of the app's own will do; the gateway would answer for a missing app.
        served_by = answer.headers.get("x-sunloom-app")
        return "ok" if served_by not in (None, "gateway") else f"not up ({answer.status_code})"

    async def _model(self, name: str) -> str:
        if name in self._answered:
            return "ok"
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        try:
            answer = await self._client.request("POST", "/v1/completions", json=body)
        except httpx.HTTPError as error:
            return f"no answer ({type(error).__name__})"
        if answer.status_code != 200:
            return answer.text[:300]
        self._answered.add(name)
        return "ok"


def app_paths(settings: Settings) -> dict[str, str]:
    """A path of each app that should be up."""
    serving = settings.serving
    paths = {
        app.name: app.probe
        for app in APPS.values()
        if app.probe is not None and getattr(serving, app.name).enabled
    }
    llm = paths.pop("llm", None)
    # The language app is deployed only once there is a base model; it comes last, so that its
    # models follow it in the list.
    if llm is not None and find_base(settings) is not None:
        paths["llm"] = llm
    return paths
