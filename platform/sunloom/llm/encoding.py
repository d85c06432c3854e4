"""Conversations as token ids with a loss mask, and batches of like length."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from sunloom.llm.conversations import TEXT, Conversation, Message
from sunloom.llm.piece_tokenizer import PieceTokenizer, find_pieces

# The label that PyTorch and transformers leave out by default.
IGNORED = -100
_REASONING = "<think>"
# From so many texts on, what their pieces save is more than the table costs; so many of them are
# compared with the library first, which is asked for so many at once.
_WORTH_A_TABLE, _COMPARED, _ASKED_AT_ONCE = 1000, 50, 1000


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens, or the two of a preference pair, one after the other.

    Attributes:
        ids: Token ids ``[S]``.
        mask: True where a token belongs to an assistant turn ``[S]``.
        rejected: Tokens of the pair's rejected conversation, the last ones; 0 without a pair.
        label: Whether the completion is desirable.
        start: Log-probabilities of the completions before training, where they are known.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    rejected: int = 0
    label: bool = True
    start: tuple[float, ...] = ()

    def sequences(self) -> tuple[Encoded, ...]:
        """The chosen and the rejected conversation of a pair; else the only one."""
        if not self.rejected:
            return (self,)
        end = len(self.ids) - self.rejected
        return Encoded(self.ids[:end], self.mask[:end]), Encoded(self.ids[end:], self.mask[end:])

    def with_other_completion(self, other: Encoded, max_length: int) -> Encoded:
        """A pair of this row and of its prompt with the completion of another row.

        Args:
            other: The other row.
            max_length: Longest row in tokens; the rest of the other completion is cut off.
        """
        prompt, completion = int(self.mask.argmax()), int(other.mask.argmax())
        ids = np.concatenate([self.ids[:prompt], other.ids[completion:]])[:max_length]
        mask = np.concatenate([self.mask[:prompt], other.mask[completion:]])[:max_length]
        return replace(
            self,
            ids=np.concatenate([self.ids, ids]),
            mask=np.concatenate([self.mask, mask]),
            rejected=len(ids),
        )

    def without_loss(self) -> Encoded:
        """The same tokens, of which nothing is learned."""
        return replace(self, mask=np.zeros_like(self.mask))


def render(tokenizer: Any, conversation: Conversation, *, prompt: bool = False) -> str:
    """The text of a conversation as the server renders it.

    Args:
        tokenizer: Holds the chat template.
        conversation: Messages and tools.
        prompt: Whether to end with the mark after which the assistant speaks.
    """
    text: str = tokenizer.apply_chat_template(
        [_as_served(message) for message in conversation.messages],
        tools=list(conversation.tools) or None,
        tokenize=False,
        add_generation_prompt=prompt,
    )
    return text


def _as_served(message: Message) -> Message:
    """The message as vLLM hands it to the template: no text is "", arguments are values."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        function["arguments"] = json.loads(function["arguments"] or "{}")
        calls.append({**call, "function": function})
    return {**message, "content": message.get("content") or "", "tool_calls": calls}


@dataclass(frozen=True)
class _Passages:
    """A text to learn from, and the character ranges of it that the assistant wrote."""

    text: str
    spans: tuple[tuple[int, int], ...]


