"""ASGI middleware in front of every app: keys, limits, request ids, error body, metrics.

Admission is by API keys: scopes, limits and counters, with keys cached for a short time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from sunloom.config import Settings
from sunloom.config.request_limits import RequestLimits
from sunloom.core.caching import TtlCache
from sunloom.core.database import utc_now
from sunloom.core.telemetry import get_logger
from sunloom.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
    SunloomError,
)
from sunloom.serving.asgi import (
    DEFAULT_LIMITS,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    take_bodies_of,
    take_json,
)
from sunloom.serving.auth.api_keys import KeyRecord, find_key, is_well_formed, open_keys
from sunloom.serving.auth.failed_attempts import FailedAttempts
from sunloom.serving.auth.rate_limits import RateLimiter, Spent, Taken
from sunloom.serving.auth.refused_requests import RefusedRequests, is_refusal
from sunloom.serving.auth.scopes import PUBLIC, find_rule, list_challenges, takes_password
from sunloom.serving.error_body import Problem, new_request_id, problem_of, translate

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""Request ids that are taken from a client."""
# An error response is collected to be translated: this bounds the memory for it.
_LONGEST_ERROR_BYTES = 1 << 20
_SLASHES = re.compile("/{2,}")
_CALLER = "sunloom.caller"
# One write a second and process, however many requests there are.
_SYNC_S = 1.0
# With the time for which a process caches a key, a stream ends well within five seconds.
_STREAM_CHECK_S = 1.0
# A client that reads no more must not hold the end of its stream up.
_LAST_EVENT_S = 1.0
_CACHED_KEYS = 10_000
_logger = get_logger("serving.middleware")


@dataclass(frozen=True)
class Caller:
    """The caller of a request.

    Attributes:
        request_id: Id of the request, echoed in its answer.
        key: The key's record; None on public routes.
        secret: The key itself, to call other apps on the caller's behalf.
    """

    request_id: str
    key: KeyRecord | None = None
    secret: str = ""


def caller(scope: Scope) -> Caller:
    """The caller of a request, which the middleware has put into the scope."""
    value = scope[_CALLER]
    assert isinstance(value, Caller)
    return value


def tenant_of(scope: Scope) -> str:
    """The tenant of the caller's key; empty on public routes."""
    key = caller(scope).key
    return key.tenant if key is not None else ""


class GatewayMiddleware:
    """The first layer of an app's ASGI stack.

    Args:
        app: The app behind.
        admission: Decides which requests are allowed.
        name: The app's name, sent as ``X-Sunloom-App``.
        server_sets_request_id: Ray Serve's own server creates and echoes ``X-Request-ID``;
            behind another server the middleware does.
        limits: Largest body of a request; the app sees none that exceeds them.
        is_hot: Requests take a fraction of a millisecond, of which what the key may still use, in
            headers, and the watch over streams would be a tenth: both are left out.
    """

    def __init__(
        self,
        app: ASGIApp,
        admission: KeyAdmission,
        name: str,
        *,
        server_sets_request_id: bool = False,
        limits: RequestLimits = DEFAULT_LIMITS,
        is_hot: bool = False,
    ) -> None:
        self._app = app
        self._is_hot = is_hot
        self._limits = limits
        take_bodies_of(limits.body_bytes)
        self._admission = admission
        self._name = name.encode()
        self._sets_request_id = not server_sets_request_id
        self._failed_attempts = FailedAttempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            # No app here speaks WebSocket: refuse before the handshake.
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_head = scope["method"] == "HEAD"
        # Serve mounts an app at its prefix; the apps here know their whole path, and each route's
        # path without the slash that some clients append. HEAD is GET without the body.
        scope = {
            **scope,
            "root_path": "",
            "path": scope["path"].removesuffix("/") or "/",
            "method": "GET" if is_head else scope["method"],
        }
        # Outside the try: the metrics below need the rule whatever happens.
        rule = find_rule(scope["method"], scope["path"])
        request_id = _request_id(headers, is_trusted=not self._sets_request_id)
        extra = [(b"x-sunloom-app", self._name)]
        if self._sets_request_id:
            extra.append((b"x-request-id", request_id.encode()))
        response = _Response(send, request_id, extra, path=scope["path"], is_head=is_head)
        began = time.perf_counter()
        try:
            admitted = await self._admit(scope, headers, rule.scope, request_id)
            scope[_CALLER] = admitted
            if admitted.key is not None and not self._is_hot:
                extra += self._admission.limit_headers(admitted.key)
                response.watch_stream(lambda: self._end_revoked(admitted, response))
            _check_target(scope)
            if scope["method"] != "GET":
                receive = await take_json(scope, receive, self._limits)
            await self._app(scope, receive, response.send)
        except asyncio.CancelledError:
            if not response.is_ended:
                raise
            # Not the server but the watch ended this request, and the client has been told.
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
        except SunloomError as error:
            await response.fail(problem_of(error), error)
        except Exception as error:
            # Everything that HEAD asks for is sent; what ended the app is of no interest.
            if is_head and response.is_started:
                return
            _logger.exception("request %s failed", request_id)
            await response.fail(problem_of(error), error)
        finally:
            response.stop_watch()
            elapsed = time.perf_counter() - began
            self._admission.observe(rule.prefix, scope["method"], response.status, elapsed)
            if is_refusal(scope["method"], response.status):
                self._count_refusal(scope)

    async def _admit(
        self, scope: Scope, headers: dict[bytes, bytes], needed: str | None, request_id: str
    ) -> Caller:
        if scope["path"] in PUBLIC:
            return Caller(request_id)
        secret = secret_of(headers, scope["path"])
        try:
            key = await self._admission.admit(secret, needed)
        except AuthenticationError:
            # Without a key nothing was guessed.
            if secret:
                peer = (scope.get("client") or ("",))[0]
                source = self._failed_attempts.source_of(peer, headers)
                await self._failed_attempts.slow_down(source)
            raise
        # The secret goes along: /llm/generate calls the language app with it.
        return Caller(request_id, key, secret or "")

    def _count_refusal(self, scope: Scope) -> None:
        # Without one, admission has refused, and counted.
        if _CALLER in scope and (key := caller(scope).key) is not None:
            self._admission.count_refusal(key)

    async def _end_revoked(self, admitted: Caller, response: _Response) -> None:
        """End a stream once its key is revoked or has expired."""
        while await self._admission.is_valid(admitted.secret):
            await asyncio.sleep(_STREAM_CHECK_S)
        error = AuthenticationError(
            "The key was revoked or has expired: the stream ends here.",
            "Continue with another key.",
        )
        await response.end_stream(problem_of(error))


