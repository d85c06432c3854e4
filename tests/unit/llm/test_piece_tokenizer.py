"""Ids by a table of pieces: those of the tokenizers library, or none."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from sunloom.llm import encoding
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import encode_checked
from sunloom.llm.piece_tokenizer import build_pieces
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
KINDS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "qwen2": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"), BYTES]
    ),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"), BYTES]
    ),
    "digits": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
}
# Marks that hold each other, and parts of them; what is cut differently by what follows.
PARTS = [
    "<|im_start|>", "<|im_end|>", "<|im_end|>x", "<|im_", "hello", "world", " ", "  ", "   ", "\n",
    "\n\n", " \n ", "\t", "\r\n", "'s", "'LL", "don't", "42", "1234567", "3.14", "!!!", "?!\n",
    "<tool>", "{\"a\": [1]}", "naïve", "Zürich", "ñ", "½", "x²", "—", "“quoted”", "Привет", "€5",
]  # fmt: skip
STRANGE = ["日本語", "🙂", "e\u0301", "\u1e9b", "\x1d", "\u212a", "\u017f", "ǅ"]


def _build(kind: str) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = KINDS[kind]
    if kind == "qwen2":
        core.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>", "<|im_end|>x"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(PARTS + STRANGE)] * 20, trainer)
    return core


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_places_are_the_librarys(kind: str) -> None:
    core, rng = _build(kind), random.Random(kind)
    pieces = build_pieces(core)
    assert pieces is not None
    answered = 0
    for number in range(3000):
        parts = PARTS + STRANGE if number % 10 == 0 else PARTS
        text = "".join(rng.choices(parts, k=rng.randint(0, 12)))
        expected = core.encode(text, add_special_tokens=False)
        starts = [begin for begin, _ in expected.offsets]
        places = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 3)))
        found = pieces.encode(text, places)
        if found is None:
            continue
        answered += 1
        ids, indices = found
        assert ids == expected.ids, text
        first = [next((i for i, s in enumerate(starts) if s >= p), len(ids)) for p in places]
        assert indices == first, (text, places)
    assert answered > 1500


def test_strange_characters_are_left_to_the_library() -> None:
    pieces = build_pieces(_build("gpt2"))
    assert pieces is not None
    assert all(pieces.encode(f"hello {strange}", ()) is None for strange in STRANGE)
    # So is a place inside a piece.
    assert pieces.encode("hello", (2,)) is None
    assert pieces.encode("", (0,)) == ([], [0])


def test_tokenizers_of_another_kind_have_no_table() -> None:
    def change(**parts: Any) -> Tokenizer:
        core = _build("gpt2")
        for name, part in parts.items():
            setattr(core, name, part)
        return core

    assert build_pieces(change()) is not None
    others = [
        change(normalizer=normalizers.Lowercase()),
        change(pre_tokenizer=pre_tokenizers.Metaspace()),
        change(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        change(pre_tokenizer=pre_tokenizers.Split(Regex(r"\p{L}+"), behavior="removed")),
        change(model=models.BPE(dropout=0.1)),
        Tokenizer(models.WordLevel()),
    ]
    assert [build_pieces(other) for other in others] == [None] * len(others)


def test_rows_are_the_same_with_a_table_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = GenericConversations().train(300, 0)
    tokenizer = build_tokenizer(conversation_texts(conversations), 800, 512)
    rows = []
    for least in (1, 10**9):
        monkeypatch.setattr(encoding, "_WORTH_A_TABLE", least)
        rows.append(encode_checked(tokenizer, conversations, 60))
    assert (rows[0].kept, rows[0].rejected, rows[0].cut) == (
        rows[1].kept,
        rows[1].rejected,
        rows[1].cut,
    )
    assert rows[0].cut > 0
    for one, other in zip(rows[0].rows, rows[1].rows, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.mask.tolist() == other.mask.tolist()