def _find_answers(tokenizer: Any, conversation: Conversation) -> list[_Passages]:
    """The conversation's text with its answers, end marks included: what is served and no more.

    An answer begins where the prompt ends that the server would have sent for it. A template that
    writes an answer otherwise once another message follows (Qwen 3 drops its reasoning) has no
    text in which all answers stand as they were written: there each answer has a text of its own.

    Raises:
        UnlearnableError: An answer does not begin where its prompt ends.
    """
    feedback = conversation.feedback
    if conversation.messages[0]["role"] == TEXT:
        before, *rest = (str(message["content"]) for message in conversation.messages)
        written = before + "".join(rest) + (tokenizer.eos_token or "")
        return [_Passages(written, ((len(before) if rest else 0, len(written)),))]
    # Not transformers' assistant mask: it needs {% generation %} marks, which most templates lack.
    text = render(tokenizer, conversation)
    answers = [
        (render(tokenizer, conversation.head(index), prompt=True), index + 1)
        for index, message in enumerate(conversation.messages)
        if message["role"] == "assistant"
        and message.get("weight") != 0
        and not (feedback and index < feedback.prompt)
    ]
    alone, whole = [], []
    for prompt, end in answers:
        is_last = end == len(conversation.messages)
        after = text if is_last else render(tokenizer, conversation.head(end))
        begin = _begin_of_answer(prompt, after)
        content = (conversation.messages[end - 1].get("content") or "").strip()
        if content and after.rstrip().endswith(content):
            # A template without a mark at the end (GLM's): where to stop is learned, too.
            closed = after.rstrip() + tokenizer.eos_token
            alone.append(_Passages(closed, ((begin, len(closed)),)))
            continue
        alone.append(_Passages(after, ((begin, len(after)),)))
        # Some templates end the last answer with one more mark.
        written = after if text.startswith(after) else after.removesuffix(tokenizer.eos_token or "")
        if text.startswith(written):
            whole.append((begin, len(written)))
    if len(whole) == len(answers):
        return [_Passages(text, tuple(whole))]
    return alone


def _begin_of_answer(prompt: str, text: str) -> int:
    # A prompt may open a block of reasoning, which an answer without reasoning does not have.
    opened = prompt.rstrip()
    for beginning in (prompt, opened, opened.removesuffix(_REASONING)):
        if text.startswith(beginning):
            return len(beginning)
    raise UnlearnableError("the chat template begins answers otherwise than its prompt ends")


class UnlearnableError(ValueError):
    """A conversation whose answers cannot be told from the rest; its text is the reason."""


@dataclass(frozen=True)
class EncodedConversations:
    """Conversations as tokens, and those that cannot be learned from.

    Attributes:
        rows: What there is to learn, in order; a conversation has one row, or one for each answer.
        kept: Index of each row's conversation, once for each of its rows.
        rejected: Index of each other conversation, and why.
        cut: Rows that lost their end to ``max_length``.
    """

    rows: list[Encoded]
    kept: list[int]
    rejected: dict[int, str]
    cut: int


def encode(tokenizer: Any, conversations: Sequence[Conversation], max_length: int) -> list[Encoded]:
    """Tokenise conversations; those without anything to learn are left out.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        conversations: What to encode.
        max_length: Longest conversation in tokens; the rest of a longer one is cut off.
    """
    return encode_checked(tokenizer, conversations, max_length).rows


def encode_checked(
    tokenizer: Any, conversations: Sequence[Conversation], max_length: int
) -> EncodedConversations:
    """Tokenise conversations; the mask covers assistant turns only.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        conversations: What to encode.
        max_length: Longest conversation in tokens; the rest of a longer one is cut off.
    """
    rejected: dict[int, str] = {}
    passages: list[tuple[int, tuple[_Passages, ...]]] = []
    for index, conversation in enumerate(conversations):
        try:
            passages += [(index, found) for found in _find_rows(tokenizer, conversation)]
        except UnlearnableError as error:
            rejected[index] = str(error)
        # Templates refuse what their model was not made for, such as two questions in a row.
        except (TemplateError, TypeError) as error:
            rejected[index] = f"refused by the chat template: {error}"
    rows, kept, cut = [], [], 0
    tokens = iter(_tokenise(tokenizer, [one for _, found in passages for one in found]))
    for index, found in passages:
        short = [next(tokens) for _ in found]
        is_long = any(len(one.ids) > max_length for one in short)
        if is_long:
            short = [Encoded(one.ids[:max_length], one.mask[:max_length]) for one in short]
        is_prompt = conversations[index].is_prompt
        if is_prompt and is_long:
            rejected[index] = f"a prompt of more than {max_length} tokens"
        # The first token of a row has no token before it that could predict it.
        elif not is_prompt and not all(one.mask[1:].any() for one in short):
            where = f"within {max_length} tokens" if is_long else "to learn"
            rejected[index] = f"no answer {where}"
        elif is_long and len(short) > 1 and np.array_equal(short[0].ids, short[1].ids):
            rejected[index] = f"no difference within {max_length} tokens"
        else:
            cut += is_long
            kept.append(index)
            rows.append(_join_sequences(short, conversations[index]))
    # A conversation of several texts is used if one of them is.
    for index in kept:
        rejected.pop(index, None)
    return EncodedConversations(rows, kept, rejected, cut)


