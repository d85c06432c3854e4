"""The language model as judge, against a model server whose preferences are known."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from scripted_judge import ModelServer, by_quality, model_server
from sklearn.metrics import cohen_kappa_score

from sunloom.config.llm import EvaluationConfig
from sunloom.config.llm_judges import LlmJudge
from sunloom.errors import DataError, ServingError, UsageError
from sunloom.evaluation.gate import decide
from sunloom.evaluation.llm_judge import LlmJudgment, cohen_kappa
from sunloom.evaluation.measurements import JudgedText
from sunloom.evaluation.report import build_report


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sunloom.evaluation.llm_judge._FIRST_WAIT_S", 0.01)


def answers(*texts: str) -> tuple[JudgedText, ...]:
    return tuple(JudgedText(f"q{n}", f"r{n}", text, 0.0) for n, text in enumerate(texts))


def judge_of(server: ModelServer, **options: Any) -> LlmJudgment:
    key = SecretStr("secret-key")
    return LlmJudgment(LlmJudge(base_url=server.url, model="judge", api_key=key, **options))


def test_a_fair_judge_has_no_bias_and_its_winners_are_counted() -> None:
    before = answers("* long answer", "**", "*", "same", "*")
    after = answers("**", "* ", "*** ", "same ", "* or another")
    with model_server(by_quality) as server:
        verdicts = judge_of(server).judge({"a@1": before, "b@1": after})
    (base,), (won,) = verdicts.measurements["a@1"], verdicts.measurements["b@1"]
    assert (won.figure, won.values) == ("judge.win_rate", (1.0, 0.0, 1.0, 0.5, 0.5))
    assert (base.mean, won.mean) == (0.5, 0.6)
    # Equal answers are not asked for; the others twice, in both orders.
    assert len(server.bodies) == 8
    shown = [json.loads(body["messages"][1]["content"]) for body in server.bodies]
    pairs = {(one["question"], one["A"], one["B"]) for one in shown}
    assert {("q1", "**", "* "), ("q1", "* ", "**")} < pairs
    assert {one["reference"] for one in shown if one["question"] == "q1"} == {"r1"}
    body = server.bodies[0]
    schema = body["response_format"]["json_schema"]
    assert (schema["strict"], schema["schema"]["required"]) == (True, ["reason", "winner"])
    assert (body["key"], body["temperature"]) == ("Bearer secret-key", 0)
    report = verdicts.report
    assert (report.verdicts, report.pairs, report.unparsed, report.failed) == (8, 4, 0, 0)
    assert (report.agreement, report.position_bias) == (1.0, 0.5)
    # Of two pairs with a winner and unlike lengths the longer answer won one.
    assert report.length_bias == 0.5


def test_biases_of_position_and_length_are_seen() -> None:
    before, after = answers("a", "bb", "ccc"), answers("xxx", "yyyy", "zzzzz")
    with model_server(lambda _: {"winner": "A"}) as server:
        verdicts = judge_of(server).judge({"a": before, "b": after})
    report = verdicts.report
    assert (report.agreement, report.position_bias, report.length_bias) == (0.0, 1.0, None)
    # Who wins only where it stands first wins nothing.
    assert verdicts.measurements["b"][0].values == (0.5, 0.5, 0.5)
    longer = {True: {"winner": "A"}, False: {"winner": "B"}}
    with model_server(lambda shown: longer[len(shown["A"]) > len(shown["B"])]) as server:
        report = judge_of(server).judge({"a": before, "b": after}).report
    assert (report.agreement, report.position_bias, report.length_bias) == (1.0, 0.5, 1.0)


UNREADABLE = (
    "A is better.",
    '{"reason": "so", "winner": "A or B"}',
    '{"winner": "A"}',
    '{"reason": "so", "winner": "A", "more": 1}',
    'Here: {"reason": "so", "winner": "A"}',
    '{"reason": "so", "winner": true}',
    '["A"]',
    "",
)


def test_a_verdict_that_cannot_be_read_is_counted_and_not_guessed() -> None:
    def reply(shown: dict[str, Any]) -> Any:
        number = int(shown["question"].removeprefix("q"))
        if number < len(UNREADABLE) and shown["A"] == "*":
            return UNREADABLE[number]
        return by_quality(shown)

    before, after = answers(*["*"] * 30), answers(*["**"] * 30)
    with model_server(reply) as server:
        verdicts = judge_of(server).judge({"a": before, "b": after})
    won = verdicts.measurements["b"][0]
    # A pair counts for neither, though its other verdict could be read.
    assert (won.keys, won.values) == (tuple(map(str, range(9, 31))), (1.0,) * 22)
    assert verdicts.measurements["a"][0].keys == won.keys
    assert (verdicts.report.verdicts, verdicts.report.unparsed) == (52, 8)
    with (
        model_server(lambda _: UNREADABLE[0]) as server,
        pytest.raises(DataError, match="60 of 60 verdicts"),
    ):
        judge_of(server).judge({"a": before, "b": after})


def test_rubrics_score_each_answer_and_cost_what_was_used() -> None:
    options = {
        "pairwise": False,
        "rubrics": [
            {"name": "clear", "description": "1 is muddled, 5 is clear"},
            {"name": "kind", "description": "1 is rude, 5 is kind"},
        ],
        "prices": {"input_usd": 2.0, "output_usd": 10.0},
        "reasons": False,
    }

    def reply(shown: dict[str, Any]) -> Any:
        if shown["answer"] == "broken":
            return '{"clear": 6, "kind": 1}'
        return json.dumps({"clear": 1 + shown["answer"].count("*"), "kind": 5})

    before, after = answers("*", "**", "*", "*", "*"), answers("**", "***", "broken", "**", "**")
    with model_server(reply) as server:
        verdicts = judge_of(server, **options).judge({"a": before, "b": after})
    clear, kind = verdicts.measurements["b"]
    assert (clear.figure, clear.keys, clear.values) == (
        "judge.clear", ("1", "2", "4", "5"), (3.0, 4.0, 3.0, 3.0),
    )  # fmt: skip
    assert kind.mean == 5
    report = verdicts.report
    assert (report.prompt_tokens, report.completion_tokens, report.unparsed) == (1000, 100, 1)
    assert report.cost_usd == pytest.approx((1000 * 2 + 100 * 10) / 1e6)
    assert server.bodies[0]["messages"][0]["content"].endswith("- kind: 1 is rude, 5 is kind")


def test_requests_run_at_once_within_a_bound_and_are_sent_again() -> None:
    def slow(shown: dict[str, Any]) -> Any:
        threading.Event().wait(0.03)
        return by_quality(shown)

    before, after = answers(*["*"] * 12), answers(*["**"] * 12)
    with model_server(slow) as server:
        server.statuses = [503, 429, 500]
        verdicts = judge_of(server, concurrency=3).judge({"a": before, "b": after})
    assert server.most_at_once == 3
    assert (len(server.bodies), verdicts.report.verdicts) == (27, 24)
    with model_server(by_quality) as server:
        server.statuses = [503] * 2
        verdicts = judge_of(server, retries=0, concurrency=1).judge({"a": before, "b": after})
    assert (verdicts.report.failed, verdicts.report.pairs) == (2, 11)
    with model_server(by_quality) as server:
        server.statuses = [503] * 99
        with pytest.raises(ServingError, match="answered none of 24 requests"):
            judge_of(server, retries=1).judge({"a": before, "b": after})
        server.statuses = [401] * 99
        with pytest.raises(ServingError, match="status 401"):
            judge_of(server).judge({"a": before, "b": after})


def test_agreement_with_people_is_cohens_kappa(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [("*", "**", "second"), ("**", "*", "first"), ("*", "*", "tie"), ("*", "**", "first")]
    plain = [{"question": "q", "first": a, "second": b, "winner": w} for a, b, w in rows]
    path.write_text("\n".join(map(json.dumps, plain)))
    with model_server(by_quality) as server:
        report = judge_of(server, labels=path).judge({"a": answers("*")}).report
    assert (report.labelled, report.label_agreement) == (4, 0.75)
    own = ["second", "first", "tie", "second"]
    assert report.kappa == pytest.approx(cohen_kappa_score([w for *_, w in rows], own))
    assert cohen_kappa([]) is None
    assert cohen_kappa([("tie", "tie")]) is None
    path.write_text(json.dumps(plain[0] | {"winner": "left"}))
    with pytest.raises(UsageError, match=r"labels\.jsonl:1 is no verdict: winner"):
        LlmJudgment(LlmJudge(base_url="x", model="y", labels=path))


def test_the_win_rate_is_in_the_report_and_in_the_gate() -> None:
    before, after = answers(*["**"] * 20), answers(*["*"] * 16, *["***"] * 4)
    with model_server(by_quality) as server:
        judge = LlmJudge(base_url=server.url, model="judge", min_win_rate=0.5)
        verdicts = LlmJudgment(judge).judge({"a": before, "b": after})
    report = build_report("t", verdicts.measurements, held_out=20, judge=verdicts.report)
    figure = report.figure("judge.win_rate")
    assert figure.scores[1].difference is not None
    assert figure.scores[1].difference.high is not None
    assert figure.scores[1].difference.high < 0
    config = EvaluationConfig(llm_judge=judge, min_exact_match=None)
    decision = decide({"adapter_whole": 1.0, "figures": report.summarise()}, config, "p")
    assert decision.failures == ("judge.win_rate 0.200 is below 0.500",)