class _HeadSentError(OSError):
    """Ends an app that goes on after the head; an OSError, as of a connection that was closed."""


def _check_target(scope: Scope) -> None:
    """Refuse a second spelling of a path, and characters that no name has.

    Raises:
        NotFoundError: A slash too many: no route has two in a row.
        RequestError: U+0000, which no database stores.
    """
    path = scope["path"]
    if "//" in path:
        hint = f"Write {_SLASHES.sub('/', path)}."
        raise NotFoundError(f"There is no route {path}.", hint)
    if "\0" in path or b"%00" in scope.get("query_string", b""):
        raise RequestError("The URL holds the character U+0000.", "Leave it out.")


class _Response:
    """Passes a response through; an error is collected first and sent with the common body."""

    def __init__(
        self,
        send: Send,
        request_id: str,
        extra: list[tuple[bytes, bytes]],
        *,
        path: str,
        is_head: bool,
    ) -> None:
        self._send = send
        self._path = path
        self._extra = extra
        self._is_head = is_head
        self._error_start: Message | None = None
        self._body = bytearray()
        self.is_started = False
        self._request_id = request_id
        self._request: asyncio.Task[Any] | None = None
        self._watch: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.status = 500
        self.is_ended = False
        """Whether the watch has ended the stream."""

    async def send(self, message: Message) -> None:
        """The app's ``send``."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._error_start is not None:
            await self._collect(message)
        elif self.is_ended:
            return
        elif not self._is_head:
            await self._send(message)
        elif message.get("more_body"):
            # A stream of events would go on for its whole length, with nobody to read it.
            raise _HeadSentError

    async def fail(self, problem: Problem, error: BaseException) -> None:
        """Send a problem, unless the response has started."""
        if self.is_started:
            # The client must see the stream break off, not end.
            raise error
        self._error_start = None
        await self._send_problem(problem, problem.headers)

    async def end_stream(self, problem: Problem) -> None:
        """Send a problem as the last event of a stream, and cancel the app that sends it."""
        self.is_ended = True
        self.status = problem.status
        data = problem.to_json(self._request_id).decode()
        event = f"event: error\ndata: {data}\n\n".encode()
        try:
            async with asyncio.timeout(_LAST_EVENT_S):
                await self._send({"type": "http.response.body", "body": event})
        except Exception as error:  # noqa: BLE001 - the client has gone; the app is to end anyway
            _logger.debug("the last event could not be sent: %s", type(error).__name__)
        if self._request is not None:
            self._request.cancel()

    def watch_stream(self, watch: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this beside the response if it is a stream of events; called in the request's task.

        An app may send from a task of its own, which is not the one to cancel.
        """
        self._watch, self._request = watch, asyncio.current_task()

    def stop_watch(self) -> None:
        """End the watch with the stream."""
        if self._watching is not None:
            self._watching.cancel()

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        # A response to HEAD has no body that could be translated.
        if self.status >= 400 and not self._is_head:
            self._error_start = message
            return
        self.is_started = True
        headers = message.get("headers", ())
        await self._send({**message, "headers": [*headers, *self._extra]})
        if self._is_head:
            await self._send({"type": "http.response.body", "body": b""})
        elif self._watch is not None:
            for name, value in headers:
                if name == b"content-type":
                    if value.startswith(b"text/event-stream"):
                        self._watching = asyncio.create_task(self._watch())
                    break

    async def _collect(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body") and len(self._body) < _LONGEST_ERROR_BYTES:
            return
        start, self._error_start = self._error_start, None
        assert start is not None
        headers = [pair for pair in start.get("headers", ()) if pair[0].lower() not in _REPLACED]
        await self._send_problem(translate(self.status, bytes(self._body)), headers)

    async def _send_problem(self, problem: Problem, headers: Any) -> None:
        self.is_started = True
        self.status = problem.status
        body = problem.to_json(self._request_id)
        all_headers = [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *(list_challenges(self._path) if problem.status == 401 else ()),
            *self._extra,
        ]
        await self._send(
            {"type": "http.response.start", "status": problem.status, "headers": all_headers}
        )
        await self._send({"type": "http.response.body", "body": b"" if self._is_head else body})


# They describe the app's own body, which the common one replaces.
_REPLACED = frozenset({b"content-type", b"content-length", b"content-encoding"})


def _request_id(headers: dict[bytes, bytes], *, is_trusted: bool) -> str:
    value = headers.get(b"x-request-id", b"")
    # A client's own id is echoed and logged, so it must not be able to forge a line or a header.
    if value and (is_trusted or REQUEST_ID.fullmatch(value)):
        return value.decode("latin-1")
    return new_request_id()


def secret_of(headers: Mapping[bytes, bytes], path: str) -> str | None:
    """The key that a request bears; in Basic's password only where its path allows that."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip().decode("latin-1") or None
    if scheme.lower() == b"basic" and takes_password(path):
        return _basic_password(value)
    return None


def _basic_password(value: bytes) -> str | None:
    try:
        return base64.b64decode(value).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError):
        return None


class RequestObserver(Protocol):
    """Counts answered requests; ``metrics.request_metrics.RequestMetrics`` is the real one."""

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""

    def flush(self) -> None:
        """Write the counts; blocking."""


class KeyAdmission:
    """Admission by API keys: one instance per process and app.

    Args:
        settings: The platform's settings.
        metrics: Counts answered requests.
    """

    def __init__(self, settings: Settings, metrics: RequestObserver) -> None:
        self._settings = settings
        # Valid ones only: whoever guesses must not fill the memory.
        self._keys = TtlCache[str, KeyRecord](settings.serving.keys.cache_s, _CACHED_KEYS)
        database = open_keys(settings)
        self._limiter = RateLimiter(database)
        self._refused = RefusedRequests(settings.serving.limits)
        self._metrics = metrics
        self._syncing: asyncio.Task[None] | None = None
        # One lease at a time for each account, and the requests that wait for it.
        self._leases: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, int] = {}

    async def admit(self, secret: str | None, scope: str | None) -> KeyRecord:
        """The key's record, if the request is allowed; counts the request against its limits.

        Raises:
            AuthenticationError: No key, or one that is unknown, expired or revoked.
            PermissionDeniedError: The key lacks the scope.
            RateLimitError: The minute's limit is used up.
            QuotaError: The token quota is used up.
        """
        if not secret:
            raise AuthenticationError(
                "This route needs a key.", "Send the header Authorization: Bearer KEY."
            )
        key = self._keys.get(secret) or await self._find(secret)
        if not key.is_valid(utc_now()):
            raise _unknown_key()
        if not key.may(scope):
            self.count_refusal(key)
            raise PermissionDeniedError(
                f"Key {key.id} lacks the scope {scope!r}.",
                f"Its scopes: {', '.join(key.scopes)}.",
            )
        taken = self._limiter.take(key)
        # Its values are three, and nearly every request ends here.
        if taken is not Taken.REQUEST:
            await self._take_slowly(key, taken)
        self._sync_soon()
        return key

    @property
    def has_slow_tenants(self) -> bool:
        """Whether ``wait_for_turn`` would let anybody wait; costs next to nothing."""
        return self._refused.has_slow_tenants

    async def wait_for_turn(self, secret: str) -> None:
        """Wait as long as the key's tenant has to, whose requests were refused again and again.

        Raises:
            RateLimitError: Many of the tenant's requests wait already.
        """
        try:
            key = self._keys.get(secret) or await self._find(secret)
        except (AuthenticationError, SQLAlchemyError):
            # `admit` answers it.
            return
        # The operator must not be held up by a program with a key of the same tenant.
        if "admin" not in key.scopes:
            await self._refused.wait_for_turn(key.tenant)

    def count_refusal(self, key: KeyRecord) -> None:
        """Count a refused request against the key's tenant."""
        if "admin" not in key.scopes:
            self._refused.count(key.tenant)

    async def is_valid(self, secret: str) -> bool:
        """Whether a key that was admitted before is still neither revoked nor expired."""
        try:
            key = self._keys.get(secret) or await self._find(secret)
        except AuthenticationError:
            return False
        except SQLAlchemyError as error:
            _logger.warning("a stream's key could not be read, trying again: %s", error)
            return True
        return key.is_valid(utc_now())

    def limit_headers(self, key: KeyRecord) -> list[tuple[bytes, bytes]]:
        """What the key may still use, under the names of OpenAI's headers."""
        remaining, allowance = self._limiter.remaining_of(key), key.allowance
        headers = [
            (b"x-ratelimit-limit-requests", b"%d" % allowance.requests_per_minute),
            (b"x-ratelimit-remaining-requests", b"%d" % remaining.requests),
        ]
        if allowance.token_quota is not None:
            headers += [
                (b"x-ratelimit-limit-tokens", b"%d" % allowance.token_quota),
                (b"x-ratelimit-remaining-tokens", b"%d" % (remaining.tokens or 0)),
            ]
        return headers

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._metrics.observe(route, method, status, seconds)
        self._sync_soon()

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a model request against a key's quota."""
        self._limiter.spend(key, spent)

    def write_counts(self) -> None:
        """Write what was spent, for other processes to know; blocking."""
        try:
            self._limiter.sync()
        except SQLAlchemyError as error:
            _logger.warning("counters could not be written, trying again: %s", error)

    def remaining_tokens(self, key: KeyRecord) -> int | None:
        """Tokens that are left of a key's quota; None without a quota."""
        return self._limiter.remaining_of(key).tokens

    async def _find(self, secret: str) -> KeyRecord:
        """The record of a key that is not cached.

        Raises:
            AuthenticationError: There is none.
        """
        # The database is asked only for what could be a key.
        if not is_well_formed(secret):
            raise _unknown_key()

        async def load() -> KeyRecord:
            key = await asyncio.to_thread(find_key, self._settings, secret)
            # Raised inside: a load that fails caches nothing.
            if key is None or not key.is_valid(utc_now()):
                raise _unknown_key()
            return key

        return await self._keys.get_or_await(secret, load)

    async def _take_slowly(self, key: KeyRecord, taken: Taken) -> None:
        """Lease requests ahead of need, or wait for a lease and take a request from it."""
        if taken is Taken.REQUEST_OF_LAST:
            self._lease(key)
        while taken is Taken.NOTHING:
            self._waiting[key.account] = self._waiting.get(key.account, 0) + 1
            try:
                # Others wait for it too: it goes on when this client hangs up.
                await asyncio.shield(self._lease(key))
            finally:
                self._waiting[key.account] -= 1
                if not self._waiting[key.account]:
                    del self._waiting[key.account]
            taken = self._limiter.take(key)

    def _lease(self, key: KeyRecord) -> asyncio.Task[None]:
        task = self._leases.get(key.account)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._lease_in_thread(key))
            self._leases[key.account] = task
            task.add_done_callback(lambda _: self._leases.pop(key.account, None))
        return task

    async def _lease_in_thread(self, key: KeyRecord) -> None:
        wanted = self._waiting.get(key.account, 1)
        await asyncio.to_thread(self._limiter.lease, key, wanted)

    def _sync_soon(self) -> None:
        # One exchange at a time, for all requests that arrive meanwhile.
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.get_running_loop().create_task(self._sync())

    async def _sync(self) -> None:
        holds_leases = True
        # A second time where nothing else arrives: idle leases are given back then.
        while holds_leases:
            await asyncio.sleep(_SYNC_S)
            try:
                holds_leases = await asyncio.to_thread(self._exchange)
            except Exception as error:  # noqa: BLE001 - a busy database must not stop requests
                _logger.warning("counters could not be written, trying again: %s", error)

    def _exchange(self) -> bool:
        holds_leases = self._limiter.sync()
        self._metrics.flush()
        return holds_leases


# The layer ahead of Serve is built without arguments: the replica, which has one app, sets it here.
_process_admission: list[KeyAdmission] = []


def set_process_admission(admission: KeyAdmission) -> None:
    """Let the layer ahead of Serve know the admission of this process's app."""
    _process_admission[:] = [admission]


def process_admission() -> KeyAdmission | None:
    """The admission of this process's app; None outside of a replica."""
    return _process_admission[0] if _process_admission else None


def _unknown_key() -> AuthenticationError:
    return AuthenticationError(
        "The key is unknown, expired or revoked.", "Create one with: sunloom keys create"
    )
