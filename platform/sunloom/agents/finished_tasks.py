"""Finished tasks as conversations: a table of the registry that a language model learns from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sunloom.agents.store import AgentStore
from sunloom.core.model_registry import ModelRegistry, ModelVersion, register_table
from sunloom.errors import DataError


def list_conversations(
    store: AgentStore, tenant: str, agent_id: str | None = None
) -> Iterator[dict[str, Any]]:
    """Each task that has succeeded as OpenAI ``messages`` and ``tools``, tool calls included.

    Args:
        store: Of the tasks and their journals.
        tenant: Whose tasks; no other's are read.
        agent_id: Only this agent's.
    """
    for call in store.final_calls(tenant, agent_id):
        request, outcome = call.request, call.outcome or {}
        answer = outcome["choices"][0]["message"]
        yield {
            "task_id": call.task_id,
            "messages": [*request["messages"], answer],
            "tools": request.get("tools", []),
        }


def register_conversations(
    store: AgentStore,
    registry: ModelRegistry,
    name: str,
    tenant: str,
    agent_id: str | None = None,
) -> ModelVersion:
    """Register the finished tasks of a tenant as a version of a table that it owns.

    Args:
        store: Of the tasks.
        registry: Keeps the table.
        name: Of the table.
        tenant: Whose tasks.
        agent_id: Only this agent's.

    Raises:
        NotFoundError: The tenant has no such agent.
        DataError: No task has succeeded.
        UsageError: The name is another tenant's, or no table's.
    """
    if agent_id is not None:
        store.agent(agent_id, tenant, deleted=True)
    rows = [
        json.dumps(row, ensure_ascii=False) for row in list_conversations(store, tenant, agent_id)
    ]
    if not rows:
        raise DataError(
            f"No task of the tenant {tenant!r} has succeeded.",
            "sunloom agents list shows agents; their tasks run behind the gateway.",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "conversations.jsonl")
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        lineage = {"source": "agents", "agent": agent_id, "rows": len(rows)}
        return register_table(registry, name, path, lineage, tenant=tenant)
