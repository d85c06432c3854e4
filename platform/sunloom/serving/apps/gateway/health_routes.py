"""``/healthz``, ``/readyz``, ``/metrics``: health, readiness and Prometheus metrics.

Readiness is that of everything behind the gateway, probed through the gateway as clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import httpx
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.database import open_database
from sunloom.errors import RequestError
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.apps.llm.completions import build_probe_request
from sunloom.serving.apps.llm.model_resolver import (
    build_resolver,
    find_base,
    find_bases,
    required_models,
)
from sunloom.serving.apps.llm.request_checks import EMBEDDINGS
from sunloom.serving.auth.middleware import caller
from sunloom.serving.error_body import Problem
from sunloom.serving.metrics.request_metrics import render_metrics
from sunloom.serving.metrics.served_features import render_served_features

_TRUSTED_S = 5.0
_APP_TIMEOUT_S = 2.0


def build_router(settings: Settings, client: InnerClient) -> APIRouter:
    """Routes for load balancers and Prometheus."""
    router = APIRouter(tags=["health"])
    probe = ReadinessProbe(settings, client)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness of the gateway; needs no key."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        """Readiness of every app and each required model; needs no key."""
        states = await probe.check()
        not_ready = [f"{part}: {state}" for part, state in states.items() if state != "ok"]
        if not not_ready:
            return JSONResponse({"ready": True, "parts": dict(states)})
        problem = Problem(503, "not_ready", f"Not ready. {'; '.join(not_ready)}", "Try again soon.")
        body = problem.to_json(caller(request.scope).request_id)
        return Response(body, problem.status, media_type="application/json")

    # No coroutine: FastAPI runs it in a thread, where the database may block.
    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Metrics of all apps, replicas and monitors as Prometheus text."""
        # The version of Prometheus' text format, by which a scraper chooses its parser.
        return Response(render_all_metrics(settings), media_type="text/plain; version=0.0.4")

    return router


def render_all_metrics(settings: Settings) -> str:
    """Metrics of requests, served features and monitors as Prometheus text."""
    from sunloom.monitoring.prometheus import render_monitoring

    database = open_database(settings)
    return render_metrics(database) + render_served_features(database) + render_monitoring(settings)


class ReadinessProbe:
    """Sends a request to each app through the gateway's own port, and to each required model.

    Args:
        settings: Apps and models.
        client: Reaches the apps.
    """

    def __init__(self, settings: Settings, client: InnerClient) -> None:
        self._settings = settings
        self._client = client
        self._answered: set[str] = set()
        self._ready = TtlCache[str, Mapping[str, str]](_TRUSTED_S)
        self._lock = asyncio.Lock()

    async def check(self) -> Mapping[str, str]:
        """State of each app and required model, ``ok`` or what is wrong.

        Probed every few seconds at most.
        """
        # One probe at a time: load balancers poll from several places at once.
        async with self._lock:
            states = self._ready.get("gateway")
            if states is None:
                states = await self._probe()
                # Whoever waits for the gateway to come up must see it at once.
                if all(state == "ok" for state in states.values()):
                    self._ready.put("gateway", states)
            return states

    async def _probe(self) -> Mapping[str, str]:
        paths = await asyncio.to_thread(probe_paths, self._settings)
        answers = await asyncio.gather(*(self._probe_app(path) for path in paths.values()))
        states = dict(zip(paths, answers, strict=True))
        if states.get("llm") == "ok":
            # The registry's database is read in a thread: the loop serves other requests.
            required = await asyncio.to_thread(self._required_models)
            for name, routes in required.items():
                states[name] = await self._probe_model(name, routes)
        return states

    def _required_models(self) -> Mapping[str, Collection[str]]:
        """Names, each with the routes that its engine is known to offer; none where it is asked."""
        required: dict[str, Collection[str]] = {}
        for base in find_bases(self._settings):
            further = self._settings.serving.llm.models
            is_pooling = base.further is not None and further[base.further].task == "pooling"
            routes = (EMBEDDINGS,) if is_pooling else ()
            resolver = build_resolver(self._settings, base)
            required |= dict.fromkeys(required_models(self._settings, resolver), routes)
        return required

    async def _probe_app(self, path: str) -> str:
        try:
            # Serve holds a request to an app without a replica until there is one.
            response = await self._client.request("GET", path, timeout_s=_APP_TIMEOUT_S)
        except httpx.HTTPError as error:
            return f"no answer ({type(error).__name__})"
        # Any response of the app's own will do; the gateway would answer for a missing app.
        served_by = response.headers.get("x-sunloom-app")
        return "ok" if served_by not in (None, "gateway") else f"not up ({response.status_code})"

    async def _probe_model(self, name: str, routes: Collection[str]) -> str:
        # A model that has answered once stays loaded: from then on the app's probe is enough.
        if name in self._answered:
            return "ok"
        try:
            document = await self._client.request("GET", APPS["llm"].openapi_path)
            if document.status_code != 200:
                return document.text[:300]
            offered = document.json()["paths"]
            path, body = build_probe_request(name, routes or offered)
            response = await self._client.request("POST", path, json=body)
        except httpx.HTTPError as error:
            return f"no answer ({type(error).__name__})"
        except RequestError as error:
            return error.message
        if response.status_code != 200:
            return response.text[:300]
        self._answered.add(name)
        return "ok"


def probe_paths(settings: Settings) -> dict[str, str]:
    """The probed route of each app that should be deployed."""
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
