"""The common error body of all apps, and the HTTP status of each error."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sunloom import errors
from sunloom.core.host_paths import hide_paths


class MethodNotAllowedError(errors.ServingError):
    """The route does not take this method."""

    code = "method_not_allowed"


class BodyTooLargeError(errors.ServingError):
    """The body has more bytes than a request may have."""

    code = "too_large"


class SlowRequestError(errors.ServingError):
    """The body did not arrive in time."""

    code = "request_timeout"


class InvalidBodyError(errors.RequestError):
    """The body is a JSON object, and not one that the route takes."""


STATUS: Mapping[type[errors.SunloomError], int] = {
    errors.AuthenticationError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    MethodNotAllowedError: 405,
    SlowRequestError: 408,
    errors.ConflictError: 409,
    BodyTooLargeError: 413,
    InvalidBodyError: 422,
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

# Type and code of an error whose server gave none. The other statuses are "api_error", with the
# code "invalid_request" below 500 and "internal" above.
_TYPES_AND_CODES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "unauthenticated"),
    403: ("permission_error", "permission_denied"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    409: ("conflict_error", "conflict"),
    413: ("invalid_request_error", "too_large"),
    422: ("invalid_request_error", "invalid_request"),
    429: ("rate_limit_error", "rate_limited"),
    503: ("api_error", "unavailable"),
}
_REASONS = {
    404: "There is no such route.",
    405: "This route does not take this method.",
    503: "The service cannot answer at the moment.",
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
        headers: Headers that go with it, such as ``Retry-After``.
    """

    status: int
    code: str
    message: str
    hint: str = ""
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def to_json(self, request_id: str) -> bytes:
        """The error body, the same for every route."""
        error = {
            "type": _type_and_code(self.status)[0],
            "code": self.code,
            # Errors of every room name files: right in a terminal, not for a tenant to know.
            "message": hide_paths(self.message),
            "hint": hide_paths(self.hint),
            "param": self.param,
            "request_id": request_id,
        }
        return json.dumps({"error": error}).encode()


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for everything that was not raised on purpose."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def problem_of(error: BaseException) -> Problem:
    """The problem for an error; the text of an unexpected one goes to the log only."""
    if isinstance(error, errors.SunloomError):
        return Problem(
            status=status_of(error),
            code=error.code,
            message=error.message,
            hint=error.hint,
            param=error.param,
            headers=_headers_of(error),
        )
    return Problem(
        500,
        "internal",
        "The request failed unexpectedly.",
        "Look for the request id in the server's log.",
    )


def _headers_of(error: errors.SunloomError) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, SlowRequestError | BodyTooLargeError):
        # The rest of the body would go on arriving: the connection ends with the answer.
        return ((b"connection", b"close"),)
    if isinstance(error, errors.QuotaError):
        # OpenAI's client tries again after every 429 that does not forbid it.
        return (b"x-should-retry", b"false"), (b"x-ratelimit-remaining-tokens", b"0")
    if isinstance(error, errors.RateLimitError) and error.retry_after_s is not None:
        seconds = b"%d" % error.retry_after_s
        return (b"retry-after", seconds), (b"x-ratelimit-remaining-requests", b"0")
    return ()


def translate(status: int, body: bytes) -> Problem:
    """An error response as a problem, whether it is ours, FastAPI's, vLLM's or Serve's."""
    code, reason = _type_and_code(status)[1], _REASONS.get(status, "The request failed.")
    try:
        data = json.loads(body)
    except ValueError:
        text = body.decode(errors="replace").strip()[:500]
        # A server's own text for an unexpected failure may hold a traceback.
        return Problem(status, code, text if status < 500 and text else reason)
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        error = data["error"]
        message, param = str(error.get("message", "")), error.get("param")
        if "hint" not in error:
            # vLLM's errors have no hint, and repeat the status as their code.
            message, param = _translate_vllm(message, param)
            return Problem(status, code, message, param=param)
        return Problem(status, str(error["code"]), message, str(error["hint"]), param)
    detail = data.get("detail", data) if isinstance(data, dict) else data
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        # FastAPI's list of validation errors, of which the first one names the field. The first
        # part of ``loc`` says only where the field is: body, query or path.
        param = ".".join(str(part) for part in detail[0].get("loc", ())[1:]) or None
        fields = [
            f"{'.'.join(str(part) for part in field.get('loc', ()))}: {field.get('msg', '')}"
            for field in detail
        ]
        return Problem(status, code, "; ".join(fields), param=param)
    return Problem(status, code, detail if isinstance(detail, str) else reason)


# vLLM writes pydantic's list of errors as Python: one a line, type and place before the message and
# what the client sent after it.
_VALIDATION_ERROR = re.compile(
    r"^  \{'type': '\w+', 'loc': \((.*?)\), 'msg': ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.M
)
_PLACE = re.compile(r"'((?:[^'\\]|\\.)*)'|(\d+)")
# The parts of a place that name no field: the body itself, pydantic's validators, and the members
# of a union, which are types or classes.
_NO_FIELD = re.compile(
    r"body|.*[\[\](){}].*|[A-Z]\w*|(function|json|lax|tagged|is)-[\w-]+|chain|nullable|union"
    r"|str|int|float|bool|bytes|list|tuple|dict|set|none"
)
_MOST_ALTERNATIVES = 3


def _translate_vllm(message: str, param: object) -> tuple[str, str | None]:
    """One sentence that names the field, and the field.

    A union's error has an entry for each of its members: those of the first entry's field are what
    the field may be.
    """
    field = str(param) if param not in (None, "", "None") else None
    fields: dict[str, list[str]] = {}
    for match in _VALIDATION_ERROR.finditer(message):
        parts = [text or number for text, number in _PLACE.findall(match[1])]
        place = ".".join(part for part in parts if not _NO_FIELD.fullmatch(part))
        fields.setdefault(place, []).append(match[2][1:-1].replace("\\'", "'"))
    if not fields:
        return message, field
    place, reasons = next(iter(fields.items()))
    return _sentence(place or field or "The body", reasons), place or field


def _sentence(place: str, reasons: list[str]) -> str:
    if reasons[0] == "Field required":
        return f"{place} is required."
    begin = "Input should be "
    allowed = [reason.removeprefix(begin) for reason in reasons if reason.startswith(begin)]
    if not allowed:
        reason = reasons[0].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"{place}: {reason}"
    return f"{place} should be {' or '.join([*dict.fromkeys(allowed)][:_MOST_ALTERNATIVES])}."


def _type_and_code(status: int) -> tuple[str, str]:
    default = ("api_error", "internal" if status >= 500 else "invalid_request")
    return _TYPES_AND_CODES.get(status, default)