def _find_rows(tokenizer: Any, conversation: Conversation) -> list[tuple[_Passages, ...]]:
    """Texts of each row to learn from: one, or those of a pair's two conversations."""
    if conversation.is_prompt:
        return [(_Passages(render(tokenizer, conversation, prompt=True), ()),)]
    if conversation.feedback is None:
        return [(found,) for found in _find_answers(tokenizer, conversation)]
    each = [_find_answers(tokenizer, one) for one in conversation.completions()]
    if any(len(found) > 1 for found in each):
        # A completion is judged as a whole.
        raise UnlearnableError("the chat template rewrites earlier answers of a completion")
    return [tuple(found[0] for found in each)]


def _mark_answers(ids: Sequence[int], places: Sequence[int]) -> Encoded:
    """Ids whose answers go from each place to the next but one."""
    mask = np.zeros(len(ids), dtype=np.bool_)
    for begin, end in zip(places[::2], places[1::2], strict=True):
        mask[begin:end] = True
    return Encoded(np.asarray(ids, np.int32), mask)


def _join_sequences(sequences: Sequence[Encoded], conversation: Conversation) -> Encoded:
    """One row of a conversation's sequences."""
    feedback = conversation.feedback
    if len(sequences) == 1:
        is_unwanted = feedback is not None and feedback.label is False
        return replace(sequences[0], label=False) if is_unwanted else sequences[0]
    chosen, rejected = sequences
    return Encoded(
        np.concatenate([chosen.ids, rejected.ids]),
        np.concatenate([chosen.mask, rejected.mask]),
        rejected=len(rejected.ids),
    )


def _tokenise(tokenizer: Any, passages: Sequence[_Passages]) -> list[Encoded]:
    """Each passage's tokens, with those of its answers marked."""
    # Whole texts, as the server tokenizes them: separate turns could merge into other tokens. The
    # template has written the special tokens.
    found: list[Encoded | None] = [None] * len(passages)
    pieces = find_pieces(tokenizer) if len(passages) >= _WORTH_A_TABLE else None
    if pieces is not None:
        sample = passages[:_COMPARED]
        looked_up = [_look_up(pieces, passage) for passage in sample]
        asked = _ask_library(tokenizer, sample)
        if all(
            one is None or _is_same(one, two) for one, two in zip(looked_up, asked, strict=True)
        ):
            found = [_look_up(pieces, passage) for passage in passages]
    left = [index for index, one in enumerate(found) if one is None]
    # The library keeps a record of each token: not of all rows at once.
    for start in range(0, len(left), _ASKED_AT_ONCE):
        part = left[start : start + _ASKED_AT_ONCE]
        for index, one in zip(
            part, _ask_library(tokenizer, [passages[i] for i in part]), strict=True
        ):
            found[index] = one
    return [one for one in found if one is not None]


def _look_up(pieces: PieceTokenizer, passage: _Passages) -> Encoded | None:
    found = pieces.encode(passage.text, [*chain.from_iterable(passage.spans)])
    return None if found is None else _mark_answers(*found)


def _ask_library(tokenizer: Any, passages: Sequence[_Passages]) -> list[Encoded]:
    backend = tokenizer.backend_tokenizer
    # Settings of an earlier call stay with it.
    backend.no_padding()
    backend.no_truncation()
    # Not through transformers, whose lists of offsets take as long as the tokens.
    encodings = backend.encode_batch([one.text for one in passages], add_special_tokens=False)
    return [
        _mark_answers(
            encoding.ids,
            [_first_from(encoding, place) for place in chain.from_iterable(passage.spans)],
        )
        for encoding, passage in zip(encodings, passages, strict=True)
    ]


def _is_same(one: Encoded, other: Encoded) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.mask, other.mask)


def _first_from(encoding: Any, character: int) -> int:
    """Index of the first token that begins at a character or after it."""
    # Few look-ups: the list of all offsets takes long to make.
    tokens = range(len(encoding.ids))
    return bisect_left(tokens, character, key=lambda token: encoding.token_to_chars(token)[0])


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
