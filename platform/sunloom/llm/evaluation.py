"""Scores of a model on held-out conversations: exact match of its greedy completions, and loss."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunloom.llm.conversations import Conversation, Message
from sunloom.llm.encoding import IGNORED, Encoded, collate, render

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_BATCH_PROMPTS = 64
_BATCH_LOSSES = 16
Generate = Callable[[Sequence[str]], list[str]]
"""Prompts to completions, in order."""


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
        calls: Share of tool-calling turns with the exact name and arguments; None without any.
        answers: Share of plain turns with the exact text; None without any.
        whole: Share of conversations with every turn right; None without any.
        held_out: Number of conversations.
        examples: Every judged turn.
        loss: Mean loss of a token that the assistant wrote; None where it was not measured.
    """

    calls: float | None
    answers: float | None
    whole: float | None
    held_out: int
    examples: tuple[Example, ...]
    loss: float | None = None

    def save(self, path: Path) -> Path:
        """Write figures and examples as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))
        return path


def mean_loss(model: Any, rows: Sequence[Encoded], pad: int) -> float | None:
    """Mean loss of a labelled token, in float32; None where there is none.

    Args:
        model: A causal language model, with or without an adapter.
        rows: Conversations as tokens.
        pad: Token id that fills short rows.
    """
    import torch

    from sunloom.llm.optimization import CausalLoss

    module = CausalLoss(model, torch.float32)
    total, tokens = 0.0, 0
    # Batches of like length: padding costs as much as tokens.
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), _BATCH_LOSSES):
        ids, labels = collate(ordered[start : start + _BATCH_LOSSES], pad)
        with torch.inference_mode():
            loss = module(*(torch.from_numpy(part).to(model.device) for part in (ids, labels)))
        total += float(loss)
        tokens += int((labels[:, 1:] != IGNORED).sum())
    return total / tokens if tokens else None


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
        (number, index)
        for number, conversation in enumerate(conversations)
        for index, message in enumerate(conversation.messages)
        if message["role"] == "assistant"
    ]
    # All turns at once: a batch mixes turns of like length from many conversations.
    outputs = generate(
        [render(tokenizer, conversations[n].head(index), prompt=True) for n, index in turns]
    )
    examples, wrong = [], set()
    for (number, index), output in zip(turns, outputs, strict=True):
        example = _judge(conversations[number], conversations[number].messages[index], output)
        examples.append(example)
        if not example.right:
            wrong.add(number)
    judged = len({number for number, _ in turns})
    return ExactMatch(
        calls=_right_share(examples, "call"),
        answers=_right_share(examples, "answer"),
        # A text without turns is neither right nor wrong: its loss judges it.
        whole=1 - len(wrong) / judged if judged else None,
        held_out=len(conversations),
        examples=tuple(examples),
    )


def is_clearly_above(right: float, total: float, bar: float) -> bool:
    """Whether a share less its standard error reaches a bar.

    Args:
        right: Right ones.
        total: All of them.
        bar: Share to be reached.
    """
    share = right / max(total, 1)
    return share - math.sqrt(share * (1 - share) / max(total, 1)) >= bar


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


def called_tools(message: Message) -> list[tuple[str, Any]]:
    """Name and arguments of each tool call in a message."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [(f["name"], json.loads(f["arguments"] or "{}")) for f in functions]


def _judge(conversation: Conversation, message: Message, output: str) -> Example:
    question = next(
        (str(m["content"]) for m in reversed(conversation.messages) if m["role"] == "user"), ""
    )
    if message.get("tool_calls"):
        wanted = called_tools(message)
        # Compared as values: spacing and the order of keys do not change a call.
        right = parse_calls(output) == wanted
        return Example("call", question, json.dumps(wanted), output, right)
    expected = str(message["content"])
    return Example("answer", question, expected, output, output.strip() == expected.strip())


def _right_share(examples: Sequence[Example], kind: str) -> float | None:
    judged = [example.right for example in examples if example.kind == kind]
    # A share of nothing is no score: 0 would fail every gate, 1 pass it.
    return sum(judged) / len(judged) if judged else None


def greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> Generate:
    """A function that continues prompts greedily, in process; serving is vLLM's.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        max_new_tokens: Longest continuation.
    """
    import torch

    def generate(prompts: Sequence[str]) -> list[str]:
        outputs = [""] * len(prompts)
        # Batches of like length, by characters: close enough to tokens, without tokenizing twice.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), _BATCH_PROMPTS):
            chosen = order[start : start + _BATCH_PROMPTS]
            # Padded on the left: generation continues every prompt at the last column.
            batch = tokenizer(
                [prompts[i] for i in chosen],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            ).to(model.device)
            with torch.inference_mode():
                tokens = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    do_sample=False,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                )
            completions = tokens[:, batch["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
            for index, text in zip(chosen, texts, strict=True):
                outputs[index] = text
        return outputs

    return generate
