"""FastAPI apps with the common error body."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

import sunloom
from sunloom.errors import SunloomError
from sunloom.serving.auth.middleware import caller
from sunloom.serving.error_body import problem_of


def build_fastapi(title: str, prefix: str = "") -> FastAPI:
    """A FastAPI app without docs of its own: the gateway serves one document over all apps.

    Args:
        title: Title of its OpenAPI document.
        prefix: Route prefix of the app, whose ``PREFIX/openapi.json`` the gateway merges.
    """
    app = FastAPI(
        title=title,
        version=sunloom.__version__,
        docs_url=None,
        redoc_url=None,
        # The middleware knows one spelling of a path: a redirect would lose the body of a POST.
        redirect_slashes=False,
        openapi_url=f"{prefix}/openapi.json" if prefix else None,
    )
    # Without it Starlette's outermost layer sends its own 500 before the error gets out of the app.
    app.add_exception_handler(SunloomError, error_response)
    return app


async def error_response(request: Request, error: Exception) -> Response:
    """The response for an error."""
    problem = problem_of(error)
    body = problem.to_json(caller(request.scope).request_id)
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(body, problem.status, headers, media_type="application/json")
