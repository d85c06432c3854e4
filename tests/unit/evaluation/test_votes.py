"""Blind votes on pairs of answers, and the strengths that they come to."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from sunloom.config import Settings
from sunloom.config.llm_judges import LlmJudge
from sunloom.core.database import open_database
from sunloom.errors import ConflictError, NotFoundError, UsageError
from sunloom.evaluation.bradley_terry import PairVote, fit_strengths
from sunloom.evaluation.llm_judge import LlmJudgment
from sunloom.evaluation.measurements import JudgedText, measure_texts
from sunloom.evaluation.report import EvalReport, build_report
from sunloom.evaluation.votes import Choice, Votes


def test_strengths_are_the_likeliest_and_their_intervals_the_curvatures() -> None:
    counts = {("a", "b", 1.0): 14, ("a", "b", 0.0): 6, ("b", "c", 1.0): 9, ("b", "c", 0.5): 4,
              ("b", "c", 0.0): 3, ("c", "a", 1.0): 2, ("c", "a", 0.0): 11}  # fmt: skip
    votes = [PairVote(*vote) for vote, count in counts.items() for _ in range(count)]
    # One tie more for each two that met.
    weighed = [
        *counts.items(),
        *((pair, 1) for pair in (("a", "b", 0.5), ("b", "c", 0.5), ("c", "a", 0.5))),
    ]
    place = {"a": 0, "b": 1, "c": 2}

    def loss(values: np.ndarray) -> float:
        strengths = np.append(values, -values.sum())
        total = 0.0
        for (first, second, score), count in weighed:
            gap = strengths[place[first]] - strengths[place[second]]
            total += count * (score * np.log1p(np.exp(-gap)) + (1 - score) * np.log1p(np.exp(gap)))
        return float(total)

    best = minimize(loss, np.zeros(2), method="BFGS", tol=1e-9)
    found = {one.model: one for one in fit_strengths(votes)}
    assert [one.model for one in fit_strengths(votes)] == ["a", "b", "c"]
    expected = [*best.x, -best.x.sum()]
    assert [found[name].strength for name in "abc"] == pytest.approx(expected, abs=1e-4)
    # The covariance of two free strengths; the third is what makes their sum 0.
    step, hessian = 1e-3, np.zeros((2, 2))
    for i in range(2):
        for j in range(2):
            moved = [best.x + step * (np.eye(2)[i] * a + np.eye(2)[j] * b)
                     for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]  # fmt: skip
            corners = [loss(one) for one in moved]
            hessian[i, j] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * step**2)
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    for name, error in zip("ab", errors, strict=True):
        assert found[name].high - found[name].strength == pytest.approx(1.96 * error, rel=1e-3)
    assert (found["b"].wins, found["b"].ties, found["b"].losses) == (15, 4, 17)


def test_two_models_have_the_odds_of_their_votes_and_a_winner_of_all_is_finite() -> None:
    votes = [PairVote("a", "b", 1.0)] * 29 + [PairVote("b", "a", 1.0)] * 9
    first, second = fit_strengths(votes)
    assert first.strength - second.strength == pytest.approx(math.log(29.5 / 9.5))
    assert first.low > 0 > second.high
    [best, worst] = fit_strengths([PairVote("a", "b", 1.0)] * 3)
    assert best.strength - worst.strength == pytest.approx(math.log(3.5 / 0.5))
    assert best.low < 0


def report_of(*generated: tuple[str, ...]) -> EvalReport:
    models = {}
    for number, texts in enumerate(generated):
        judged = tuple(JudgedText(f"q{n}", "e", text, 0.0) for n, text in enumerate(texts))
        models[f"m{number}@1"] = [measure_texts("exact_match.answers", "x", judged)]
    return build_report("t", models, held_out=len(generated[0]))


def test_votes_are_blind_and_count_for_the_side_that_was_seen(settings: Settings) -> None:
    votes = Votes(open_database(settings))
    texts = tuple(f"good {n}" for n in range(20)), tuple(f"bad {n}\0" for n in range(20))
    assert votes.publish("first", report_of(*texts), "exact_match.answers") == 20
    sides: dict[str, list[bool]] = {"ann": [], "bob": []}
    order: dict[str, list[int]] = {"ann": [], "bob": []}
    for voter in sides:
        while (pair := votes.next_pair("first", voter)).number is not None:
            assert set(asdict(pair)) == {"number", "question", "left", "right", "voted", "pairs"}
            assert pair.voted == len(order[voter])
            assert "m0" not in json.dumps(asdict(pair))
            is_left = pair.left.startswith("good")
            sides[voter].append(is_left)
            order[voter].append(pair.number)
            # Bob prefers the others on every fourth pair.
            prefers_good = voter == "ann" or pair.number % 4 > 0
            choice: Choice = "left" if is_left == prefers_good else "right"
            votes.vote("first", pair.number, voter, choice)
    # Both sides come first, in unlike orders.
    assert all(5 < sum(seen) < 15 for seen in sides.values())
    assert order["ann"] != order["bob"]
    results = votes.results("first")
    assert (results.pairs, results.voters, results.votes, results.agreement) == (20, 2, 40, 0.75)
    good, bad = results.strengths
    assert (good.model, good.wins, good.losses) == ("m0@1", 35, 5)
    assert good.low > 0 > bad.high
    # A later vote takes the place of the earlier one.
    votes.vote("first", 1, "ann", "tie")
    assert votes.results("first").votes == 40
    assert votes.results("first").strengths[0].ties == 1
    with pytest.raises(NotFoundError, match="no pair 21"):
        votes.vote("first", 21, "ann", "tie")


def test_three_models_are_paired_each_with_each_without_equal_answers(settings: Settings) -> None:
    votes = Votes(open_database(settings))
    report = report_of(("a", "b"), ("a ", "c"), ("d", "e"))
    assert votes.publish("three", report, "exact_match.answers") == 5
    with pytest.raises(ConflictError, match="There is an evaluation 'three'"):
        votes.publish("three", report, "exact_match.answers")
    with pytest.raises(UsageError, match="no two unlike answers") as caught:
        votes.publish("four", report, "tasks.x")
    assert "exact_match.answers" in caught.value.hint
    with pytest.raises(UsageError, match="cannot be named"):
        votes.publish("a b/c", report, "exact_match.answers")


def test_a_tenant_sees_its_own_evaluations_alone(settings: Settings) -> None:
    database = open_database(settings)
    for owner in (None, "acme", "evil"):
        Votes(database, owner).publish(
            f"of-{owner}", report_of(("a",), ("b",)), "exact_match.answers"
        )
    for owner in (None, "acme", "evil"):
        own = Votes(database, owner)
        assert own.list_names() == [f"of-{owner}"]
        for other in {None, "acme", "evil"} - {owner}:
            with pytest.raises(NotFoundError):
                own.vote(f"of-{other}", 1, "x", "tie")
    everything = Votes(database, is_admin=True)
    assert len(everything.list_names()) == 3
    everything.remove("of-evil")
    assert everything.list_names() == ["of-None", "of-acme"]


def test_exported_votes_are_labels_of_a_judge(settings: Settings, tmp_path: Path) -> None:
    votes = Votes(open_database(settings))
    votes.publish("labels", report_of(("a", "b"), ("c", "d")), "exact_match.answers")
    for number in (1, 2):
        votes.vote("labels", number, "ann", "tie")
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(f"{json.dumps(asdict(vote))}\n" for vote in votes.export("labels")))
    labels = LlmJudgment(LlmJudge(base_url="x", model="y", labels=path)).labels
    assert [(one.question, one.winner) for one in labels] == [("q0", "tie"), ("q1", "tie")]
