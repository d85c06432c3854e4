"""Rows of files as feedback: preference pairs, completions with a label, prompts alone.

The columns are TRL's; a text is a turn, as in the other formats. A pair without a prompt is two
whole conversations, whose shared beginning is the prompt; two whole texts have no turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from sunloom.data.sources.json_objects import is_unicode
from sunloom.llm.conversation_formats import (
    PREFERENCE,
    PROMPT,
    UNPAIRED,
    BadRowError,
    Row,
    as_label,
    check_messages,
    check_tools,
    end_with_answer,
    parse_messages,
    read_conversation,
)
from sunloom.llm.conversations import TEXT, Conversation, Feedback, Message

_COMPLETIONS = ("chosen", "rejected")


def read_row(row: Row, format: str) -> Conversation:
    """One row as a checked conversation, with feedback where its format has that.

    Args:
        row: Its columns.
        format: One of ``FEEDBACK_FORMATS``, or what ``read_conversation`` takes.

    Raises:
        BadRowError: It cannot be learned from.
    """
    if (read := FEEDBACK_FORMATS.get(format)) is None:
        return read_conversation(row, format)
    return read(row)


def _read_preference(row: Row) -> Conversation:
    raw = [parse_messages(row.get(name)) for name in _COMPLETIONS]
    for name, value in zip(_COMPLETIONS, raw, strict=True):
        if value is None:
            raise BadRowError("no pair", f"{name} is missing")
    has_prompt = row.get("prompt") is not None
    if all(isinstance(value, str) for value in raw) and not has_prompt:
        return _read_texts(*raw)
    chosen, rejected = (
        end_with_answer(name, _turns(name, value, "assistant"))
        for name, value in zip(_COMPLETIONS, raw, strict=True)
    )
    # Some files have the prompt as a column and in both conversations, too.
    is_whole = not has_prompt or chosen[0]["role"] in ("system", "user")
    if is_whole:
        shared = _count_shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        prompt = _turns("prompt", row["prompt"], "user")
    if chosen == rejected:
        raise BadRowError("no difference", "chosen and rejected are the same")
    for name, messages in zip(_COMPLETIONS, (chosen, rejected), strict=True):
        if not messages or messages[0]["role"] != "assistant":
            raise BadRowError("no answer", f"{name} does not go on with an answer to the prompt")
    _require_question(prompt)
    return Conversation(
        (*prompt, *chosen),
        tuple(check_tools(row.get("tools"))),
        feedback=Feedback(prompt=len(prompt), rejected=tuple(rejected)),
    )


def _read_texts(chosen: str, rejected: str) -> Conversation:
    """Two texts without turns, which go on differently from where they part."""
    if chosen == rejected:
        raise BadRowError("no difference", "chosen and rejected are the same")
    # A word keeps the blank before it, as tokens have it.
    shared = chosen[: _count_shared(chosen, rejected)].removesuffix(" ")
    rest = [text[len(shared) :] for text in (chosen, rejected)]
    for name, text in zip(_COMPLETIONS, rest, strict=True):
        if not text.strip():
            raise BadRowError("no answer", f"{name} has nothing but what both begin with")
        if not is_unicode(shared + text):
            raise BadRowError("no Unicode text", f"{name} has half a surrogate")
    before, first, second = ({"role": TEXT, "content": text} for text in (shared, *rest))
    return Conversation((before, first), feedback=Feedback(prompt=1, rejected=(second,)))


def _read_unpaired(row: Row) -> Conversation:
    label = as_label(row.get("label"))
    if label is None:
        raise BadRowError(
            "bad label", f"label is {str(row.get('label'))[:40]!r}, not true or false"
        )
    prompt = _turns("prompt", row.get("prompt"), "user")
    _require_question(prompt)
    completion = _turns("completion", row.get("completion", row.get("response")), "assistant")
    completion = end_with_answer("completion", completion)
    return Conversation(
        (*prompt, *completion),
        tuple(check_tools(row.get("tools"))),
        feedback=Feedback(prompt=len(prompt), label=label),
    )


def _read_prompt(row: Row) -> Conversation:
    prompt = _turns("prompt", row.get("prompt"), "user")
    _require_question(prompt)
    if prompt[-1]["role"] == "assistant":
        raise BadRowError("no open question", "the prompt's last message is an answer")
    columns = {name: value for name, value in row.items() if name not in ("prompt", "tools")}
    try:
        # What JSON has no type for becomes text, in this run and in every other.
        columns = orjson.loads(orjson.dumps(columns, default=str))
    except orjson.JSONEncodeError as error:
        raise BadRowError("bad column", str(error)) from error
    return Conversation(
        tuple(prompt),
        tuple(check_tools(row.get("tools"))),
        feedback=Feedback(prompt=len(prompt), columns=columns),
    )


FEEDBACK_FORMATS: Mapping[str, Callable[[Row], Conversation]] = {
    PREFERENCE: _read_preference,
    UNPAIRED: _read_unpaired,
    PROMPT: _read_prompt,
}
"""Format to its reader."""


def _turns(name: str, value: Any, role: str) -> list[Message]:
    """A column's messages; a text is one message."""
    value = parse_messages(value)
    if value is None or value == "" or value == []:
        raise BadRowError(f"no {name}", f"{name} is missing or empty")
    messages = value if isinstance(value, list) else [{"role": role, "content": value}]
    return check_messages(name, messages)


def _require_question(prompt: Sequence[Message]) -> None:
    if not any(message["role"] == "user" for message in prompt):
        raise BadRowError("no question", "no message of the prompt has the role user")


def _count_shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Messages or characters that both begin with."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return shared
