"""Fine-tuning against a hand-written loop and TRL's SFTTrainer: real tokens a second of one core.

    python -m benchmarks.llm.train [--rows 320] [--method lora] [--workers 1] [--write]

A Llama of 25 million parameters, one pass over conversations of Alpaca-like lengths, batches of 8,
float32, one thread, every arm in a process of its own, one after another. Padding is no token. The
hand-written loop is the floor of what a framework may cost: batches of like length, logits only
where the loss is. Ours is what ``sunloom llm train`` runs: Ray Train, one worker, its records of
each step and a checkpoint at the end included. For a peer, processor seconds of training count; for
ours the clock, which is not less. With ``--workers 2``: ours against the hand-written loop with
DDP under torchrun, the same batches, both by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.features.measure import circumstances, report

RESULT = Path(__file__).parents[1] / "results" / "llm_train.json"
BATCH, RATE = 8, 1e-3
_SHAPE = {
    "hidden_size": 448, "layers": 9, "heads": 7, "intermediate_size": 1216, "vocabulary": 4096,
    "max_length": 1024, "copying_circuit": False,
}  # fmt: skip
_WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
OURS = ("sunloom", "sunloom packed")
PEERS = ("loop", "trl", "trl grouped", "trl packing", "trl padding-free")


def make_rows(count: int) -> list[dict[str, Any]]:
    """Conversations whose lengths are spread like Alpaca's: many short, some long."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        asked, answered = rng.lognormvariate(3.0, 0.6), rng.lognormvariate(3.9, 0.9)
        words = [rng.choices(_WORDS, k=max(3, min(int(n), 400))) for n in (asked, answered)]
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": " ".join(words[0])},
                    {"role": "assistant", "content": " ".join(words[1])},
                ]
            }
        )
    return rows


def make_model(folder: Path, rows: list[dict[str, Any]]) -> int:
    """Write the model and its tokenizer; its number of parameters."""
    from sunloom.config.llm import Architecture
    from sunloom.llm.models import build_llama
    from sunloom.llm.tokenizer import build_tokenizer

    shape = Architecture(**_SHAPE)
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokenizer = build_tokenizer(texts, shape.vocabulary, shape.max_length)
    model = build_llama(shape, tokenizer, 0)
    tokenizer.save_pretrained(str(folder))
    model.save_pretrained(str(folder))
    return int(sum(p.numel() for p in model.parameters()))


def encoded(folder: Path, rows: list[dict[str, Any]]) -> list[Any]:
    """The conversations as our encoder writes them."""
    from sunloom.llm.conversation_formats import read_conversation
    from sunloom.llm.encoding import encode
    from sunloom.llm.models import load_tokenizer

    tokenizer = load_tokenizer(str(folder / "model"))
    return encode(tokenizer, [read_conversation(row, "messages") for row in rows], 1024)


def run_loop(folder: Path, rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """The hand-written loop."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from sunloom.llm.encoding import batches, collate

    rank, workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    if method == "lora":
        # The same first weights on each worker.
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    core = model.get_base_model() if method == "lora" else model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)

    class Loss(torch.nn.Module):
        """Sum over a batch's labels; a module, as DDP wraps one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, labels: Any) -> Any:
            keep = labels[:, 1:] != -100
            hidden = core.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = core.lm_head(hidden[:, :-1][keep])
            return cross_entropy(logits, labels[:, 1:][keep], reduction="sum")

    module: Any = Loss()
    if workers > 1:
        torch.distributed.init_process_group("gloo")
        module = torch.nn.parallel.DistributedDataParallel(module)
    data = encoded(folder, rows)
    plan = batches([len(row.ids) for row in data], BATCH * workers, 0)
    started, clock, tokens = _processor_s(), time.perf_counter(), 0
    for batch in plan:
        labelled = sum(int(data[i].mask[1:].sum()) for i in batch)
        ids, labels = (
            torch.from_numpy(a) for a in collate([data[i] for i in batch[rank::workers]], 0)
        )
        (module(ids, labels) * workers / labelled).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(data[i].ids) for i in batch)
    wall_s = time.perf_counter() - clock
    seconds = _processor_s() - started if workers == 1 else wall_s
    return {"tokens": tokens, "seconds": seconds, "wall_s": wall_s, "peak_mb": _peak_mb()}


