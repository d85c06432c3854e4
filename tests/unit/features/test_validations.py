"""Limits: strict ones make a value null, others keep it; all are counted, the same everywhere."""

from __future__ import annotations

import json
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.features.definitions.open import plan_of
from sunloom.features.expressions.validations import is_within
from sunloom.features.historical.retrieve import HistoricalJob, historical_polars
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import open_scan

SOURCE = """
from chalk import _, DataFrame, FeatureTime, Primary, Validation, feature, online
from chalk._validation.feature_validation import FeatureValidation
from chalk.features import Feature, features

def holds(part):
    check = FeatureValidation(
        min=None, max=None, min_length=None, max_length=None, contains=part, strict=True
    )
    return Feature(validations=check)

@features(name="vl_line")
class Line:
    id: Primary[int]
    order_id: "Order.id"
    at: FeatureTime
    price: float | None = feature(min=0.0, max=10.0)
    units: int | None = feature(max=3, strict=True)
    code: str | None = feature(
        validations=[Validation(min_length=2), Validation(max_length=3, strict=True)]
    )
    gross: float | None = feature(expression=_.price * _.units, max=12.0, strict=True)

@features(name="vl_order")
class Order:
    id: Primary[int]
    lines: DataFrame[Line]
    mail: str | None = holds("@")
    spent: float = feature(expression=_.lines[_.price].sum(), max=15.0)
    units: int = feature(expression=_.lines[_.units].sum(), min=1, strict=True, default=0)
    grossed: float = _.lines[_.gross].sum()
    codes: int = _.lines[_.code].count_distinct()
    asked: float | None = feature(max=5.0, strict=True)
    kept: float | None = feature(max=5.0)

@online
def ask(spent: Order.spent) -> Order.asked:
    return spent

@online
def keep(spent: Order.spent) -> Order.kept:
    return spent
"""
START = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pl.Datetime("us", "UTC")
LINES = {
    "id": pl.Int64,
    "order_id": pl.Int64,
    "at": UTC_US,
    "price": pl.Float64,
    "units": pl.Int64,
    "code": pl.String,
}
_line = st.fixed_dictionaries(
    {
        "order_id": st.sampled_from([1, 2, 7]),
        "at": st.integers(0, 5).map(lambda hours: START + hours * HOUR),
        "price": st.sampled_from([None, -1.0, 0.0, 4.0, 10.0, 10.5, float("nan")]),
        "units": st.sampled_from([None, 1, 3, 4]),
        "code": st.sampled_from([None, "a", "ab", "äöü", "abcd"]),
    }
)
_mail = st.sampled_from([None, "a@b", "ab"])
_question = st.tuples(
    st.sampled_from([1, 2, 3]), st.integers(-1, 6).map(lambda h: START + h * HOUR)
)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("limits") / "limits.py"
    file.write_text(SOURCE)
    return str(file)


@pytest.fixture(scope="module")
def plan(definitions: str) -> Plan:
    return Plan.model_validate_json(plan_of(definitions, "vl_order").model_dump_json())


def _brute_line(line: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
    price, units, code = line["price"], line["units"], line["code"]
    if price is not None and not 0.0 <= price <= 10.0:
        counts["vl_line.price"] += 1
    if units is not None and units > 3:
        counts["vl_line.units"] += 1
        units = None
    if code is not None and not 2 <= len(code) <= 3:
        counts["vl_line.code"] += 1
        code = None if len(code) > 3 else code
    gross = None if price is None or units is None else price * units
    if gross is not None and not gross <= 12.0:
        counts["vl_line.gross"] += 1
        gross = None
    return line | {"units": units, "code": code, "gross": gross}


def _brute(lines: list[dict[str, Any]], key: int, now: datetime, counts: Counter[str]):
    seen = [line for line in lines if line["order_id"] == key and line["at"] <= now]

    def of(name: str) -> list[Any]:
        return [line[name] for line in seen if line[name] is not None]

    spent, units = sum(of("price")), sum(of("units"))
    counts["vl_order.spent"] += not spent <= 15.0
    counts["vl_order.units"] += not units >= 1
    counts["vl_order.asked"] += not spent <= 5.0
    counts["vl_order.kept"] += not spent <= 5.0
    return {
        "spent": spent,
        "units": units if units >= 1 else None,
        "grossed": sum(of("gross")),
        "codes": len(set(of("code"))),
        "asked": spent if spent <= 5.0 else None,
        "kept": spent,
    }


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(_line, max_size=10),
    mails=st.tuples(_mail, _mail),
    asked=st.lists(_question, min_size=1, max_size=6),
)
def test_values_and_counts_are_those_of_brute_force(
    plan: Plan,
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[dict[str, Any]],
    mails: tuple[str | None, str | None],
    asked: list[tuple[int, datetime]],
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"id": i, **line} for i, line in enumerate(lines)]
    pl.DataFrame(rows, schema=LINES).write_parquet(folder / "lines.parquet")
    pl.DataFrame(
        {"id": [1, 2], "mail": mails}, schema={"id": pl.Int64, "mail": pl.String}
    ).write_parquet(folder / "orders.parquet")
    entities = pl.DataFrame(asked, schema={"id": pl.Int64, "event_time": UTC_US}, orient="row")
    sources = {"vl_line": folder / "lines.parquet", "vl_order": folder / "orders.parquet"}
    result = historical_polars(open_scan(plan, sources), entities)

    counts: Counter[str] = Counter()
    checked = [_brute_line(line, counts) for line in lines]
    for (key, now), found in zip(asked, result.table.to_dicts(), strict=True):
        expected = _brute(checked, key, now, counts)
        mail = mails[key - 1] if key < 3 else None
        expected["mail"] = mail if mail is not None and "@" in mail else None
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, nan_ok=True), name
    counts["vl_order.mail"] = sum(mail is not None and "@" not in mail for mail in mails)
    assert result.counters.validations == +counts
    for check in plan.class_plan("vl_line").feature("price").validations:
        for line in lines:
            if line["price"] is not None:
                inside = 0.0 <= line["price"] <= 10.0
                assert is_within(line["price"], check) is inside


def test_counts_come_out_of_the_command_and_into_the_log(
    definitions: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": 1, "order_id": 1, "at": START, "price": 99.0, "units": 9, "code": "ab"}]
    pl.DataFrame(rows, schema=LINES).write_parquet(tmp_path / "lines.parquet")
    entities = pl.DataFrame(
        {"id": [1], "event_time": [START], "mail": ["nobody"]},
        schema_overrides={"event_time": UTC_US},
    )
    entities.write_parquet(tmp_path / "asked.parquet")
    with caplog.at_level(logging.WARNING):
        sources = {"vl_line": tmp_path / "lines.parquet"}
        job = HistoricalJob.prepare(definitions, "vl_order", sources, tmp_path / "asked.parquet")
        result = job.run(tmp_path / "out.parquet")
    assert json.loads(json.dumps(result.validations)) == {
        "vl_line.price": 1,
        "vl_line.units": 1,
        "vl_order.asked": 1,
        "vl_order.kept": 1,
        "vl_order.mail": 1,
        "vl_order.spent": 1,
        "vl_order.units": 1,
    }
    assert "1 values of vl_line.price are outside its limits" in caplog.text
    out = pl.read_parquet(tmp_path / "out.parquet").row(0, named=True)
    assert (out["units"], out["asked"], out["kept"], out["spent"]) == (None, None, 99.0, 99.0)
