"""A gateway for tests: an OpenAI-compatible model that follows a script, features, predictions.

It is a real HTTP server on loopback in a thread, bounded by the test that starts it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

BIG = 70_000
"""An entity whose features have 300 kB."""

Script = Callable[[dict[str, Any]], dict[str, Any]]


def say(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}


def call(name: str, number: int = 0, **arguments: Any) -> dict[str, Any]:
    return calls([(name, arguments)], number)


def calls(named: list[tuple[str, dict[str, Any]]], number: int = 0) -> dict[str, Any]:
    listed = [
        {
            "id": f"call_{number}_{i}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for i, (name, arguments) in enumerate(named)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": listed}
    return {"message": message, "finish_reason": "tool_calls"}


def results(body: dict[str, Any]) -> list[Any]:
    """Tool results so far, decoded."""
    return [json.loads(m["content"]) for m in body["messages"] if m["role"] == "tool"]


def voucher(body: dict[str, Any]) -> dict[str, Any]:
    """Looks up features, then the prediction, then says yes for those who lapse."""
    had = results(body)
    customer = int(re.findall(r"\d+", body["messages"][1]["content"])[-1])
    if not had:
        return call("get_features", 0, feature_set="customer", entity_id=customer)
    if len(had) == 1:
        return call("predict", 1, model="repurchase", entity_id=customer)
    return say("Yes." if had[1]["prediction"] == "lapse" else "No.")


class ScriptedGateway:
    """Requests that the gateway received, and its address."""

    def __init__(self, script: Script, delay_s: float = 0.0) -> None:
        self.script = script
        self.delay_s = delay_s
        self.completions: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.url = ""
        self.expired: set[str] = set()

    def paths(self, prefix: str) -> list[str]:
        return [path for _, path, _ in self.requests if path.startswith(prefix)]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        url = urlparse(path)
        if url.path == "/v1/chat/completions":
            return self._complete(body)
        if url.path.startswith("/v1/models/"):
            return _model_card(url.path.removeprefix("/v1/models/"))
        if method == "GET" and url.path.startswith("/features/"):
            entity = int(parse_qs(url.query)["entity_id"][0])
            return _features(url.path.split("/")[2], entity)
        if url.path.startswith("/predict/"):
            return _predictions(url.path.split("/")[2], body["entity_ids"])
        return 404, _error("not_found", f"no route {url.path}")

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            self.completions.append(body)
        time.sleep(self.delay_s)
        choice = self.script(body)
        if "status" in choice:
            return choice["status"], _error("invalid_request", choice["text"])
        if "raw" in choice:
            return 200, choice["raw"]
        return 200, {
            "id": "cmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, **choice}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }


def _model_card(name: str) -> tuple[int, Any]:
    if name == "retail-agent":
        return 200, {"id": name, "object": "model"}
    body = _error("not_found", f"There is no model {name!r}.")
    body["error"] |= {"param": "model", "hint": "Did you mean 'retail-agent'?"}
    return 404, body


def _lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _features(feature_set: str, entity: int) -> tuple[int, Any]:
    if feature_set != "customer":
        return 404, _error("not_found", f"There is no feature set {feature_set!r}.")
    found = entity < 90_000
    if entity == BIG:
        return 200, {"found": True, "feature_set": feature_set, "features": {"x": "y" * 300_000}}
    values = {"purchase_count": 12, "recency_days": 45, "total_amount": 352.1749, "extra": 1}
    return 200, {
        "feature_set": feature_set,
        "entity_id": entity,
        "found": found,
        "features": values if found else dict.fromkeys(values),
    }


def _predictions(model: str, entities: list[int]) -> tuple[int, Any]:
    if model != "repurchase":
        return 404, _error("not_found", f"There is no model {model!r}.")
    listed = [
        {
            "entity_id": entity,
            "probability": 0.1234 if entity % 2 else 0.8,
            "prediction": "lapse" if entity % 2 else "return",
        }
        for entity in entities
    ]
    return 200, {"model": "repurchase@1", "predictions": listed}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"type": code, "code": code, "message": message, "hint": "", "param": None}}


@contextmanager
def serve(script: Script = voucher, delay_s: float = 0.0) -> Iterator[ScriptedGateway]:
    gateway = ScriptedGateway(script, delay_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            self._handle("GET", None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._handle("POST", json.loads(self.rfile.read(length) or b"{}"))

        def _handle(self, method: str, body: Any) -> None:
            with gateway.lock:
                gateway.requests.append((method, self.path, _lowered(self.headers)))
            key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if key in gateway.expired:
                status, answer = 401, _error("unauthenticated", "The key is expired.")
            else:
                status, answer = gateway.answer(method, self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                # A cancelled task has hung up.
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    gateway.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
