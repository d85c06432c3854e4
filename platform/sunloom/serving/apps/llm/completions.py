"""Middleware between the gateway's and vLLM's app: models, refused requests, token counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from sunloom.errors import NotFoundError, RequestError
from sunloom.serving.apps.llm.model_resolver import ModelResolver, ResolvedModel
from sunloom.serving.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    parse_object,
    read_body,
    send_json,
)
from sunloom.serving.auth.rate_limits import Spent
from sunloom.serving.auth.tenants import reader_for

MODELS = "/v1/models"
DOCUMENT = "/v1/openapi.json"
# In the order in which they are tried to warm a model up: a plain completion needs no chat
# template, and a pooling model has the last one only.
_SHORTEST_REQUEST: Mapping[str, Mapping[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "/v1/embeddings": {"input": "a"},
}
ROUTES = tuple(sorted(_SHORTEST_REQUEST))
_USAGE = b'"usage":'

Load = Callable[[ResolvedModel], Awaitable[None]]
Spend = Callable[[Scope, Spent], None]


def build_probe_request(model: str, offered: Collection[str]) -> tuple[str, Mapping[str, Any]]:
    """Path and body of the shortest request that a model can answer.

    Args:
        model: Name of the model.
        offered: Routes that the engine offers.

    Raises:
        RequestError: The engine offers no route that is known here.
    """
    for path, body in _SHORTEST_REQUEST.items():
        if path in offered:
            return path, {"model": model, **body}
    raise RequestError(
        f"The engine offers no route for {model!r}.", f"Known: {', '.join(ROUTES)}.", "model"
    )


class CompletionsMiddleware:
    """The layer in front of vLLM's own app.

    Args:
        app: vLLM's ASGI app.
        resolver: Resolves the names of models.
        load: Loads an adapter into the engine; returns at once if it is loaded.
        spend: Counts the tokens of a request.
        describe: Returns vLLM's OpenAPI document, for the gateway.
        offered: Routes that vLLM has for this kind of model.
    """

    def __init__(
        self,
        app: ASGIApp,
        resolver: ModelResolver,
        load: Load,
        spend: Spend,
        *,
        describe: Callable[[], dict[str, Any]] = dict,
        offered: Collection[str] = ROUTES,
    ) -> None:
        self._app = app
        self._resolver = resolver
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
            await self._send_models(path.removeprefix(MODELS).lstrip("/"), scope, send)
        elif path == DOCUMENT:
            await send_json(send, 200, self._describe())
        elif path in ROUTES and path in self._offered:
            await self._complete(scope, receive, send)
        elif path in ROUTES:
            raise RequestError(
                f"{self._resolver.base.name!r} does not offer {path}.",
                f"It offers {', '.join(sorted(self._offered))}.",
                "model",
            )
        else:
            # Whatever else vLLM has, such as loading adapters, is not for clients.
            raise NotFoundError(f"There is no route {path}.", known=(MODELS, *ROUTES), name=path)

    async def _send_models(self, name: str, scope: Scope, send: Send) -> None:
        reader = reader_for(scope)
        cards = await asyncio.to_thread(self._resolver.cards, reader)
        if not name:
            await send_json(send, 200, {"object": "list", "data": cards})
            return
        await self._resolver.resolve(name, reader)
        card = next(card for card in cards if card["id"] == name.partition("@")[0])
        await send_json(send, 200, {**card, "id": name})

    async def _complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = parse_object(await read_body(receive))
        if not isinstance(request.get("model"), str) or not request["model"]:
            raise RequestError("The body names no model.", "GET /v1/models lists them.", "model")
        check_request(request)
        model = await self._resolver.resolve(request["model"], reader_for(scope))
        await self._load(model)
        counter = _UsageCounter(send, model.engine_name, lambda spent: self._spend(scope, spent))
        body = counter.encode_request({**request, "model": model.engine_name})
        # The engine's name of the model may be longer than the requested one.
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._app({**scope, "headers": headers}, _replay_body(body, receive), counter.send)


def check_request(request: Mapping[str, Any]) -> None:
    """Reject requests for log-probabilities of the prompt, which would crash the engine.

    Raises:
        RequestError: The request asks for them.
    """
    hint = "Evaluate on an engine of its own instead: sunloom llm evaluate."
    if request.get("prompt_logprobs") is not None:
        raise RequestError("prompt_logprobs is not offered here.", hint, "prompt_logprobs")
    # 0 asks for them too.
    logprobs = [request.get(name) for name in ("logprobs", "top_logprobs")]
    if request.get("echo") and any(value is not None and value is not False for value in logprobs):
        raise RequestError("echo together with logprobs is not offered here.", hint, "echo")


class _UsageCounter:
    """Reads the token counts from a response on its way to the client.

    vLLM sends a stream's usage on request only, in an additional last event: it is always
    requested, and the event is removed if the client did not request it.
    """

    def __init__(self, send: Send, model: str, count: Callable[[Spent], None]) -> None:
        self._send = send
        self._model = model
        self._count = count
        self._is_stream = False
        self._client_wants_usage = True
        self._body = bytearray()

    def encode_request(self, request: dict[str, Any]) -> bytes:
        """The body for vLLM, with the usage of a stream requested."""
        self._is_stream = bool(request.get("stream"))
        if self._is_stream:
            options = request.get("stream_options") or {}
            # Anything else is an error, which vLLM reports.
            if isinstance(options, dict):
                self._client_wants_usage = bool(options.get("include_usage"))
                request["stream_options"] = {**options, "include_usage": True}
        return json.dumps(request).encode()

    async def send(self, message: Message) -> None:
        """The app's ``send``."""
        if message["type"] == "http.response.body":
            message = self._process(message)
        await self._send(message)

    def _process(self, message: Message) -> Message:
        body = message.get("body", b"")
        if not self._is_stream:
            self._body += body
            if not message.get("more_body"):
                self._count_usage(bytes(self._body))
            return message
        # Nearly every chunk of a stream leaves here, without having been parsed.
        if _USAGE not in body:
            return message
        events = [event for event in body.split(b"\n\n") if self._keeps(event)]
        return {**message, "body": b"\n\n".join(events)}

    def _keeps(self, event: bytes) -> bool:
        """Whether an event goes to the client; counts the usage if it is the usage event."""
        if _USAGE not in event or b'"choices":[]' not in event:
            return True
        self._count_usage(event.removeprefix(b"data: "))
        return self._client_wants_usage

    def _count_usage(self, body: bytes) -> None:
        try:
            usage = json.loads(body).get("usage") or {}
        except (ValueError, AttributeError):
            # An error response or a body that is no object: nothing was generated.
            usage = {}
        self._count(
            Spent(
                model=self._model,
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                total_tokens=int(usage.get("total_tokens") or 0),
            )
        )


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the changed body once, then the client's further messages."""
    pending = [body]

    async def receive_body_first() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        # vLLM goes on receiving, to notice that the client disconnects.
        return await receive()

    return receive_body_first
