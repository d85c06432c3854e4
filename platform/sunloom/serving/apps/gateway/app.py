"""The gateway app at ``/``: routes of the model registry, of keys and of single prompts.

Health, documentation, training and monitoring have a module each beside it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, FastAPI, Path, Request, Response
from pydantic import ConfigDict, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.host_paths import hide_paths_in
from sunloom.core.model_registry import ModelRegistry, ModelVersion, open_registry
from sunloom.errors import DependencyError, NotFoundError, PermissionDeniedError
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.fastapi_app import ClosedBody, build_fastapi, error_response
from sunloom.serving.apps.gateway import (
    health_routes,
    monitoring_routes,
    openapi_docs,
    training_routes,
    vote_routes,
)
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.auth.api_keys import Allowance, create_key, list_keys, revoke_key
from sunloom.serving.auth.middleware import caller
from sunloom.serving.auth.tenants import may_change, reader_for

_OWN_ROUTES = (
    "/docs", "/evaluations", "/healthz", "/keys", "/llm/generate", "/llm/train", "/llm/training",
    "/metrics", "/models", "/monitoring", "/openapi.json", "/readyz",
)  # fmt: skip
_ROUTES = sorted({*_OWN_ROUTES, *(app.prefix for app in APPS.values() if app.prefix != "/")})
_GENERATE_TIMEOUT_S = 600.0
_FORWARDED_HEADERS = frozenset({"retry-after", "x-should-retry"})
_MOST_REQUESTS = 1_000_000
_MOST_TOKENS = (1 << 31) - 1
Alias = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
"""Parameter of a route: an alias in the URL."""


class Promotion(ClosedBody):
    """The version that an alias shall point at."""

    # As far as a database's integers go.
    version: int = Field(ge=1, le=_MOST_TOKENS, strict=True)


class NewKey(ClosedBody):
    """Scopes, lifetime and limits of a new key."""

    scopes: list[str] = Field(min_length=1, max_length=20)
    # No control characters, and not blank: it is read by people in lists of keys and agents.
    tenant: str = Field(
        default="default",
        max_length=100,
        pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$",
    )
    expires: str | None = Field(default=None, max_length=40)
    requests_per_minute: int | None = Field(default=None, ge=1, le=_MOST_REQUESTS, strict=True)
    token_quota: int | None = Field(default=None, ge=1, le=_MOST_TOKENS, strict=True)
    purpose: str = Field(default="", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")


class GenerateRequest(ClosedBody):
    """A prompt and sampling parameters."""

    # Pydantic reserves the prefix model_, which model_name has.
    model_config = ConfigDict(protected_namespaces=())

    prompt: str = Field(min_length=1)
    model_name: str | None = None
    system: str | None = None
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[str] | None = Field(default=None, max_length=4)
    seed: int | None = None


def build_gateway_app(settings: Settings) -> FastAPI:
    """The gateway's FastAPI app; the middleware goes in front of it."""
    app = build_fastapi("Sunloom")
    client = InnerClient(settings)
    for router in (
        health_routes.build_router(settings, client),
        _build_model_router(settings),
        _build_key_router(settings),
        _build_generate_router(settings, client),
        training_routes.build_router(settings),
        monitoring_routes.build_router(settings),
        vote_routes.build_router(settings),
        openapi_docs.build_router(settings, client, app),
    ):
        app.include_router(router)
    app.add_exception_handler(404, _not_found)
    return app


async def _not_found(request: Request, _error: Exception) -> Response:
    """The response for paths without a route, and for those of apps that are not deployed."""
    # Not request.url, which cannot be made with every Host that a client may send.
    path = request.scope["path"]
    error = NotFoundError(f"There is no route {path[:200]}.", known=_ROUTES, name=path)
    # The language app has this prefix: Serve sends its paths here only while it is not deployed.
    if path == "/v1" or path.startswith("/v1/"):
        error = NotFoundError(
            "No language model is deployed.",
            "Register a base model (make demo does) and start the gateway again.",
        )
    return await error_response(request, error)


