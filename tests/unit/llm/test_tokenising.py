"""Files read and tokenised in blocks: the same rows, order, counts and places as in one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.config.llm import ConversationData, ConversationFile
from sunloom.llm import conversation_files
from sunloom.llm.conversation_files import FileConversations
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import Encoded, encode_checked
from sunloom.llm.token_store import TokenRows, shard_path, write_order, write_shard, write_tokens
from sunloom.llm.tokenising import FiledConversations, ListedConversations
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

CONVERSATIONS = GenericConversations().train(300, 0)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(conversation_texts(CONVERSATIONS), 600, 1024)


def _lines() -> list[bytes]:
    lines = [json.dumps({"messages": c.messages, "tools": c.tools}).encode() for c in CONVERSATIONS]
    long = [{"role": "user", "content": "word " * 1800}, {"role": "assistant", "content": "Yes."}]
    lines.insert(200, json.dumps({"messages": long}).encode())
    lines[100:100] = [b'{"messages": [', b"", lines[3], b'{"messages": []}', lines[250]]
    return lines


def _read(folder: Path, **options: Any) -> FileConversations:
    entries = tuple(ConversationFile(path=path) for path in sorted(folder.iterdir()))
    return FileConversations(ConversationData(train=entries, **options))


def test_blocks_are_one_file(tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(_lines()))
    whole = _read(folder)
    assert len(whole.blocks) == 1
    # A line of 9 kB is longer than a block, too.
    monkeypatch.setattr(conversation_files, "_BLOCK_BYTES", 7000)
    parts = _read(folder)
    assert len(parts.blocks) > 20
    assert parts.counts == whole.counts
    assert parts.damaged == whole.damaged
    assert [row.position for row in whole.damaged] == [101, 104]
    for seed in (0, 1):
        assert parts.train_order(seed) == whole.train_order(seed)
        assert parts.train(1, seed) == whole.train(1, seed)
        assert parts.held_out(9, seed) == whole.held_out(9, seed)
    places = [(c.source, c.position) for c in parts.train(1, 0)]
    assert places == [(c.source, c.position) for c in whole.train(1, 0)]
    one, many = (FiledConversations(source, 0) for source in (whole, parts))
    assert list(one.digest_parts()) == list(many.digest_parts())
    assert list(one.digest_parts()) != list(FiledConversations(whole, 1).digest_parts())

    # Conversations in memory, tokenised at once, are what the blocks give.
    listed = ListedConversations(whole.train(1, 0))
    expected = listed.tokenise(tokenizer, 100, tmp_path / "listed")
    found = many.tokenise(tokenizer, 100, tmp_path / "blocks")
    assert len(list((tmp_path / "blocks").glob("tokens-*.arrow"))) > 20
    assert found.cut == expected.cut > 0
    assert found.trained.tolist() == expected.trained.tolist()
    assert sorted(found.rejected.values()) == sorted(expected.rejected.values())
    assert len(found.rows) == len(expected.rows) > 150
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row.ids.tolist() == other.ids.tolist()
        assert row.mask.tolist() == other.mask.tolist()
    rejected = min(found.rejected)
    assert encode_checked(tokenizer, [many.load(rejected)], 100).rejected[0] in (
        *found.rejected.values(),
    )


def test_row_groups_are_one_file(tmp_path: Path, monkeypatch: Any) -> None:
    rows = [json.loads(line) for line in _lines() if line and line != b'{"messages": [']
    texts = pl.DataFrame({key: [json.dumps(row.get(key)) for row in rows] for key in ("messages",)})
    folder = tmp_path / "own"
    folder.mkdir()
    texts.write_parquet(folder / "a.parquet", row_group_size=10)
    whole = _read(folder)
    monkeypatch.setattr(conversation_files, "_PARQUET_ROWS", 40)
    parts = _read(folder)
    assert (len(whole.blocks), len(parts.blocks)) == (1, 8)
    assert parts.counts == whole.counts
    assert parts.damaged == whole.damaged
    assert parts.train(1, 0) == whole.train(1, 0)
    assert [c.position for c in parts.train(1, 0)] == [c.position for c in whole.train(1, 0)]


def test_a_conversation_seen_twice_is_stored_once(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(_lines()))
    entry = ConversationFile(path=path, weight=2)
    source = FileConversations(ConversationData(train=(entry,), held_out_share=0))
    tokenised = FiledConversations(source, 0).tokenise(tokenizer, 1024, tmp_path / "tokens")
    assert len(tokenised.rows) == 2 * len(CONVERSATIONS)
    assert list(tokenised.rejected.values()) == ["no answer within 1024 tokens"]
    stored = TokenRows(tmp_path / "tokens")
    assert len({row.ids.tobytes() for row in stored}) == len(CONVERSATIONS)
    order = np.load(tmp_path / "tokens" / "order.npy")
    assert sorted(order.tolist()) == sorted([*range(len(CONVERSATIONS))] * 2)


def test_rows_of_several_shards_have_their_order(tmp_path: Path) -> None:
    rows = [
        Encoded(np.arange(n, n + size, dtype=np.int32), np.arange(size) % 2 == 1)
        for n, size in enumerate((3, 1, 5, 2, 4))
    ]
    write_shard(rows[:2], shard_path(tmp_path, 0))
    # A block without anything to learn has no shard.
    assert write_shard([], shard_path(tmp_path, 1)).size == 0
    write_shard(rows[2:], shard_path(tmp_path, 2))
    write_order([4, 0, 0, 2, 3, 1], tmp_path)
    read = TokenRows(tmp_path)
    assert read.lengths.tolist() == [4, 3, 3, 5, 2, 1]
    expected = [rows[i] for i in (4, 0, 0, 2, 3, 1)]
    assert [row.ids.tolist() for row in read] == [row.ids.tolist() for row in expected]
    assert [row.mask.tolist() for row in read[1:4]] == [row.mask.tolist() for row in expected[1:4]]
    assert read[-1].ids.tolist() == rows[1].ids.tolist()


def test_a_worker_holds_pages_and_not_the_data_set(tmp_path: Path) -> None:
    size = 1 << 16
    rows = [Encoded(np.full(size, n, np.int32), np.ones(size, np.bool_)) for n in range(300)]
    write_tokens(rows, tmp_path)
    script = f"""
from pathlib import Path
from sunloom.llm.token_store import TokenRows
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
rows = TokenRows(Path({str(tmp_path)!r}))
before = anonymous()
total = sum(int(row.ids[0]) * len(row.ids) + int(row.mask.sum()) for row in rows)
print(total, anonymous() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    total, grown = map(int, done.stdout.split())
    assert total == sum(n * size + size for n in range(300))
    # Of 98 MB that were read.
    assert grown < 8e6
