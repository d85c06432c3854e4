"""Models in fewer bits: what is stored, what is judged, what is refused, and their cards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import run_here
from safetensors import safe_open
from tiny_llama import build_adapter, build_base

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe, QuantizationConfig
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import DataError, UsageError
from sunloom.evaluation.gate import decide_quantized
from sunloom.llm.models import computed_in_bfloat16, load_model
from sunloom.llm.quantization import build_scheme, choose_scales, quantize, write_quantized

ROOT = Path(__file__).parents[3]
LEVELS = {"int8": 127, "int4": 7}


def recipe_for(folder: Path, *sets: str) -> LlmRecipe:
    lines = [
        f'{{"messages": [{{"role": "user", "content": "hello {number}"}}, '
        f'{{"role": "assistant", "content": "world {number}"}}]}}\n'
        for number in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(lines))
    own = [
        f"paths.state={folder / 'state'}",
        f"paths.outputs={folder / 'outputs'}",
        f"data.train=[{{path: {folder / 'rows.jsonl'}}}]",
        "data.held_out_share=0.3",
        "evaluation.held_out=8",
        "evaluation.max_new_tokens=8",
        f"evaluation.custom_tasks=[{{name: own, path: {folder / 'rows.jsonl'}, limit: 4}}]",
        "quantization.model=tiny",
    ]
    recipe: dict[str, dict[str, Any]] = {}
    for key, _, value in (one.partition("=") for one in own):
        section, _, name = key.partition(".")
        recipe.setdefault(section, {})[name] = yaml.safe_load(value)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return load_config(LlmRecipe, sets=[*own, *sets], conf_dir=ROOT / "conf").config


def registered(recipe: LlmRecipe, folder: Path) -> ModelRegistry:
    base = build_base(folder / "base")
    card = "---\nlicense: apache-2.0\n---\nA base.\n"
    (base / "README.md").write_text(card)
    registry = open_registry(recipe)
    registry.register("tiny", "llm", base, {"parameters": 118_592}, {"data": "abc"})
    return registry


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_what_is_stored_is_judged_gated_and_described(
    to: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_for(tmp_path, f"quantization.to={to}", "quantization.max_perplexity_ratio=2")
    registry = registered(recipe, tmp_path)
    result = quantize(recipe)
    version, metrics = result.version, result.version.metrics
    assert (version.ref, version.kind) == (f"tiny-{to}@1", "llm")
    assert (result.promoted, result.failures) == (True, ())
    assert version.lineage["base"] == "tiny@1"
    assert version.lineage["to"] == to
    assert version.lineage.get("group_size") == (32 if to == "int4" else None)
    folder, original = registry.path(version), registry.path(registry.get("tiny"))
    sizes = [(path / "model.safetensors").stat().st_size for path in (original, folder)]
    assert [metrics["base_bytes"], metrics["adapter_bytes"]] == sizes
    # 82,000 of 119,000 weights of four bytes; the others become two.
    assert sizes[1] < sizes[0] * (0.37 if to == "int8" else 0.29)
    for side in ("base", "adapter"):
        assert metrics[f"{side}_perplexity"] == pytest.approx(math.exp(metrics[f"{side}_loss"]))
    assert computed_in_bfloat16(str(folder)) is (to == "int4")
    # The loaded weights are whole steps of the stored scales, half a step at most from the original
    # where the scale reaches that far.
    before, after = (load_model(str(path)) for path in (original, folder))
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        expected, found = before(ids).logits, after(ids).logits.float()
    assert 1e-4 < (found - expected).abs().max() < (0.02 if to == "int8" else 0.3)
    name = "model.layers.1.mlp.down_proj"
    with safe_open(folder / "model.safetensors", "pt") as file:
        scale = file.get_tensor(f"{name}.weight_scale").float()
        assert not [key for key in file.keys() if key.startswith("lm_head.weight_")]  # noqa: SIM118
    weight = before.get_submodule(name).weight.detach()
    step = scale.repeat_interleave(weight.shape[1] // scale.shape[1], dim=1)
    levels = (weight / step).round().clamp(-LEVELS[to] - 1, LEVELS[to])
    stored = after.get_submodule(name).weight.detach().float()
    assert torch.allclose(stored, levels * step, atol=1e-3)
    text = (folder / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "apache-2.0"
    assert (header["base_model"], header["base_model_relation"]) == ("tiny@1", "quantized")
    assert "| data | abc |" in text
    assert f"to: {to}" in text or to == "int8"
    # The command takes the same version, and shows each score beside the original's.
    words = ["llm", "quantize", "tiny", "--to", to, "--set", "quantization.max_perplexity_ratio=2"]
    shown = run_here([*words, "--recipe", str(tmp_path / "recipe.yaml")], capfd)
    assert shown.status == 0
    assert version.ref in shown.out
    assert [name for name in ("perplexity", "tasks.own") if name not in shown.out] == []
    assert [one.ref for one in registry.list(name=version.name)] == [version.ref]


def test_the_nearest_scale_is_taken() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 64)
    args = build_scheme(QuantizationConfig(to="int4")).config_groups["linear"].weights
    scales = choose_scales(weight, args)
    assert scales.shape == (4, 2)

    def error(scale: torch.Tensor) -> torch.Tensor:
        groups = weight.unflatten(1, (2, 32))
        steps = (groups / scale[..., None]).round().clamp(-8, 7)
        return (steps * scale[..., None] - groups).square().sum(2)

    largest = (weight.unflatten(1, (2, 32)).abs().amax(2) / 7).bfloat16().float()
    assert (error(scales) <= error(largest)).all()
    # The largest weights of a group are cut, which serves all others.
    assert error(scales).sum() < 0.95 * error(largest).sum()


def test_scores_beyond_the_margin_keep_the_alias(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, "quantization.max_score_drop=0.05")

    def figure(low: float) -> dict[str, Any]:
        return {"metric": "exact_match", "start": 0.9, "trained": 0.8, "low": low, "high": -low,
                "rows": 50, "is_lower_better": False}  # fmt: skip

    metrics = {
        "figures": {"exact_match.calls": figure(-0.01), "tasks.own": figure(0.06)},
        "base_perplexity": 4.0,
        "adapter_perplexity": 4.3,
    }
    # One drop may be chance, the other's whole interval is beyond the margin.
    assert decide_quantized(metrics, recipe).failures == (
        "tasks.own (exact_match) is 0.800 on 50 rows, and was 0.900: worse by 0.100, "
        "more than 0.05 beyond chance (95 %: 0.060)",
    )
    metrics |= {"figures": {}, "adapter_perplexity": 4.5}
    (failure,) = decide_quantized(metrics, recipe).failures
    assert "4.5 is above 1.1 times the original's 4" in failure
    metrics["base_perplexity"] = None
    (failure,) = decide_quantized(metrics, recipe).failures
    assert "no perplexity" in failure
    # With no margin at all, the random model in 4 bits falls behind itself.
    strict = recipe_for(
        tmp_path, "quantization.to=int4", "quantization.max_perplexity_ratio=1", "output.alias=best"
    )
    registry = registered(strict, tmp_path)
    result = quantize(strict)
    is_worse = result.version.metrics["adapter_loss"] > result.version.metrics["base_loss"]
    assert result.promoted is not is_worse
    assert registry.aliases("tiny-int4") == ({} if is_worse else {"best": 1})


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    registry = registered(recipe, tmp_path)
    base = registry.path(registry.get("tiny"))
    adapter = build_adapter(base, tmp_path / "adapter", seed=1)
    registry.register("own", "adapter", adapter, {}, {"base": "tiny@1"})
    with pytest.raises(UsageError, match="whole models") as caught:
        quantize(recipe_for(tmp_path, "quantization.model=own"))
    assert "sunloom llm merge own@1" in str(caught.value.hint)
    with pytest.raises(UsageError, match="128 does not divide the 64 inputs of") as caught:
        write_quantized(base, tmp_path / "x", QuantizationConfig(to="int4", group_size=128))
    assert caught.value.param == "quantization.group_size"
    assert "16, 32, 64" in str(caught.value.hint)
    write_quantized(base, tmp_path / "once", QuantizationConfig())
    with pytest.raises(UsageError, match="quantised already"):
        write_quantized(tmp_path / "once", tmp_path / "twice", QuantizationConfig())
    with pytest.raises(DataError, match="no held-out conversation"):
        quantize(recipe_for(tmp_path, "data.held_out_share=0"))
