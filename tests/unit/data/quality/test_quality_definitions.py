"""Limits and types that the feature definitions state hold without being written again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.config import load_config
from sunloom.config.data import ValidationConfig
from sunloom.config.features import FeaturesRecipe
from sunloom.data.quality.gate import validate_file
from sunloom.feature_store.quality_gate import table_rules
from sunloom.features.definitions.open import plan_of

CLASSES = """
from chalk import Primary, feature
from chalk.features import features

@features(name="qd_offer_{number}")
class QdOffer{number}:
    id: Primary[int]
    price: float = feature(min=0, max=100)
    stock: int = feature(min=1, strict=True)
    code: str = feature(min_length=2, max_length=3)
    note: str | None
"""
numbers = itertools.count()
GOOD = {"id": 1, "price": 5.0, "stock": 2, "code": "abc", "note": None}


def failed(folder: Path, rows: list[dict[str, Any]], more: str = "") -> list[tuple[str, str]]:
    number = next(numbers)
    (folder / f"qd_classes_{number}.py").write_text(CLASSES.format(number=number))
    path = folder / "recipe.yaml"
    path.write_text(
        f"definitions: {folder}/qd_classes_{number}.py\nfeature_set: qd_offer_{number}\n"
        f"feature_store: {{batch_source: {{type: files, tables: {{}}}}}}\n{more}"
    )
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    recipe = load_config(FeaturesRecipe, recipe=path, sets=sets).config
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")
    defaults = table_rules(plan_of(recipe.definitions, recipe.feature_set))
    rules = recipe.validation or ValidationConfig()
    report = validate_file(recipe, rules, folder / "rows.parquet", defaults=defaults)
    return [(one.check, one.feature) for one in report.failures]


def offers(**last: Any) -> list[dict[str, Any]]:
    rows = [GOOD | {"id": number, "note": "n"} for number in range(40)]
    return [*rows[:-1], rows[-1] | last]


def test_good_rows_pass(tmp_path: Path) -> None:
    assert failed(tmp_path, offers()) == []


@pytest.mark.parametrize(
    ("last", "check", "column"),
    [
        ({"price": -0.5}, "range", "price"),
        ({"price": 100.5}, "range", "price"),
        ({"stock": 0}, "range", "stock"),
        ({"code": "a"}, "length", "code"),
        ({"code": "abcd"}, "length", "code"),
        ({"id": 0}, "uniqueness", "id"),
    ],
)
def test_limits_of_the_definitions(
    tmp_path: Path, last: dict[str, Any], check: str, column: str
) -> None:
    assert failed(tmp_path, offers(**last)) == [(check, column)]


def test_types_of_the_definitions(tmp_path: Path) -> None:
    rows = [row | {"stock": "many"} for row in offers()]
    assert failed(tmp_path, rows) == [("type", "stock")]


def test_a_rule_of_the_recipe_wins(tmp_path: Path) -> None:
    wider = "validation: {columns: {price: {min: -1}}}\n"
    assert failed(tmp_path, offers(price=-0.5), wider) == []
    assert failed(tmp_path, offers(price=-1.5), wider) == [("range", "price")]
    assert failed(tmp_path, offers(price=100.5), wider) == [("range", "price")]
    fewer = "validation: {quality_checks: {validity_threshold: 0.9}}\n"
    assert failed(tmp_path, offers(stock=0), fewer) == []
