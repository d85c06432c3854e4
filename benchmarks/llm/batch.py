"""Batch inference on Ray against vLLM's offline engine alone: tokens of answers a second.

    python -m benchmarks.llm.batch [--rows 1000] [--turns 2] [--ray-data-llm]

By turns: ``sunloom llm generate`` from Parquet to Parquet, with rendering, checks and files, and
``vllm.LLM.generate`` on the rendered prompts, all at once, in a process of its own. Engines' starts
are not counted. Greedy, the small base, the same settings. ``--ray-data-llm`` measures
``ray.data.llm`` too, which is not what Sunloom uses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "llm_batch.json"
MODEL = ROOT / "platform" / "sunloom_retail" / "tool_base"
MAX_TOKENS, MAX_LENGTH, SEQUENCES, BLOCK_ROWS = 64, 512, 64, 256
ENGINE = {"dtype": "float32", "max_model_len": MAX_LENGTH, "max_num_seqs": SEQUENCES}


def write_prompts(path: Path, rows: int) -> None:
    """Conversations up to their first answer, with their tools."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sunloom.llm.conversations import GenericConversations

    found = []
    for conversation in GenericConversations().held_out(rows, 0):
        roles = [message["role"] for message in conversation.messages]
        messages = conversation.messages[: roles.index("assistant")]
        row = {"messages": json.dumps(messages), "tools": json.dumps(conversation.tools)}
        found.append(row)
    pq.write_table(pa.Table.from_pylist(found), path)


def rendered_prompts(path: Path) -> list[str]:
    """The prompts' texts."""
    import pyarrow.parquet as pq

    from sunloom.llm.conversations import Conversation
    from sunloom.llm.encoding import render
    from sunloom.llm.models import load_tokenizer

    tokenizer = load_tokenizer(str(MODEL))
    return [
        render(
            tokenizer,
            Conversation(tuple(json.loads(row["messages"])), tuple(json.loads(row["tools"]))),
            prompt=True,
        )
        for row in pq.read_table(path).to_pylist()
    ]


def offline(prompts: Path) -> dict[str, float]:
    """vLLM's own offline engine, as it comes."""
    import time

    from vllm import LLM, SamplingParams

    texts = json.loads(prompts.read_text())
    engine = LLM(str(MODEL), enforce_eager=True, disable_log_stats=True, **ENGINE)
    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)
    start = time.perf_counter()
    outputs = engine.generate(texts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"tokens": tokens, "seconds": seconds}


def ours(prompts: Path) -> dict[str, float]:
    """``sunloom llm generate``."""
    from sunloom.config import load_config
    from sunloom.config.generation import GenerationRecipe
    from sunloom.core.cluster import disconnect
    from sunloom.llm.generation import generate_batch

    with tempfile.TemporaryDirectory() as folder:
        sets = {
            "paths.state": f"{folder}/state",
            "paths.outputs": f"{folder}/outputs",
            "serving.llm.dtype": ENGINE["dtype"],
            "serving.llm.max_model_len": MAX_LENGTH,
            "serving.llm.max_num_seqs": SEQUENCES,
            "generation.model": MODEL,
            "generation.input": prompts,
            "generation.output": f"{folder}/answers",
            "generation.block_rows": BLOCK_ROWS,
            "generation.sampling.max_tokens": MAX_TOKENS,
        }
        named = [f"{key}={value}" for key, value in sets.items()]
        result = generate_batch(load_config(GenerationRecipe, sets=named).config)
        disconnect()
    return {"tokens": result.completion_tokens, "seconds": result.seconds}


def ray_data_llm(prompts: Path) -> dict[str, float]:
    """The same through ``ray.data.llm``'s processor, without its stages for rendering."""
    import time

    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(num_cpus=4, include_dashboard=False)
    variables = {name: value for name, value in os.environ.items() if name in VARIABLES}
    config = vLLMEngineProcessorConfig(
        model_source=str(MODEL),
        engine_kwargs={**ENGINE, "enforce_eager": True, "disable_log_stats": True},
        batch_size=SEQUENCES,
        max_concurrent_batches=8,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": variables},
    )
    sampling = {"temperature": 0, "max_tokens": MAX_TOKENS}
    processor = build_processor(
        config,
        preprocess=lambda row: {"prompt": row["prompt"], "sampling_params": sampling},
        postprocess=lambda row: {
            "tokens": row["num_generated_tokens"],
            "took": row["time_taken_llm"],
            "end": time.time(),
        },
    )
    rows = [{"prompt": text} for text in json.loads(prompts.read_text())]
    done = processor(ray.data.from_items(rows)).take_all()
    begin = min(row["end"] - row["took"] for row in done)
    seconds = max(row["end"] for row in done) - begin
    return {"tokens": sum(row["tokens"] for row in done), "seconds": seconds}


WAYS = {"offline": offline, "ours": ours, "ray_data_llm": ray_data_llm}
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default Ray's workers have the lowest priority but one, and wait for all other work here.
    "RAY_worker_niceness": "0",
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    """Measure by turns and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--ray-data-llm", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(WAYS[options.way](options.prompts)))
        return
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        table, texts = Path(folder) / "prompts.parquet", Path(folder) / "prompts.json"
        write_prompts(table, options.rows)
        texts.write_text(json.dumps(rendered_prompts(table)))
        ways = ["offline", "ours", *(["ray_data_llm"] if options.ray_data_llm else ())]
        for _ in range(options.turns):
            for way in ways:
                prompts = str(table if way == "ours" else texts)
                options_of_way = ["--way", way, "--prompts", prompts]
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.llm.batch", *options_of_way],
                    env=os.environ | VARIABLES,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                    cwd=ROOT,
                )
                found = json.loads(done.stdout.strip().splitlines()[-1])
                rates.setdefault(way, []).append(round(found["tokens"] / found["seconds"], 1))
                print(way, found, flush=True)
    medians = {way: statistics.median(values) for way, values in rates.items()}
    result = {
        "rows": options.rows,
        "tokens_per_second": rates,
        "over_offline": {way: round(m / medians["offline"], 3) for way, m in medians.items()},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
