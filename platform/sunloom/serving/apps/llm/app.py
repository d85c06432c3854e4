"""The language app: vLLM's own HTTP app in the model's replica, behind the gateway's middleware.

``ray.serve.llm`` starts the engine and builds vLLM's app; HAProxy reaches the replica directly, so
a token stream passes through no second Python process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from sunloom.config import Settings
from sunloom.core.telemetry import get_logger
from sunloom.errors import ArtifactError, ServingError
from sunloom.serving.apps.llm.completions import (
    MODELS,
    ROUTES,
    CompletionsMiddleware,
    build_probe_request,
)
from sunloom.serving.apps.llm.model_resolver import (
    BaseLanguageModel,
    ResolvedModel,
    build_resolver,
    required_models,
)
from sunloom.serving.apps.llm.vllm_engine import start_server
from sunloom.serving.asgi.types import ASGIApp, Scope
from sunloom.serving.auth.middleware import GatewayMiddleware, caller
from sunloom.serving.auth.rate_limits import Spent

_logger = get_logger("serving.llm")


class LlmReplica:
    """One engine and its HTTP app.

    Args:
        settings: The settings as plain data.
        base: Name, source and reference of the base model.
    """

    # Serve awaits it: the replica counts as started when the engine runs.
    async def __init__(  # type: ignore[misc]
        self, settings: Mapping[str, Any], base: Mapping[str, str]
    ) -> None:
        self._settings = Settings.model_validate(settings)
        self._base = BaseLanguageModel(**base)
        self._loading = asyncio.Lock()
        self._server = await start_server(self._settings.serving.llm, self._base)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once the engine runs."""
        from sunloom.core.database import open_database
        from sunloom.core.telemetry import configure_logging
        from sunloom.serving.auth.admission import KeyAdmission
        from sunloom.serving.metrics.request_metrics import RequestMetrics

        configure_logging(self._settings)
        self._app = await self._server.engine.build_asgi_app()
        metrics = RequestMetrics(open_database(self._settings), "llm")
        admission = KeyAdmission(self._settings, metrics)
        resolver = build_resolver(self._settings, self._base)

        def spend(scope: Scope, spent: Spent) -> None:
            if (key := caller(scope).key) is not None:
                admission.spend(key, spent)

        # A pooling model has no completions: the engine's own document says what it offers.
        offered = [path for path in ROUTES if path in self._document()["paths"]]
        for name in required_models(self._settings, resolver):
            await self._warm_up(await resolver.resolve(name), offered)
        app = CompletionsMiddleware(
            self._app, resolver, self._load, spend, describe=self._describe, offered=offered
        )
        return GatewayMiddleware(app, admission, "llm", server_sets_request_id=True)

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica whose engine is dead."""
        await self._server.check_health()

    def _describe(self) -> dict[str, Any]:
        """The OpenAPI document of vLLM, with the routes that are open to clients."""
        document = self._document()
        paths = document["paths"]
        return document | {
            "paths": {path: paths[path] for path in (MODELS, *ROUTES) if path in paths}
        }

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = self._app.openapi()
        return document

    async def _load(self, model: ResolvedModel) -> None:
        """Load an adapter into the running engine; takes milliseconds, and only the first time."""
        models = self._app.state.openai_serving_models
        if model.folder is None or model.engine_name in models.lora_requests:
            return
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        async with self._loading:
            # Another request may have loaded it while this one waited for the lock.
            if model.engine_name in models.lora_requests:
                return
            result = await models.load_lora_adapter(
                LoadLoRAAdapterRequest(lora_name=model.engine_name, lora_path=str(model.folder))
            )
        if not isinstance(result, str):
            raise ArtifactError(
                f"The adapter {model.engine_name} cannot be loaded: {result.error.message}",
                "Its rank may not exceed serving.llm.max_lora_rank.",
            )
        _logger.info("loaded %s", model.engine_name)

    async def _warm_up(self, model: ResolvedModel, offered: Collection[str]) -> None:
        """Send a model its first request, which takes seconds for an adapter."""
        import httpx

        await self._load(model)
        probe = build_probe_request(model.engine_name, offered)
        # To vLLM's app directly: a warm-up needs no key and uses up no quota.
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            response = await client.post(probe.path, json=probe.body, timeout=120)
        if response.status_code != 200:
            raise ServingError(
                f"{model.engine_name} does not answer {probe.path}: {response.text[:300]}"
            )
