"""ASGI without a framework: its types, and request and response bodies of plain handlers."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import orjson

from sunloom.config.request_limits import RequestLimits
from sunloom.errors import RequestError
from sunloom.serving.error_body import BodyTooLargeError, SlowRequestError

# The interface's types, as Starlette names them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DEFAULT_LIMITS = RequestLimits()
"""Limits of apps without settings."""
_JSON = "parsed_body"
# U+0000 as an escape, and no escaped backslash before the letter u.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Digits alike, so that a run of them is found by a plain search: some bodies are long.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER = b"0" * 19
_MIN_INT64, _MAX_INT64 = -(1 << 63), (1 << 63) - 1


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


async def read_body(receive: Receive, limit_bytes: int = DEFAULT_LIMITS.body_bytes) -> bytes:
    """The whole request body.

    Args:
        receive: The app's ``receive``.
        limit_bytes: Where reading ends.

    Raises:
        BodyTooLargeError: It is longer.
        RequestError: The client disconnected.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("The client disconnected before the request was complete.")
        body += message.get("body", b"")
        # Checked while reading: a client may send without end, with or without a length.
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body"):
            return bytes(body)


def hold_back(receive: Receive) -> Receive:
    """A ``receive`` that stops behind the longest body that an app of this process takes.

    Serve reads ahead of the app into a queue without bound: a client whose key is still looked up,
    or who waits after a wrong one, would fill the memory. The app refuses what it gets of such a
    body, and the request ends.
    """
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        if received > _longest_body.limit_bytes:
            # Until Serve cancels its reading, as it does when the app has answered.
            await asyncio.Event().wait()
        message = await receive()
        received += len(message.get("body", b""))
        return message

    return receive_bounded


def take_bodies_of(limit_bytes: int) -> None:
    """Let bodies of this many bytes through to the apps of this process."""
    _longest_body.limit_bytes = max(_longest_body.limit_bytes, limit_bytes)


@dataclass
class _LongestBody:
    limit_bytes: int = 0


# Serve builds the layer ahead of it without arguments: the process keeps what its app has set.
_longest_body = _LongestBody(DEFAULT_LIMITS.body_bytes)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns a body that was read, then the client's further messages."""
    pending = [body]

    async def receive_body_first() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        # Who streams goes on receiving, to notice that the client disconnects.
        return await receive()

    return receive_body_first


async def take_json(scope: Scope, receive: Receive, limits: RequestLimits) -> Receive:
    """Read and check a request's body ahead of the app, which finds it in ``json_object``.

    Returns:
        A ``receive`` for the app, which gives the same bytes.

    Raises:
        BodyTooLargeError: It is too long.
        SlowRequestError: It did not arrive in time.
        RequestError: It is no JSON object, or one that no app here takes.
    """
    length = dict(scope["headers"]).get(b"content-length", b"")
    # Before a byte of it is read: an honest client learns the limit at once.
    if length.isdigit() and (len(length) > 18 or int(length) > limits.body_bytes):
        raise _too_large(limits.body_bytes)
    try:
        async with asyncio.timeout(limits.arrival_s):
            body = await read_body(receive, limits.body_bytes)
    except TimeoutError as error:
        raise SlowRequestError(
            f"The body did not arrive within {limits.arrival_s:g} s.",
            "Send less at once, or over a faster connection.",
        ) from error
    # Some routes take no body.
    if body:
        scope[_JSON] = parse_object(body, limits)
    return replay_body(body, receive)


async def json_object(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The request's body as the middleware has parsed it.

    Raises:
        RequestError: There is none, or it is no JSON object.
    """
    parsed: dict[str, Any] | None = scope.get(_JSON)
    return parsed if parsed is not None else parse_object(await read_body(receive))


async def pop_json(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The request's body as ``json_object`` gives it, which from here on only the caller keeps."""
    parsed: dict[str, Any] | None = scope.pop(_JSON, None)
    if parsed is None:
        return parse_object(await read_body(receive))
    # The bytes that it was parsed from.
    await receive()
    return parsed


def parse_object(body: bytes, limits: RequestLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """A body parsed as a JSON object: the one reader of all apps.

    What it lets through means the same to every other parser, and can be stored everywhere: text
    without halves of surrogates and without U+0000, integers of 64 bits.

    Raises:
        RequestError: It is not such a JSON object, or too large in one of the ways of ``limits``.
    """
    # Counted in the bytes, so brackets in texts count too: an object takes twenty times its bytes.
    containers = body.count(b"[") + body.count(b"{")
    if containers > limits.containers:
        raise RequestError(f"The body has more than {limits.containers} lists and objects.")
    try:
        data = orjson.loads(body)
    except ValueError as error:
        # So orjson says it from some 600 levels on.
        if "allocate memory" in str(error):
            raise _too_deep(limits) from error
        raise RequestError(f"The body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RequestError("The body must be a JSON object.")
    # Nearly every body is too small to exceed anything, and is not walked.
    if containers > limits.levels or body.count(b",") >= min(limits.rows, limits.keys):
        _check_size(data, containers, limits)
    if b"\\u0000" in body and _NUL.search(body):
        raise RequestError(
            "A text of the body holds the character U+0000.", "No text here can: leave it out."
        )
    if _LONG_INTEGER in body.translate(_DIGITS):
        # orjson reads an integer beyond 64 bits as a float, which is another number.
        json.loads(body, parse_int=_to_int64)
    return data


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The body is longer than {limit_bytes} bytes.", "Send it in several requests."
    )


def _check_size(data: dict[str, Any], containers: int, limits: RequestLimits) -> None:
    """Check nesting, lists and objects level by level, without recursion.

    Args:
        data: The body.
        containers: Lists and objects in it, or more.
        limits: What it may have.
    """
    # Each with the body's own field that it lies in: the name that a client would look for.
    level: list[tuple[str | None, Any]] = [(None, data)]
    seen = 1
    for _ in range(limits.levels):
        for name, value in level:
            if isinstance(value, dict):
                if len(value) > limits.keys:
                    raise RequestError(f"At most {limits.keys} keys an object.", param=name)
            elif len(value) > limits.rows:
                raise RequestError(f"At most {limits.rows} {name} a request.", param=name)
        # Nearly all of a table's values lie in its rows: nothing is left to be found in them.
        if seen == containers:
            return
        level = [
            (name or str(key), item)
            for name, value in level
            for key, item in (value.items() if isinstance(value, dict) else enumerate(value))
            if isinstance(item, dict | list)
        ]
        if not level:
            return
        seen += len(level)
    raise _too_deep(limits)


def _too_deep(limits: RequestLimits) -> RequestError:
    return RequestError(f"The body is nested more than {limits.levels} levels deep.")


def _to_int64(digits: str) -> int:
    # The sign and 19 digits: int() itself refuses a few thousand with another error.
    number = int(digits) if len(digits) <= 20 else _MAX_INT64 + 1
    if not _MIN_INT64 <= number <= _MAX_INT64:
        raise RequestError(
            f"The integer {digits[:24]}{'…' * (len(digits) > 24)} is beyond 64 bits.",
            "Send it as text, or as a number with a decimal point.",
        )
    return number


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
