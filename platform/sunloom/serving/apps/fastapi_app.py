"""FastAPI as every app here uses it: errors raised on purpose get their status and body."""

from __future__ import annotations

import json

from fastapi import FastAPI, Request, Response

import sunloom
from sunloom.errors import SunloomError
from sunloom.serving.asgi.error_body import problem_of
from sunloom.serving.auth.middleware import caller


def build_fastapi(title: str, prefix: str = "") -> FastAPI:
    """An app without docs of its own: the gateway serves one document over all apps.

    Args:
        title: Title of its OpenAPI document.
        prefix: Where the app is mounted; the gateway reads ``PREFIX/openapi.json``.
    """
    app = FastAPI(
        title=title,
        version=sunloom.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{prefix}/openapi.json" if prefix else None,
    )
    app.add_exception_handler(SunloomError, _answer)
    return app


def answer_error(request: Request, error: Exception) -> Response:
    """An error in the one body."""
    problem = problem_of(error)
    body = json.dumps(problem.body(caller(request.scope).request_id))
    return Response(body, problem.status, media_type="application/json")


async def _answer(request: Request, error: Exception) -> Response:
    return answer_error(request, error)
