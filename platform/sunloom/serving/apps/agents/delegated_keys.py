"""Keys that the app hands to agents: short-lived, with the agent's scopes and no more."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.tables import AgentRow
from sunloom.agents.tools.toolbox import bind_tools, needed_scopes
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.caching import TtlCache
from sunloom.errors import PermissionDeniedError
from sunloom.serving.auth.api_keys import KeyRecord, delegate

_CACHED_KEYS = 10_000
_ANY_INTERFACE = frozenset({"0.0.0.0", "::", ""})


class AgentKeys:
    """Delegates keys to agents, one per agent and caller until it is half spent.

    Args:
        settings: Address of the gateway and life of delegated keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._life = timedelta(seconds=settings.serving.keys.delegated_ttl_s)
        self._secrets = TtlCache[tuple[str, str], str](self._life.total_seconds() / 2, _CACHED_KEYS)

    async def check(self, spec: AgentSpec, key: KeyRecord) -> None:
        """Refuse a caller whose key lacks what the agent needs.

        Raises:
            PermissionDeniedError: Names the missing scopes.
        """
        scopes = await asyncio.to_thread(_scopes, spec)
        lacking = sorted(scope for scope in scopes if not key.may(scope))
        if lacking:
            raise PermissionDeniedError(
                f"Key {key.id} lacks what agent {spec.name!r} needs: {', '.join(lacking)}.",
                "Use a key with these scopes: the agent acts with rights of its caller.",
            )

    async def endpoint(self, agent: AgentRow, key: KeyRecord) -> Endpoint:
        """The gateway with a key for this agent on behalf of this caller."""
        secret = await self._secrets.get_or_await(
            (agent.id, key.id), lambda: asyncio.to_thread(self._delegate, agent, key)
        )
        return Endpoint(gateway_url(self._settings), secret)

    def _delegate(self, agent: AgentRow, key: KeyRecord) -> str:
        scopes = sorted(_scopes(AgentSpec.model_validate(agent.spec)))
        secret, _ = delegate(
            self._settings, key, scopes, expires=self._life, purpose=f"agent {agent.id}"
        )
        return secret


def gateway_url(settings: Settings) -> str:
    """Where agents reach the gateway."""
    host = settings.serving.host
    return f"http://{'127.0.0.1' if host in _ANY_INTERFACE else host}:{settings.serving.port}"


def _scopes(spec: AgentSpec) -> frozenset[str]:
    return needed_scopes(bind_tools(spec.tools).values()) | {"llm"}
