"""Feast's historical retrieval over the benchmark's files; runs under an interpreter with Feast.

    PYTHON feast_peer.py EVENTS.parquet ROWS.parquet FOLDER dask|duckdb

Prints one JSON object: CPU seconds of the retrieval, rows returned, the process's peak memory.
"""

import json
import resource
import sys
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

FEATURES = [f"f{i}" for i in range(10)]


def store_over(events: Path, folder: Path, offline: str) -> FeatureStore:
    """A store with one view of ten columns."""
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(
        f"project: bench\nregistry: {folder}/registry.db\nprovider: local\n"
        f"offline_store: {{type: {offline}}}\n"
        f"online_store: {{type: sqlite, path: {folder}/online.db}}\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(folder))
    user = Entity(name="user", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(name="events", path=str(events), timestamp_field="at")
    schema = [Field(name=name, dtype=Float64) for name in FEATURES]
    view = FeatureView(
        name="values", entities=[user], ttl=timedelta(days=365), schema=schema, source=source
    )
    store.apply([user, view])
    return store


def cpu_s() -> float:
    """CPU seconds of this process and what it has waited for."""
    parts = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def main() -> None:
    """Retrieve once and print."""
    events, rows, folder, offline = sys.argv[1:]
    store = store_over(Path(events), Path(folder), offline)
    asked = pd.read_parquet(rows)
    start = cpu_s()
    job = store.get_historical_features(asked, [f"values:{name}" for name in FEATURES])
    returned = len(job.to_df())
    used = cpu_s() - start
    result = {
        "version": version("feast"),
        "cpu_s": round(used, 2),
        "rows": returned,
        "peak_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
