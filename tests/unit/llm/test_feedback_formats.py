"""Rows of preferences, of completions with a label, and of prompts: read, or refused with why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sunloom.config.llm import ConversationData, ConversationFile, Dpo, Sft
from sunloom.errors import UsageError
from sunloom.llm.conversation_files import FileConversations
from sunloom.llm.conversation_formats import BadRowError, detect_format
from sunloom.llm.conversations import TEXT, Conversation, Feedback, GenericConversations
from sunloom.llm.encoding import encode_checked
from sunloom.llm.feedback_formats import FEEDBACK_FORMATS, read_row
from sunloom.llm.objectives import require_formats
from sunloom.llm.preparation import split_passages
from sunloom.llm.token_store import TokenRows, write_tokens
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


ASK, GOOD, BAD = turn("user", "How tall?"), turn("assistant", "12 m."), turn("assistant", "No.")
PAIR = Conversation((ASK, GOOD), feedback=Feedback(prompt=1, rejected=(BAD,)))
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "How tall?", "chosen": "12 m.", "rejected": "No."},
    "messages": {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    "implicit": {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "both": {"prompt": "How tall?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "json": {k: json.dumps(v) for k, v in (("chosen", [ASK, GOOD]), ("rejected", [ASK, BAD]))},
    "open": {"chosen": [ASK, GOOD, ASK], "rejected": [ASK, BAD]},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(conversation_texts(GenericConversations().train(60, 0)), 400, 512)


@pytest.mark.parametrize("name", PAIRS)
def test_each_form_of_a_pair_is_the_same_pair(name: str) -> None:
    assert detect_format(PAIRS[name]) == "preference"
    assert read_row(PAIRS[name], "preference") == PAIR
    assert Conversation.from_plain(*json.loads(json.dumps(PAIR.to_plain()))) == PAIR


def test_two_texts_without_turns_part_where_they_differ(tokenizer: Any) -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    pair = read_row(row, detect_format(row))
    assert [m["content"] for m in pair.messages] == ["The sky is", " blue."]
    assert {m["role"] for m in pair.messages} == {TEXT}
    (found,) = encode_checked(tokenizer, [pair], 64).rows
    chosen, rejected = found.sequences()
    assert tokenizer.decode(chosen.ids[chosen.mask]) == " blue.<|end|>"
    assert tokenizer.decode(rejected.ids[rejected.mask]) == " green.<|end|>"


def test_feedback_has_a_label_whatever_its_type() -> None:
    row: dict[str, Any] = {"prompt": "How tall?", "completion": "12 m."}
    for label, value in ((True, True), ("false", False), (1, True), ("0", False), (0.0, False)):
        assert detect_format({**row, "label": label}) == "unpaired"
        read = read_row({**row, "label": label}, "unpaired")
        assert read == Conversation((ASK, GOOD), feedback=Feedback(prompt=1, label=value))
    # Classes are no feedback.
    assert detect_format({**row, "label": "spam"}) == "prompt_completion"
    assert detect_format({**row, "label": 3}) == "prompt_completion"


def test_a_prompt_alone_keeps_its_columns() -> None:
    row = {"prompt": [ASK], "answer": 12, "unit": {"name": "m"}}
    assert detect_format(row) == "prompt"
    read = read_row(row, "prompt")
    assert read.messages == (ASK,)
    assert read.feedback == Feedback(prompt=1, columns={"answer": 12, "unit": {"name": "m"}})
    again = Conversation.from_plain(*json.loads(json.dumps(read.to_plain())))
    assert again.canonical() == read.canonical()


@pytest.mark.parametrize(
    ("row", "format", "reason"),
    [
        ({"chosen": "a"}, "preference", "no pair: rejected is missing"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "preference", "no difference"),
        ({"chosen": "ab", "rejected": "ab"}, "preference", "no difference"),
        ({"chosen": "ab", "rejected": "a"}, "preference", "no answer: rejected has nothing"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "preference", "no chosen"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "preference", "empty answer"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "preference", "no prompt"),
        ({"prompt": [GOOD], "chosen": "a", "rejected": "b"}, "preference", "no question"),
        ({"chosen": [ASK, GOOD], "rejected": [ASK]}, "preference", "no answer: no message"),
        ({"chosen": [ASK, GOOD], "rejected": "b"}, "preference", "no answer: chosen does not"),
        ({"chosen": [ASK, GOOD, ASK, GOOD], "rejected": [ASK, GOOD]}, "preference", "no answer"),
        ({"chosen": [ASK, GOOD], "rejected": [turn("human", "x")]}, "preference", "unknown role"),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, "unpaired", "bad label"),
        ({"prompt": "a", "completion": "b"}, "unpaired", "bad label"),
        ({"prompt": "a", "completion": "", "label": 1}, "unpaired", "no completion"),
        ({"prompt": [ASK, GOOD]}, "prompt", "no open question"),
        ({"prompt": None}, "prompt", "no prompt"),
        ({"prompt": "a", "x": "\ud800"}, "prompt", "bad column"),
        ({"prompt": "a", "x": 2**70}, "prompt", "bad column"),
    ],
)  # fmt: skip
def test_a_row_that_says_nothing_has_a_reason(
    row: dict[str, Any], format: str, reason: str
) -> None:
    with pytest.raises(BadRowError, match=f"^{reason}"):
        read_row(row, format)


def open_file(path: Path, rows: list[Any], share: float = 0.0) -> FileConversations:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return FileConversations(
        ConversationData(train=(ConversationFile(path=path),), held_out_share=share)
    )


def test_damaged_rows_have_their_line_and_prompts_one_side(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{i % 30}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(90)
    ]
    rows[7], rows[20] = "{", {**rows[20], "rejected": rows[20]["chosen"]}  # type: ignore[call-overload]
    source = open_file(tmp_path / "a.jsonl", rows, 0.3)
    (counts,) = source.counts
    assert (counts.format, counts.rows) == ("preference", 90)
    assert counts.quarantined == {"not JSON": 1, "no difference": 1}
    assert [row.position for row in source.damaged] == [8, 21]
    train, held_out = source.train(0, 0), source.held_out(99, 0)
    assert len(train) + len(held_out) == 88
    # A model that has seen a prompt's answers knows some of what it is judged by.
    assert len(held_out) > 10
    asked = [{c.messages[0]["content"] for c in side} for side in (train, held_out)]
    assert asked[0].isdisjoint(asked[1])
    assert all(c.feedback and c.feedback.rejected for c in train)


def test_long_pairs_are_cut_or_counted_and_keep_their_labels(
    tokenizer: Any, tmp_path: Path
) -> None:
    long = "word " * 200
    rows = [
        {"prompt": "How tall?", "chosen": "12 m.", "rejected": long},
        {"prompt": long, "chosen": "12 m.", "rejected": "No."},
        {"prompt": "How tall?", "chosen": f"{long} yes", "rejected": f"{long} no"},
        {"prompt": "How tall?", "chosen": "12 m.", "rejected": "No."},
    ]
    found = encode_checked(tokenizer, [read_row(row, "preference") for row in rows], 64)
    assert (found.kept, found.cut) == ([0, 3], 1)
    assert found.rejected == {
        1: "no answer within 64 tokens", 2: "no difference within 64 tokens",
    }  # fmt: skip
    write_tokens(found.rows, tmp_path)
    stored = TokenRows(tmp_path)
    for row, expected in zip(stored, found.rows, strict=True):
        for one, other in zip(row.sequences(), expected.sequences(), strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.mask[1:].any()
            assert len(one.ids) <= 64
    shown = split_passages(tokenizer, stored[1])
    assert [p.text for p in shown if p.is_unwanted] == ["No.<|end|>"]
    assert [p.text for p in shown if p.is_trained and not p.is_unwanted] == ["12 m.<|end|>"]


def test_earlier_answers_of_a_prompt_are_context(tokenizer: Any) -> None:
    row = {"prompt": [ASK, BAD, ASK], "chosen": [GOOD], "rejected": [BAD]}
    (found,) = encode_checked(tokenizer, [read_row(row, "preference")], 64).rows
    chosen, rejected = found.sequences()
    assert tokenizer.decode(chosen.ids[chosen.mask]) == "12 m.<|end|>"
    assert tokenizer.decode(rejected.ids[rejected.mask]) == "No.<|end|>"


def test_an_objective_refuses_what_it_does_not_learn_from() -> None:
    require_formats([("a", "preference"), ("b", "auto")], Dpo())
    with pytest.raises(UsageError, match="sft learns from messages") as refused:
        require_formats([("a", "preference")], Sft())
    assert "dpo, ipo, orpo" in refused.value.hint
    with pytest.raises(UsageError, match="dpo learns from preference"):
        require_formats([("a", "messages")], Dpo())
    assert set(FEEDBACK_FORMATS) == {"preference", "unpaired", "prompt"}
