"""Rows posted to the real app are compared with the reference that the set was made with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from small_gateway import small_gateway

from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.data.quality.drift import DriftBound, RowSample, evidently_values
from sunloom.data.quality.gate import validate_file
from sunloom.errors import DataError, UsageError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.quality_gate import table_rules
from sunloom.features.definitions.open import plan_of

pytestmark = pytest.mark.integration
START = datetime(2026, 3, 1, tzinfo=UTC)
CLASSES = """
from chalk import DataFrame, FeatureTime, Primary, _
from chalk.features import features

@features
class RqSale:
    id: Primary[int]
    shop_id: "RqShop.id"
    price: float
    at: FeatureTime

@features
class RqShop:
    id: Primary[str]
    town: str | None
    open: bool | None
    sales: DataFrame[RqSale]
    takings: float = _.sales[_.price].sum()
    dearest: float | None = _.sales[_.price].max()
"""


def shops(rows: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": [f"s{n}" for n in range(rows)],
            "town": random.choice(["Ulm", "Bonn", "Kiel"], rows, p=[0.5, 0.3, 0.2]),
            "open": random.random(rows) < 0.6,
            "takings": random.gamma(3, 50, rows) + shift,
            "dearest": random.normal(20, 4, rows),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("requests")
    (folder / "rq_classes.py").write_text(CLASSES)
    shops(3_000, seed=0).write_parquet(folder / "normal.parquet")
    stored = shops(600, seed=1)
    stored.select("id", "town", "open").write_parquet(folder / "shops.parquet")
    stored.select(
        shop_id="id", price="takings", id=pl.int_range(pl.len()), at=pl.lit(START)
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC"))).write_parquet(
        folder / "sales.parquet"
    )
    return folder


def recipe(folder: Path, **rules: Any) -> FeaturesRecipe:
    path = folder / "recipe.yaml"
    tables = f"{{rq_sale: {folder / 'sales.parquet'}, rq_shop: {folder / 'shops.parquet'}}}"
    path.write_text(
        f"definitions: {folder / 'rq_classes.py'}\n"
        "feature_set: rq_shop\n"
        f"feature_store: {{batch_source: {{type: files, tables: {tables}}}}}\n"
        "online: {as_of: 2026-03-20T00:00:00Z}\n"
        "execution: {compare_engines: false, engine: polars}\n"
    )
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    loaded = load_config(FeaturesRecipe, recipe=path, sets=sets).config
    plain = {name: getattr(loaded, name) for name in type(loaded).model_fields}
    # The batch itself meets the same gate, and its `dearest` is another one.
    drift = {"exclude": ["dearest"], **rules.pop("drift_detection", {})}
    normal = {"reference": folder / "normal.parquet", "drift_detection": drift}
    return FeaturesRecipe.model_validate(plain | {"validation": normal | rules})


@pytest.fixture
def client(folder: Path) -> Iterator[httpx.Client]:
    materialize(recipe(folder))
    with small_gateway(recipe(folder)) as client:
        yield client


def posted(client: httpx.Client, frame: pl.DataFrame) -> dict[str, Any]:
    body = {"feature_set": "rq_shop", "rows": frame.to_dicts()}
    answer = client.post("/features/validate", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def values(found: dict[str, Any]) -> dict[str, float]:
    return {one["feature"]: one["value"] for one in found["drift"]}


def evidentlys(folder: Path, frame: pl.DataFrame, names: list[str], method: str) -> Any:
    normal = pl.read_parquet(folder / "normal.parquet")
    return evidently_values(normal, frame, dict.fromkeys(names, DriftBound(method, 0.1)), None)[0]


def test_posted_rows_have_evidentlys_and_the_command_lines_numbers(
    client: httpx.Client, folder: Path
) -> None:
    moved = shops(800, seed=2, shift=60.0)
    found = posted(client, moved)
    assert [one["feature"] for one in found["drift"]] == ["town", "open", "takings"]
    assert {one["feature"]: one["drifted"] for one in found["drift"]} == {
        "town": False,
        "open": False,
        "takings": True,
    }
    assert (found["passed"], found["drift_skipped"]) == (False, None)
    assert all(check["passed"] for check in found["checks"])
    theirs = evidentlys(folder, moved, ["town", "open", "takings"], "psi")
    assert values(found) == pytest.approx(theirs, abs=1e-9)
    assert theirs["takings"] > 0.5
    moved.write_parquet(folder / "moved.parquet")
    work = recipe(folder)
    defaults = table_rules(plan_of(work.definitions, work.feature_set))
    ours = validate_file(work, work.validation, folder / "moved.parquet", defaults=defaults)
    assert values(found) == pytest.approx({one.feature: one.value for one in ours.drift})
    assert {(one["method"], one["threshold"]) for one in found["drift"]} == {("psi", 0.1)}

    calm = posted(client, shops(800, seed=3))
    assert calm["passed"]
    assert max(values(calm).values()) < 0.05


@pytest.mark.parametrize("method", ["jensenshannon", "kl_div", "wasserstein", "ks"])
def test_every_method_over_http_is_evidentlys(
    client: httpx.Client, folder: Path, method: str
) -> None:
    own = {"takings": {"threshold": 1e-6 if method == "ks" else 0.2}}
    materialize(recipe(folder, drift_detection={"method": method, "per_column": own}))
    moved = shops(800, seed=2, shift=60.0)
    found = posted(client, moved)
    for_text = method if method in ("jensenshannon", "kl_div") else "psi"
    assert {one["feature"]: one["method"] for one in found["drift"]} == {
        "town": for_text,
        "open": for_text,
        "takings": method,
    }
    wanted = evidentlys(folder, moved, ["takings"], method)
    wanted |= evidentlys(folder, moved, ["town", "open"], for_text)
    assert values(found) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert [one["feature"] for one in found["drift"] if one["drifted"]] == ["takings"]


def test_too_few_rows_are_named_not_compared(client: httpx.Client, folder: Path) -> None:
    moved = shops(499, seed=2, shift=900.0)
    found = posted(client, moved)
    assert (found["passed"], found["drift"]) == (True, [])
    assert found["drift_skipped"] == (
        "499 rows came; drift is judged from 500 on (validation.drift_detection.min_rows)."
    )
    materialize(recipe(folder, drift_detection={"min_rows": 20}))
    found = posted(client, moved.head(20))
    assert found["drift_skipped"] is None
    assert {one["feature"]: one["drifted"] for one in found["drift"]}["takings"]


def test_without_a_reference_the_answer_says_so(client: httpx.Client, folder: Path) -> None:
    materialize(recipe(folder, reference=None))
    found = posted(client, shops(800, seed=2, shift=900.0))
    assert (found["passed"], found["drift"]) == (True, [])
    assert found["drift_skipped"] == "The feature set keeps no reference (validation.reference)."


def test_columns_bounds_and_what_cannot_be_compared(client: httpx.Client, folder: Path) -> None:
    moved = shops(800, seed=2, shift=60.0)
    own = {"takings": {"threshold": 50.0}, "town": {"method": "jensenshannon"}}
    rules = {"drift_detection": {"columns": ["takings", "town", "open"], "per_column": own}}
    materialize(recipe(folder, **rules, quality_checks={"completeness_threshold": 0.0}))
    found = posted(client, moved)
    assert found["passed"]
    assert [(one["feature"], one["method"], one["threshold"]) for one in found["drift"]] == [
        ("takings", "psi", 50.0),
        ("town", "jensenshannon", 0.1),
        ("open", "psi", 0.1),
    ]
    # Nothing there, and texts where the reference has numbers: both are listed and fail.
    broken = moved.with_columns(open=pl.lit(None), takings=pl.lit("much"))
    found = posted(client, broken)
    assert [(one["feature"], one["drifted"], one["reason"]) for one in found["drift"]] == [
        ("takings", True, "no value in these rows"),
        ("town", False, ""),
        ("open", True, "no value in these rows"),
    ]
    assert found["drift_skipped"] is None
    assert {one["feature"] for one in found["checks"] if one["check"] == "type"} >= {"takings"}
    assert not found["passed"]


def test_a_large_reference_is_sampled(client: httpx.Client, folder: Path) -> None:
    materialize(recipe(folder, drift_detection={"sample": 700}))
    moved = shops(800, seed=2, shift=30.0)
    found = posted(client, moved)
    sample = RowSample(700, seed=0)
    sample.add(pl.read_parquet(folder / "normal.parquet"))
    taken = sample.sampled_rows()
    assert taken is not None
    assert taken.height == 700
    theirs = evidently_values(taken, moved, {"takings": DriftBound("psi", 0.1)}, None)[0]["takings"]
    assert values(found)["takings"] == pytest.approx(theirs, abs=1e-9)
    whole = evidentlys(folder, moved, ["takings"], "psi")["takings"]
    assert abs(theirs - whole) > 1e-3


def test_a_reference_that_is_not_there_or_of_another_kind_writes_nothing(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*gone\.parquet"):
        materialize(recipe(folder, reference=folder / "gone.parquet"))
    shops(600, seed=4).with_columns(takings=pl.lit("much")).write_parquet(folder / "other.parquet")
    with pytest.raises(DataError, match="takings: no value in the reference"):
        materialize(
            recipe(
                folder, reference=folder / "other.parquet", drift_detection={"columns": ["takings"]}
            )
        )
