"""Client of the gateway for the commands that need one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sunloom.config.settings import Settings
from sunloom.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    ServingError,
)

Url = Annotated[
    str | None,
    typer.Option(envvar="SUNLOOM_URL", help="Gateway, such as http://127.0.0.1:8000."),
]
Key = Annotated[str | None, typer.Option(envvar="SUNLOOM_KEY", help="API key.", show_envvar=True)]
_BY_STATUS: Mapping[int, type[ServingError]] = {
    400: RequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    # FastAPI reports a body that fails validation with this status.
    422: RequestError,
    429: RateLimitError,
}
TIMEOUT_S = 60.0


class GatewayConnection:
    """Requests to one gateway with one key.

    Args:
        settings: Host and port if no URL is given.
        url: URL of the gateway.
        key: The API key.
    """

    def __init__(self, settings: Settings, url: str | None, key: str | None) -> None:
        self.url = (url or settings.serving.url).rstrip("/")
        if not key:
            raise AuthenticationError(
                "The gateway needs a key.",
                "Set SUNLOOM_KEY or --key. Create one: "
                "sunloom keys create --scopes llm,features,models,agents",
            )
        self._headers = {"Authorization": f"Bearer {key}"}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send one request; returns the response's JSON.

        Raises:
            ServingError: The gateway returns an error or cannot be reached.
            NotFoundError: It has nothing of that name.
        """
        import httpx

        try:
            response = httpx.request(
                method, self.url + path, json=body, headers=self._headers, timeout=TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise error_of(response.status_code, response.text)
        return response.json()

    def stream_events(self, path: str, last_id: int = 0) -> Iterator[ServerSentEvent]:
        """Server-sent events until the stream ends.

        Args:
            path: Route of the stream.
            last_id: Id of the last event that was received before.
        """
        import httpx

        headers = self._headers | {"Last-Event-ID": str(last_id), "Accept": "text/event-stream"}
        try:
            # No timeout: a task may wait for a person's approval.
            with httpx.stream("GET", self.url + path, headers=headers, timeout=None) as response:
                if response.is_error:
                    raise error_of(response.status_code, response.read().decode())
                yield from parse_events(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ServingError:
        return ServingError(
            f"No gateway responds at {self.url}: {error}",
            "Start one with `sunloom serve run`, or name another with --url.",
        )


def error_of(status: int, text: str) -> ServingError | NotFoundError:
    """The error for an error response."""
    try:
        body = json.loads(text)["error"]
        message, hint, param = body["message"], body.get("hint") or "", body.get("param")
    except (ValueError, KeyError, TypeError):
        # Not the gateway's JSON, such as the page of a proxy in between.
        message, hint, param = f"The gateway returned status {status}: {text[:500]}", "", None
    if status == 404:
        return NotFoundError(message, hint or "Check the name.", param)
    return _BY_STATUS.get(status, ServingError)(message, hint, param)


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a server-sent stream.

    Attributes:
        id: Id of the event; None without one.
        event: Type of the event; None for the default type.
        data: The event's data: parsed JSON, or text if it is not JSON.
    """

    id: str | None
    event: str | None
    data: Any


def parse_events(lines: Iterator[str]) -> Iterator[ServerSentEvent]:
    """Events of a server-sent stream; comments and events without data are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                data = _parse_json(fields["data"])
                yield ServerSentEvent(fields.get("id"), fields.get("event"), data)
            fields = {}
            continue
        name, _, value = line.partition(":")
        # A line that begins with a colon is a comment, such as the heartbeat.
        if name:
            # By the standard, one space is removed, and lines of `data` are joined by newlines.
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