def _build_model_router(settings: Settings) -> APIRouter:
    """``/models``: registered model versions and their aliases."""
    router = APIRouter(prefix="/models", tags=["models"])

    # These routes are no coroutines: FastAPI runs them in threads, where a database may block.
    @router.get("")
    def list_models(request: Request, kind: str | None = None) -> dict[str, Any]:
        """The operator's and the caller's model versions with their aliases."""
        registry = open_registry(settings)
        versions = registry.list(kind, reader=reader_for(request.scope))
        aliases = {version.name: registry.aliases(version.name) for version in versions}
        return {
            "models": [
                show_version(version, registry)
                | {
                    "aliases": sorted(
                        alias
                        for alias, target in aliases[version.name].items()
                        if target == version.version
                    )
                }
                for version in versions
            ]
        }

    @router.get("/{name}")
    def show_model(request: Request, name: str) -> dict[str, Any]:
        """The version that ``name``, ``name@version`` or ``name@alias`` stands for now."""
        registry = open_registry(settings)
        version = registry.get(name, reader_for(request.scope))
        return show_version(version, registry) | {"all_aliases": registry.aliases(version.name)}

    @router.post("/{name}/aliases/{alias}")
    def promote(request: Request, name: str, alias: Alias, body: Promotion) -> dict[str, Any]:
        """Point an alias of the caller's model at a version; the apps follow within seconds."""
        registry = open_registry(settings)
        owner = registry.get(f"{name}@{body.version}", reader_for(request.scope)).tenant
        if not may_change(request.scope, owner):
            raise PermissionDeniedError(
                f"The model {name!r} is the operator's: its aliases are not yours to move.",
                "Train one of your own, or ask for a key with the scope admin.",
            )
        version = registry.promote(name, body.version, alias)
        return {"name": name, "alias": alias, "version": version.version}

    return router


def show_version(version: ModelVersion, registry: ModelRegistry) -> dict[str, Any]:
    """A version as plain data without paths of this machine: its URI is that within the store."""
    uri = version.uri.removeprefix(f"{registry.store.uri}/")
    shown: dict[str, Any] = hide_paths_in(version.to_dict() | {"uri": uri})
    return shown


def _build_key_router(settings: Settings) -> APIRouter:
    """``/keys``: create, list and revoke keys; needs the scope ``admin``."""
    router = APIRouter(prefix="/keys", tags=["keys"])
    requests = IdempotentRequests(open_database(settings))

    @router.post("", status_code=201)
    async def create(
        request: Request, body: NewKey, idempotency_key: IdempotencyKey = None
    ) -> dict[str, Any]:
        """Create a key; its secret is in this response only."""
        secret: str | None = None

        async def produce() -> dict[str, Any]:
            nonlocal secret
            secret, record = await asyncio.to_thread(
                create_key,
                settings,
                body.scopes,
                body.tenant,
                body.expires,
                allowance=Allowance.from_settings(
                    settings, body.requests_per_minute, body.token_quota
                ),
                purpose=body.purpose,
            )
            return record.to_dict()

        answer = await requests.run_once(request, idempotency_key, body.model_dump(), produce)
        # The secret is not stored, so a repeated request cannot get it again.
        return answer | {"key": secret}

    @router.get("")
    def show(delegated: bool = False) -> dict[str, Any]:
        """All keys without their secrets."""
        return {"keys": [key.to_dict() for key in list_keys(settings, delegated=delegated)]}

    @router.delete("/{key_id}")
    def revoke(key_id: str) -> dict[str, Any]:
        """Revoke a key and everything delegated from it."""
        return revoke_key(settings, key_id).to_dict()

    return router


def _build_generate_router(settings: Settings, client: InnerClient) -> APIRouter:
    """``/llm/generate``: a completion of one prompt."""
    router = APIRouter(prefix="/llm", tags=["llm"])

    @router.post("/generate")
    async def generate(request: Request, body: GenerateRequest) -> Any:
        """Complete one prompt; the model's chat template is applied."""
        system = [{"role": "system", "content": body.system}] if body.system else []
        chat_request = {
            "model": body.model_name or settings.serving.llm.model.partition("@")[0],
            "messages": [*system, {"role": "user", "content": body.prompt}],
            **body.model_dump(
                include={"max_tokens", "temperature", "top_p", "stop", "seed"}, exclude_none=True
            ),
        }
        try:
            response = await client.request(
                "POST",
                "/v1/chat/completions",
                # The caller's own key, so that its scopes, limits and quota apply.
                secret=caller(request.scope).secret,
                timeout_s=_GENERATE_TIMEOUT_S,
                json=chat_request,
            )
        except httpx.HTTPError as error:
            raise DependencyError("The language model does not respond.") from error
        if response.status_code != 200:
            # The language app's errors have the common body already, and say when to try again.
            headers = {k: v for k, v in response.headers.items() if k in _FORWARDED_HEADERS}
            return Response(
                response.content, response.status_code, headers, media_type="application/json"
            )
        completion = response.json()
        choice = completion["choices"][0]
        return {
            "model": completion["model"],
            "text": choice["message"]["content"] or "",
            "tool_calls": choice["message"].get("tool_calls") or [],
            "finish_reason": choice["finish_reason"],
            "usage": completion["usage"],
        }

    return router
