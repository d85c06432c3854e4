"""What ``GET /monitoring/performance`` shows of reads over HTTP: latency, nulls, defaults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from monitored_shops import SHOPS, write_shops
from small_gateway import small_gateway

from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.feature_store.materialization.materialize import materialize

pytestmark = pytest.mark.integration


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    write_shops(tmp_path)
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    recipe = load_config(FeaturesRecipe, recipe=tmp_path / "shop.yaml", sets=sets).config
    materialize(recipe)
    with small_gateway(recipe) as client:
        yield client


def performance(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/monitoring/performance")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_latencies_and_rates_of_served_values(client: httpx.Client) -> None:
    ids = list(range(SHOPS))
    for number in range(17):
        body = {"feature_set": "mj_shop", "entity_ids": [*ids, 9_000 + number]}
        assert client.post("/features/batch", json=body).status_code == 200
    deadline = time.monotonic() + 30
    while not (found := performance(client))["answers"] or _requests(found) < 17:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    (answers,) = found["answers"]
    # Three answers of 17 are sampled, 41 entities each.
    assert (answers["feature_set"], answers["sampled_entities"]) == ("mj_shop", 123)
    assert answers["unknown_rate"] == pytest.approx(1 / 41)
    rates = {one["feature"]: (one["null_rate"], one["default_rate"]) for one in answers["features"]}
    assert rates == {"town": (0.0, 0.25), "size": (0.5, 0.0), "spent": (0.0, 0.0)}
    (route,) = [one for one in found["serving"] if one["service"] == "features"]
    assert (route["route"], route["requests"], route["failed"]) == ("/features", 17, 0)
    assert 0 < route["mean_ms"] < 1_000
    assert 0 < route["p50_ms"] <= route["p99_ms"]


def _requests(found: dict[str, Any]) -> int:
    return sum(one["requests"] for one in found["serving"] if one["service"] == "features")
