"""Scores of a model on held-out conversations: exact match of its greedy completions, and loss."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sunloom.evaluation.measurements import JudgedText, Measurement, measure_texts
from sunloom.llm.conversations import Conversation, Message
from sunloom.llm.encoding import Encoded, collate, render

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_KINDS = {
    "call": "share of tool calls with the exact name and arguments",
    "answer": "share of plain answers with the exact text",
}
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
        conversation: Number of the conversation that it is a turn of.
    """

    kind: str
    question: str
    expected: str
    generated: str
    right: bool
    conversation: int


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

    def measure(self) -> list[Measurement]:
        """``exact_match.calls``, ``.answers`` and ``.whole``, of those that there are."""
        measured = []
        for kind, metric in _KINDS.items():
            texts = tuple(
                JudgedText(e.question, e.expected, e.generated, float(e.right))
                for e in self.examples
                if e.kind == kind
            )
            if texts:
                measured.append(measure_texts(f"exact_match.{kind}s", metric, texts))
        is_right: dict[int, bool] = {}
        for example in self.examples:
            is_right[example.conversation] = (
                is_right.get(example.conversation, True) and example.right
            )
        if is_right:
            measured.append(
                Measurement(
                    figure="exact_match.whole",
                    metric="share of conversations with every turn right",
                    keys=tuple(map(str, is_right)),
                    values=tuple(map(float, is_right.values())),
                )
            )
        return measured


def measure_loss(model: Any, rows: Sequence[Encoded], pad: int) -> Measurement | None:
    """``loss``: the mean of a labelled token, in float32; None where there is none.

    Args:
        model: A causal language model, with or without an adapter.
        rows: Conversations as tokens.
        pad: Token id that fills short rows.
    """
    import torch

    from sunloom.llm.optimization import CausalLoss

    module = CausalLoss(model, torch.float32)
    sums = [0.0] * len(rows)
    # Batches of like length: padding costs as much as tokens.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    for start in range(0, len(order), _BATCH_LOSSES):
        chosen = order[start : start + _BATCH_LOSSES]
        inputs = collate([rows[index] for index in chosen], pad)
        with torch.inference_mode():
            losses = module.row_losses(*(torch.from_numpy(p).to(model.device) for p in inputs))
        for index, loss in zip(chosen, losses.tolist(), strict=True):
            sums[index] = loss
    tokens = [int(row.mask[1:].sum()) for row in rows]
    labelled = [index for index, count in enumerate(tokens) if count]
    if not labelled:
        return None
    return Measurement(
        figure="loss",
        metric="mean loss of a token that the assistant wrote",
        keys=tuple(str(index + 1) for index in labelled),
        values=tuple(sums[index] / tokens[index] for index in labelled),
        weights=tuple(float(tokens[index]) for index in labelled),
        is_lower_better=True,
    )


def mean_loss(model: Any, rows: Sequence[Encoded], pad: int) -> float | None:
    """Mean loss of a labelled token, in float32; None where there is none.

    Args:
        model: A causal language model, with or without an adapter.
        rows: Conversations as tokens.
        pad: Token id that fills short rows.
    """
    measured = measure_loss(model, rows, pad)
    return None if measured is None else measured.mean


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
        example = _judge(conversations[number], number + 1, index, output)
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


def last_question(conversation: Conversation) -> str:
    """The last thing the user said; "" where nobody asked."""
    users = (m for m in reversed(conversation.messages) if m["role"] == "user")
    return next((str(message["content"]) for message in users), "")


def called_tools(message: Message) -> list[tuple[str, Any]]:
    """Name and arguments of each tool call in a message."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [(f["name"], json.loads(f["arguments"] or "{}")) for f in functions]


def _judge(conversation: Conversation, number: int, turn: int, output: str) -> Example:
    message = conversation.messages[turn]
    question = last_question(conversation)
    if message.get("tool_calls"):
        wanted = called_tools(message)
        # Compared as values: spacing and the order of keys do not change a call.
        right = parse_calls(output) == wanted
        return Example("call", question, json.dumps(wanted), output, right, conversation=number)
    expected = str(message["content"])
    right = output.strip() == expected.strip()
    return Example("answer", question, expected, output, right, conversation=number)


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
