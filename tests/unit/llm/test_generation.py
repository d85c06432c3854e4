"""Batches of prompts before an engine sees them: blocks, columns, prompts, folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_llama import build_adapter, build_base

from sunloom.config import load_config
from sunloom.config.generation import GenerationRecipe
from sunloom.core.model_registry import open_registry
from sunloom.errors import DataError, NotFoundError, UsageError
from sunloom.llm.conversation_formats import BadRowError
from sunloom.llm.generation import (
    MANIFEST,
    QUARANTINE,
    generate_batch,
    plan_blocks,
    resolve_generator,
    tokenise_prompt,
)
from sunloom.llm.models import load_tokenizer

ROOT = Path(__file__).parents[3]


def recipe_for(folder: Path, *sets: str) -> GenerationRecipe:
    own = [
        f"paths.state={folder / 'state'}",
        f"paths.outputs={folder / 'outputs'}",
        f"generation.model={folder / 'base'}",
        f"generation.input={folder / 'input'}",
        f"generation.output={folder / 'answers'}",
        "generation.block_rows=4",
    ]
    return load_config(GenerationRecipe, sets=[*own, *sets], conf_dir=ROOT / "conf").config


def write(path: Path, rows: list[dict[str, Any]], group: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def test_every_row_is_in_one_block(tmp_path: Path) -> None:
    names = [f"row {number}" for number in range(17)]
    for index, part in enumerate((names[:10], names[10:11], names[11:])):
        write(tmp_path / "input" / f"{index}.parquet", [{"prompt": name} for name in part])
    blocks = plan_blocks(recipe_for(tmp_path).generation)
    assert [(block.first_row, block.rows) for block in blocks] == [
        (0, 4), (4, 4), (8, 2), (10, 1), (11, 4), (15, 2),
    ]  # fmt: skip
    assert [name for block in blocks for name in block.read()["prompt"].to_pylist()] == names


def test_prompts_are_tokenised_as_the_server_does(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(build_base(tmp_path / "base")))
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
    turns.append({"role": "user", "content": "voucher"})
    rendered = "user: hello\nassistant: world\nuser: voucher\nassistant: "
    assert tokenizer.decode(tokenise_prompt(tokenizer, turns)) == rendered
    assert tokenizer.decode(tokenise_prompt(tokenizer, "hello")) == "hello"
    for value, said in (
        (None, "no prompt: the value is missing"),
        ("", "no prompt: the value is empty"),
        (3, "no prompt: the value is int"),
        ([], "no messages: the list is empty"),
        ([{"role": "usr", "content": "a"}], "unknown role"),
    ):
        with pytest.raises(BadRowError, match=said):
            tokenise_prompt(tokenizer, value)


def test_what_cannot_begin_is_refused(tmp_path: Path) -> None:
    build_base(tmp_path / "base")
    with pytest.raises(UsageError, match="There is no file"):
        generate_batch(recipe_for(tmp_path))
    path = tmp_path / "input" / "rows.parquet"
    write(path, [{"text": "a"}])
    with pytest.raises(UsageError, match="no column messages or prompt") as caught:
        generate_batch(recipe_for(tmp_path))
    assert "It has text" in str(caught.value.hint)
    write(path, [{"prompt": "a", "error": "b"}])
    with pytest.raises(UsageError, match="names of the answers': error"):
        generate_batch(recipe_for(tmp_path))
    write(path, [{"prompt": "a"}])
    with pytest.raises(NotFoundError, match="no model 'none'"):
        generate_batch(recipe_for(tmp_path, "generation.model=none"))
    schema = "generation.sampling.json_schema="
    with pytest.raises(UsageError, match="There is no file"):
        generate_batch(recipe_for(tmp_path, f"{schema}{tmp_path / 'none.json'}"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        generate_batch(recipe_for(tmp_path, f"{schema}{tmp_path / 'broken.json'}"))
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        generate_batch(recipe_for(tmp_path))


def test_a_model_is_a_base_an_adapter_or_a_folder(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    base = build_base(tmp_path / "base")
    registry = open_registry(recipe)
    registered = registry.register("tiny", "llm", base)
    folder = str(registry.path(registered))
    adapter = registry.register(
        "own", "adapter", build_adapter(base, tmp_path / "own", seed=1), {}, {"base": "tiny@1"}
    )
    dora = build_adapter(base, tmp_path / "dora", seed=1, use_dora=True)
    registry.register("dora", "adapter", dora, {}, {"base": "tiny@1"})
    registry.register("other", "tabular", base)
    assert resolve_generator("tiny", registry) == (folder, None, "tiny@1")
    added = ("own@1", registry.path(adapter))
    assert resolve_generator("own@1", registry) == (folder, added, "own@1")
    assert resolve_generator(str(base), registry) == (str(base), None, str(base))
    assert resolve_generator("owner/model", registry) == ("owner/model", None, "owner/model")
    with pytest.raises(UsageError, match="dora@1 has DoRA"):
        resolve_generator("dora", registry)
    with pytest.raises(UsageError, match="of the kind tabular"):
        resolve_generator("other", registry)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"only pytorch_model\.bin"):
        resolve_generator(str(base), registry)


def test_a_finished_run_is_read_and_another_ones_folder_refused(tmp_path: Path) -> None:
    build_base(tmp_path / "base")
    write(tmp_path / "input" / "rows.parquet", [{"prompt": "a"}] * 4 + [{"prompt": ""}] * 2)
    # Refused for its share of bad rows, the run has left its files: all blocks are there.
    folder = tmp_path / "answers"
    recipe = recipe_for(tmp_path, "generation.max_bad_share=0.4")
    blocks = plan_blocks(recipe.generation)
    for block in blocks:
        rows = range(block.first_row, block.first_row + block.rows)
        errors = [None if row < 4 else "no prompt: the value is empty" for row in rows]
        answers = [{"row": row, "error": e} for row, e in zip(rows, errors, strict=True)]
        write(block.answers(folder), answers)
    with pytest.raises(UsageError, match="is not empty"):
        generate_batch(recipe)
    parts = {path: path.rename(tmp_path / path.name) for path in folder.glob("part-*")}
    claim = recipe_for(tmp_path, f"generation.output={tmp_path / 'answers'}")
    from sunloom.llm import generation

    task = generation.GenerationTask(
        "", None, "prompt", claim.generation, claim.serving.llm, None, blocks
    )
    generation._claim_folder(task, str(tmp_path / "base"))
    for target, kept in parts.items():
        kept.rename(target)
    result = generate_batch(recipe)
    assert (result.rows, result.blocks, result.kept_blocks) == (6, 2, 2)
    assert (result.quarantined, result.tokens_per_second) == ({"no prompt": 2}, None)
    lines = (folder / QUARANTINE).read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [4, 5]
    with pytest.raises(DataError, match="2 of 6 rows have no usable prompt: 2 no prompt"):
        generate_batch(recipe_for(tmp_path))
    with pytest.raises(UsageError, match="another model, input or sampling"):
        generate_batch(recipe_for(tmp_path, "generation.sampling.max_tokens=3"))
    assert json.loads((folder / MANIFEST).read_text())["blocks"] == 2
