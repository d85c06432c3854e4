"""JSON answers of plain ASGI handlers."""

from __future__ import annotations

import json
from typing import Any

from sunloom.serving.guard import Send


async def send_json(send: Send, status: int, data: Any) -> None:
    """Send one JSON answer."""
    body = json.dumps(data, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
