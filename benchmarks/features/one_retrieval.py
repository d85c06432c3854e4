"""One historical retrieval, file to file, in this process: ``one_retrieval EVENTS ENTITIES``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.features.measure import cpu_s, peak_bytes
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.retrieve import HistoricalJob


def main() -> None:
    """Retrieve and print CPU seconds, rows and peak memory."""
    events, entities = map(Path, sys.argv[1:])
    plan_of("benchmarks.features.definitions", "bench_user")  # the imports, as Feast's, beforehand
    start = cpu_s()
    job = HistoricalJob.prepare(
        "benchmarks.features.definitions", "bench_user", {"bench_user": events}, entities, "polars"
    )
    done = job.run(entities.with_name("out.parquet"))
    result = {
        "cpu_s": round(cpu_s() - start, 2),
        "rows": done.rows,
        "peak_mb": peak_bytes() >> 20,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
