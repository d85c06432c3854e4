"""A client of the gateway for the commands that talk to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    422: RequestError,
    429: RateLimitError,
}
TIMEOUT_S = 60.0


class GatewayConnection:
    """Requests to one gateway with one key.

    Args:
        settings: Host and port where no URL is given.
        url: The gateway.
        key: The API key.
    """

    def __init__(self, settings: Settings, url: str | None, key: str | None) -> None:
        self.url = (url or f"http://{settings.serving.host}:{settings.serving.port}").rstrip("/")
        if not key:
            raise AuthenticationError(
                "The gateway wants a key.",
                "Set SUNLOOM_KEY or --key. Make one: "
                "sunloom keys create --scopes llm,features,models,agents",
            )
        self._headers = {"Authorization": f"Bearer {key}"}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request; the answer's JSON.

        Raises:
            ServingError: The gateway refuses or does not answer.
            NotFoundError: What the path names is not there.
        """
        import httpx

        try:
            answer = httpx.request(
                method, self.url + path, json=body, headers=self._headers, timeout=TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise refusal(answer.status_code, answer.text)
        return answer.json()

    def events(self, path: str, last_id: int = 0) -> Iterator[dict[str, Any]]:
        """Server-sent events until the stream ends.

        Args:
            path: Route of the stream.
            last_id: Events up to this one are left out.
        """
        import httpx

        headers = self._headers | {"Last-Event-ID": str(last_id), "Accept": "text/event-stream"}
        try:
            with httpx.stream("GET", self.url + path, headers=headers, timeout=None) as answer:
                if answer.is_error:
                    raise refusal(answer.status_code, answer.read().decode())
                yield from parse_events(answer.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ServingError:
        return ServingError(
            f"No gateway answers at {self.url}: {error}",
            "Start one with `sunloom serve run`, or name another with --url.",
        )


def refusal(status: int, text: str) -> ServingError | NotFoundError:
    """The error of an answer that is one."""
    try:
        body = json.loads(text)["error"]
        message, hint, param = body["message"], body.get("hint") or "", body.get("param")
    except (ValueError, KeyError, TypeError):
        message, hint, param = f"The gateway answered {status}: {text[:500]}", "", None
    if status == 404:
        return NotFoundError(message, hint or "Check the name.", param)
    return _BY_STATUS.get(status, ServingError)(message, hint, param)


def parse_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Events of a server-sent stream: ``id``, ``event`` and ``data``, JSON where it is."""
    fields: dict[str, Any] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield fields | {"data": _parsed(fields["data"])}
            fields = {}
            continue
        name, _, value = line.partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
