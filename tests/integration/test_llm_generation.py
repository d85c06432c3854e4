"""A batch on a real Ray and a real vLLM: each row answered once, finished blocks kept."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_llama import build_adapter, build_base

from sunloom.config import load_config
from sunloom.config.generation import GenerationRecipe
from sunloom.core.model_registry import open_registry
from sunloom.llm import generation
from sunloom.llm.generation import generate_batch, plan_blocks, tokenise_prompt
from sunloom.llm.models import load_adapter, load_model, load_tokenizer

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOKENS = 8


def test_a_resumed_batch_answers_each_row_once_as_the_adapter_does(
    ray_local: str, tmp_path: Path
) -> None:
    base = build_base(tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter", seed=1)
    prompts = [[{"role": "user", "content": f"hello {number} voucher"}] for number in range(10)]
    rows = [{"key": f"k{n}", "messages": json.dumps(p)} for n, p in enumerate(prompts)]
    rows[5]["messages"] = json.dumps([{"role": "user", "content": "customer " * 200}])
    rows[9]["messages"] = "hello"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "input.parquet")
    sets = {
        "paths.state": tmp_path / "state",
        "paths.outputs": tmp_path / "outputs",
        "cluster.address": ray_local,
        "serving.llm.dtype": "float32",
        "serving.llm.max_model_len": 128,
        "generation.model": "own",
        "generation.input": tmp_path / "input.parquet",
        "generation.output": tmp_path / "answers",
        "generation.block_rows": 4,
        "generation.max_bad_share": 0.2,
        "generation.sampling.max_tokens": TOKENS,
    }
    named = [f"{key}={value}" for key, value in sets.items()]
    recipe = load_config(GenerationRecipe, sets=named, conf_dir=ROOT / "conf").config
    registry = open_registry(recipe)
    registry.register("tiny", "llm", base)
    registry.register("own", "adapter", adapter, {}, {"base": "tiny@1"})
    # What a run that was killed after its first block has left.
    folder, blocks = tmp_path / "answers", plan_blocks(recipe.generation)
    task = generation.GenerationTask(
        "", None, "messages", recipe.generation, recipe.serving.llm, None, blocks
    )
    generation._claim_folder(task, "own@1")
    kept = [
        {**row, "row": number, "generated_text": "kept", "finish_reason": "stop",
         "prompt_tokens": 1, "completion_tokens": 1, "error": None}
        for number, row in enumerate(rows[:4])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(kept), blocks[0].answers(folder))
    (folder / ".part-000001.parquet.half").write_bytes(b"half")

    result = generate_batch(recipe)

    assert (result.model, result.rows, result.blocks, result.kept_blocks) == ("own@1", 10, 3, 1)
    assert result.quarantined == {"too long": 1, "no messages": 1}
    answers = [
        row for path in sorted(folder.glob("part-*")) for row in pq.read_table(path).to_pylist()
    ]
    assert [row["row"] for row in answers] == list(range(10))
    assert [row["key"] for row in answers] == [f"k{number}" for number in range(10)]
    assert [row["generated_text"] for row in answers[:4]] == ["kept"] * 4
    tokenizer, model = load_tokenizer(str(base)), load_adapter(load_model(str(base)), adapter)
    for number in (4, 6, 7, 8):
        ids = torch.tensor([tokenise_prompt(tokenizer, prompts[number])])
        with torch.inference_mode():
            tokens = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=TOKENS,
            )[0, ids.shape[1] :]  # fmt: skip
        expected = tokenizer.decode(tokens, skip_special_tokens=True)
        # Random tokens end within characters, which vLLM does not show.
        assert answers[number]["generated_text"].strip("\ufffd") == expected.strip("\ufffd")
        assert answers[number]["completion_tokens"] == len(tokens)
        assert answers[number]["prompt_tokens"] == ids.shape[1]
    for number, reason in ((5, "too long"), (9, "no messages")):
        assert answers[number]["generated_text"] is None
        assert answers[number]["error"].startswith(reason)
    assert result.completion_tokens == sum(row["completion_tokens"] for row in answers[4:])
