"""An adapter merged into its base: the same answers, a model of its own with its origin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import build_adapter, build_base

from sunloom.config import Settings
from sunloom.config.llm import LoraSettings, QuantizationConfig
from sunloom.core.model_registry import open_registry
from sunloom.errors import NotFoundError, UsageError
from sunloom.llm.merging import merge_adapter
from sunloom.llm.models import continue_lora, load_adapter, load_model, served_by_merging
from sunloom.llm.quantization import write_quantized


def test_a_merged_model_answers_as_its_adapter_does(settings: Settings, tmp_path: Path) -> None:
    registry = open_registry(settings)
    base = build_base(tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter", seed=1)
    registered = registry.register("tiny", "llm", base)
    metrics = {"adapter_exact_match": 0.5, "adapter_loss": None, "steps": 3}
    lineage = {"base": registered.ref}
    registry.register("own", "adapter", adapter, metrics, lineage, tenant="shop")
    merged = merge_adapter(settings, "own@1")
    assert (merged.ref, merged.kind, merged.tenant) == ("own-merged@1", "llm", "shop")
    assert merged.lineage["adapter"] == "own@1"
    assert merged.lineage["base"] == "tiny@1"
    assert merged.metrics == {"parameters": 118_592, "adapter_exact_match": 0.5}
    assert registry.aliases("own-merged") == {}
    folder = registry.path(merged)
    assert "`own@1` merged into its base `tiny@1`" in (folder / "README.md").read_text()
    assert not [path for path in folder.iterdir() if path.name.startswith("adapter_")]
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        expected = load_adapter(load_model(str(base)), adapter)(ids).logits
        found = load_model(str(folder))(ids).logits
        alone = load_model(str(base))(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found - alone).abs().max() > 0.1
    # Once: the same adapter gives the version that there is.
    assert merge_adapter(settings, "own").ref == "own-merged@1"
    assert merge_adapter(settings, "own", "other").ref == "other@1"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "own",
    [
        {"use_dora": True},
        {"modules_to_save": ["embed_tokens", "norm"]},
        {"use_dora": True, "modules_to_save": ["lm_head"]},
    ],
)
def test_what_vllm_cannot_add_to_a_base_is_merged(
    own: dict[str, Any], tied: bool, settings: Settings, tmp_path: Path
) -> None:
    registry = open_registry(settings)
    base = build_base(tmp_path / "base", tied=tied)
    adapter = build_adapter(base, tmp_path / "adapter", seed=1, **own)
    registry.register("tiny", "llm", base)
    registry.register("own", "adapter", adapter, {}, {"base": "tiny@1"})
    assert served_by_merging(adapter) is not None
    folder = registry.path(merge_adapter(settings, "own"))
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        tuned = load_adapter(load_model(str(base)), adapter).eval()
        expected = tuned(ids).logits
        merged = load_model(str(folder))
        assert torch.allclose(merged(ids).logits, expected, atol=1e-4)
        # Training on starts from all of it.
        again = continue_lora(load_model(str(base)), adapter, LoraSettings(), "tiny@1")
        assert torch.allclose(again.eval()(ids).logits, expected, atol=1e-4)
        trained = [name for name, part in again.named_parameters() if part.requires_grad]
        assert any("magnitude" in name for name in trained) is ("use_dora" in own)
        assert any("modules_to_save" in name for name in trained) is ("modules_to_save" in own)
        # Without what is its own, it is another model.
        for name, parameter in tuned.named_parameters():
            if "magnitude" in name or "modules_to_save" in name:
                parameter.mul_(1.5)
        assert (tuned(ids).logits - expected).abs().max() > 0.1
    # Engines read from here whether the head has weights of its own.
    is_apart = any(name in ("embed_tokens", "lm_head") for name in own.get("modules_to_save", ()))
    assert merged.config.tie_word_embeddings is (tied and not is_apart)


def test_what_is_no_adapter_is_refused(settings: Settings, tmp_path: Path) -> None:
    registry = open_registry(settings)
    base = build_base(tmp_path / "base")
    registry.register("tiny", "llm", base)
    with pytest.raises(UsageError, match="tiny@1 is of the kind llm"):
        merge_adapter(settings, "tiny")
    with pytest.raises(NotFoundError):
        merge_adapter(settings, "none@1")
    adapter = build_adapter(base, tmp_path / "adapter", seed=1)
    registry.register("own", "adapter", adapter, {}, {"base": "tiny@1"})
    with pytest.raises(UsageError, match="own"):
        merge_adapter(settings, "own", "own")


def test_pickled_weights_are_never_loaded(settings: Settings, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    base = build_base(tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter", seed=1)
    registry = open_registry(settings)
    registry.register("tiny", "llm", base)
    for folder in (base, adapter):
        for path in folder.glob("*.safetensors"):
            name = "pytorch_model.bin" if folder == base else "adapter_model.bin"
            torch.save(Payload(), folder / name)
            path.unlink()
    registry.register("own", "adapter", adapter, {}, {"base": "tiny@1"})
    loads: list[Callable[[], object]] = [
        lambda: load_model(str(base)),
        lambda: load_model(str(base), head_seed=0),
        lambda: load_adapter(None, adapter),
        lambda: continue_lora(None, adapter, LoraSettings()),
        lambda: merge_adapter(settings, "own"),
        lambda: write_quantized(base, tmp_path / "x", QuantizationConfig()),
    ]
    for load in loads:
        with pytest.raises(UsageError):
            load()
    assert not marker.exists()
