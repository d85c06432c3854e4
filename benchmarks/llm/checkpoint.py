"""What a checkpoint each 50 steps costs a training: seconds that its loop waits, and all in all.

    python -m benchmarks.llm.checkpoint [--steps 150] [--method full] [--write]

The training of ``benchmarks.llm.train`` with one worker, once with a checkpoint each 50 steps and
once with the last one alone. ``stall_ratio`` is the share of the steps' time that the loop waits
for checkpoints (bar: 0.02). A checkpoint is written beside the training, so where there is no
other core, and one of the CPUs trains, the whole run takes longer by the writing: ``whole_ratio``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.features.measure import circumstances, report
from benchmarks.llm.train import BATCH, make_model, make_rows, run_ours

RESULT = Path(__file__).parents[1] / "results" / "llm_checkpoint.json"
EVERY = 50


def main() -> None:
    """Train twice and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--method", choices=("lora", "full"), default="full")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = make_rows(options.steps * BATCH)
    seconds, stalls = {}, {}
    with tempfile.TemporaryDirectory() as name:
        parameters = make_model(Path(name) / "model", rows)
        for arm, every in (("every 50", EVERY), ("last alone", options.steps)):
            folder = Path(name) / arm.replace(" ", "-")
            folder.mkdir()
            (folder / "model").symlink_to(Path(name) / "model")
            found = run_ours(folder, rows, options.method, checkpoint_every=every)
            seconds[arm], stalls[arm] = round(found["seconds"], 2), round(found["stall_s"], 3)
    result = {
        "method": options.method,
        "parameters": parameters,
        "steps": options.steps,
        "seconds": seconds,
        "stall_s": stalls,
        "stall_ratio": round(stalls["every 50"] / seconds["every 50"], 5),
        "whole_ratio": round(seconds["every 50"] / seconds["last alone"], 4),
        **circumstances("torch", "ray"),
    }
    report(result, RESULT if options.write else None)


if __name__ == "__main__":
    main()