def run_trl(folder: Path, rows: list[dict[str, Any]], method: str, variant: str) -> dict[str, Any]:
    """TRL's trainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    lengths = [len(row.ids) for row in encoded(folder, rows)]
    options: dict[str, Any] = {
        "trl": {},
        "trl grouped": {"train_sampling_strategy": "group_by_length"},
        # Packs as long as a padded batch would be on average.
        "trl packing": {"packing": True, "max_length": 1024, "per_device_train_batch_size": 1},
        "trl padding-free": {"padding_free": True, "max_length": None},
    }[variant]
    config = SFTConfig(
        **{
            "output_dir": str(folder / "out"),
            "per_device_train_batch_size": BATCH,
            "learning_rate": RATE,
            "num_train_epochs": 1,
            "report_to": [],
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "logging_steps": 1000,
            "disable_tqdm": True,
            **options,
        }
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
        if method == "lora"
        else None,
    )
    started = _processor_s()
    trainer.train()
    return {
        "tokens": sum(lengths), "seconds": _processor_s() - started, "peak_mb": _peak_mb(),
    }  # fmt: skip


def run_ours(
    folder: Path, rows: list[dict[str, Any]], method: str, workers: int, **more: Any
) -> dict[str, Any]:
    """``sunloom llm train``'s own way from tokens to weights; ``more`` of its training section."""
    from sunloom.config import Settings, load_config
    from sunloom.config.llm import LoraSettings, ModelConfig, TrainingConfig
    from sunloom.core.cluster import connect, disconnect
    from sunloom.core.processes import own_processes
    from sunloom.llm.launch import launch
    from sunloom.llm.loop import TrainingTask
    from sunloom.llm.token_store import write_tokens

    data = encoded(folder, rows)
    run = folder / "run"
    run.mkdir()
    write_tokens(data, run / "tokens")
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder}", "cluster.dashboard=false"]
    sets += [f"cluster.num_cpus={max(2, workers)}"]
    options = {
        "method": method,
        "max_steps": len(data) // (BATCH * workers),
        "batch_size": BATCH,
        "workers": workers,
        "learning_rate": RATE,
        "distributed": {"type": "ddp"},
        **more,
    }
    task = TrainingTask(
        model=str(folder / "model"),
        base="",
        data=run / "tokens",
        directory=run,
        pad=0,
        seed=0,
        training=TrainingConfig.model_validate(options),
        lora=LoraSettings(r=16, alpha=32) if method == "lora" else None,
        options=ModelConfig(torch_dtype="float32"),
    )
    with own_processes():
        connect(load_config(Settings, sets=sets).config)
        outcome = launch(task, "training")
        disconnect()
    return {
        "tokens": outcome.tokens, "seconds": outcome.seconds, "wall_s": outcome.seconds,
        "stall_s": outcome.stall_s,
        "peak_mb": round(outcome.peak_bytes / 1e6, 1),
        "planned_mb": planned_mb(folder, rows, {**options, "method": method}),
    }  # fmt: skip


def planned_mb(folder: Path, rows: list[dict[str, Any]], training: dict[str, Any]) -> float:
    """What ``sunloom llm plan`` says of such a run."""
    from sunloom.config import load_config
    from sunloom.config.llm import LlmRecipe
    from sunloom.llm.planning import plan_training

    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    sets = [f"training={json.dumps(training)}", f"data.train=[{{path: {folder / 'rows.jsonl'}}}]"]
    sets += [f"model.base_model={folder / 'model'}", "data.max_length=1024", "lora.r=16"]
    sets += ["model.torch_dtype=float32", f"paths.state={folder / 'state'}"]
    recipe = load_config(LlmRecipe, sets=sets, conf_dir=Path("conf"), environ={}).config
    return round(plan_training(recipe).memory_bytes_per_worker / 1e6, 1)


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)


def main() -> None:
    """Run every arm in a process of its own and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--arm")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.arm:
        found = _run_arm(options)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found))
        return
    best: dict[str, dict[str, Any]] = {}
    arms = (*OURS, *PEERS) if options.workers == 1 else (*OURS, "loop")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make_rows(options.rows)
        parameters = make_model(folder / "model", rows)
        for turn in range(options.repeats):
            for arm in arms:
                own = folder / f"{arm}-{turn}".replace(" ", "-")
                own.mkdir()
                (own / "model").symlink_to(folder / "model")
                found = _run_apart(arm, own, options)
                found["tokens_per_s"] = round(found["tokens"] / found["seconds"], 1)
                if arm not in best or found["tokens_per_s"] > best[arm]["tokens_per_s"]:
                    best[arm] = found
                print(arm, found, file=sys.stderr, flush=True)
    ours = max(best[arm]["tokens_per_s"] for arm in OURS)
    result = {
        "method": options.method,
        "workers": options.workers,
        "parameters": parameters,
        "rows": options.rows,
        "arms": best,
        "ours to": {
            arm: round(ours / best[arm]["tokens_per_s"], 2) for arm in arms if arm not in OURS
        },
        # Unpacked, as the loop is: what Ray Train and our own loop cost.
        "unpacked to loop by the clock": round(
            best["loop"]["wall_s"]
            / best["loop"]["tokens"]
            * best[OURS[0]]["tokens"]
            / best[OURS[0]]["wall_s"],
            2,
        ),
        **circumstances("torch", "transformers", "peft", "trl", "ray"),
    }
    more = "" if options.workers == 1 else f"_{options.workers}_workers"
    path = RESULT.with_stem(f"{RESULT.stem}_{options.method}{more}")
    report(result, path if options.write else None)


def _run_apart(arm: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m"]
    if arm == "loop" and options.workers > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(options.workers), "-m"]
    command += ["benchmarks.llm.train", "--arm", arm, "--folder", str(folder)]
    command += ["--rows", str(options.rows), "--method", options.method]
    command += ["--workers", str(options.workers)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{arm}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _run_arm(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    rows = make_rows(options.rows)
    if options.arm in OURS:
        is_packed = options.arm != OURS[0]
        return run_ours(options.folder, rows, options.method, options.workers, packing=is_packed)
    if options.arm == "loop":
        return run_loop(options.folder, rows, options.method)
    return run_trl(options.folder, rows, options.method, options.arm)


if __name__ == "__main__":
    main()
