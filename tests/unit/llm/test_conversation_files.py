"""A team's own files: formats, rows that are set aside, the split, duplicates, weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.config.llm import ConversationData, ConversationFile
from sunloom.errors import DataError, UsageError
from sunloom.llm.conversation_files import FileConversations
from sunloom.llm.conversation_formats import FORMATS, BadRowError, detect_format, read_conversation
from sunloom.llm.conversations import Conversation

ASK = {"role": "user", "content": "How tall?"}
ANSWER = {"role": "assistant", "content": "12 m."}
PLAIN = (ASK, ANSWER)
FUNCTION = {"name": "look", "arguments": '{"city": "Rome"}'}
BROKEN = {"name": "look", "arguments": "{"}
CALL = {"id": "call_0", "type": "function", "function": FUNCTION}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def rows_of(name: str) -> dict[str, Any]:
    """The same question and answer in each format."""
    return {
        "messages": {"messages": [ASK, ANSWER]},
        "sharegpt": {
            "conversations": [
                {"from": "human", "value": "How tall?"},
                {"from": "gpt", "value": "12 m."},
            ]
        },
        "alpaca": {"instruction": "How tall?", "input": "", "output": "12 m."},
        "prompt_completion": {"prompt": "How tall?", "completion": "12 m."},
    }[name]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_found_and_read_alike(name: str) -> None:
    row = rows_of(name)
    assert detect_format(row) == name
    assert read_conversation(row, name) == Conversation(PLAIN)


def test_more_of_each_format() -> None:
    turns = [
        {"from": "human", "value": "Rome?"},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"city": "Rome"}}'},
        {"from": "observation", "value": "20"},
        {"from": "gpt", "value": "20 degrees."},
    ]
    share = {"conversations": turns, "system": "Be kind.", "tools": json.dumps([TOOL["function"]])}
    messages = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "20"},
        {"role": "assistant", "content": "20 degrees."},
    )
    assert read_conversation(share, "sharegpt") == Conversation(messages, (TOOL,))
    alpaca = {
        "instruction": "Add them.", "input": "1 2", "output": "3", "history": [["Hi", "Hello."]],
    }  # fmt: skip
    contents = [m["content"] for m in read_conversation(alpaca, "alpaca").messages]
    assert contents == ["Hi", "Hello.", "Add them.\n1 2", "3"]
    turns = {"prompt": [ASK], "completion": [ANSWER]}
    assert read_conversation(turns, "prompt_completion") == Conversation(PLAIN)
    # OpenAI's own files: parts of text, developer for system, an answer that is context only.
    own = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
            ASK,
            ANSWER | {"weight": 0},
            ASK,
            ANSWER | {"weight": 1, "refusal": None},
            ASK,
        ]
    }
    read = read_conversation(own, "messages").messages
    assert read[0] == {"role": "system", "content": "a\nb"}
    assert [m.get("weight") for m in read] == [None, None, 0, None, 1]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no messages"),
        (["hello"], "no message"),
        ([ASK, {"role": "gpt", "content": "x"}], "unknown role"),
        ([{"role": "human", "content": "x"}, ANSWER], "unknown role"),
        ([ASK], "no answer"),
        ([ANSWER], "no question"),
        ([{"role": "user"}, ANSWER], "no content"),
        ([ASK, {"role": "assistant", "content": " "}], "empty answer"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "content is no text"),
        ([{"role": "user", "content": 7}, ANSWER], "content is no text"),
        ([{"role": "user", "content": "a\ud83d"}, ANSWER], "no Unicode text"),
        ([ASK, {"role": "assistant", "tool_calls": [{}]}], "bad tool call"),
        (
            [ASK, {"role": "assistant", "tool_calls": [{"function": BROKEN}]}],
            "bad tool call",
        ),
        ([ASK, ANSWER | {"weight": 2}], "bad weight"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from(messages: list[Any], reason: str) -> None:
    with pytest.raises(BadRowError) as error:
        read_conversation({"messages": messages}, "messages")
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "tools", ["look", [{}], [{"name": "f", "parameters": []}], [{"function": {"name": 1}}]]
)
def test_tools_that_no_template_can_show(tools: Any) -> None:
    with pytest.raises(BadRowError, match="bad tool"):
        read_conversation({"messages": [ASK, ANSWER], "tools": tools}, "messages")


@pytest.mark.parametrize("arguments", ["", None, {}, "{}"])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    calls = [{"function": {"name": "look", "arguments": arguments}}]
    row = {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": calls}]}
    last = read_conversation(row, "messages").messages[-1]
    assert last["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "function", "name", "from", "value",
                         "arguments", "text", "weight"]), inner),
    max_leaves=12,
)  # fmt: skip


@given(row=st.dictionaries(st.sampled_from(sorted({k for n in FORMATS for k in rows_of(n)} | {
    "tools", "system", "history"})), JSON), name=st.sampled_from(sorted(FORMATS)))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whatever_a_row_holds_it_is_read_or_set_aside(row: dict[str, Any], name: str) -> None:
    try:
        read = read_conversation(row, name)
    except BadRowError:
        return
    assert read.messages[-1]["role"] == "assistant"
    assert read.canonical().encode()


def chat(number: int) -> dict[str, Any]:
    return {"messages": [ASK | {"content": f"How tall is {number}?"}, ANSWER]}


def open_files(folder: Path, *names: str, **more: Any) -> FileConversations:
    entries = tuple(ConversationFile(path=folder / name) for name in names)
    return FileConversations(ConversationData(train=entries, **more))


def test_every_row_is_used_or_counted_with_its_place(tmp_path: Path) -> None:
    lines = [json.dumps(chat(i)).encode() for i in range(100)]
    lines[3:3] = [b'{"messages": [', b"[1]", b'{"messages": []}', b"", lines[0], b"\xff{}"]
    lines.insert(60, b'{"messages": [{"role": "user", "content": "a\\ud83d"}]}')
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    source = open_files(tmp_path, "a.jsonl")
    counts = source.counts[0]
    assert (counts.format, counts.rows, counts.duplicates) == ("messages", 106, 1)
    assert counts.train + counts.held_out == 100
    assert sum(counts.quarantined.values()) == 5
    assert [row.position for row in source.damaged] == [4, 5, 6, 9, 61]
    assert [row.reason.partition(":")[0] for row in source.damaged] == [
        "not JSON", "not a JSON object", "no messages", "not JSON", "'messages' is no Unicode text",
    ]  # fmt: skip
    read = source.train(1, 0) + source.held_out(1000, 0)
    assert Counter(c.messages[0]["content"] for c in read) == Counter(
        f"How tall is {i}?" for i in range(100)
    )
    assert {c.source for c in read} == {str(tmp_path / "a.jsonl")}


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "csv"])
def test_each_kind_of_file(tmp_path: Path, suffix: str) -> None:
    rows = [chat(i) for i in range(30)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        text = {"messages": [json.dumps(row["messages"]) for row in rows]}
        pl.DataFrame(text).write_csv(path)
    source = open_files(tmp_path, path.name, held_out_share=0)
    assert {c.messages[0]["content"] for c in source.train(1, 0)} == {
        row["messages"][0]["content"] for row in rows
    }
    assert source.held_out(10, 0) == []


def test_a_parquet_file_of_tool_calls_has_no_keys_of_other_messages(tmp_path: Path) -> None:
    messages = [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    pl.DataFrame({"messages": [messages, [ASK, ANSWER]]}).write_parquet(tmp_path / "a.parquet")
    read = open_files(tmp_path, "a.parquet", held_out_share=0).train(1, 0)
    found = {len(c.messages[1].get("tool_calls", [])): c for c in read}
    assert found[0].messages[1] == ANSWER
    assert found[1].messages[1]["tool_calls"] == [CALL]


def test_what_is_held_out_stays_so(tmp_path: Path) -> None:
    def held_out(count: int, name: str) -> set[str]:
        (tmp_path / name).write_text("\n".join(json.dumps(chat(i)) for i in range(count)))
        source = open_files(tmp_path, name, held_out_share=0.2)
        train = {c.canonical() for c in source.train(1, 0)}
        held = {c.canonical() for c in source.held_out(10_000, 0)}
        assert not train & held
        assert len(train) + len(held) == count
        return held

    few, many = held_out(500, "a.jsonl"), held_out(2000, "b.jsonl")
    assert few < many
    # Within four standard errors of the share.
    assert abs(len(many) - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5


def test_weights_are_how_often_a_pass_sees_a_conversation(tmp_path: Path) -> None:
    for index, name in enumerate("abc"):
        rows = (json.dumps(chat(1000 * index + i)) for i in range(400))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    weights = {"a": 1.0, "b": 3.0, "c": 0.5}
    entries = tuple(
        ConversationFile(path=tmp_path / f"{name}.jsonl", weight=weight)
        for name, weight in weights.items()
    )
    source = FileConversations(ConversationData(train=entries, held_out_share=0))
    read = source.train(1, 0)
    seen = Counter(Path(c.source).stem for c in read)
    assert (seen["a"], seen["b"]) == (400, 1200)
    assert abs(seen["c"] - 200) < 4 * 10
    assert read == source.train(1, 0)
    assert read != source.train(1, 1)


def test_the_format_is_told_by_what_most_rows_have_or_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "x"}, *(rows_of("alpaca") for _ in range(3))]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.jsonl").write_text('{"question": "x", "reply": "y"}')
    (tmp_path / "c.jsonl").write_text('{"prompt": "x", "chosen": "y", "rejected": "z"}')
    (tmp_path / "d.json").write_text("[1, ")
    (tmp_path / "e.txt").write_text("x")
    (tmp_path / "f.jsonl").write_text("")
    counts = open_files(tmp_path, "a.jsonl", "f.jsonl").counts
    assert [(one.format, one.rows) for one in counts] == [("alpaca", 4), ("auto", 0)]
    with pytest.raises(UsageError, match=r"question, reply instead of messages") as refused:
        open_files(tmp_path, "b.jsonl")
    assert "alpaca" in refused.value.hint
    assert open_files(tmp_path, "c.jsonl").counts[0].format == "preference"
    with pytest.raises(DataError, match=r"d\.json is not JSON"):
        open_files(tmp_path, "d.json")
    for name, found in (("e.txt", "no reader"), ("g.jsonl", "no file")):
        with pytest.raises(UsageError, match=found):
            open_files(tmp_path, name)


def test_a_text_without_turns_is_learned_whole(tmp_path: Path) -> None:
    rows = [{"text": f"The oak number {n} is tall."} for n in range(20)]
    rows += [{"text": ""}, {"text": 7}, {"text": None}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_files(tmp_path, "a.jsonl", held_out_share=0)
    counts = source.counts[0]
    assert (counts.format, counts.rows, counts.train) == ("text", 23, 20)
    assert counts.quarantined == {"no text": 3}
    assert {c.messages[0]["content"] for c in source.train(1, 0)} == {r["text"] for r in rows[:20]}
    # A message of a conversation cannot pass for one.
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "text", "content": "x"}]}')
    assert open_files(tmp_path, "b.jsonl").counts[0].quarantined == {"unknown role": 1}
