"""Models in 8 or 4 bits, in the format ``compressed-tensors``, which vLLM reads.

``int8`` holds the linear layers' weights and computes with their inputs in 8 bits; ``int4`` holds
groups of weights in 4 bits and computes in 16. Embeddings, norms and the head stay in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunloom.config.llm import LlmRecipe, QuantizationConfig
from sunloom.core.artifacts import fingerprint
from sunloom.core.model_registry import TrainingResult, open_registry
from sunloom.core.runs import run_of_this_process
from sunloom.errors import UsageError
from sunloom.evaluation.gate import decide_quantized
from sunloom.llm.conversation_split import held_out_conversations
from sunloom.llm.judging import judge_model, load_judges
from sunloom.llm.model_cards import write_card
from sunloom.llm.model_comparison import (
    REPORT,
    compare_scores,
    promote_judged,
    report_scores,
)
from sunloom.llm.models import ADAPTER_KIND, BASE_KIND, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch

# vLLM's kernel for 4 bits on CPU.
_MULTIPLE_4BIT = 32
# Shares of the largest weight that become the largest level, of which the nearest to all is taken.
_CLIPS = tuple(1 - step / 50 for step in range(21))


def quantize(recipe: LlmRecipe) -> TrainingResult:
    """Quantise a registered model, judge it beside the original, register and gate it.

    Both are judged on the recipe's held-out conversations, the quantised one as it was stored.

    Args:
        recipe: ``quantization`` says which model and how.

    Returns:
        The version, promoted if its scores hold; the one that the same model and conversations gave
        before, if there is one.

    Raises:
        NotFoundError: The registry has no such model.
        UsageError: It is no model of its own, is quantised already, or its layers do not fit.
        DataError: There is nothing to judge on.
    """
    registry, config = open_registry(recipe), recipe.quantization
    original = registry.get(config.model or recipe.output.name)
    if original.kind != BASE_KIND:
        is_adapter = original.kind == ADAPTER_KIND
        raise UsageError(
            f"{original.ref} is of the kind {original.kind}, and whole models are quantised.",
            f"sunloom llm merge {original.ref} makes one."
            if is_adapter
            else "sunloom models list --kind llm shows those.",
            "quantization.model",
        )
    name = config.name or f"{original.name}-{config.to}"
    registry.check_name(name, BASE_KIND, original.tenant)
    conversations = held_out_conversations(recipe)
    scheme = config.model_dump(include={"to", "group_size"} if config.to == "int4" else {"to"})
    judged = [{"messages": c.messages, "tools": c.tools} for c in conversations]
    identity = fingerprint("quantized", original.ref, scheme, judged)
    known = registry.find(name, identity) if recipe.output.reuse else None
    if known is not None:
        folder = recipe.paths.outputs / "runs" / str(known.lineage.get("run", ""))
        decision = decide_quantized(known.metrics, recipe)
        return promote_judged(registry, known, decision, folder, reused=True)
    source, judges = registry.path(original), load_judges(recipe)
    with run_of_this_process(recipe, "llm-quantize") as run:
        export = run.directory / "export"
        write_quantized(source, export, config)
        before = judge_model(recipe, judges, conversations, str(source))
        after = judge_model(recipe, judges, conversations, str(export))
        scores = {original.ref: before, name: after}
        report = report_scores(f"{name} and {original.ref}", scores, judges)
        compared = asdict(compare_scores(before, after, report))
        metrics = compared | {
            "parameters": original.metrics.get("parameters"),
            "base_bytes": weight_bytes(source),
            "adapter_bytes": weight_bytes(export),
            "base_perplexity": _perplexity(compared["base_loss"]),
            "adapter_perplexity": _perplexity(compared["adapter_loss"]),
        }
        lineage = {"fingerprint": identity, "base": original.ref, "run": run.run_id, **scheme}
        if "data" in original.lineage:
            lineage["data"] = original.lineage["data"]
        write_card(
            export,
            name,
            registry=registry,
            relation="quantized",
            metrics=metrics,
            lineage=lineage,
            recipe=recipe,
        )
        version = registry.register(
            name, BASE_KIND, export, metrics, lineage, tenant=original.tenant
        )
        replace(report, models=(original.ref, version.ref)).save(run.directory / REPORT)
        decision = decide_quantized(version.metrics, recipe)
        return promote_judged(registry, version, decision, run.directory)


def write_quantized(source: Path, folder: Path, config: QuantizationConfig) -> None:
    """Write a quantised copy of a model and its tokenizer.

    Args:
        source: The model's folder.
        folder: Where the copy goes.
        config: Form and group size.

    Raises:
        UsageError: The model is quantised already, or the group size does not fit its layers.
    """
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationStatus, apply_quantization_config

    model = load_model(str(source))
    if getattr(model.config, "quantization_config", None) is not None:
        raise UsageError(
            f"The model in {source} is quantised already.",
            "Quantise the one that it was made from: sunloom models show names it.",
            "quantization.model",
        )
    _require_fitting_layers(model, config)
    scheme = build_scheme(config)
    apply_quantization_config(model, scheme)
    args = scheme.config_groups["linear"].weights
    for _, module in _linear_layers(model):
        module.weight_scale.data = choose_scales(module.weight, args)
        module.weight_zero_point.data.zero_()
        module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=scheme.format)
    compressor.compress_model(model)
    # Only now: a weight's level, divided out in bfloat16, would be another one.
    model.to(torch.bfloat16).save_pretrained(str(folder))
    compressor.update_config(str(folder))
    load_tokenizer(str(source)).save_pretrained(str(folder))


def build_scheme(config: QuantizationConfig) -> Any:
    """The scheme as ``compressed_tensors.quantization.QuantizationConfig``."""
    from compressed_tensors import quantization as library

    common: dict[str, Any] = {"type": "int", "symmetric": True}
    if config.to == "int8":
        weights = library.QuantizationArgs(num_bits=8, strategy="channel", **common)
        inputs = library.QuantizationArgs(num_bits=8, strategy="token", dynamic=True, **common)
    else:
        size = config.group_size
        weights = library.QuantizationArgs(num_bits=4, strategy="group", group_size=size, **common)
        inputs = None
    group = library.QuantizationScheme(
        targets=["Linear"], weights=weights, input_activations=inputs
    )
    return library.QuantizationConfig(
        config_groups={"linear": group},
        format="int-quantized" if config.to == "int8" else "pack-quantized",
        # A tied head is the embedding, and another one costs more in quality than it saves.
        ignore=["lm_head"],
        quantization_status="initialized",
    )


def choose_scales(weight: torch.Tensor, args: Any) -> torch.Tensor:
    """The scale of each group of weights that leaves the least squared error.

    Args:
        weight: [O, I], a linear layer's.
        args: Bits, and the group's size or a whole row.

    Returns:
        [O, G], whole numbers of bfloat16, which stores them.
    """
    import torch

    rows = weight.detach().float()
    groups = rows.unflatten(1, (-1, args.group_size or rows.shape[1]))
    top = 2 ** (args.num_bits - 1) - 1
    largest = groups.abs().amax(dim=2).clamp(min=1e-8)
    scales = error = None
    for clip in _CLIPS:
        # As stored: what is rounded afterwards would be another scale.
        candidate = (largest * clip / top).bfloat16().float()
        levels = (groups / candidate[..., None]).round().clamp(-top - 1, top)
        loss = (levels * candidate[..., None] - groups).square().sum(dim=2)
        if scales is None or error is None:
            scales, error = candidate, loss
        else:
            scales = torch.where(loss < error, candidate, scales)
            error = torch.minimum(loss, error)
    assert scales is not None
    return scales


def weight_bytes(folder: Path) -> int:
    """Size of a model's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    import torch

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield name, module


def _require_fitting_layers(model: Any, config: QuantizationConfig) -> None:
    if config.to != "int4":
        return
    shapes = {name: module.weight.shape for name, module in _linear_layers(model)}
    common = math.gcd(*(inputs for _, inputs in shapes.values()))
    sizes = [str(size) for size in (16, 32, 64, 128, 256) if common % size == 0]
    for name, (outputs, inputs) in shapes.items():
        if inputs % config.group_size:
            fitting = f"All layers take {', '.join(sizes)}." if sizes else ""
            raise UsageError(
                f"A group size of {config.group_size} does not divide the {inputs} inputs of "
                f"{name}.",
                fitting or "Use quantization.to=int8, which has no groups.",
                "quantization.group_size",
            )
        if outputs % _MULTIPLE_4BIT or inputs % _MULTIPLE_4BIT:
            raise UsageError(
                f"{name} is {outputs} by {inputs}, and vLLM reads 4-bit layers whose sides are "
                f"multiples of {_MULTIPLE_4BIT}.",
                "Use quantization.to=int8.",
                "quantization.to",
            )


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 700.0))
