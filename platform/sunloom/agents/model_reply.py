"""A model's reply, read once for all engines: what libraries make of odd replies differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sunloom.agents.tools.result_encoder import clean_text
from sunloom.errors import AgentError

USAGE = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class RequestedCall:
    """A tool call as the model wrote it.

    Attributes:
        id: Id of the call; empty if the model gave none.
        name: Name of the tool, which need not exist.
        arguments: Text that should be a JSON object.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ModelReply:
    """A chat completion.

    Attributes:
        text: What the model says; empty where it only calls tools.
        calls: The tools that it calls; none in a final answer.
        usage: Tokens by name.
        is_cut_off: Whether it ended at the limit of tokens.
    """

    text: str
    calls: tuple[RequestedCall, ...]
    usage: Mapping[str, int]
    is_cut_off: bool = False

    def message(self) -> Any:
        """The message in the API's form."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls
            ]
        return message

    def completion(self, model: str) -> Any:
        """The completion in the API's form."""
        return {
            "id": "chatcmpl",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": self.message(),
                    "finish_reason": "tool_calls" if self.calls else "stop",
                }
            ],
            "usage": {**self.usage, "total_tokens": sum(self.usage.values())},
        }


def read_reply(data: Any) -> ModelReply:
    """Read a chat completion.

    Raises:
        AgentError: It is none.
    """
    choices = _get(data, "choices")
    if not isinstance(choices, list) or not choices:
        raise AgentError("The model's reply cannot be read: it has no choices.")
    message = _get(choices[0], "message")
    if not isinstance(message, Mapping):
        raise AgentError("The model's reply cannot be read: it has no message.")
    calls = message.get("tool_calls")
    usage = _get(data, "usage")
    return ModelReply(
        text=_read_content(message.get("content")),
        calls=tuple(map(_read_call, calls if isinstance(calls, list) else ())),
        usage={name: _read_count(_get(usage, name)) for name in USAGE},
        is_cut_off=_get(choices[0], "finish_reason") == "length",
    )


def _get(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, Mapping) else None


def _read_content(content: Any) -> str:
    if isinstance(content, list):
        content = "".join(str(_get(part, "text") or "") for part in content)
    if content is not None and not isinstance(content, str):
        raise AgentError("The model's reply cannot be read: its content is no text.")
    return clean_text(content or "")


def _read_call(call: Any) -> RequestedCall:
    function = _get(call, "function")
    arguments = _get(function, "arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {})
    return RequestedCall(
        id=clean_text(str(_get(call, "id") or "")),
        name=clean_text(str(_get(function, "name") or "")),
        arguments=clean_text(
            arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        ),
    )


def _read_count(count: Any) -> int:
    return count if isinstance(count, int) and count > 0 else 0
