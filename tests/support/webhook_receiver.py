"""A web server that takes posts as a webhook's other side does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest


class Receiver(ThreadingHTTPServer):
    """Takes posts; answers with the queued statuses first, then 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        """A hook with a token in its path."""
        return f"http://127.0.0.1:{self.server_port}/hook/t0ken"

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """What was posted."""
        return [json.loads(body) for body in self.bodies]

    @property
    def seen(self) -> list[tuple[str, dict[str, Any]]]:
        """What was posted, and where."""
        return list(zip(self.paths, self.alerts, strict=False))


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on a free port."""
    with Receiver() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)
