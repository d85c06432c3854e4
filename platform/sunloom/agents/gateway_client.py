"""HTTP client of an agent to the gateway, for its model and its tools."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from sunloom.errors import AgentError, ToolError

# Also for POST: tools send idempotency keys, and a completion changes nothing.
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_PAUSES_S = (0.2, 1.0)
# The model can do nothing about the agent's own key: these end the task.
_KEY_ERRORS = frozenset({401, 403})
_RENEWAL_WAIT_S = 15.0


@dataclass(frozen=True)
class Endpoint:
    """Address of the gateway and an agent's key for it.

    Attributes:
        base_url: Root of the gateway, such as ``http://127.0.0.1:8000``.
        api_key: Key delegated to the agent.
    """

    base_url: str
    api_key: str

    @property
    def model_url(self) -> str:
        """Base URL of the OpenAI-compatible API."""
        return f"{self.base_url.rstrip('/')}/v1"

    # A dataclass's own repr would put the key into logs and tracebacks.
    def __repr__(self) -> str:
        return f"Endpoint(base_url={self.base_url!r}, api_key=***)"


def open_connections(timeout_s: float) -> httpx.AsyncClient:
    """Connections to the gateway, with a longest wait for one response in seconds."""
    try:
        # With some 64 concurrent calls httpx's own transport is the bottleneck; aiohttp's is not.
        from httpx_aiohttp import AiohttpTransport
    except ImportError:
        return httpx.AsyncClient(timeout=timeout_s)
    return httpx.AsyncClient(transport=AiohttpTransport(), timeout=timeout_s)


class GatewayClient:
    """Sends requests to the gateway with the delegated key, and repeats those that may be repeated.

    Delegated keys are short-lived: a request whose key has expired waits a while for the next one.

    Args:
        endpoint: Gateway and key; the key may be renewed with ``renew``.
        timeout_s: Longest wait for one response, seconds.
        renewal_wait_s: Longest wait for a new key, seconds.
        connections: Connections that several clients share; its own by default.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float = 120.0,
        renewal_wait_s: float = _RENEWAL_WAIT_S,
        connections: httpx.AsyncClient | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._connections = connections or open_connections(timeout_s)
        self._renewal_wait_s = renewal_wait_s
        self._renewed = asyncio.Condition()

    async def renew(self, endpoint: Endpoint) -> None:
        """Use another key from now on, and let requests that wait for one go on."""
        async with self._renewed:
            self._endpoint = endpoint
            self._renewed.notify_all()

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def complete(self, body: bytes) -> httpx.Response:
        """One chat completion.

        Raises:
            AgentError: The gateway returned an error or did not respond.
        """
        url = f"{self._endpoint.model_url}/chat/completions"
        response = await self._send("POST", url, content=body)
        if response.status_code >= 400:
            raise AgentError(f"The model call failed: {_explain(response)}")
        return response

    async def get(self, path: str, params: dict[str, Any]) -> Any:
        """GET from the gateway; returns the decoded JSON.

        Raises:
            ToolError: The gateway returned an error; the message is its own.
            AgentError: The key is not valid for this route, or the gateway did not respond.
        """
        return await self._request("GET", path, params=params)

    async def post(self, path: str, body: dict[str, Any], key: str) -> Any:
        """POST to the gateway with an idempotency key; returns the decoded JSON.

        Raises:
            ToolError: The gateway returned an error; the message is its own.
            AgentError: The key is not valid for this route, or the gateway did not respond.
        """
        return await self._request("POST", path, json=body, headers={"Idempotency-Key": key})

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        url = f"{self._endpoint.base_url.rstrip('/')}{path}"
        response = await self._send(method, url, **options)
        if response.status_code in _KEY_ERRORS:
            raise AgentError(f"The gateway refused the agent's key: {_explain(response)}")
        if response.status_code >= 400:
            raise ToolError(_explain(response))
        return response.json()

    async def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        used = self._endpoint
        response = await self._send_with(used, method, url, **options)
        if response.status_code == 401 and await self._wait_for_new_key(used):
            # Once: if the new key is refused too, waiting would not help.
            response = await self._send_with(self._endpoint, method, url, **options)
        return response

    async def _wait_for_new_key(self, expired: Endpoint) -> bool:
        try:
            async with asyncio.timeout(self._renewal_wait_s), self._renewed:
                # True at once if the key was renewed while the request was under way.
                await self._renewed.wait_for(lambda: self._endpoint != expired)
        except TimeoutError:
            return False
        return True

    async def _send_with(
        self, endpoint: Endpoint, method: str, url: str, **options: Any
    ) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {endpoint.api_key}",
            "Content-Type": "application/json",
            **options.get("headers", {}),
        }
        options = {**options, "headers": headers}
        # No pause after the last attempt: its response or error is the caller's.
        for pause_s in (*_PAUSES_S, None):
            try:
                response = await self._connections.request(method, url, **options)
            except httpx.HTTPError as error:
                if pause_s is None:
                    raise AgentError(
                        f"{method} {url} got no response: {type(error).__name__}: {error}"
                    ) from error
            else:
                if response.status_code not in _RETRIED_STATUSES or pause_s is None:
                    return response
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")


def _explain(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return " ".join(part for part in (error["message"], error.get("hint")) if part)
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}: {response.text[:200]}"
