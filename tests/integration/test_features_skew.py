"""One meaning online and offline: CDNOW replayed through the stream, and read on the way."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from same_values import differences

from sunloom.config import Settings
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import build_layout
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.partition import ClassStream, PartitionStream
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW
from sunloom_retail.dataset import CDNOW

pytestmark = pytest.mark.integration
QUESTIONS = 1_000
UTC_US = pl.Datetime("us", "UTC")


def _purchases() -> pl.DataFrame:
    parsed = CDNOW.parse(CDNOW.raw())
    kept = parsed.unique(CDNOW.identity, keep="first", maintain_order=True)
    return kept.select("id", "customer_id", "timestamp", "quantity", "amount").sort(
        "timestamp", maintain_order=True
    )


def _questions(purchases: pl.DataFrame) -> pl.DataFrame:
    """Random customers at random moments, most of them known by then, by moment."""
    random = np.random.default_rng(5)
    first, last = purchases["timestamp"].min(), purchases["timestamp"].max()
    span_us = int((last - first) / timedelta(microseconds=1)) + 40 * 86_400_000_000
    ago = random.integers(0, span_us, QUESTIONS)
    moments = [first + timedelta(microseconds=int(us)) for us in ago]
    # A tenth exactly at a purchase's own moment, where a window begins and ends.
    places = random.integers(0, purchases.height, QUESTIONS)
    at = purchases["timestamp"].gather(places).to_list()
    moments = [
        at[i] + timedelta(days=30 * (i % 3)) if i % 10 == 0 else m for i, m in enumerate(moments)
    ]
    known = purchases["customer_id"].gather(places).to_list()
    anyone = random.integers(1, 23_571, QUESTIONS).tolist()
    ids = [anyone[i] if i % 5 == 1 else known[i] for i in range(QUESTIONS)]
    asked = pl.DataFrame({"id": ids, NOW: moments}, schema={"id": pl.Int64, NOW: UTC_US})
    return asked.sort(NOW, maintain_order=True)


def _messages(purchases: pl.DataFrame) -> list[bytes]:
    rows = purchases.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"))
    return [json.dumps(row).encode() for row in rows.iter_rows(named=True)]


def test_every_online_value_equals_historical_at_its_moment(settings: Settings) -> None:
    plan = plan_of("retail", "customer")
    purchases = _purchases()
    asked = _questions(purchases)
    store = open_online_store(settings)
    layout = build_layout(plan, ("purchase",))
    refused: list[Any] = []
    stream = ClassStream(
        store,
        layout,
        "purchase",
        policy=EventPolicy(lateness_us=0),
        quarantine=refused.extend,
    )
    partition = PartitionStream(stream, "purchases/0")
    messages = _messages(purchases)
    visible = purchases["timestamp"].search_sorted(asked[NOW], side="right").to_list()
    reader = OnlineReader(store, plan, layout)
    online: list[dict[str, Any] | None] = []
    done = 0
    for (customer, moment), end in zip(asked.iter_rows(), visible, strict=True):
        partition.process(range(done, end), messages[done:end])
        done = end
        online += reader.read([customer], moment)
    assert not refused
    assert partition.progress.events == done > 69_000

    truth = FeatureEngine(plan, {"purchase": purchases}).compute(asked).to_dicts()
    known = sum(row is not None for row in online)
    assert known > 600
    different = {
        question: differences(found, row)
        for question, found, row in zip(asked.iter_rows(), online, truth, strict=True)
        if found is not None and differences(found, row)
    }
    assert different == {}
    # Nobody is unknown who has bought.
    unknown = [row["frequency"] for found, row in zip(online, truth, strict=True) if found is None]
    assert set(unknown) <= {0}
