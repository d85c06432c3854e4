"""The language app: vLLM's own HTTP app inside the model's replica, behind our guard.

``ray.serve.llm`` starts the engine and builds vLLM's app; HAProxy reaches the replica directly, so
a token stream passes through no second Python process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sunloom.config import Settings
from sunloom.core.telemetry import get_logger
from sunloom.errors import ArtifactError, ServingError
from sunloom.serving.apps.llm.completions import MODELS, ROUTES, Completions
from sunloom.serving.apps.llm.model_resolver import (
    BaseModel,
    Target,
    build_directory,
    required_names,
)
from sunloom.serving.apps.llm.vllm_engine import start_server
from sunloom.serving.asgi.types import ASGIApp, Scope
from sunloom.serving.auth.middleware import GatewayMiddleware, caller

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
        self._base = BaseModel(**base)
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
        gate = KeyAdmission(self._settings, metrics)
        directory = build_directory(self._settings, self._base)

        def spend(scope: Scope, tokens: int) -> None:
            if (key := caller(scope).key) is not None:
                gate.spend(key, tokens)

        for name in required_names(self._settings, directory):
            await self._warm(await directory.resolve(name))
        offered = [path for path in ROUTES if path in self._document()["paths"]]
        layer = Completions(self._app, directory, self._load, spend, self._describe, offered)
        return GatewayMiddleware(layer, gate, "llm", server_sets_request_id=True)

    async def check_health(self) -> None:
        """Called by Serve: a dead engine gets a new replica."""
        await self._server.check_health()

    def _describe(self) -> dict[str, Any]:
        """What vLLM's OpenAPI document says of the routes that are open here."""
        document = self._document()
        offered = (MODELS, *ROUTES)
        paths = {path: document["paths"][path] for path in offered if path in document["paths"]}
        return document | {"paths": paths}

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = self._app.openapi()
        return document

    async def _load(self, target: Target) -> None:
        """Put an adapter into the running engine; some milliseconds the first time."""
        models = self._app.state.openai_serving_models
        if target.folder is None or target.served in models.lora_requests:
            return
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        async with self._loading:
            if target.served in models.lora_requests:
                return
            answer = await models.load_lora_adapter(
                LoadLoRAAdapterRequest(lora_name=target.served, lora_path=str(target.folder))
            )
        if not isinstance(answer, str):
            raise ArtifactError(
                f"The adapter {target.served} cannot be loaded: {answer.error.message}",
                "Its rank may not exceed serving.llm.max_lora_rank.",
            )
        _logger.info("loaded %s", target.served)

    async def _warm(self, target: Target) -> None:
        """Let a model answer once: the first answer of an adapter takes seconds."""
        import httpx

        await self._load(target)
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            answer = await client.post(
                "/v1/completions",
                json={"model": target.served, "prompt": "a", "max_tokens": 1},
                timeout=120,
            )
        if answer.status_code != 200:
            raise ServingError(f"{target.served} does not answer: {answer.text[:300]}")
