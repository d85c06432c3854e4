"""The common error body of all apps, and the HTTP status of each error."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sunloom import errors


class MethodNotAllowedError(errors.ServingError):
    """The route does not take this method."""

    code = "method_not_allowed"


STATUS: Mapping[type[errors.SunloomError], int] = {
    errors.AuthenticationError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    MethodNotAllowedError: 405,
    errors.ConflictError: 409,
    errors.RateLimitError: 429,
    errors.RequestError: 400,
    errors.UsageError: 400,
    errors.DataError: 422,
    errors.GuardrailError: 422,
    errors.DefinitionError: 422,
    errors.ToolError: 502,
    errors.DependencyError: 503,
    errors.ClusterError: 503,
    errors.StoreError: 503,
}
"""HTTP status by error class: the nearest base class counts; 500 for all others."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid_request",
    429: "rate_limited",
    503: "unavailable",
}


# An id names a request and grants nothing, so one generator seeded by the system is enough: asking
# the system for each id is a tenth of a hot read.
_random = random.Random(random.SystemRandom().getrandbits(128))


def new_request_id() -> str:
    """An id for a request that has none, 24 hexadecimal digits."""
    return f"{_random.getrandbits(96):024x}"


@dataclass(frozen=True)
class Problem:
    """An error as a client receives it.

    Attributes:
        status: HTTP status.
        code: Stable code for programs.
        message: What happened.
        hint: What to do about it.
        param: The field that is wrong.
    """

    status: int
    code: str
    message: str
    hint: str = ""
    param: str | None = None

    def body(self, request_id: str) -> dict[str, Any]:
        """The error body, the same for every route."""
        kind = _TYPES.get(self.status, "api_error")
        return {
            "error": {
                "type": kind,
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "param": self.param,
                "request_id": request_id,
            }
        }

    def to_json(self, request_id: str) -> bytes:
        """The body as JSON."""
        return json.dumps(self.body(request_id)).encode()


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for everything that was not raised on purpose."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def problem_of(error: BaseException) -> Problem:
    """The problem for an error; the text of an unexpected one goes to the log only."""
    if isinstance(error, errors.SunloomError):
        return Problem(status_of(error), error.code, error.message, error.hint, error.param)
    return Problem(
        500,
        "internal",
        "The request failed unexpectedly.",
        "Look for the request id in the server's log.",
    )


def translate(status: int, body: bytes) -> Problem:
    """An error response as a problem, whether it is ours, FastAPI's, vLLM's or Serve's."""
    code = _CODES.get(status, "internal" if status >= 500 else "invalid_request")
    try:
        data = json.loads(body)
    except ValueError:
        text = body.decode(errors="replace").strip()[:500]
        # A server's own text for an unexpected failure may hold a traceback.
        return Problem(status, code, text if status < 500 and text else _reason(status))
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        return _problem_of_object(status, code, data["error"])
    detail = data.get("detail", data) if isinstance(data, dict) else data
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return _invalid_fields(status, code, detail)
    return Problem(status, code, detail if isinstance(detail, str) else _reason(status))


def _problem_of_object(status: int, code: str, error: dict[str, Any]) -> Problem:
    message, param = str(error.get("message", "")), error.get("param")
    if "hint" not in error:
        # vLLM's errors have no hint, and repeat the status as their code.
        return Problem(status, code, message, param=param)
    return Problem(status, str(error["code"]), message, str(error["hint"]), param)


def _invalid_fields(status: int, code: str, problems: list[dict[str, Any]]) -> Problem:
    """FastAPI's list of validation errors; the first one names the field."""
    # The first part of ``loc`` says only where the field is: body, query or path.
    param = ".".join(str(part) for part in problems[0].get("loc", ())[1:]) or None
    parts = [
        f"{'.'.join(str(part) for part in problem.get('loc', ()))}: {problem.get('msg', '')}"
        for problem in problems
    ]
    return Problem(status, code, "; ".join(parts), param=param)


def _reason(status: int) -> str:
    return {
        404: "There is no such route.",
        405: "This route does not take this method.",
        503: "The service cannot answer at the moment.",
    }.get(status, "The request failed.")
