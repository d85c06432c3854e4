"""What cannot be bound is refused at load time: feature, construct, file, line, a way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sunloom.errors import DefinitionError, NotFoundError, UsageError
from sunloom.features.definitions.open import catalogue_of, plan_of
from sunloom.features.plan.explain import format_expression, plan_text

HEAD = """
import dataclasses
from datetime import datetime, timedelta
from chalk import _, DataFrame, FeatureTime, Primary, Windowed, feature, windowed
from chalk.features import features
import chalk.functions as F, pyarrow as pa

@features(name="{ns}_event")
class Event:
    id: Primary[int]
    owner_id: "Owner.id"
    at: FeatureTime
    noted: datetime
    amount: float
    label: str
    labels: list[str]

@dataclasses.dataclass
class Home:
    city: str

@features(name="{ns}_owner")
class Owner:
    id: Primary[int]
    score: float
    name: str
    home: Home
    tags: list[str]
    events: DataFrame[Event]
    counted: Windowed[int] = windowed("7d", expression=_.events[_.at > _.chalk_window].count())
    bad: {annotation} = {expression}
"""

CASES = [
    ("int", "_.nope + 1", r"no feature 'nope'", "Known"),
    ("int", "_.scroe", r"no feature 'scroe'", "'score'"),
    ("int", "feature(lambda: 3)", "description", r"feature\(expression="),
    ("str", "F.word_stem(_.name)", "function 'word_stem' is not supported", "Known"),
    ("str", "F.md5(_.name)", "'md5' takes bytes, such as F.string_to_bytes", "F.cast"),
    ("float", "F.rand()", "function 'rand'", "one value as of a time"),
    ("str", "_.home.street", "struct has no field 'street'", "city"),
    ("str", "_.name.city", "does not lead through a has-one or a struct", "_.other.feature"),
    ("str", "_.tags[0]", "no window and no has-many", r"F.element_at\(_.tags, 0\)"),
    ("bool", 'F.contains(_.name, "x")', "takes a list and a value", "F.cast"),
    ("bool", "F.contains(_.tags, 3)", "not \\(list\\[string\\], int64\\)", "F.cast"),
    ("bool", "_.tags == _.tags", "two values of one type", "F.cast"),
    ("int", "F.array_sum(_.tags)", "takes a list of numbers", "F.cast"),
    ("int", "_.events[_.labels].count_distinct()", "of list", "F.cast"),
    ("list[int]", "F.array_transform(_.tags, lambda v: v)", "array_transform", "joined class"),
    ("int", "F.length(F.json_value(_.name, '$.a'))", "JSON value without a type", "Cast it"),
    ("int", "F.json_value(_.name, '$..a')", "arguments of", "literal path"),
    ("bool", "F.regexp_like(_.name, '(')", "arguments of", "Correct the pattern"),
    ("bool", "F.regexp_like(_.name, _.name)", "arguments of", "literals"),
    ("datetime", "F.date_trunc(_.chalk_now, 'decade')", "arguments of", "second, minute"),
    (
        "int",
        "feature(expression=F.length(_.name), default='x')",
        "type and its default do not fit",
        "its type",
    ),
    ("float", "_.score // 2", "function '//' is not supported", "F.floor"),
    ("int", "_.score * 2", "gives float64, the feature is int64", "F.cast"),
    ("float", "_.name + 1", "takes two numbers", "F.cast"),
    ("int", "_.counted", "is windowed", r"\[\"604800s\"\]"),
    ("int", '_.counted["30d"]', "no window of 2592000 s", "604800"),
    ("int", "_.events", "is a join", r"count\(\)"),
    ("int", "_.events[_.amount]", "rows, not a value", r"\.count\(\)"),
    ("float", "_.events[_.amount].product()", "aggregation `product`", "sum"),
    ("float", "_.events[_.amount, _.label].sum()", "one value column, not 2", "events"),
    ("float", "_.events[_.amount + 1].sum()", "is float64, not boolean", "select"),
    ("int", "_.events[_.at > _.chalk_window].count()", "without windows", "Windowed"),
    ("int", "_.events[_.noted > _.chalk_now].count()", "'noted'", "FeatureTime"),
    ("int", "_.events[(_.at > _.chalk_now) | (_.amount > 1.0)].count()", "mixes", "alone"),
    ("str", "_.events[_.label].sum()", "`sum` of string", "F.cast"),
    ("Windowed[float]", 'windowed("7d", expression=_.events[_.amount].sum())', "window", "_.t >"),
    ("float", "F.cast(_.chalk_now, pa.float64())", "cast from datetime", "datetime becomes"),
    ("float", "feature(expression=_.score, offline_expression=_.score * 2.0)", "offline", "one"),
    ("dict[str, int]", "feature()", "type .*map.* is not supported", "Use int"),
    ("str", "_.events[_.label].max_by()", "arguments of `max_by`", "one column"),
    ("str", "_.events[_.label].max_by(_.at, _.amount)", "arguments of `max_by`", "one column"),
    ("list[str]", "_.events[_.label].approx_top_k(k=0)", "arguments of `approx_top_k`", "above 0"),
    ("list[str]", "_.events[_.label].approx_top_k(k=5, counters=2)", "arguments", "at least `k`"),
    ("list[str]", "_.events[_.label].approx_top_k(k=2, by=_.amount)", "arguments", "`counters`"),
    ("float", "_.events[_.amount].approx_percentile(quantile=1.5)", "arguments", "from 0 to 1"),
    ("float", "_.events[_.label].approx_percentile(quantile=0.5)", "of string", "F.cast"),
    ("list[str]", "F.array_agg(_.events)", "one value column, not 0", "events"),
    ("float", "_.events[_.amount].mean(1)", "arguments of `mean`", "no arguments"),
    ("str", "F.max_by(_.events[_.label], (_.at, _.amount))", "sort_order", "Compare one column"),
    ("list[int]", "_.events[_.amount].array_agg()", r"gives list\[float64\]", "annotation"),
    ("int", "_.bad", "circle|depend", ""),
]


@pytest.mark.parametrize(
    ("number", "case"), list(enumerate(CASES)), ids=[case[1] for case in CASES]
)
def test_refusals(tmp_path: Path, number: int, case: tuple[str, str, str, str]) -> None:
    annotation, expression, construct, instead = case
    source = HEAD.format(ns=f"sl_bad{number}", annotation=annotation, expression=expression)
    file = tmp_path / f"bad{number}.py"
    file.write_text(source)
    line = next(i for i, text in enumerate(source.splitlines(), 1) if "    bad:" in text)
    with pytest.raises(DefinitionError) as caught:
        catalogue_of(str(file)).check_complete()
    error = caught.value
    assert re.search(construct, error.message), error.message
    assert re.search(instead, error.hint), error.hint
    assert "bad" in error.message
    if "circle" not in construct:
        assert f"{file}:{line}" in error.message
    assert error.exit_code == 2


def test_an_annotation_that_chalkpy_refuses_late_names_file_and_class(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text(
        "from chalk import Primary\nfrom chalk.features import features\n\n"
        '@features(name="sl_late")\nclass L:\n    id: Primary[int]\n    tags: list[str | None]\n'
    )
    for _ in range(2):
        with pytest.raises(DefinitionError, match=r"late\.py:7: sl_late.tags.*L\.tags"):
            catalogue_of(str(file)).check_complete()


def test_what_chalkpy_itself_refuses_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "refused.py"
    file.write_text(
        "from chalk import Primary\nfrom chalk.features import features\n\n"
        '@features(name="sl_refused")\nclass R:\n    id: Primary[int]\n    items: int\n'
    )
    with pytest.raises(DefinitionError, match=r"refused.py:7: sl_refused.items .*reserved name"):
        catalogue_of(str(file)).check_complete()


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("x = 1\nclass (:\n")
    with pytest.raises(DefinitionError, match=r"broken.py:2"):
        catalogue_of(str(file))


def test_no_such_module_lists_the_entry_points() -> None:
    with pytest.raises(UsageError, match="no definitions module") as caught:
        catalogue_of("retial")
    assert "'retail'" in caught.value.hint


def test_no_such_file() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.py"):
        catalogue_of("nowhere.py")


def test_unknown_feature_set_lists_the_known_ones() -> None:
    with pytest.raises(NotFoundError) as caught:
        plan_of("retail", "custmer")
    assert caught.value.known == ["customer", "purchase"]
    assert "'customer'" in caught.value.hint


def test_retail_definitions_list_and_print() -> None:
    plan = plan_of("retail", "customer")
    count = plan.root.feature("purchase_count__2592000__")
    assert count.dtype == "int64"
    assert count.expression is not None
    assert (
        format_expression(count.expression) == "_.purchases[timestamp in (now - 30 d, now]].count()"
    )
    assert plan.root.feature("recency_days").nullable is True
    text = plan_text(plan)
    assert "purchases: many purchase on id = purchase.customer_id" in text


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    body = (
        "from chalk import Primary\nfrom chalk.features import features\n\n"
        '@features(name="sl_edited")\nclass E:\n    id: Primary[int]\n    {name}: int\n'
    )
    file.write_text(body.format(name="one"))
    assert plan_of(str(file), "sl_edited").outputs == ("one",)
    file.write_text(body.format(name="two"))
    assert plan_of(str(file), "sl_edited").outputs == ("two",)
