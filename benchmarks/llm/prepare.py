"""Preparing conversations against ``datasets.map`` with the same tokenizer and two processes.

    python -m benchmarks.llm.prepare --rows 1000000

Ours reads, checks, hashes, divides and tokenises, and writes shards with the loss mask; the peer
renders and tokenises, and takes the mask from the prompt's length. Both read the same JSON lines.
Wall seconds and processor seconds of all processes; a reading alone is the floor.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe

RESULT = Path(__file__).parents[1] / "results" / "llm_prepare.json"
_WORDS = """the of and to in is that it for as with was on be at by this have from or one had not
but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over did down only way find use may water long little very
after words called just where most know""".split()  # noqa: SIM905


def write_rows(path: Path, rows: int) -> None:
    """Write conversations of Alpaca-like lengths, in the format of OpenAI's messages."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(rows):
            question = " ".join(rng.choices(_WORDS, k=rng.randint(8, 40)))
            answer = " ".join(rng.choices(_WORDS, k=rng.randint(20, 160)))
            messages = [
                {"role": "user", "content": f"{number}: {question}?"},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(work: Callable[[], int]) -> dict[str, float]:
    """Wall and processor seconds of a piece of work, its child processes included."""

    def processor_s() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    started, before = time.perf_counter(), processor_s()
    tokens = work()
    return {
        "wall_s": round(time.perf_counter() - started, 2),
        "cpu_s": round(processor_s() - before, 2),
        "tokens": tokens,
    }


def prepare_ours(path: Path, folder: Path, tokenizer: Any) -> int:
    """Tokens that our preparation writes."""
    from sunloom.llm.conversation_split import load_split

    sets = [f"data.train=[{{path: {path}}}]", f"paths.outputs={folder}", "data.held_out_share=0"]
    sets += [f"paths.state={folder / 'state'}", "training.method=full"]
    recipe = load_config(LlmRecipe, sets=sets, conf_dir=Path("conf"), environ={}).config
    tokenised = load_split(recipe).tokenise(tokenizer, 2048, folder / "tokens")
    return int(tokenised.rows.lengths.sum(dtype="int64"))


def prepare_by_map(path: Path, folder: Path, tokenizer: Any, *, is_batched: bool) -> int:
    """Tokens that ``datasets.map`` writes, in two processes."""
    from datasets import load_dataset

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        ids = tokenizer.apply_chat_template(row["messages"], return_dict=False)
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, return_dict=False
        )
        return {"ids": ids, "mask": [n >= len(prompt) for n in range(len(ids))]}

    def encode_batch(rows: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [tokenizer.apply_chat_template(m, tokenize=False) for m in rows["messages"]]
        prompts = [
            tokenizer.apply_chat_template(m[:-1], tokenize=False, add_generation_prompt=True)
            for m in rows["messages"]
        ]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths = [len(p) for p in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
        masks = [[n >= b for n in range(len(i))] for i, b in zip(ids, lengths, strict=True)]
        return {"ids": ids, "mask": masks}

    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    done = rows.map(
        encode_batch if is_batched else encode,
        batched=is_batched,
        num_proc=2,
        remove_columns=rows.column_names,
    )
    return sum(len(ids) for ids in done.with_format("numpy")["ids"])


def main() -> None:
    """Run all arms and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--peers", default="map,map batched")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer

    from sunloom.llm.smollm2 import load_smollm2

    tokenizer = AutoTokenizer.from_pretrained(
        str(load_smollm2().folder), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    folder = Path(tempfile.mkdtemp(prefix="sunloom-prepare-"))
    path = folder / "rows.jsonl"
    write_rows(path, arguments.rows)
    size = path.stat().st_size
    arms: dict[str, Callable[[], int]] = {
        "reading alone": lambda: sum(len(json.loads(line)) for line in path.open()),
        "sunloom": lambda: prepare_ours(path, folder / "ours", tokenizer),
        "map": lambda: prepare_by_map(path, folder / "map", tokenizer, is_batched=False),
        "map batched": lambda: prepare_by_map(path, folder / "batched", tokenizer, is_batched=True),
    }
    chosen = {"reading alone", "sunloom", *arguments.peers.split(",")}
    found = {name: measure(arm) for name, arm in arms.items() if name in chosen}
    shutil.rmtree(folder)
    ours = found["sunloom"]["wall_s"]
    result = {
        "rows": arguments.rows,
        "megabytes": round(size / 1e6, 1),
        "arms": found,
        "wall ratio to sunloom": {n: round(arm["wall_s"] / ours, 2) for n, arm in found.items()},
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
