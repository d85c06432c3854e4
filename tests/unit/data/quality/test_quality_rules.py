"""Each key of ``validation`` does what it says: with it a table fails, without it it passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from sunloom.config.data import ColumnRule, DriftDetection, QualityChecks, ValidationConfig
from sunloom.data.quality.checked_table import table_from_frame, table_from_path
from sunloom.data.quality.drift import evidently_datasets
from sunloom.data.quality.report import QualityReport, RowExample
from sunloom.data.quality.validate import validate
from sunloom.errors import ConfigError, DataError

DAY = datetime(2026, 3, 1, tzinfo=UTC)
FRAME = pl.DataFrame(
    {
        "id": list(range(20)),
        "amount": [float(n) for n in range(20)],
        "country": ["de", "fr"] * 10,
        "at": [DAY + timedelta(hours=n) for n in range(20)],
    }
).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def judged(rules: dict[str, Any], frame: pl.DataFrame = FRAME, **more: Any) -> QualityReport:
    return validate(table_from_frame(frame, "rows"), ValidationConfig.model_validate(rules), **more)


def failed(report: QualityReport) -> list[tuple[str, str]]:
    return [(one.check, one.feature) for one in report.failures]


def _nulls(name: str, count: int) -> pl.DataFrame:
    mask = pl.int_range(pl.len()) < count
    return FRAME.with_columns(pl.when(~mask).then(pl.col(name)).alias(name))


def test_a_good_table_passes() -> None:
    report = judged({})
    assert report.is_passed
    assert report.rows == 20
    assert [one.check for one in report.checks].count("completeness") == 4


@pytest.mark.parametrize(("nulls", "passes"), [(1, True), (2, False)])
def test_completeness_threshold_is_095(nulls: int, passes: bool) -> None:
    report = judged({}, _nulls("amount", nulls))
    assert report.is_passed is passes
    (check,) = [
        one for one in report.checks if (one.check, one.feature) == ("completeness", "amount")
    ]
    assert (check.value, check.failed, check.rows) == (1 - nulls / 20, nulls, 20)


def test_completeness_threshold_is_obeyed() -> None:
    assert judged(
        {"quality_checks": {"completeness_threshold": 0.9}}, _nulls("amount", 2)
    ).is_passed
    assert failed(
        judged({"quality_checks": {"completeness_threshold": 1}}, _nulls("amount", 1))
    ) == [("completeness", "amount")]


def test_nan_is_missing() -> None:
    holed = FRAME.with_columns(
        amount=pl.when(pl.col("id") < 2).then(float("nan")).otherwise("amount")
    )
    assert failed(judged({}, holed)) == [("completeness", "amount")]


def test_a_columns_own_completeness_overrides() -> None:
    rules = {"columns": {"amount": {"completeness": 0.5}}}
    assert judged(rules, _nulls("amount", 9)).is_passed
    assert not judged(rules, _nulls("amount", 11)).is_passed


def test_keys_must_all_be_there() -> None:
    assert judged({}, _nulls("id", 1)).is_passed
    assert failed(judged({"keys": ["id"]}, _nulls("id", 1))) == [("completeness", "id")]


def _again(count: int) -> pl.DataFrame:
    return FRAME.with_columns(id=pl.when(pl.col("id") < count).then(0).otherwise("id"))


def test_uniqueness_threshold_is_099_over_the_id() -> None:
    report = judged({}, _again(2))
    assert failed(report) == [("uniqueness", "id")]
    (check,) = report.failures
    assert (check.value, check.failed) == (19 / 20, 2)
    assert [one.row for one in check.examples] == [1, 2]


def test_uniqueness_threshold_is_obeyed() -> None:
    assert judged({"quality_checks": {"uniqueness_threshold": 0.95}}, _again(2)).is_passed
    assert not judged({"quality_checks": {"uniqueness_threshold": 0.95}}, _again(3)).is_passed


def test_keys_say_what_identifies_a_row() -> None:
    assert judged({"keys": ["at"]}, _again(9)).is_passed
    assert failed(judged({"keys": ["country"]})) == [("uniqueness", "country")]
    assert judged({"keys": ["country", "at"]}).is_passed


def test_event_time_belongs_to_the_usual_key_and_whole_rows_are_the_last_resort() -> None:
    history = _again(9).rename({"at": "event_time"})
    assert judged({}, history).is_passed
    bare = FRAME.select("country", "amount")
    assert judged({}, bare).is_passed
    assert failed(judged({}, pl.concat([bare, bare.head(1)]))) == [("uniqueness", "*")]


def test_a_unique_column() -> None:
    rules = {"columns": {"amount": {"unique": True}}}
    twice = FRAME.with_columns(amount=pl.col("amount") // 2)
    assert judged({}, twice).is_passed
    assert failed(judged(rules, twice)) == [("uniqueness", "amount")]


@pytest.mark.parametrize(
    ("kind", "column", "passes"),
    [
        ("int64", "id", True),
        ("float64", "id", True),
        ("float64", "amount", True),
        ("int64", "amount", True),
        ("string", "amount", False),
        ("float64", "country", False),
        ("string", "country", True),
        ("datetime", "at", True),
        ("datetime", "amount", False),
        ("bool", "id", False),
        ("date", "at", False),
        ("duration", "amount", False),
    ],
)
def test_type(kind: str, column: str, passes: bool) -> None:
    report = judged({"columns": {column: kind}})
    assert failed(report) == ([] if passes else [("type", column)])


def test_a_fraction_is_no_int64() -> None:
    report = judged(
        {"columns": {"amount": "int64"}}, FRAME.with_columns(amount=pl.col("amount") / 2)
    )
    (check,) = report.failures
    assert (check.check, check.failed) == ("type", 10)
    assert check.examples[0].value == 0.5


@pytest.mark.parametrize(
    ("rule", "failing"),
    [
        ({"min": 3}, 3),
        ({"max": 16}, 3),
        ({"min": 3, "max": 16}, 6),
        ({"min": 0, "max": 19}, 0),
        ({"allowed": [float(n) for n in range(18)]}, 2),
    ],
)
def test_values_of_numbers(rule: dict[str, Any], failing: int) -> None:
    report = judged({"columns": {"amount": rule}})
    assert sum(one.failed for one in report.failures) == failing


def test_infinity_is_in_no_range() -> None:
    endless = FRAME.with_columns(
        amount=pl.when(pl.col("id") == 3).then(float("inf")).otherwise("amount")
    )
    assert judged({}, endless).is_passed
    assert failed(judged({"columns": {"amount": {"min": 0}}}, endless)) == [("range", "amount")]


def test_datetimes_have_ranges() -> None:
    assert judged({"columns": {"at": {"min": DAY}}}).is_passed
    late = {"columns": {"at": {"max": DAY + timedelta(hours=10)}}}
    assert judged(late).failures[0].failed == 9


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        ({"allowed": ["de"]}, "allowed_values"),
        ({"pattern": "d."}, "pattern"),
        ({"pattern": "d"}, "pattern"),
        ({"min_length": 3}, "length"),
        ({"max_length": 1}, "length"),
    ],
)
def test_values_of_text(rule: dict[str, Any], check: str) -> None:
    assert failed(judged({"columns": {"country": rule}})) == [(check, "country")]


def test_text_that_fits() -> None:
    rule = {"allowed": ["de", "fr"], "pattern": "[a-z]+", "min_length": 2, "max_length": 2}
    assert judged({"columns": {"country": rule}}).is_passed


def test_validity_thresholds() -> None:
    rules = {"columns": {"amount": {"min": 2}}}
    assert not judged(rules).is_passed
    assert judged(rules | {"quality_checks": {"validity_threshold": 0.9}}).is_passed
    assert judged({"columns": {"amount": {"min": 2, "validity": 0.9}}}).is_passed
    assert not judged({"columns": {"amount": {"min": 2, "validity": 0.95}}}).is_passed


def test_a_required_column() -> None:
    report = judged({"columns": {"price": "float64"}})
    assert failed(report) == [("present", "price")]
    assert "found: id, amount, country, at" in report.failures[0].reason
    assert judged({"columns": {"price": {"type": "float64", "required": False}}}).is_passed


def test_extra_columns_can_be_refused() -> None:
    rules = {"columns": {"id": {}, "amount": {}, "country": {}}, "extra_columns": "refuse"}
    report = judged(rules)
    assert failed(report) == [("extra_columns", "*")]
    assert "at" in report.failures[0].reason
    assert judged(rules, FRAME.drop("at")).is_passed


def test_min_rows() -> None:
    assert failed(judged({}, FRAME.head(0))) == [("rows", "*")]
    assert judged({"min_rows": 0}, FRAME.head(0)).is_passed
    assert not judged({"min_rows": 21}).is_passed


def test_freshness() -> None:
    newest = DAY + timedelta(hours=19)
    rule = {"column": "at", "max_age": "2h", "as_of": newest + timedelta(hours=2)}
    assert judged({"freshness": rule}).is_passed
    late = rule | {"as_of": newest + timedelta(hours=2, seconds=1)}
    report = judged({"freshness": late})
    assert failed(report) == [("freshness", "at")]
    assert (report.failures[0].value, report.failures[0].threshold) == (7201.0, 7200.0)
    assert not judged({"freshness": {"column": "at", "max_age": "2h"}}).is_passed
    assert judged({"freshness": {"column": "at", "max_age": "5200w"}}).is_passed


def test_freshness_without_a_time_fails() -> None:
    empty = FRAME.with_columns(at=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
    rules = {
        "freshness": {"column": "at", "max_age": "2h"},
        "quality_checks": {"completeness_threshold": 0},
    }
    assert failed(judged(rules, empty)) == [("freshness", "at")]


def test_references_between_sets(tmp_path: Path) -> None:
    table = tmp_path / "countries.parquet"
    pl.DataFrame({"code": ["de"], "id": [1]}).write_parquet(table)
    rule = {"columns": ["country"], "table": str(table), "target": ["code"]}
    report = judged({"references": [rule]})
    assert failed(report) == [("reference", "country")]
    assert (report.failures[0].value, report.failures[0].failed) == (0.5, 10)
    assert judged({"references": [rule | {"threshold": 0.5}]}).is_passed
    pair = {"columns": ["country", "id"], "target": ["code", "id"], "table": str(table)}
    assert judged({"references": [pair | {"threshold": 0.0}]}).checks[-2].failed == 20
    own_name = {"columns": ["id"], "table": str(table), "threshold": 0.05}
    assert judged({"references": [own_name]}).is_passed
    halves = judged({"references": [own_name]}, FRAME.with_columns(id=pl.lit(1.5)))
    assert ("reference", "id") in failed(halves)
    absent = _nulls("country", 20).with_columns(pl.col("country").cast(pl.String))
    assert judged(
        {"references": [rule], "quality_checks": {"completeness_threshold": 0}}, absent
    ).is_passed


@pytest.mark.parametrize("examples", [0, 2])
def test_examples(examples: int) -> None:
    report = judged({"columns": {"amount": {"min": 10}}, "examples": examples, "keys": ["id"]})
    shown = [RowExample(n + 1, float(n), {"id": n}) for n in range(examples)]
    assert list(report.failures[0].examples) == shown


def _shifted(by: float, rows: int = 2_000) -> pl.DataFrame:
    random = np.random.default_rng(int(by * 10))
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "amount": random.normal(by, 1, rows),
            "steady": random.normal(0, 1, rows),
            "kind": random.choice(["a", "b"], rows, p=[0.5 + by / 4, 0.5 - by / 4]),
        }
    )


def drift(rules: dict[str, Any], by: float = 1.0) -> dict[str, tuple[str, bool]]:
    reference = table_from_frame(_shifted(0), "reference")
    report = judged(rules, _shifted(by), reference=reference)
    assert report.is_passed is not any(one.drifted for one in report.drift)
    return {one.feature: (one.method, one.drifted) for one in report.drift}


def test_drift_threshold_is_01_and_keys_are_left_out() -> None:
    assert drift({}) == {"amount": ("psi", True), "steady": ("psi", False), "kind": ("psi", True)}
    assert not any(moved for _, moved in drift({}, by=0.0).values())


def test_drift_threshold_is_obeyed() -> None:
    assert drift({"drift_detection": {"threshold": 0.5}})["kind"] == ("psi", False)
    assert drift({"drift_detection": {"threshold": 9.0}})["amount"] == ("psi", False)


@pytest.mark.parametrize("rows", [400, 1500])
def test_the_method_evidently_is_its_own_choice_of_test(rows: int) -> None:
    from evidently import Report
    from evidently.metrics import ValueDrift

    random = np.random.default_rng(4)

    def table(shift: float, size: int) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "number": random.normal(shift, 1, size),
                "few": random.integers(0, 4, size) + (random.random(size) < shift),
                "flag": random.random(size) < 0.5 + shift / 9,
                "text": random.choice(
                    ["a", "b", "c"], size, p=[0.5 - shift / 9, 0.3 + shift / 9, 0.2]
                ),
            }
        ).with_columns(pl.when(pl.int_range(size) > 3).then("number").alias("number"))

    before, after = table(0.0, rows), table(0.3, 300)
    rules = {"drift_detection": {"method": "evidently", "threshold": 0.05, "min_rows": 1}}
    report = judged(rules, after, reference=table_from_frame(before, "reference"))
    tests = ["ks", "chisquare", "z", "chisquare"]
    distances = ["wasserstein", *["jensenshannon"] * 3]
    assert [one.method for one in report.drift] == (tests if rows <= 1000 else distances)
    metrics = [ValueDrift(column=name, threshold=0.05) for name in before.columns]
    data = evidently_datasets(before, after, before.columns)
    theirs = Report(metrics).run(*data).dict()["metrics"]
    np.testing.assert_allclose(
        [one.value for one in report.drift], [float(one["value"]) for one in theirs], rtol=1e-9
    )
    small_is_drift = rows <= 1000
    assert [one.drifted for one in report.drift] == [
        (one.value < 0.05) is small_is_drift for one in report.drift
    ]


def test_drift_columns_and_exclusions() -> None:
    assert list(drift({"drift_detection": {"columns": ["steady"]}})) == ["steady"]
    assert list(drift({"drift_detection": {"exclude": ["amount"]}})) == ["steady", "kind"]
    own = drift({"drift_detection": {"per_column": {"amount": {"threshold": 9.0}}}})
    assert own["amount"] == ("psi", False)


def test_a_column_of_another_kind_than_the_references_is_named() -> None:
    reference = table_from_frame(_shifted(0).with_columns(amount=pl.lit("much")), "normal")
    for rules in ({}, {"drift_detection": {"columns": ["amount", "steady"]}}):
        amount, steady, *_ = judged(rules, _shifted(1), reference=reference).drift
        assert amount.reason == "Float64 in these rows, String in the reference"
        assert (amount.value, amount.drifted, steady.drifted) == (None, True, False)


def test_the_reference_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "normal.parquet"
    _shifted(0).write_parquet(path)
    config = ValidationConfig.model_validate({"reference": str(path)})
    assert config.reference == path
    report = validate(table_from_frame(_shifted(1), "rows"), config, table_from_path(path))
    assert {one.feature for one in report.drifted_columns} == {"amount", "kind"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keys": ["idd"]}, "validation.keys names 'idd'"),
        (
            {"drift_detection": {"columns": ["amnt"]}},
            "validation.drift_detection.columns names 'amnt'",
        ),
        ({"freshness": {"max_age": "1d"}}, "needs the column 'event_time'"),
        ({"freshness": {"column": "amount", "max_age": "1d"}}, "amount is Float64, not a time"),
    ],
)
def test_what_the_rules_name_must_be_there(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        judged(rules)


@pytest.mark.parametrize(
    ("column", "rule", "message"),
    [
        ("country", {"min": 1}, "min and max do not fit"),
        ("amount", {"pattern": "x"}, "pattern, min_length and max_length do not fit"),
        ("amount", {"allowed": ["x"]}, "'x' does not fit"),
        ("amount", {"min": DAY}, "does not fit a column of Float64"),
        ("at", {"max": 3}, "does not fit a column of Datetime"),
        ("country", {"pattern": "("}, "no regular expression"),
    ],
)
def test_a_rule_that_does_not_fit_its_column(
    column: str, rule: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        judged({"columns": {column: rule}})


@pytest.mark.parametrize(
    "rules",
    [
        {"completness_threshold": 0.9},
        {"columns": {"amount": {"mn": 1}}},
        {"freshness": {"max_age": "soon"}},
        {"freshness": {"max_age": "1d", "as_of": "2026-01-01T00:00:00"}},
        {"references": [{"columns": ["a"], "table": "t.parquet", "target": ["a", "b"]}]},
        {"drift_detection": {"method": "vibes"}},
        {"quality_checks": {"completeness_threshold": 1.1}},
    ],
)
def test_a_section_that_cannot_be_read_is_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ValidationConfig.model_validate(rules)


def test_this_file_knows_every_key() -> None:
    text = Path(__file__).read_text()
    for model in (ValidationConfig, QualityChecks, DriftDetection, ColumnRule):
        assert [name for name in model.model_fields if name not in text] == []
    # Tried beside files: chunk_rows, checks. Over HTTP, in test_monitoring_requests.py:
    # sample, min_rows.
