"""Feast's online reads, a round at each line of standard input; runs under a Python with Feast.

    PYTHON online_feast.py FOLDER sqlite|redis [HOST:PORT]

Prints one JSON object a line: first its version, then for each round the median µs of a read of 1
and of 100 entities.
"""

import json
import random
import statistics
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

ENTITIES = 20_000
NAMES = [f"f{i}" for i in range(10)]
FEATURES = [f"values:{name}" for name in NAMES]


def filled_store(folder: Path, online: str) -> FeatureStore:
    """A store that holds ten numbers of each entity."""
    folder.mkdir(parents=True)
    kind, _, place = online.partition(" ")
    named = f"type: sqlite, path: {folder}/online.db"
    if kind == "redis":
        named = f'type: redis, connection_string: "{place}"'
    (folder / "feature_store.yaml").write_text(
        f"project: bench\nregistry: {folder}/registry.db\nprovider: local\n"
        f"online_store: {{{named}}}\nentity_key_serialization_version: 3\n"
    )
    moment = pd.Timestamp("2026-03-01", tz="UTC")
    random_numbers = np.random.default_rng(0)
    table = pd.DataFrame({"id": np.arange(ENTITIES), "at": moment})
    for name in NAMES:
        table[name] = random_numbers.normal(size=ENTITIES)
    table.head(1).to_parquet(folder / "rows.parquet")
    store = FeatureStore(repo_path=str(folder))
    user = Entity(name="user", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(name="rows", path=str(folder / "rows.parquet"), timestamp_field="at")
    view = FeatureView(
        name="values",
        entities=[user],
        ttl=timedelta(days=3650),
        schema=[Field(name=name, dtype=Float64) for name in NAMES],
        source=source,
    )
    store.apply([user, view])
    store.write_to_online_store("values", table)
    return store


def median_us(store: FeatureStore, entities: int, reads: int) -> float:
    """Median time of a read."""
    taken = []
    for _ in range(reads):
        rows = [{"id": random.randrange(ENTITIES)} for _ in range(entities)]
        start = time.perf_counter()
        found = store.get_online_features(features=FEATURES, entity_rows=rows).to_dict()
        taken.append(time.perf_counter() - start)
    assert found["f0"][0] is not None
    return statistics.median(taken) * 1e6


def main() -> None:
    """Fill a store, then measure a round for each line that comes in."""
    store = filled_store(Path(sys.argv[1]), " ".join(sys.argv[2:]))
    median_us(store, 1, 20)
    print(json.dumps({"feast": version("feast")}), flush=True)
    for _ in sys.stdin:
        found = {"1": median_us(store, 1, 150), "100": median_us(store, 100, 25)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
