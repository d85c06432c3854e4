"""Rows of files as conversations: OpenAI messages, ShareGPT, Alpaca, prompt and completion.

A row that is no conversation raises ``BadRowError``; its reason is one of few, so that rows can be
counted by it, and its detail names the place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sunloom.data.sources.json_objects import is_unicode
from sunloom.errors import nearest
from sunloom.llm.conversations import ROLES, TEXT, Conversation, Message, Tool

Row = Mapping[str, Any]
PREFERENCE, UNPAIRED, PROMPT = "preference", "unpaired", "prompt"
"""Formats of rows that say how good a completion is, or have none; ``feedback_formats`` reads
them."""

# Names of speakers in ShareGPT's files, as LLaMA-Factory and Axolotl take them.
_SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "function_call": "assistant", "observation": "tool", "function_response": "tool",
    "tool": "tool",
}  # fmt: skip


class BadRowError(ValueError):
    """A row that cannot be learned from.

    Args:
        reason: Its kind, by which rows are counted.
        detail: Where, and what stands there.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def detect_format(row: Row) -> str:
    """The format of a row by its columns.

    Raises:
        BadRowError: Its columns are those of none.
    """
    columns = {name for name, value in row.items() if value is not None}
    if {"chosen", "rejected"} & columns:
        return PREFERENCE
    if "messages" in columns:
        return "messages"
    if "conversations" in columns:
        turns = _parse(row["conversations"])
        first = turns[0] if isinstance(turns, list) and turns else {}
        return "messages" if isinstance(first, dict) and "role" in first else "sharegpt"
    if "instruction" in columns:
        return "alpaca"
    if "prompt" in columns and columns & {"completion", "response"}:
        # A label of many classes is no feedback.
        return UNPAIRED if as_label(row.get("label")) is not None else "prompt_completion"
    if "text" in columns:
        return "text"
    if "prompt" in columns:
        return PROMPT
    known = (
        "messages; conversations; instruction, output; prompt, completion; text; chosen, rejected; "
        "prompt, completion, label; or prompt"
    )
    raise BadRowError("unknown columns", f"{', '.join(sorted(columns))} instead of {known}")


def read_conversation(row: Row, format: str) -> Conversation:
    """One row as a checked conversation.

    Args:
        row: Its columns.
        format: One of ``FORMATS``, or ``text``.

    Raises:
        BadRowError: It cannot be learned from.
    """
    if format == "text":
        return _read_text(row)
    messages, tools = FORMATS[format](row)
    if not messages:
        raise BadRowError("no messages")
    checked = end_with_answer("messages", check_messages("messages", messages))
    if not any(message["role"] == "user" for message in checked):
        raise BadRowError("no question", "no message before the answer has the role user")
    return Conversation(tuple(checked), tuple(check_tools(tools)))


def check_messages(name: str, messages: list[Any]) -> list[Message]:
    """Messages with known roles and with texts.

    Args:
        name: Of the column, for errors.
        messages: As they stand in the row.

    Raises:
        BadRowError: One of them is none.
    """
    return [_message(f"{name}[{index}]", raw) for index, raw in enumerate(messages)]


def end_with_answer(name: str, messages: list[Message]) -> list[Message]:
    """The messages up to the last answer.

    Raises:
        BadRowError: There is none.
    """
    # What comes after the last answer would only cost time: nothing of it is learned.
    ends = [index for index, m in enumerate(messages, 1) if m["role"] == "assistant"]
    if not ends:
        raise BadRowError("no answer", f"no message of {name} has the role assistant")
    return messages[: ends[-1]]


def _read_text(row: Row) -> Conversation:
    """A text without turns, all of which is learned."""
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise BadRowError("no text", f"text is {_type_name(text)}" if text != "" else "")
    if not is_unicode(text):
        raise BadRowError("no Unicode text", "text has half a surrogate")
    return Conversation(({"role": TEXT, "content": text},))


def _from_messages(row: Row) -> tuple[list[Any], Any]:
    turns = _parse(row.get("messages", row.get("conversations")))
    if not isinstance(turns, list):
        raise BadRowError("no messages", f"messages is {_type_name(turns)}")
    return turns, row.get("tools")


def _from_sharegpt(row: Row) -> tuple[list[Any], Any]:
    turns = _parse(row.get("conversations"))
    if not isinstance(turns, list):
        raise BadRowError("no messages", f"conversations is {_type_name(turns)}")
    messages: list[Any] = []
    if row.get("system"):
        messages.append({"role": "system", "content": row["system"]})
    for index, turn in enumerate(turns):
        at = f"conversations[{index}]"
        if not isinstance(turn, dict):
            raise BadRowError("no message", f"{at} is {_type_name(turn)}")
        speaker, text = turn.get("from"), turn.get("value")
        if speaker not in _SHAREGPT_ROLES:
            raise BadRowError("unknown role", f"{at}.from is {_short(speaker)}")
        if speaker == "function_call":
            messages.append({"role": "assistant", "content": None, "tool_calls": _calls(at, text)})
        else:
            messages.append({"role": _SHAREGPT_ROLES[speaker], "content": text})
    return messages, row.get("tools")


def _calls(at: str, text: Any) -> list[Any]:
    """ShareGPT's ``function_call``: one call or a list of them, as JSON."""
    calls = _parse(text)
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) for call in calls):
        raise BadRowError("bad tool call", f"{at}.value is not JSON with name and arguments")
    return [{"type": "function", "function": call} for call in calls]


