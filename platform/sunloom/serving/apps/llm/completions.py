"""Middleware between the gateway's and vLLM's app: models, checked requests, token counts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sunloom.config.serving import LlmServing
from sunloom.errors import NotFoundError, RateLimitError, RequestError
from sunloom.serving.apps.llm.fair_queue import RETRY_S, FairQueue, Owner
from sunloom.serving.apps.llm.key_budget import KeyBudget, TokenQuota
from sunloom.serving.apps.llm.model_resolver import ModelResolver, ResolvedModel
from sunloom.serving.apps.llm.prompt_turns import ask_for
from sunloom.serving.apps.llm.request_checks import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    check_request,
    limit_answer,
)
from sunloom.serving.apps.llm.token_meter import TokenMeter, create_metered_task
from sunloom.serving.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    pop_json,
    send_json,
)
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.key_holds import KeyHolds
from sunloom.serving.auth.middleware import caller
from sunloom.serving.auth.rate_limits import Spent
from sunloom.serving.auth.tenants import reader_for
from sunloom.serving.error_body import MethodNotAllowedError

MODELS = "/v1/models"
DOCUMENT = "/v1/openapi.json"
# In the order in which they are tried to warm a model up: a plain completion needs no chat
# template, and a pooling model has the last one only.
_SHORTEST_REQUEST: Mapping[str, Mapping[str, Any]] = {
    COMPLETIONS: {"prompt": "a", "max_tokens": 1},
    CHAT: {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    EMBEDDINGS: {"input": "a"},
}
ROUTES = tuple(sorted(_SHORTEST_REQUEST))
# After the client has left: vLLM ends a handler at once, so this is for what hangs.
_END_S = 1.0

Load = Callable[[ResolvedModel], Awaitable[None]]


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


@dataclass(frozen=True, kw_only=True)
class ServedEngine:
    """An engine with vLLM's own app in front of it.

    Attributes:
        app: vLLM's ASGI app.
        resolver: Resolves the names of its models.
        load: Loads an adapter into it; returns at once if it is loaded.
        max_model_len: Longest prompt and answer together, tokens.
        describe: Returns vLLM's OpenAPI document, for the gateway.
        offered: Routes that vLLM has for this kind of model.
    """

    app: ASGIApp
    resolver: ModelResolver
    load: Load
    max_model_len: int
    describe: Callable[[], dict[str, Any]] = dict
    offered: frozenset[str] = frozenset(ROUTES)


class CompletionsMiddleware:
    """The layer in front of vLLM's own apps, one for each engine.

    Args:
        engines: At least one. A request goes to the one that knows its model.
        quota: Counts the tokens of keys, over all engines.
        config: Bounds of requests.
        shared: What requests in other replicas have reserved; None where this is the only one.
    """

    def __init__(
        self,
        engines: Sequence[ServedEngine],
        quota: TokenQuota,
        config: LlmServing,
        *,
        shared: KeyHolds | None = None,
    ) -> None:
        self._engines = tuple(engines)
        self._budget = KeyBudget(quota, shared)
        limits = config.limits
        # Tenants take turns at each engine: one that fills one of them leaves the others free.
        self._queues = [
            FairQueue(limits.max_sequences, config.max_num_seqs, limits.max_waiting)
            for _ in self._engines
        ]
        self._config = config
        self._offered = frozenset().union(*(engine.offered for engine in self._engines))
        # By tenant.
        self._kept_bytes: Counter[str] = Counter()
        self._salt_secret = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on with its model resolved."""
        if scope["type"] != "http":
            await self._engines[0].app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if path == MODELS or path.startswith(MODELS + "/"):
            _check_method(scope, "GET")
            await self._send_models(path.removeprefix(MODELS).lstrip("/"), scope, send)
        elif path == DOCUMENT:
            _check_method(scope, "GET")
            await send_json(send, 200, _join([engine.describe() for engine in self._engines]))
        elif path in ROUTES and path in self._offered:
            _check_method(scope, "POST")
            await self._complete(path, scope, receive, send)
        elif path in ROUTES:
            raise _not_offered(self._engines[0], path)
        else:
            # Whatever else vLLM has, such as loading adapters, is not for clients.
            raise NotFoundError(f"There is no route {path}.", known=(MODELS, *ROUTES), name=path)

    async def _send_models(self, name: str, scope: Scope, send: Send) -> None:
        reader = reader_for(scope)

        def list_cards() -> list[dict[str, Any]]:
            return [card for engine in self._engines for card in engine.resolver.cards(reader)]

        cards = await asyncio.to_thread(list_cards)
        if not name:
            await send_json(send, 200, {"object": "list", "data": cards})
            return
        engine = self._engines[await self._choose(name, reader)]
        await engine.resolver.resolve(name, reader)
        card = next(card for card in cards if card["id"] == name.partition("@")[0])
        await send_json(send, 200, {**card, "id": name})

    async def _choose(self, name: str, reader: str | None) -> int:
        """The number of the engine that a requested model is for."""
        if len(self._engines) == 1:
            # Its resolver says what is wrong with a name that it does not know.
            return 0
        for number, engine in enumerate(self._engines):
            if await engine.resolver.knows(name, reader):
                return number
        known = [
            n for e in self._engines for n in await asyncio.to_thread(e.resolver.names, reader)
        ]
        plain = name.partition("@")[0]
        raise NotFoundError(f"There is no model {plain!r}.", known=known, name=plain, param="model")

    async def _complete(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = await pop_json(scope, receive)
        if not isinstance(request.get("model"), str) or not request["model"]:
            raise RequestError("The body names no model.", "GET /v1/models lists them.", "model")
        reader = reader_for(scope)
        number = await self._choose(request["model"], reader)
        engine = self._engines[number]
        if path not in engine.offered:
            raise _not_offered(engine, path)
        work = check_request(path, request, self._config.limits, engine.max_model_len)
        model = await engine.resolver.resolve(request["model"], reader)
        await engine.load(model)
        key = caller(scope).key
        # Every route of this app needs a key.
        assert key is not None
        request = self._prepare(path, request, key) | {"model": model.engine_name}
        # As bytes while it waits: parsed, some bodies take twenty times as much.
        body = json.dumps(request).encode()
        del request
        meter = TokenMeter()
        owner = Owner(key.tenant, key.account)
        ask_for(owner)
        with self._keep(key, len(body)):
            # What its other requests have used is known when its turn has come.
            turn = self._queues[number].hold(owner, work.sequences)
            async with turn, self._budget.reserve(key, work) as max_tokens:
                if max_tokens is not None:
                    limited = limit_answer(path, json.loads(body), max_tokens)
                    body = json.dumps(limited).encode()
                try:
                    await self._send_to_engine(
                        engine.app, scope, receive, send, body=body, meter=meter
                    )
                finally:
                    self._budget.spend(key, _usage_of(model, meter))

    @contextmanager
    def _keep(self, key: KeyRecord, size: int) -> Iterator[None]:
        """Count a body of so many bytes among those of its tenant that wait or run."""
        kept, most = self._kept_bytes, self._config.limits.max_kept_bytes
        if kept[key.tenant] and kept[key.tenant] + size > most:
            raise RateLimitError(
                f"Requests of the tenant {key.tenant!r} with {kept[key.tenant]} bytes wait or run; "
                f"with this one they would have more than {most}.",
                "Send fewer requests at once.",
                retry_after_s=RETRY_S,
            )
        kept[key.tenant] += size
        try:
            yield
        finally:
            kept[key.tenant] -= size
            if not kept[key.tenant]:
                del kept[key.tenant]

    def _prepare(self, path: str, request: dict[str, Any], key: KeyRecord) -> dict[str, Any]:
        """The request as vLLM shall see it."""
        request = {**request, "cache_salt": self._salt(key.tenant, request.get("cache_salt"))}
        # vLLM's id of a request is the gateway's, which the logs have.
        request.pop("request_id", None)
        if path != CHAT:
            return request
        if request.get("tool_choice") == "none":
            # In the prompt they would invite calls, which nothing parses then.
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                request.pop(name, None)
        # The newer name of the system's role, which chat templates take for the user's.
        request["messages"] = [
            message | {"role": "system"} if message["role"] == "developer" else message
            for message in request["messages"]
        ]
        return request

    def _salt(self, tenant: str, own: str | None) -> str:
        # A prompt of which another tenant has sent the beginning would be answered sooner, and so
        # tell what the other one sent. A client may divide its own prompts further.
        text = json.dumps([tenant, own]).encode()
        return hashlib.blake2b(text, key=self._salt_secret, digest_size=32).hexdigest()

    async def _send_to_engine(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        body: bytes,
        meter: TokenMeter,
    ) -> None:
        """Let vLLM answer, and stop it as soon as the client has left.

        Serve cancels the task of a request whose client has left. vLLM's handler runs in a task of
        its own and lives on; it ends when it receives ``http.disconnect``.
        """
        has_left = asyncio.Event()
        pending = [body]

        async def receive_body_first() -> Message:
            if pending:
                return {"type": "http.request", "body": pending.pop(), "more_body": False}
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def send_while_connected(message: Message) -> None:
            if not has_left.is_set():
                await send(message)

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            has_left.set()

        # The engine's name of the model may be longer than the requested one.
        headers = [pair for pair in scope["headers"] if pair[0] not in _BODY_HEADERS]
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        answer = app({**scope, "headers": headers}, receive_body_first, send_while_connected)
        handler = create_metered_task(meter, _await(answer))
        listener = asyncio.create_task(listen())
        try:
            await asyncio.shield(handler)
        finally:
            listener.cancel()
            has_left.set()
            await _end(handler)


_BODY_HEADERS = frozenset({b"content-type", b"content-length", b"content-encoding"})


def _not_offered(engine: ServedEngine, path: str) -> RequestError:
    return RequestError(
        f"{engine.resolver.base.name!r} does not offer {path}.",
        f"It offers {', '.join(sorted(engine.offered))}.",
        "model",
    )


def _join(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document of several engines: what an earlier one has, the later add to."""
    first, *others = documents
    if not others:
        return first
    joined: dict[str, Any] = {**first, "paths": {}, "components": {"schemas": {}}}
    for document in reversed(documents):
        joined["paths"] |= document.get("paths", {})
        joined["components"]["schemas"] |= document.get("components", {}).get("schemas", {})
    return joined


def _check_method(scope: Scope, method: str) -> None:
    # HEAD arrives here as GET.
    if scope["method"] != method:
        raise MethodNotAllowedError(
            f"{scope['path']} does not take {scope['method']}.", f"It takes {method}."
        )


async def _await(answer: Awaitable[None]) -> None:
    await answer


async def _end(handler: asyncio.Task[None]) -> None:
    """Wait for a handler whose client has left; cancel it if it takes no notice."""
    if not handler.done():
        await asyncio.wait({handler}, timeout=_END_S)
    if not handler.done():
        handler.cancel()
        await asyncio.wait({handler}, timeout=_END_S)
    if handler.done() and not handler.cancelled():
        # Read, so that it is not reported as lost; the shield has raised it where it matters.
        handler.exception()


def _usage_of(model: ResolvedModel, meter: TokenMeter) -> Spent:
    prompt_tokens, completion_tokens = meter.prompt_tokens, meter.completion_tokens
    return Spent(
        model=model.engine_name,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
