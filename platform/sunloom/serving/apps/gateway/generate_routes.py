"""``/llm/generate``: a completion of one prompt."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from sunloom.config import Settings
from sunloom.errors import DependencyError
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.auth.middleware import caller

_TIMEOUT_S = 600.0


class GenerateRequest(BaseModel):
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


def build_router(settings: Settings, client: InnerClient) -> APIRouter:
    """Route of single prompts."""
    router = APIRouter(prefix="/llm", tags=["llm"])

    @router.post("/generate")
    async def generate(request: Request, body: GenerateRequest) -> Any:
        """Complete one prompt; the model's chat template is applied."""
        name = body.model_name or settings.serving.llm.model.partition("@")[0]
        # The caller's own key, so that its scopes, limits and quota apply to the completion.
        secret = caller(request.scope).secret
        try:
            response = await client.request(
                "POST",
                "/v1/chat/completions",
                secret=secret,
                timeout_s=_TIMEOUT_S,
                json=_chat_request(body, name),
            )
        except httpx.HTTPError as error:
            raise DependencyError("The language model does not respond.") from error
        if response.status_code != 200:
            # The language app's errors have the common body already.
            return Response(response.content, response.status_code, media_type="application/json")
        return _response(response.json())

    return router


def _chat_request(body: GenerateRequest, name: str) -> dict[str, Any]:
    system = [{"role": "system", "content": body.system}] if body.system else []
    options = body.model_dump(
        include={"max_tokens", "temperature", "top_p", "stop", "seed"}, exclude_none=True
    )
    messages = [*system, {"role": "user", "content": body.prompt}]
    return {"model": name, "messages": messages, **options}


def _response(answer: dict[str, Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    return {
        "model": answer["model"],
        "text": choice["message"]["content"] or "",
        "tool_calls": choice["message"].get("tool_calls") or [],
        "finish_reason": choice["finish_reason"],
        "usage": answer["usage"],
    }
