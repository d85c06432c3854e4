"""Conversations as token ids with a loss mask, and batches of like length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunloom.errors import TrainingError
from sunloom.llm.conversations import Conversation

# The label that PyTorch and transformers leave out by default.
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens.

    Attributes:
        ids: Token ids ``[S]``.
        mask: True where a token belongs to an assistant turn ``[S]``.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]


def render(tokenizer: Any, conversation: Conversation, *, prompt: bool = False) -> str:
    """The text of a conversation as the server renders it.

    Args:
        tokenizer: Holds the chat template.
        conversation: Messages and tools.
        prompt: Whether to end with the mark after which the assistant speaks.
    """
    text: str = tokenizer.apply_chat_template(
        list(conversation.messages),
        tools=list(conversation.tools) or None,
        tokenize=False,
        add_generation_prompt=prompt,
    )
    return text


def _assistant_spans(
    tokenizer: Any, conversation: Conversation, text: str
) -> list[tuple[int, int]]:
    """Character ranges of ``text`` that the assistant wrote, end marks included.

    Works with any template in which the text of a conversation begins with the text of its
    first messages; one that does not is refused.
    """
    # Not transformers' assistant mask: it needs {% generation %} marks, which most templates lack.
    spans = []
    for index, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, conversation.head(index), prompt=True)
        after = render(tokenizer, conversation.head(index + 1))
        if not (text.startswith(before) and text.startswith(after)):
            raise TrainingError(
                "The tokenizer's chat template rewrites earlier turns, so the assistant's part "
                "of a conversation cannot be found.",
                "Choose a model whose template renders turns one after another.",
            )
        spans.append((len(before), len(after)))
    return spans


def encode(tokenizer: Any, conversations: Sequence[Conversation], max_length: int) -> list[Encoded]:
    """Tokenise conversations; the mask covers assistant turns only.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        conversations: What to encode.
        max_length: Longest conversation in tokens; the rest of a longer one is cut off.
    """
    texts = [render(tokenizer, conversation) for conversation in conversations]
    # Whole texts, as the server tokenizes them: separate turns could merge into other tokens. The
    # template has written the special tokens.
    batch = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        truncation=True,
        max_length=max_length,
    )
    rows = []
    for index, (ids, offsets) in enumerate(
        zip(batch["input_ids"], batch["offset_mapping"], strict=True)
    ):
        starts = np.asarray([start for start, _ in offsets])
        mask = np.zeros(len(starts), dtype=np.bool_)
        for begin, end in _assistant_spans(tokenizer, conversations[index], texts[index]):
            mask |= (starts >= begin) & (starts < end)
        rows.append(Encoded(np.asarray(ids, dtype=np.int32), mask))
    return rows


def batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Indices of one epoch in batches of like length, the batches in random order.

    Args:
        lengths: Length of each conversation in tokens.
        size: Conversations a batch; a last smaller batch is left out.
        seed: Seed of the order.
    """
    rng = random.Random(seed)
    # Noise in the sort keeps a batch from always holding the same conversations.
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.95, 1.05))
    epoch = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    rng.shuffle(epoch)
    return epoch


def collate(rows: Sequence[Encoded], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad rows on the right.

    Returns:
        ``ids`` and ``labels``, both ``[B, S]``; a label is the token itself where the loss is,
        ``IGNORED`` elsewhere.
    """
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        labels[index, : len(row.ids)] = np.where(row.mask, row.ids, IGNORED)
    return ids, labels


def save_encoded(rows: Sequence[Encoded], path: Path) -> None:
    """Write rows as one compressed array file."""
    # One flat array and the lengths: ragged rows would be objects, which NumPy pickles.
    np.savez_compressed(
        path,
        ids=np.concatenate([row.ids for row in rows]),
        mask=np.concatenate([row.mask for row in rows]),
        lengths=np.asarray([len(row.ids) for row in rows]),
    )


def load_encoded(path: Path) -> list[Encoded]:
    """Rows that ``save_encoded`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["lengths"])[:-1]
        parts = zip(np.split(file["ids"], ends), np.split(file["mask"], ends), strict=True)
        return [Encoded(ids, mask) for ids, mask in parts]
