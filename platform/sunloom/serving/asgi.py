"""ASGI without a framework: its types, and request and response bodies of plain handlers."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import date, datetime, timedelta
from typing import Any

import orjson

from sunloom.data.sources.json_objects import MOST_LEVELS, is_deep
from sunloom.errors import RequestError

# The interface's types, as Starlette names them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_BODY_BYTES = 8 << 20


async def send_json(send: Send, status: int, data: Any) -> None:
    """Send a JSON response; NaN and infinity, which JSON lacks, become null."""
    await send_body(send, status, encode_json(data))


async def send_body(
    send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a response with a body of JSON."""
    all_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


def encode_json(data: Any) -> bytes:
    """Data as JSON; NaN and infinity become null."""
    try:
        # A hundred entities of ten features take a twentieth of the standard encoder's time.
        return orjson.dumps(data, default=_to_json_value)
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits and lone surrogates, which only the standard encoder accepts.
        text = json.dumps(_nulls_for_nan(data), separators=(",", ":"), default=_to_json_value)
        return text.encode()


async def read_body(receive: Receive) -> bytes:
    """The whole request body.

    Raises:
        RequestError: It is too long, or the client disconnected.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("The client disconnected before the request was complete.")
        body += message.get("body", b"")
        # Checked while reading: a client may send without end, with or without a length.
        if len(body) > LONGEST_BODY_BYTES:
            raise RequestError(f"The body is longer than {LONGEST_BODY_BYTES} bytes.")
        if not message.get("more_body"):
            return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """A body parsed as a JSON object.

    Raises:
        RequestError: It is not a JSON object.
    """
    try:
        data = orjson.loads(body)
    except ValueError as error:
        raise RequestError(f"The body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RequestError("The body must be a JSON object.")
    # Python's own encoder, which some routes use, ends at 1,000 levels.
    if body.count(b"[") + body.count(b"{") > MOST_LEVELS and is_deep(data):
        raise RequestError(f"The body is nested more than {MOST_LEVELS} levels deep.")
    return data


async def complete_lifespan(receive: Receive, send: Send) -> None:
    """Acknowledge startup and shutdown of an app that has nothing to do there."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _to_json_value(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _nulls_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nulls_for_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
