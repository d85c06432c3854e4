"""The outermost layer of each replica's own port, before Serve's routing.

Serve answers a route list and a 404 of its own there, ahead of the app and its guard. Hot reads
leave here too: Serve's own bookkeeping costs more than the read itself.
"""

from __future__ import annotations

from asyncio import Transport
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, cast

from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from sunloom.serving.asgi.error_body import Problem, new_request_id
from sunloom.serving.auth.scopes import PUBLIC

_OPEN = PUBLIC | {"/-/healthz"}
_REFUSAL = Problem(
    401, "unauthenticated", "This route needs a key.", "Send the header Authorization: Bearer KEY."
)
_CONTINUE = b"HTTP/1.1 100 "
_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], _Send], Awaitable[None]]


_direct: dict[str, tuple[_App, frozenset[str]]] = {}


def register_fast_path(prefix: str, app: _App, reads: Iterable[str] = ()) -> None:
    """Let an app of this replica answer reads at the door, without Serve's layers.

    Serve then neither counts nor limits them, nor waits for them at shutdown: only for what is
    over at once.

    Args:
        prefix: The app's route prefix; its GET requests are answered here.
        app: The app behind its guard, which makes request ids itself.
        reads: Paths whose other methods only read, too.
    """
    _direct[prefix] = app, frozenset(reads)


class FastPath:
    """Turns away whoever brings no key at all; the guard behind checks the key."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send
    ) -> None:
        """Answer a hot read, pass a request on, or refuse it."""
        direct = _direct_app(scope) if _direct and scope["type"] == "http" else None
        if direct is not None:
            _join_writes(send)
            await direct(scope, receive, send)
            return
        if scope["type"] == "http" and not _may_pass(scope):
            await _refuse(send)
        else:
            await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names."""
    return [Middleware(FastPath)]


def _direct_app(scope: _Message) -> _App | None:
    path = scope["path"]
    for prefix, (app, reads) in _direct.items():
        if not path.startswith(prefix) or path[len(prefix) :][:1] not in ("", "/"):
            continue
        if scope["method"] == "GET" or path in reads:
            return app
    return None


class _Joined:
    """A transport that writes an answer's head together with what follows it.

    uvicorn writes head and body apart, and each write is a system call here and a wake-up at the
    proxy: together a fifth of a hot read.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Hold the head back until there is more; let everything else through."""
        if self._head is None and not data.startswith(_CONTINUE):
            self._head = data
        else:
            self._transport.write((self._head or b"") + data)
            self._head = self._head and b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _join_writes(send: _Send) -> None:
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle):
        cycle.transport = cast(Transport, _Joined(cycle.transport))


def _may_pass(scope: _Message) -> bool:
    path = scope["path"]
    if path in _OPEN:
        return True
    has_key = any(name == b"authorization" and value for name, value in scope["headers"])
    return has_key and path != "/-/routes"


async def _refuse(send: _Send) -> None:
    request_id = new_request_id()
    body = _REFUSAL.encoded(request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b'Bearer realm="sunloom"'),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
