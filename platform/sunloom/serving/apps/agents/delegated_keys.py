"""Keys delegated to agents: short-lived, with the scopes that the agent needs and no more."""

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


class AgentKeys:
    """Delegates keys to agents: one per agent and caller, renewed after half of its life.

    Args:
        settings: Address of the gateway and lifetime of delegated keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifetime = timedelta(seconds=settings.serving.keys.delegated_ttl_s)
        # Half of its life remains, so that a task does not start with a key about to expire.
        cached_s = self._lifetime.total_seconds() / 2
        self._secrets = TtlCache[tuple[str, str], str](cached_s, _CACHED_KEYS)

    async def check(self, spec: AgentSpec, key: KeyRecord) -> None:
        """Reject a caller whose key lacks a scope that the agent needs.

        Raises:
            PermissionDeniedError: Names the missing scopes.
        """
        # In a thread: binding a tool may import its plugin.
        scopes = await asyncio.to_thread(_needed_scopes, spec)
        missing = sorted(scope for scope in scopes if not key.may(scope))
        if missing:
            raise PermissionDeniedError(
                f"Key {key.id} lacks what agent {spec.name!r} needs: {', '.join(missing)}.",
                "Use a key with these scopes: the agent acts with the rights of its caller.",
            )

    async def endpoint(self, agent: AgentRow, key: KeyRecord) -> Endpoint:
        """The gateway with a key for this agent on behalf of this caller."""
        secret = await self._secrets.get_or_await(
            (agent.id, key.id), lambda: asyncio.to_thread(self._delegate, agent, key)
        )
        return Endpoint(self._settings.serving.local_url, secret)

    def _delegate(self, agent: AgentRow, key: KeyRecord) -> str:
        scopes = sorted(_needed_scopes(AgentSpec.model_validate(agent.spec)))
        secret, _ = delegate(
            self._settings, key, scopes, expires=self._lifetime, purpose=f"agent {agent.id}"
        )
        return secret


def _needed_scopes(spec: AgentSpec) -> frozenset[str]:
    # Whatever its tools, an agent reaches its model through the gateway.
    return needed_scopes(bind_tools(spec.tools).values()) | {"llm"}
