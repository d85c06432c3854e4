"""What stands between the guard and vLLM.

Names become adapters, some requests are refused, tokens are counted.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from sunloom.errors import NotFoundError, RequestError
from sunloom.serving.apps.llm.model_resolver import ModelResolver, Target
from sunloom.serving.asgi.bodies import parse_object, read_body, send_json
from sunloom.serving.asgi.types import ASGIApp, Message, Receive, Scope, Send

MODELS = "/v1/models"
DOCUMENT = "/v1/openapi.json"
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_USAGE = b'"usage":'

Load = Callable[[Target], Awaitable[None]]
Spend = Callable[[Scope, int], None]


class Completions:
    """The layer in front of vLLM's own app.

    Args:
        app: vLLM's ASGI app.
        directory: What the names mean.
        load: Puts an adapter into the engine; returns at once when it is there.
        spend: Counts the tokens of a request.
        describe: vLLM's OpenAPI document, for the gateway.
        offered: Routes that vLLM has for this kind of model.
    """

    def __init__(
        self,
        app: ASGIApp,
        directory: ModelResolver,
        load: Load,
        spend: Spend,
        describe: Callable[[], dict[str, Any]] = dict,
        offered: Collection[str] = ROUTES,
    ) -> None:
        self._app = app
        self._directory = directory
        self._load = load
        self._spend = spend
        self._describe = describe
        self._offered = frozenset(offered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on with its model resolved."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if path == MODELS or path.startswith(MODELS + "/"):
            await self._models(path.removeprefix(MODELS).lstrip("/"), send)
        elif path == DOCUMENT:
            await send_json(send, 200, self._describe())
        elif path in ROUTES and path in self._offered:
            await self._complete(scope, receive, send)
        elif path in ROUTES:
            raise RequestError(
                f"{self._directory.base.name!r} does not answer {path}.",
                f"It answers {', '.join(sorted(self._offered))}.",
                "model",
            )
        else:
            raise NotFoundError(f"There is no route {path}.", known=(MODELS, *ROUTES), name=path)

    async def _models(self, name: str, send: Send) -> None:
        cards = await self._directory.cards()
        if not name:
            await send_json(send, 200, {"object": "list", "data": cards})
            return
        await self._directory.resolve(name)
        card = next(card for card in cards if card["id"] == name.partition("@")[0])
        await send_json(send, 200, {**card, "id": name})

    async def _complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = parse_request(await read_body(receive))
        check_request(request)
        target = await self._directory.resolve(request["model"])
        await self._load(target)
        tap = _UsageTap(send, lambda tokens: self._spend(scope, tokens))
        body = tap.prepare({**request, "model": target.served})
        await self._app(_with_length(scope, len(body)), _once(body, receive), tap.send)


def parse_request(body: bytes) -> dict[str, Any]:
    """The request as an object with a model's name.

    Raises:
        RequestError: It is not JSON, not an object, or names no model.
    """
    request = parse_object(body)
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise RequestError("The body names no model.", "GET /v1/models lists them.", "model")
    return request


def check_request(request: Mapping[str, Any]) -> None:
    """Refuse what would end the engine: log-probabilities of the prompt.

    Raises:
        RequestError: The request asks for them.
    """
    hint = "Evaluate on an engine of its own instead: sunloom llm evaluate."
    if request.get("prompt_logprobs") is not None:
        raise RequestError("prompt_logprobs is not offered here.", hint, "prompt_logprobs")
    # 0 asks for them too.
    wanted = [request.get(name) for name in ("logprobs", "top_logprobs")]
    if request.get("echo") and any(one is not None and one is not False for one in wanted):
        raise RequestError("echo together with logprobs is not offered here.", hint, "echo")


class _UsageTap:
    """Reads the token count off an answer.

    vLLM sends a stream's count only on request, in a last event of its own: it is always asked
    for, and the event is taken out again where the client did not ask.
    """

    def __init__(self, send: Send, count: Callable[[int], None]) -> None:
        self._send = send
        self._count = count
        self._streams = False
        self._shows = True
        self._body = bytearray()

    def prepare(self, request: dict[str, Any]) -> bytes:
        """The body to send on."""
        self._streams = bool(request.get("stream"))
        if self._streams:
            options = request.get("stream_options") or {}
            if isinstance(options, dict):
                self._shows = bool(options.get("include_usage"))
                request["stream_options"] = {**options, "include_usage": True}
        return json.dumps(request).encode()

    async def send(self, message: Message) -> None:
        """The app's ``send``."""
        if message["type"] == "http.response.body":
            message = self._read(message)
        await self._send(message)

    def _read(self, message: Message) -> Message:
        body = message.get("body", b"")
        if not self._streams:
            self._body += body
            if not message.get("more_body"):
                self._count(_tokens(bytes(self._body)))
            return message
        if _USAGE not in body:
            return message
        kept = [event for event in body.split(b"\n\n") if not self._is_usage(event)]
        return {**message, "body": b"\n\n".join(kept)}

    def _is_usage(self, event: bytes) -> bool:
        if _USAGE not in event or b'"choices":[]' not in event:
            return False
        self._count(_tokens(event.removeprefix(b"data: ")))
        return not self._shows


def _tokens(body: bytes) -> int:
    try:
        usage = json.loads(body).get("usage") or {}
    except (ValueError, AttributeError):
        return 0
    return int(usage.get("total_tokens") or 0)


def _once(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the changed body, then whatever the client does next."""
    pending = [body]

    async def read() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return read


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}
