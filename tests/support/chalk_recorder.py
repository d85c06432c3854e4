"""What stands in for a Chalk environment: a real socket that speaks chalkpy's wire form."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather

Answer = Callable[[dict[str, list[Any]], dict[str, Any]], Any]
"""Inputs and query to a table, or to a list of errors."""


class Recorder:
    """A Chalk API on a local port: keeps requests, answers as told."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer = answer
        self.token_status, self.query_status = 200, 200
        self.delay_s = 0.0
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.handle(self, body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def handle(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        kept = {"path": request.path, "headers": dict(request.headers), "body": body}
        self.requests.append(kept)
        if request.path == "/v1/oauth/token":
            token = {
                "access_token": "bearer-never-shown",
                "token_type": "Bearer",
                "expires_in": 3600,
                "api_server": self.url,
            }
            _send(request, self.token_status, "application/json", json.dumps(token).encode())
            return
        if self.query_status != 200:
            detail = json.dumps({"detail": "no such luck", "trace": "t-1"}).encode()
            _send(request, self.query_status, "application/json", detail)
            return
        if self.delay_s:
            threading.Event().wait(self.delay_s)
        inputs, header = _query_of(body)
        kept |= {"inputs": inputs, "query": header}
        answered = self.answer(inputs, header)
        _send(request, 200, "application/octet-stream", _response(answered))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


def _send(request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _query_of(body: bytes) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """chalkpy's wire form: a mark, a JSON header, the inputs as Feather."""
    assert body.startswith(b"chal1")
    length = int.from_bytes(body[5:13], "big")
    header = json.loads(body[13 : 13 + length])
    table = feather.read_table(io.BytesIO(body[13 + length + 8 :]))
    return table.to_pydict(), header


def _response(answered: Any) -> bytes:
    from chalk.byte_transmit.model import ByteDict
    from chalk.client.models import OnlineQueryResponseFeather, OnlineQueryResultFeather

    has_data = isinstance(answered, pa.Table)
    buffer = io.BytesIO()
    if has_data:
        feather.write_feather(answered, buffer)
    result = OnlineQueryResultFeather(
        has_data=has_data,
        scalar_data=buffer.getvalue(),
        groups_data=ByteDict({}),
        errors=None if has_data else [json.dumps(one) for one in answered],
        meta=None,
    )
    return OnlineQueryResponseFeather(
        query_results_bytes=ByteDict({"0": result.serialize()})
    ).serialize()
