"""Tools: declaration and calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from sunloom.agents.gateway_client import GatewayClient

P = TypeVar("P", bound=BaseModel)
Opt = TypeVar("Opt", bound=BaseModel)


class Parameters(BaseModel):
    """Base of a tool's parameters: closed, so that a misspelt argument is an error."""

    model_config = ConfigDict(extra="forbid")


class NoOptions(Parameters):
    """Options of a tool without options."""


@dataclass(frozen=True)
class ToolCall(Generic[P, Opt]):
    """One call, as the tool's function receives it.

    Attributes:
        arguments: The validated arguments.
        options: The validated options from the agent's specification.
        gateway: Client with the agent's delegated key.
        key: Idempotency key of the call, the same when a crashed task calls again.
    """

    arguments: P
    options: Opt
    gateway: GatewayClient
    key: str


@dataclass(frozen=True)
class Tool(Generic[P, Opt]):
    """A function that a model may call.

    Attributes:
        name: Name that the model uses.
        description: What it does, for the model.
        parameters: Its arguments; their order is the order in the schema.
        function: Does the work and returns data, whose JSON the model reads; raises ``ToolError``
            for errors that the model may react to. ``async def`` or ``def``; the latter runs in a
            thread.
        scopes: Scopes that the delegated key needs.
        effect: ``write`` if it changes something outside.
        options: Options that an agent's specification may set.
    """

    name: str
    description: str
    parameters: type[P]
    function: Callable[[ToolCall[P, Opt]], Any]
    scopes: frozenset[str] = frozenset()
    effect: Literal["read", "write"] = "read"
    options: type[Opt] = field(default=NoOptions)  # type: ignore[assignment]

    def schema(self) -> dict[str, Any]:
        """JSON schema of the parameters, without titles, which only cost tokens."""
        schema = self.parameters.model_json_schema()
        properties = {
            name: {key: value for key, value in entry.items() if key != "title"}
            for name, entry in schema.get("properties", {}).items()
        }
        return {
            "type": "object",
            "properties": properties,
            "required": schema.get("required", []),
            "additionalProperties": False,
            **({"$defs": schema["$defs"]} if "$defs" in schema else {}),
        }
