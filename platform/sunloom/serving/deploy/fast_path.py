"""Fast path: the outermost ASGI layer of each replica's port, ahead of Serve's routing.

Serve itself answers a route list and 404s there, ahead of the app and its middleware: requests
without a key are rejected before that, and those of a tenant that is refused again and again wait
before Serve reads their bodies. Hot reads are answered here too, because Serve's own bookkeeping
costs more than the read.
"""

from __future__ import annotations

import time
from asyncio import Transport
from collections.abc import Iterable, Mapping
from typing import Any, cast

from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from sunloom.errors import RateLimitError
from sunloom.serving.asgi import ASGIApp, Receive, Scope, Send, hold_back, send_body
from sunloom.serving.auth.middleware import (
    REQUEST_ID,
    KeyAdmission,
    process_admission,
    secret_of,
)
from sunloom.serving.auth.scopes import PUBLIC, find_rule, list_challenges
from sunloom.serving.deploy.slow_requests import install_arrival_protocol
from sunloom.serving.error_body import Problem, new_request_id, problem_of

# Serve's own health check has no key.
_OPEN = PUBLIC | {"/-/healthz"}
_REFUSAL = Problem(
    401, "unauthenticated", "This route needs a key.", "Send the header Authorization: Bearer KEY."
)
_CONTINUE = b"HTTP/1.1 100 "
# Serve reads these ahead of the app: it would let a client disable its request's timeout, and
# answer 500 to a byte that is no UTF-8, as it would to one in X-Request-ID.
_SERVES_CONTROLS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    }
)
_SERVES_TEXTS = frozenset({b"x-session-id", b"x_session_id", b"traceparent", b"tracestate"})

# Serve builds the middlewares from an import path and passes them no arguments, so the replica,
# which has one app, registers it here.
_hot_apps: dict[str, tuple[ASGIApp, frozenset[str]]] = {}
# What uvicorn has read of a body before it is asked for it; the rest would go on arriving.
_READ_AHEAD_BYTES = 64 << 10


def register_fast_path(prefix: str, app: ASGIApp, hot_routes: Iterable[str] = ()) -> None:
    """Let an app of this replica answer reads without Serve's layers.

    Serve then neither counts nor limits them, nor waits for them at shutdown: only for requests
    that take milliseconds.

    Args:
        prefix: The app's route prefix; its GET requests are answered here.
        app: The app behind its middleware, which creates request ids itself.
        hot_routes: Further paths that only read, with any method.
    """
    _hot_apps[prefix] = app, frozenset(hot_routes)


class FastPath:
    """Answers hot reads and rejects requests without a key; the middleware checks the key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a hot read, pass a request on, or reject it; a slow tenant's waits before."""
        admission = process_admission()
        if (
            admission is not None
            and admission.has_slow_tenants
            and scope["type"] == "http"
            and not await _wait_for_turn(admission, scope, send)
        ):
            return
        hot_app = _find_hot_app(scope) if _hot_apps and scope["type"] == "http" else None
        if hot_app is not None:
            _join_writes(send)
            await hot_app(scope, receive, send)
            return
        headers = [pair for pair in scope.get("headers", ()) if _may_reach_serve(*pair)]
        scope = {**scope, "headers": headers}
        if scope["type"] == "http" and not _has_key_or_is_public(scope):
            request_id = new_request_id()
            headers = [
                *list_challenges(scope["path"]),
                (b"x-request-id", request_id.encode()),
            ]
            await send_body(send, 401, _REFUSAL.to_json(request_id), headers)
        else:
            await self._app(scope, hold_back(receive), send)


def middlewares() -> list[Middleware]:
    """The middlewares, as ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names this function."""
    # Serve calls this in each process that serves HTTP, before it builds the server.
    install_arrival_protocol()
    return [Middleware(FastPath)]


async def _wait_for_turn(admission: KeyAdmission, scope: Scope, send: Send) -> bool:
    """Whether a request may pass; one that may not is answered."""
    headers = dict(scope["headers"])
    secret = secret_of(headers, scope["path"])
    if secret is None or scope["path"] in _OPEN:
        return True
    began = time.perf_counter()
    try:
        await admission.wait_for_turn(secret)
    except RateLimitError as error:
        problem, request_id = problem_of(error), new_request_id()
        answer = [*problem.headers, (b"x-request-id", request_id.encode())]
        if _is_body_arriving(headers):
            answer.append((b"connection", b"close"))
        await send_body(send, problem.status, problem.to_json(request_id), answer)
        rule, elapsed = find_rule(scope["method"], scope["path"]), time.perf_counter() - began
        admission.observe(rule.prefix, scope["method"], problem.status, elapsed)
        return False
    return True


def _is_body_arriving(headers: Mapping[bytes, bytes]) -> bool:
    length = headers.get(b"content-length", b"0")
    is_short = length.isdigit() and len(length) < 10 and int(length) <= _READ_AHEAD_BYTES
    return b"transfer-encoding" in headers or not is_short


def _find_hot_app(scope: Scope) -> ASGIApp | None:
    path = scope["path"]
    for prefix, (app, hot_routes) in _hot_apps.items():
        # "/featuresque" is not a route under "/features".
        if not path.startswith(prefix) or path[len(prefix) :][:1] not in ("", "/"):
            continue
        if scope["method"] == "GET" or path in hot_routes:
            return app
    return None


class _JoiningTransport:
    """A transport that writes a response's head together with the start of its body.

    uvicorn writes head and body apart, and each write is a system call here and a wake-up at the
    proxy: together a fifth of a hot read.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Hold the head back until the next write; pass everything else on."""
        if self._head is None and not data.startswith(_CONTINUE):
            self._head = data
        else:
            self._transport.write((self._head or b"") + data)
            # Empty, not None: the head of this response has been written.
            self._head = self._head and b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _join_writes(send: Send) -> None:
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle):
        cycle.transport = cast(Transport, _JoiningTransport(cycle.transport))


def _may_reach_serve(name: bytes, value: bytes) -> bool:
    if name == b"x-request-id":
        return REQUEST_ID.fullmatch(value) is not None
    return name not in _SERVES_CONTROLS and (name not in _SERVES_TEXTS or value.isascii())


def _has_key_or_is_public(scope: Scope) -> bool:
    path = scope["path"]
    if path in _OPEN:
        return True
    has_key = any(name == b"authorization" and value for name, value in scope["headers"])
    return has_key and path != "/-/routes"
