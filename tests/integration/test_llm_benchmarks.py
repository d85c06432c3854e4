"""Benchmarks of lm-eval on copies of their data sets: the harness's own numbers, and the gate."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.config.llm import Architecture, EvaluationConfig, LoraSettings
from sunloom.errors import UsageError
from sunloom.evaluation.gate import decide
from sunloom.evaluation.report import build_report
from sunloom.llm.benchmarks import Benchmarks, BenchmarkScore
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.models import add_lora, build_llama, load_model, load_tokenizer
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

pytestmark = pytest.mark.integration

ROWS = 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on shared cores would take most of a small model's time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarked")
    texts = conversation_texts(GenericConversations().train(40, 0))
    tokenizer = build_tokenizer(texts, 500, 512)
    shape = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
    tokenizer.save_pretrained(str(folder))
    build_llama(shape, tokenizer, 0).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets in the format of their originals, at their hub ids."""
    folder, rng = tmp_path_factory.mktemp("copies"), random.Random(0)

    def sentence(words: int) -> str:
        nouns = ("table", "order", "price", "house", "river", "garden")
        return " ".join(rng.choice(nouns) for _ in range(words))

    hellaswag = [
        {
            "ind": n,
            "activity_label": "Washing dishes",
            "ctx_a": sentence(5),
            "ctx_b": sentence(2),
            "endings": [sentence(rng.randint(2, 7)) for _ in range(4)],
            "label": str(rng.randrange(4)),
        }
        for n in range(ROWS)
    ]
    _write(folder / "Rowan/hellaswag/data", hellaswag)
    for subset in ("ARC-Easy", "ARC-Challenge"):
        rows = [
            {
                "id": str(n),
                "question": f"{sentence(4)}?",
                "choices": {"text": [sentence(2) for _ in range(4)], "label": list("ABCD")},
                "answerKey": rng.choice("ABCD"),
            }
            for n in range(ROWS)
        ]
        # No card names the subsets: they are folders.
        _write(folder / f"allenai/ai2_arc/{subset}", rows)
    return folder


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Each split is a file; the harness takes examples for prompts from the training split."""
    folder.mkdir(parents=True)
    for split, some in (("train", rows[:3]), ("validation", rows), ("test", rows)):
        pl.DataFrame(some).write_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_a_score_is_the_one_that_the_harness_gives_by_hand(
    model: Path, copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # A group of one's own, in the harness's format.
    group = tmp_path / "both.yaml"
    lines = ["group: both_arcs", "task: [arc_easy, arc_challenge]", "aggregate_metric_list:"]
    group.write_text("\n".join([*lines, "  - {metric: acc, weight_by_size: true}"]) + "\n")
    names = ("hellaswag", "arc", str(group))
    config = EvaluationConfig(benchmarks=names, benchmark_data=copies, benchmark_batch_size=3)
    benchmarks = Benchmarks(config)
    base = load_model(str(model)).eval()
    results = benchmarks.run(base, load_tokenizer(str(model)))
    assert list(results.scores) == ["hellaswag", "arc_challenge", "arc_easy", "both_arcs"]

    # As a user of the harness would do in the folder of the copies, whose paths are the hub's ids.
    monkeypatch.chdir(copies)
    by_hand: Any = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32", "device": "cpu"},
        tasks=["hellaswag"],
    )
    found, expected = results.scores["hellaswag"], by_hand["results"]["hellaswag"]
    assert (found.metric, found.score) == ("acc_norm", expected["acc_norm,none"])
    assert found.standard_error == pytest.approx(expected["acc_norm_stderr,none"])
    assert found.examples == tuple(s["acc_norm"] for s in by_hand["samples"]["hellaswag"])
    # Groups are the harness's aggregate, and all their examples.
    easy, hard, both = (results.scores[name] for name in ("arc_easy", "arc_challenge", "both_arcs"))
    assert (len(easy.examples), len(both.examples)) == (ROWS, 2 * ROWS)
    assert easy.score == sum(easy.examples) / ROWS
    assert hard.score == sum(hard.examples) / ROWS
    assert both.metric == "acc"
    assert both.score == pytest.approx(sum(both.examples) / len(both.examples))
    report = json.loads(json.dumps(results.report, default=str))
    assert report["hellaswag"]["n-samples"]["hellaswag"]["effective"] == ROWS

    # An adapter that changes nothing has its base's scores, example by example.
    adapted = benchmarks.run(
        add_lora(base, LoraSettings(r=2), 0).eval(), load_tokenizer(str(model))
    )
    models = {
        name: [score.measure(task) for task, score in found.scores.items()]
        for name, found in (("base", results), ("adapter", adapted))
    }
    for figure in build_report("benchmarks", models, held_out=0).figures:
        difference = figure.scores[1].difference
        assert difference is not None
        assert (difference.value, difference.p_value) == (0, 1)
    limited = EvaluationConfig(benchmarks=("hellaswag",), benchmark_data=copies, benchmark_limit=5)
    few = Benchmarks(limited).run(base, load_tokenizer(str(model)))
    assert few.scores["hellaswag"].examples == found.examples[:5]

    # What contamination is looked for by: the texts that the harness shows.
    questions = dict(Benchmarks(limited).questions())
    assert list(questions) == [f"hellaswag:{n}" for n in range(1, 6)]
    shown = by_hand["samples"]["hellaswag"][2]["arguments"][0][0]
    assert questions["hellaswag:3"].strip() == shown.strip()


def test_what_cannot_be_loaded_is_said_before_training(
    copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="no task 'helaswag'") as caught:
        Benchmarks(EvaluationConfig(benchmarks=("helaswag",)))
    assert "'hellaswag'" in caught.value.hint
    half = tmp_path / "half/Rowan/hellaswag/data"
    half.mkdir(parents=True)
    source = copies / "Rowan/hellaswag/data/validation-00000-of-00001.parquet"
    (half / source.name).symlink_to(source)
    with pytest.raises(UsageError, match="'hellaswag' cannot be loaded: it has no 'train'"):
        Benchmarks(EvaluationConfig(benchmarks=("hellaswag",), benchmark_data=tmp_path / "half"))
    with pytest.raises(UsageError, match="no folder"):
        Benchmarks(EvaluationConfig(benchmarks=("piqa",), benchmark_data=tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="'winogrande' cannot be loaded") as caught:
        Benchmarks(EvaluationConfig(benchmarks=("winogrande",), benchmark_data=copies))
    assert "benchmark_data" in caught.value.hint


def test_a_drop_beyond_chance_fails_the_gate() -> None:
    def score(*examples: float) -> BenchmarkScore:
        return BenchmarkScore("acc", sum(examples) / len(examples), None, examples)

    base = {"a": score(*[1.0] * 60, *[0.0] * 40), "b": score(1, 1, 1, 1, 0)}
    # Of a hundred, fifteen that were right are wrong; of five, one.
    adapter = {"a": score(*[1.0] * 45, *[0.0] * 55), "b": score(1, 1, 1, 0, 0)}
    models = {
        name: [one.measure(task) for task, one in scores.items()]
        for name, scores in (("base", base), ("adapter", adapter))
    }
    report = build_report("benchmarks", models, held_out=0)
    metrics = {"adapter_exact_match": 1.0, "adapter_whole": 1.0, "figures": report.summarise()}

    def failures(**keys: Any) -> tuple[str, ...]:
        return decide(metrics, EvaluationConfig(benchmarks=("a", "b"), **keys), "p").failures

    (said,) = failures()
    assert said.startswith("benchmarks.a (acc) is 0.450 on 100 rows, and was 0.600")
    assert failures(max_benchmark_drop=None) == ()
    # 16 of 102 less 1 of 102, less 1.96 standard errors, is 0.073.
    assert failures(max_benchmark_drop=0.08) == ()
    assert len(failures(max_benchmark_drop=0.07)) == 1
