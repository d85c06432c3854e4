"""FastAPI apps with the common error body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

import sunloom
from sunloom.errors import SunloomError, known_names_hint
from sunloom.serving.auth.middleware import caller
from sunloom.serving.error_body import Problem, problem_of

# A list of 10,000 wrong rows has as many errors; the first ones say what to mend.
_MOST_ERRORS = 5
_LONGEST_NAME = 60


class ClosedBody(BaseModel):
    """A request body; an unknown field is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid")


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
    app.add_exception_handler(RequestValidationError, invalid_request)
    return app


async def error_response(request: Request, error: Exception) -> Response:
    """The response for an error."""
    return _respond(request, problem_of(error))


async def invalid_request(request: Request, error: Exception) -> Response:
    """The response for a request that does not fit its route's declaration."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    texts = [f"{_join_location(one['loc'])}: {one['msg']}" for one in errors[:_MOST_ERRORS]]
    if len(errors) > _MOST_ERRORS:
        texts.append(f"and {len(errors) - _MOST_ERRORS} more")
    loc = errors[0]["loc"]
    hint = ""
    if errors[0]["type"] == "extra_forbidden":
        hint = known_names_hint(str(loc[-1])[:_LONGEST_NAME], _known_fields(request, loc[1:-1]))
    # The first part of ``loc`` says only where the field is: body, query, path or header.
    param = _join_location(loc[1:]) or None
    return _respond(request, Problem(422, "invalid_request", "; ".join(texts), hint, param))


def _respond(request: Request, problem: Problem) -> Response:
    body = problem.to_json(caller(request.scope).request_id)
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(body, problem.status, headers, media_type="application/json")


def _join_location(loc: Sequence[int | str]) -> str:
    return ".".join(str(part)[:_LONGEST_NAME] for part in loc)


def _known_fields(request: Request, loc: Sequence[int | str]) -> list[str]:
    """Names of the fields that the route's body has at a place."""
    parameters = request.scope["route"].dependant.body_params
    models = [model for one in parameters for model in _models_in(one.field_info.annotation)]
    for part in loc:
        # A number is a place in a list, whose items' models are those of the field already.
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [model for field in fields for model in _models_in(field.annotation)]
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
