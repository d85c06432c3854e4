"""The life of a base and its adapter: trained, judged, gated, registered, reused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_judge import by_quality, model_server

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.errors import NotFoundError, UsageError
from sunloom.evaluation.report import read_report
from sunloom.llm.base_models import resolve_model
from sunloom.llm.model_comparison import evaluate_registered
from sunloom.llm.trainer import recipe_fingerprint, train_adapter, train_base
from sunloom_retail.conversations import RetailConversations

pytestmark = pytest.mark.integration

CONF = Path(__file__).parents[2] / "conf"
SMALL = [
    "training.max_steps=4",
    "training.batch_size=2",
    "training.warmup_ratio=0.25",
    "training.checkpoint_every=4",
    "evaluation.held_out=4",
    "evaluation.max_new_tokens=8",
]


def _recipe(name: str, settings: Settings, *sets: str) -> LlmRecipe:
    paths = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    chosen = [*SMALL, *paths, *sets]
    return load_config(
        LlmRecipe, recipe=CONF / "llm" / f"{name}.yaml", sets=chosen, conf_dir=CONF
    ).config


def test_base_and_adapter_are_registered_gated_and_reused(
    ray_local: str, settings: Settings
) -> None:
    shape = "model.architecture={hidden_size: 48, layers: 2, heads: 3, intermediate_size: 64}"
    # One worker is enough here; those that stop early below are two.
    alone = "training.workers=1"
    base_recipe = _recipe("tool_base", settings, shape, alone)
    with pytest.raises(NotFoundError):
        train_adapter(_recipe("retail_agent", settings, "model.base_model=tool-bas"))
    base = train_base(base_recipe)
    assert (base.version.ref, base.version.kind, base.reused) == ("tool-base@1", "llm", False)
    assert base.metrics["workers"] == 1
    # From random weights, and no bar named.
    assert base.promoted
    assert "adapter_exact_match" not in base.metrics
    assert base.metrics["dtype"] in ("float32", "bfloat16")
    assert base.metrics["probe"]["float32_gflops"] > 0
    assert Path(base.artifacts["loss_plot"]).is_file()
    again = train_base(base_recipe)
    assert again.reused
    assert again.version.ref == "tool-base@1"
    # The seed is in what reuse compares.
    prints = {
        recipe_fingerprint(_recipe("tool_base", settings, shape, seed), None)
        for seed in ("seed=0", "seed=1")
    }
    assert len(prints) == 2
    barred = ("evaluation.min_exact_match=1", "output.name=barred", "training.max_steps=1")
    refused = train_base(_recipe("tool_base", settings, shape, alone, *barred))
    assert refused.metrics["adapter_loss"] > 0
    assert not refused.promoted
    assert refused.failures[0].startswith("adapter_exact_match 0.000 is below 1.000")

    adapter = train_adapter(_recipe("retail_agent", settings, alone))
    assert (adapter.version.kind, adapter.version.lineage["base"]) == ("adapter", "tool-base@1")
    registry = open_registry(settings)
    # Four steps teach nothing: the gate must hold, the version is kept without the alias.
    assert adapter.metrics["adapter_exact_match"] < 0.9
    assert not adapter.promoted
    assert registry.aliases("retail-agent") == {}
    report = read_report(Path(adapter.artifacts["report"]))
    assert (report.held_out, report.models) == (4, ("tool-base@1", "retail-agent@1"))
    assert len(report.questions) == 8
    # The decision is in the registry and in the report alike, and says why.
    decision = registry.get("retail-agent@1").metrics["gate"]
    assert report.gate is not None
    assert (report.gate.passed, decision["passed"]) == (False, False)
    assert report.gate.failures == adapter.failures
    assert [rule["rule"] for rule in decision["rules"]] == [
        "min_exact_match", "min_whole", "max_loss_ratio",
    ]  # fmt: skip
    loss = report.figure("loss")
    assert loss.scores[1].estimate is not None
    assert loss.scores[1].estimate.value == pytest.approx(adapter.metrics["adapter_loss"])
    page = Path(adapter.artifacts["report_page"]).read_text()
    assert "adapter_exact_match 0.000 is below 0.900" in page
    # The adapter beside its base, on the same rows: the numbers are those of the training.
    with model_server(by_quality) as server:
        asked = f"evaluation.llm_judge={{base_url: '{server.url}', model: j, held_out: 3}}"
        safety = "evaluation.safety=[{type: injection, limit: 2}, {type: refusal, limit: 2}]"
        judged = evaluate_registered(
            _recipe("retail_agent", settings, alone, asked, safety),
            "retail-agent@1",
            ["tool-base@1"],
        )
    assert judged.exact_match == adapter.metrics["adapter_exact_match"]
    both = judged.figures["loss"]
    assert both["tool-base@1"]["value"] == pytest.approx(adapter.metrics["base_loss"])
    gap = adapter.metrics["base_loss"] - adapter.metrics["adapter_loss"]
    assert both["tool-base@1"]["difference"]["value"] == pytest.approx(gap)
    report = read_report(Path(judged.report))
    assert report.models == ("retail-agent@1", "tool-base@1")
    # Four steps of random weights follow nothing, refuse nothing, and no answer has a star.
    assert judged.figures["safety.injection.followed"]["retail-agent@1"]["value"] == 0
    assert judged.figures["safety.refusal.refused"]["tool-base@1"]["value"] == 0
    assert judged.figures["judge.win_rate"]["tool-base@1"]["value"] == 0.5
    shown = [json.loads(body["messages"][1]["content"]) for body in server.bodies]
    last = [row for row in report.questions if row.figure == "exact_match.answers"]
    assert report.judge is not None
    assert len(shown) == report.judge.verdicts == 2 * report.judge.pairs
    assert {one["reference"] for one in shown} <= {row.expected for row in last}
    # A full fine-tune of a base goes the same way: four steps of a high rate are a regression.
    worse = ("training.method=full", "training.learning_rate=0.3", "output.name=retail-tuned")
    early = "training.early_stopping=null"
    own = (*worse, early, "evaluation.min_exact_match=0", "evaluation.min_whole=0")
    tuned = train_base(_recipe("retail_agent", settings, alone, *own))
    assert (tuned.version.kind, tuned.version.lineage["base"]) == ("llm", "tool-base@1")
    assert tuned.metrics["base_loss"] == adapter.metrics["base_loss"]
    assert tuned.metrics["adapter_loss"] > tuned.metrics["base_loss"]
    assert not tuned.promoted
    assert [failure.partition(" ")[0] for failure in tuned.failures] == ["adapter_loss"]
    assert registry.aliases("retail-tuned") == {}
    # A rule on any figure refuses the same regression, by chance's margin.
    ruled = "evaluation.no_regression=[{figure: loss}]"
    again = train_base(_recipe("retail_agent", settings, alone, *own, ruled))
    assert (again.version.ref, again.reused) == (tuned.version.ref, True)
    assert again.failures[1].startswith("loss (mean loss of a token that the assistant wrote) is")
    assert registry.get(tuned.version.ref).metrics["gate"]["rules"][-1]["rule"] == "no_regression"
    again = train_base(_recipe("retail_agent", settings, alone, *own))
    assert (again.version.ref, again.reused, again.promoted) == (tuned.version.ref, True, False)
    # A newer base is another start, though the recipe names it alike.
    registry.register("tool-base", "llm", registry.path(base.version))
    registry.promote("tool-base", 2)
    base_of = _recipe("retail_agent", settings, alone, *own)
    _, named = resolve_model(base_of.model, registry)
    assert recipe_fingerprint(base_of, named) != tuned.version.lineage["fingerprint"]
    registry.promote("tool-base", 1)
    # A gate that anything passes: the run ends at the first evaluation. It learns from a file.
    file = _write_file(settings)
    lenient = ("evaluation.min_exact_match=0", "evaluation.min_whole=0", "seed=1")
    own = ("evaluation.eval_steps=2", f"data.train=[{{path: {file}}}]", *lenient)
    task = file.with_name("task.jsonl")
    task.write_text('{"prompt": "Say yes", "completion": "yes"}\n' * 2)
    own += (f"evaluation.custom_tasks=[{{name: assent, path: {task}, min_score: 0}}]",)
    bounds = ("data.held_out_share=0.5", "evaluation.max_loss_ratio=null")
    stopped = train_adapter(_recipe("retail_agent", settings, *own, *bounds))
    task_figure = stopped.metrics["figures"]["tasks.assent"]
    assert (task_figure["metric"], task_figure["start"], task_figure["trained"]) == (
        "exact_match", 0.0, 0.0,
    )  # fmt: skip
    told = read_report(Path(stopped.artifacts["report"])).questions
    asked = [(row.question, row.expected) for row in told if row.figure == "tasks.assent"]
    assert asked == [("Say yes", "yes")]
    assert stopped.metrics["eval_loss"] > 0
    assert (stopped.version.ref, stopped.reused) == ("retail-agent@2", False)
    aside = Path(stopped.artifacts["report"]).with_name("quarantine.jsonl")
    assert [json.loads(line)["position"] for line in aside.read_text().splitlines()] == [61]
    assert stopped.metrics["adapter_loss"] > 0
    assert train_adapter(_recipe("retail_agent", settings, *own, *bounds)).reused
    assert (stopped.metrics["steps"], stopped.metrics["workers"]) == (2, 2)
    assert stopped.promoted


def _write_file(settings: Settings) -> Path:
    rows = [
        {"messages": c.messages, "tools": c.tools}
        for c in RetailConversations().train(60, 0) + RetailConversations().held_out(60, 0)
    ]
    rows.insert(60, {"messages": ({"role": "human", "content": "Hello"},), "tools": ()})
    file = settings.paths.outputs / "own.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_a_base_with_lora_and_an_adapter_without_are_refused(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"training\.method=full"):
        train_base(_recipe("retail_agent", settings))
    with pytest.raises(UsageError, match=r"needs training\.method=lora or qlora"):
        train_adapter(_recipe("tool_base", settings))
