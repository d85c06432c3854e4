"""One pure-ASGI class in front of every app: keys, limits, request ids, error body, metrics."""

from __future__ import annotations

import base64
import binascii
import re
import time
from dataclasses import dataclass
from typing import Any, Protocol

from sunloom.core.telemetry import get_logger
from sunloom.errors import SunloomError
from sunloom.serving.asgi.error_body import Problem, new_request_id, problem_of, translate
from sunloom.serving.asgi.types import ASGIApp, Message, Receive, Scope, Send
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.scopes import BROWSED, PUBLIC, find_rule

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_LONGEST_ERROR_BYTES = 1 << 20
_CALLER = "sunloom.caller"
_logger = get_logger("serving.guard")


class Admission(Protocol):
    """Decides who may pass and keeps the counters; ``Gate`` is the real one."""

    async def admit(self, secret: str | None, scope: str | None) -> KeyRecord:
        """The key of a request that may pass."""

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""


@dataclass(frozen=True)
class Caller:
    """Who makes a request.

    Attributes:
        request_id: Id of the request, echoed in its answer.
        key: The key's record; None on public routes.
        secret: The key itself, to call other apps on the caller's behalf.
    """

    request_id: str
    key: KeyRecord | None = None
    secret: str = ""


def caller(scope: Scope) -> Caller:
    """Who makes this request; the guard has put it into the scope."""
    found = scope[_CALLER]
    assert isinstance(found, Caller)
    return found


class GatewayMiddleware:
    """The first layer of an app's ASGI stack.

    Args:
        app: The app behind.
        gate: Who may pass.
        name: The app's name, sent as ``X-Sunloom-App``.
        server_sets_request_id: Ray Serve's own server makes and echoes ``X-Request-ID``;
            behind another server the guard does.
    """

    def __init__(
        self, app: ASGIApp, gate: Admission, name: str, *, server_sets_request_id: bool = False
    ) -> None:
        self._app = app
        self._gate = gate
        self._name = name.encode()
        self._echo = not server_sets_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            # No app of ours speaks WebSocket: refuse before the handshake.
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        # Serve mounts an app at its prefix; the apps here know their whole path.
        scope = {**scope, "root_path": ""}
        rule = find_rule(scope["method"], scope["path"])
        request_id = _request_id(headers, as_given=not self._echo)
        added = [(b"x-sunloom-app", self._name)]
        if self._echo:
            added.append((b"x-request-id", request_id.encode()))
        answer = _Answer(send, request_id, added, is_head=scope["method"] == "HEAD")
        began = time.perf_counter()
        try:
            scope[_CALLER] = await self._admit(scope, headers, rule.scope, request_id)
            await self._app(scope, receive, answer.send)
        except SunloomError as error:
            await answer.fail(problem_of(error), error)
        except Exception as error:
            _logger.exception("request %s failed", request_id)
            await answer.fail(problem_of(error), error)
        finally:
            elapsed = time.perf_counter() - began
            self._gate.observe(rule.prefix, scope["method"], answer.status, elapsed)

    async def _admit(
        self, scope: Scope, headers: dict[bytes, bytes], needed: str | None, request_id: str
    ) -> Caller:
        if scope["path"] in PUBLIC:
            return Caller(request_id)
        secret = _secret(headers, browsed=scope["path"] in BROWSED)
        key = await self._gate.admit(secret, needed)
        return Caller(request_id, key, secret or "")


class _Answer:
    """Passes an answer through; errors are held back and sent in the one body."""

    def __init__(
        self, send: Send, request_id: str, added: list[tuple[bytes, bytes]], *, is_head: bool
    ) -> None:
        self._send = send
        self._added = added
        self._is_head = is_head
        self._held: Message | None = None
        self._body = bytearray()
        self._started = False
        self._request_id = request_id
        self.status = 500

    async def send(self, message: Message) -> None:
        """The app's ``send``."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._held is not None:
            await self._collect(message)
        else:
            await self._send(message)

    async def fail(self, problem: Problem, error: BaseException) -> None:
        """Answer with a problem, unless an answer is under way."""
        if self._started:
            # The client must see the stream break off, not end.
            raise error
        self._held = None
        await self._problem(problem, ())

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        if self.status >= 400 and not self._is_head:
            self._held = message
            return
        self._started = True
        await self._send({**message, "headers": [*message.get("headers", ()), *self._added]})

    async def _collect(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body") and len(self._body) < _LONGEST_ERROR_BYTES:
            return
        held, self._held = self._held, None
        assert held is not None
        kept = [pair for pair in held.get("headers", ()) if pair[0].lower() not in _REPLACED]
        body = bytes(self._body)
        await self._problem(translate(self.status, body), kept)

    async def _problem(self, problem: Problem, headers: Any) -> None:
        self._started = True
        self.status = problem.status
        body = problem.encoded(self._request_id)
        sent = [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *_ADDED.get(problem.status, ()),
            *self._added,
        ]
        await self._send({"type": "http.response.start", "status": problem.status, "headers": sent})
        await self._send({"type": "http.response.body", "body": b"" if self._is_head else body})


_REPLACED = frozenset({b"content-type", b"content-length", b"content-encoding"})
_ADDED = {
    401: ((b"www-authenticate", b'Bearer realm="sunloom", Basic realm="sunloom"'),),
    429: ((b"retry-after", b"60"),),
}


def _request_id(headers: dict[bytes, bytes], *, as_given: bool) -> str:
    given = headers.get(b"x-request-id", b"")
    if given and (as_given or _REQUEST_ID.fullmatch(given)):
        return given.decode("latin-1")
    return new_request_id()


def _secret(headers: dict[bytes, bytes], *, browsed: bool) -> str | None:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip().decode("latin-1") or None
    if browsed and scheme.lower() == b"basic":
        return _basic_password(value)
    return None


def _basic_password(value: bytes) -> str | None:
    try:
        return base64.b64decode(value).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError):
        return None
