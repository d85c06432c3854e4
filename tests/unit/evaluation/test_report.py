"""The report of judged models: numbers, reading back, the page, and what the gate makes of it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from sunloom.config.llm import EvaluationConfig
from sunloom.config.llm_judges import NoRegression
from sunloom.errors import DataError
from sunloom.evaluation.gate import decide
from sunloom.evaluation.intervals import compare_paired, compare_unpaired, wilson
from sunloom.evaluation.measurements import JudgedText, Measurement, measure_texts
from sunloom.evaluation.report import EvalReport, build_report, decide_in, read_report
from sunloom.evaluation.report_page import render_page

BAD = "<script>alert('x')</script>"


def task(*scores: float, generated: str = "text") -> Measurement:
    texts = tuple(JudgedText(f"q{n} {BAD}", "e", generated, s) for n, s in enumerate(scores))
    return measure_texts("tasks.sums", "exact_match", texts)


def loss(*values: float) -> Measurement:
    keys = tuple(map(str, range(len(values))))
    return Measurement(
        "loss", "mean loss", keys, values, tuple(1.0 + n % 3 for n in range(len(values))),
        is_lower_better=True,
    )  # fmt: skip


def report_of(**models: list[Measurement]) -> EvalReport:
    return build_report("a & b", models, held_out=3)


def test_figures_have_their_intervals_and_paired_differences() -> None:
    before, after = (1, 1, 0, 0, 1, 0, 1, 1), (1, 0, 0, 0, 1, 0, 0, 1)
    report = report_of(a=[task(*before), loss(1, 2, 3, 4)], b=[task(*after), loss(2, 2, 3, 5)])
    first, second = report.figure("tasks.sums").scores
    assert first.estimate is not None
    assert (first.estimate.low, first.estimate.high) == wilson(5, 8)
    assert first.difference is None
    assert second.difference == compare_paired(before, after)
    by_tokens = report.figure("loss").scores
    assert by_tokens[0].estimate is not None
    assert by_tokens[0].estimate.value == pytest.approx((1 + 2 * 2 + 3 * 3 + 4) / 7)
    assert by_tokens[1].difference is not None
    assert by_tokens[1].difference.value == pytest.approx(2 / 7)
    assert report.summarise()["loss"]["is_lower_better"] is True
    # Other rows are compared as such.
    apart = report_of(a=[loss(1, 2, 3, 4)], b=[loss(2, 2, 3)]).figure("loss").scores[1]
    weights = ((1.0, 2.0, 3.0, 1.0), (1.0, 2.0, 3.0))
    assert apart.difference == compare_unpaired((1, 2, 3, 4), (2, 2, 3), weights)


def test_a_figure_that_only_one_model_has_is_no_difference() -> None:
    report = report_of(a=[loss(1, 2)], b=[task(1, 0), Measurement("k", "m", value=0.7, count=9)])
    assert [figure.name for figure in report.figures] == ["loss", "tasks.sums", "k"]
    none, only = report.figure("k").scores
    assert (none.estimate, only.difference) == (None, None)
    assert report.summarise()["loss"]["trained"] is None


def test_losses_of_unlike_tokenizers_are_not_compared() -> None:
    other = replace(loss(1, 2, 3), weights=(2.0, 2.0, 9.0))
    score = report_of(a=[loss(1, 2, 3)], b=[other]).figure("loss").scores[1]
    assert score.estimate is not None
    assert score.difference is None


def test_a_report_is_read_back_and_its_schema_is_closed(tmp_path: Path) -> None:
    report = report_of(a=[task(1, 0), loss(1, float("nan"))], b=[task(0, 0.5), loss(1, 3)])
    decision = decide(report.summarise(), EvaluationConfig(), "production")
    path = decide_in(report, decision).save(tmp_path / "evaluation.json")
    again = read_report(path)
    assert again.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert again.questions == report.questions
    assert again.gate == decision
    plain = json.loads(path.read_text())
    for broken, said in (
        (plain | {"schema_version": 2}, "schema_version"),
        (plain | {"more": 1}, "more"),
        (plain | {"figures": [plain["figures"][0] | {"more": 1}]}, r"figures\.0\.more"),
        (plain | {"gate": plain["gate"] | {"more": 1}}, r"gate\.more"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=said):
            read_report(path)
    estimate = plain["figures"][0]["scores"][0]["estimate"]
    assert set(estimate) == {"value", "low", "high", "rows", "method"}


def test_the_page_is_whole_and_says_what_models_wrote_as_text() -> None:
    report = report_of(
        a=[task(1, 0, 1), loss(1, 2, 4)], b=[task(1, 1, 0, generated=BAD), loss(1, 2, 3)]
    )
    page = render_page(decide_in(report, decide({}, EvaluationConfig(), "production")))
    assert BAD not in page
    assert page.count("&lt;script&gt;alert") >= 5
    assert "a &amp; b" in page
    # Nothing is loaded from elsewhere.
    assert "http" not in page
    assert "src=" not in page
    assert page.count("<circle") == 4
    assert "not promoted" in page
    # Where both differ comes first.
    texts = page.partition("<h2><code>tasks.sums")[2]
    assert texts.index("q1 ") < texts.index("q0 ")


@pytest.mark.parametrize(
    ("lost", "rule", "passed"),
    [
        (3, NoRegression(figure="tasks.*"), True),
        (12, NoRegression(figure="tasks.*"), False),
        (12, NoRegression(figure="tasks.sums", margin=0.1), True),
        (0, NoRegression(figure="judge.*"), False),
    ],
)
def test_a_planted_regression_is_refused_beyond_chance(
    lost: int, rule: NoRegression, passed: bool
) -> None:
    """Of a hundred right answers some are lost: three may be chance, twelve are not."""
    rng = random.Random(0)
    before = [1.0] * 90 + [0.0] * 10
    after = [0.0] * lost + before[lost:]
    order = rng.sample(range(100), 100)
    report = report_of(a=[task(*(before[i] for i in order))], b=[task(*(after[i] for i in order))])
    config = EvaluationConfig(
        min_exact_match=None, min_whole=0, no_regression=(rule,), max_loss_ratio=None
    )
    metrics = {"adapter_whole": 1.0, "figures": report.summarise()}
    decision = decide(metrics, config, "production")
    assert decision.passed is passed
    (outcome,) = [one for one in decision.rules if one.rule == "no_regression"]
    assert outcome.passed is passed
    assert bool(outcome.reason) is not passed
    if lost and not passed:
        assert outcome.value == pytest.approx(0.78)
        assert "worse by 0.120" in outcome.reason
        assert 0 < outcome.margin < 0.12


def test_a_loss_that_is_not_a_number_passes_no_rule() -> None:
    report = report_of(a=[loss(1, 2, 3)], b=[loss(1, 2, float("nan"))])
    config = EvaluationConfig(min_exact_match=None, no_regression=(NoRegression(figure="loss"),))
    metrics = {"adapter_whole": 1.0, "figures": report.summarise()}
    metrics |= {"base_loss": 2.0, "adapter_loss": float("nan")}
    outcomes = {one.rule: one.passed for one in decide(metrics, config, "p").rules}
    assert outcomes == {"min_whole": True, "max_loss_ratio": False, "no_regression": False}
