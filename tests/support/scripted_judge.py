"""A chat endpoint on loopback whose verdicts are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any]], Any]


@dataclass
class ModelServer:
    """A chat endpoint that says what a function of the judged object says."""

    reply: Reply
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    statuses: list[int] = field(default_factory=list)


@contextmanager
def model_server(reply: Reply) -> Iterator[ModelServer]:
    server, lock, running = ModelServer(reply), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                running[0] += 1
                server.most_at_once = max(server.most_at_once, running[0])
                status = server.statuses.pop(0) if server.statuses else 200
                server.bodies.append(body | {"key": self.headers["Authorization"]})
            said = server.reply(json.loads(body["messages"][1]["content"]))
            content = said if isinstance(said, str) else json.dumps({"reason": "so", **said})
            answer = {
                "choices": [{"message": {"role": "assistant", "content": content}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }
            data = json.dumps(answer if status == 200 else {"error": {"message": "no"}}).encode()
            with lock:
                running[0] -= 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(http.serve_forever, 0.05)
        try:
            yield server
        finally:
            http.shutdown()
            http.server_close()


def by_quality(shown: dict[str, Any]) -> dict[str, str]:
    """Prefers the answer with more stars, wherever it stands."""
    a, b = shown["A"].count("*"), shown["B"].count("*")
    return {"winner": "tie" if a == b else "A" if a > b else "B"}
