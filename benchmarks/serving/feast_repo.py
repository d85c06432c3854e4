"""Run by a Python that has feast: a repository with ten features of 10,000 users, online.

VENV/bin/python benchmarks/serving/feast_repo.py REPO
"""

import datetime as dt
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

CONFIGURATION = """project: bench
registry: registry.db
provider: local
offline_store: {type: file}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def main(repo: Path) -> None:
    """Apply the definitions and write the online rows."""
    repo.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text(CONFIGURATION)
    rng = np.random.default_rng(0)
    when = pd.Timestamp("2026-11-01", tz="UTC")
    rows = pd.DataFrame({"user_id": np.arange(10_000), "event_timestamp": when, "created": when})
    for i in range(10):
        rows[f"f{i}"] = rng.normal(size=len(rows))
    rows.to_parquet(repo / "events.parquet")
    store = FeatureStore(repo_path=str(repo))
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    source = FileSource(
        name="events",
        path=str((repo / "events.parquet").absolute()),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    fields = [Field(name=f"f{i}", dtype=Float64) for i in range(10)]
    view = FeatureView(
        name="uf", entities=[user], ttl=dt.timedelta(days=365), schema=fields, source=source
    )
    store.apply([user, view])
    store.write_to_online_store("uf", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