def _from_alpaca(row: Row) -> tuple[list[Any], Any]:
    messages: list[Any] = []
    if row.get("system"):
        messages.append({"role": "system", "content": row["system"]})
    history = _parse(row.get("history")) or []
    if not isinstance(history, list) or not all(
        isinstance(turn, list) and len(turn) == 2 for turn in history
    ):
        raise BadRowError("bad history", "history is not a list of [question, answer]")
    for question, answer in history:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    question = row.get("instruction")
    if row.get("input") and isinstance(question, str):
        question = f"{question}\n{row['input']}"
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": row.get("output")})
    return messages, row.get("tools")


def _from_prompt_completion(row: Row) -> tuple[list[Any], Any]:
    prompt = parse_messages(row.get("prompt"))
    completion = parse_messages(row.get("completion", row.get("response")))
    before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    after = (
        completion
        if isinstance(completion, list)
        else [{"role": "assistant", "content": completion}]
    )
    return [*before, *after], row.get("tools")


FORMATS: Mapping[str, Callable[[Row], tuple[list[Any], Any]]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "prompt_completion": _from_prompt_completion,
}
"""Format to a function that gives a row's messages and tools as they stand there."""


def _message(at: str, raw: Any) -> Message:
    if not isinstance(raw, dict):
        raise BadRowError("no message", f"{at} is {_type_name(raw)}")
    role = raw.get("role")
    if role not in ROLES:
        close = nearest(role, ROLES) if isinstance(role, str) else None
        hint = f"; did you mean {close!r}?" if close else f"; valid: {', '.join(ROLES)}"
        raise BadRowError("unknown role", f"{at}.role is {_short(role)}{hint}")
    content, calls = _text(at, raw.get("content")), raw.get("tool_calls")
    if role != "assistant":
        if content is None:
            raise BadRowError("no content", f"{at}.content is missing")
        message = {"role": "system" if role == "developer" else role, "content": content}
        for key in ("name", "tool_call_id"):
            if isinstance(raw.get(key), str):
                message[key] = raw[key]
        return message
    if not calls and not (content and content.strip()):
        raise BadRowError("empty answer", f"{at} has neither text nor tool calls")
    message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = [_call(f"{at}.tool_calls[{i}]", c) for i, c in enumerate(calls)]
    # OpenAI's own mark of an answer that is context only.
    if raw.get("weight") is not None:
        if raw["weight"] not in (0, 1):
            raise BadRowError("bad weight", f"{at}.weight is {_short(raw['weight'])}, not 0 or 1")
        message["weight"] = int(raw["weight"])
    return message


def _text(at: str, content: Any) -> str | None:
    if content is None:
        return None
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            what = "has parts other than text" if isinstance(content, list) else _type_name(content)
            raise BadRowError("content is no text", f"{at}.content: {what}")
        texts.append(text)
    # As vLLM joins the parts for a template that takes a string.
    joined = "\n".join(texts)
    if not is_unicode(joined):
        raise BadRowError("no Unicode text", f"{at}.content has half a surrogate")
    return joined


def _call(at: str, raw: Any) -> dict[str, Any]:
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError("bad tool call", f"{at} has no function with a name")
    # vLLM takes an empty text for no arguments, too.
    arguments = _parse(function.get("arguments") or {})
    if not isinstance(arguments, dict):
        raise BadRowError("bad tool call", f"{at}.function.arguments is no JSON object")
    call = {"name": function["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    if not is_unicode("".join(call.values())):
        raise BadRowError("no Unicode text", f"{at}.function has half a surrogate")
    return {"id": str(raw.get("id") or "call_0"), "type": "function", "function": call}


def check_tools(tools: Any) -> list[Tool]:
    """OpenAI function schemas.

    Raises:
        BadRowError: One of them is none.
    """
    listed = _parse(tools) if tools else []
    if not isinstance(listed, list):
        raise BadRowError("bad tool", f"tools is {_type_name(listed)}, not a list")
    checked = []
    for index, tool in enumerate(listed):
        at = f"tools[{index}]"
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRowError("bad tool", f"{at} has no function with a name")
        function = {key: value for key, value in function.items() if value is not None}
        parameters = function.get("parameters", {})
        properties = parameters.get("properties", {}) if isinstance(parameters, dict) else None
        if not isinstance(properties, dict) or not all(
            isinstance(schema, dict) for schema in properties.values()
        ):
            raise BadRowError("bad tool", f"{at}.parameters is no JSON schema of an object")
        checked.append({"type": "function", "function": function})
    return checked


def as_label(value: Any) -> bool | None:
    """Whether a completion is desirable, by its column; None where that does not say so."""
    # CSV has all values as text.
    text = str(int(value)) if isinstance(value, bool | float) and value in (0, 1) else str(value)
    return {"1": True, "true": True, "0": False, "false": False}.get(text.lower())


def _parse(value: Any) -> Any:
    """What a text of JSON holds: CSV and many Parquet files have lists and objects as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def parse_messages(value: Any) -> Any:
    """The messages that a text of JSON holds; any other value as it is."""
    # A prompt that looks like JSON is a text unless it is a list of messages.
    parsed = _parse(value)
    is_messages = isinstance(parsed, list) and all(
        isinstance(item, dict) and "role" in item for item in parsed
    )
    return parsed if is_messages and parsed else value


def _type_name(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
