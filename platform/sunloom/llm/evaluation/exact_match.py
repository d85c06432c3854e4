"""Exact match of tool calls and answers on held-out conversations, greedy decoding."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunloom.llm.conversations import Conversation, Message
from sunloom.llm.encoding import render
from sunloom.llm.inference import Generate

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One judged turn.

    Attributes:
        kind: ``call`` or ``answer``.
        question: The last thing the user said.
        expected: What the turn should have been.
        generated: What the model wrote.
        right: Whether they agree.
    """

    kind: str
    question: str
    expected: str
    generated: str
    right: bool


@dataclass(frozen=True)
class ExactMatch:
    """How often a model was exactly right.

    Attributes:
        calls: Share of tool-calling turns with the exact name and arguments.
        answers: Share of plain turns with the exact text.
        whole: Share of conversations with every turn right.
        held_out: Number of conversations.
        examples: Every judged turn.
    """

    calls: float
    answers: float
    whole: float
    held_out: int
    examples: tuple[Example, ...]

    def save(self, path: Path) -> Path:
        """Write figures and examples as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))
        return path


def exact_match(
    generate: Generate, tokenizer: Any, conversations: Sequence[Conversation]
) -> ExactMatch:
    """Judge every assistant turn, each given the true turns before it.

    Args:
        generate: Continues prompts.
        tokenizer: Renders the prompts.
        conversations: Held-out conversations.
    """
    turns = [
        (number, index, message)
        for number, conversation in enumerate(conversations)
        for index, message in enumerate(conversation.messages)
        if message["role"] == "assistant"
    ]
    prompts = [
        render(
            tokenizer,
            Conversation(conversations[number].messages[:index], conversations[number].tools),
            prompt=True,
        )
        for number, index, _ in turns
    ]
    # All turns at once: a batch mixes turns of like length from many conversations.
    outputs = generate(prompts)
    examples = [
        _judge(conversations[number], message, output)
        for (number, _, message), output in zip(turns, outputs, strict=True)
    ]
    wrong = {turn[0] for turn, example in zip(turns, examples, strict=True) if not example.right}
    return ExactMatch(
        calls=_share(examples, "call"),
        answers=_share(examples, "answer"),
        whole=1 - len(wrong) / max(1, len(conversations)),
        held_out=len(conversations),
        examples=tuple(examples),
    )


def parse_calls(text: str) -> list[tuple[str, Any]]:
    """Name and arguments of each tool call in a completion; [] when one is not valid JSON."""
    calls = []
    for body in _CALL.findall(text):
        try:
            call = json.loads(body)
            calls.append((call["name"], call["arguments"]))
        except (ValueError, KeyError, TypeError):
            return []
    return calls


def _judge(conversation: Conversation, message: Message, output: str) -> Example:
    question = next(
        str(m["content"]) for m in reversed(conversation.messages) if m["role"] == "user"
    )
    if message.get("tool_calls"):
        functions = [call["function"] for call in message["tool_calls"]]
        wanted = [(f["name"], json.loads(f["arguments"])) for f in functions]
        # Compared as values: spacing and the order of keys do not change a call.
        right = parse_calls(output) == wanted
        return Example("call", question, json.dumps(wanted), output, right)
    expected = str(message["content"])
    return Example("answer", question, expected, output, output.strip() == expected.strip())


def _share(examples: Sequence[Example], kind: str) -> float:
    judged = [example.right for example in examples if example.kind == kind]
    return sum(judged) / len(judged) if judged else 0.0
