"""Reads that call the user's functions: many entities in one call, and nobody else waits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from asgi import OpenGate, call

from sunloom.config import Settings
from sunloom.feature_store.online.registry import store_plan
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.definitions.open import plan_of
from sunloom.serving.apps.features.app import build_features_app
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware

TIME = datetime(2026, 6, 30, tzinfo=UTC)
NOW = "2026-07-01T00:00:00Z"
DEFINITIONS = '''
"""Functions that tell how they are called."""
import asyncio
import time
from pathlib import Path

import polars as pl
from chalk import DataFrame, FeatureTime, Primary, online
from chalk.features import features

HERE = Path(__file__).parent
waiting = 0


@features(name="NAME")
class Shop:
    id: Primary[int]
    at: FeatureTime
    name: str
    size: int | None
    together: int | None
    patient: str | None


@online
def sizes(df: DataFrame[Shop.id, Shop.name]) -> DataFrame[Shop.id, Shop.size]:
    rows = df.to_polars().collect()
    with (HERE / "calls").open("a") as calls:
        calls.write(f"{rows.height} ")
    size = pl.col("NAME.name").str.len_bytes().cast(pl.Int64)
    return rows.select("NAME.id", size.alias("NAME.size"))


@online
async def meet(name: Shop.name) -> Shop.together:
    global waiting
    waiting += 1
    await asyncio.sleep(0.05)
    return waiting


@online(timeout="20s")
def be_patient(name: Shop.name) -> Shop.patient:
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return name
'''


@pytest.fixture
def app(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> ASGIApp:
    # Chalk's registry holds each class once a process.
    name = "fs_" + request.node.name[5:12].strip("_")
    path = tmp_path / "definitions" / f"{name}.py"
    path.parent.mkdir()
    path.write_text(DEFINITIONS.replace("NAME", name))
    store = open_online_store(settings)
    names = ["ann", "bo", "cleo"]
    frame = pl.DataFrame({"id": [1, 2, 3], "event_time": [TIME] * 3, "name": names})
    store.write("shop", frame)
    store_plan(
        store, plan_of(str(path), name).for_online().model_copy(update={"feature_set": "shop"})
    )
    return GatewayMiddleware(build_features_app(settings), OpenGate("features"), "features")


def batch(*features: str) -> dict[str, Any]:
    return {"feature_set": "shop", "entity_ids": [1, 2, 3], "features": features, "now": NOW}


def values(answer: Any, feature: str) -> list[Any]:
    return [one["features"][feature] for one in answer.json()["results"]]


def test_frames_hold_all_entities_of_a_request(app: ASGIApp, tmp_path: Path) -> None:
    answer = asyncio.run(call(app, "POST", "/features/batch", json=batch("size")))
    assert values(answer, "size") == [3, 2, 4]
    assert (tmp_path / "definitions" / "calls").read_text() == "3 "


def test_awaitables_of_a_request_run_together(app: ASGIApp) -> None:
    answer = asyncio.run(call(app, "POST", "/features/batch", json=batch("together")))
    # Each sees that all three had begun before the first was over.
    assert values(answer, "together") == [3, 3, 3]


def test_others_are_answered_while_a_function_takes_its_time(app: ASGIApp, tmp_path: Path) -> None:
    async def both() -> tuple[bool, Any, Any]:
        path = f"/features/shop?entity_id=1&features=patient&now={NOW}"
        slow = asyncio.create_task(call(app, "GET", path))
        await asyncio.sleep(0.1)
        other = await call(app, "GET", "/features/shop?entity_id=2&features=name")
        was_waiting = not slow.done()
        (tmp_path / "definitions" / "go").touch()
        return was_waiting, other, await slow

    was_waiting, other, slow = asyncio.run(both())
    assert was_waiting
    assert other.json()["features"] == {"name": "bo"}
    assert slow.json()["features"] == {"patient": "ann"}
