"""Model cards: the README.md of a model's folder, with the header that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import ModelRegistry
from sunloom.errors import NotFoundError

CARD = "README.md"
# Sections of a recipe that say what a model is; defaults are left out.
_RECIPE = frozenset(
    {"seed", "model", "data", "training", "lora", "evaluation", "quantization", "output"}
)
_RULE = "---\n"


def write_card(
    folder: Path,
    name: str,
    *,
    registry: ModelRegistry,
    relation: str | None,
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    recipe: LlmRecipe | None = None,
) -> None:
    """Write the card of a model that is about to be registered.

    Args:
        folder: The model's; the card is its ``README.md``.
        name: Of the model.
        registry: Knows the base, whose licence holds for what is made from it.
        relation: What the model is of its base, in Hugging Face's words: ``adapter``, ``finetune``,
            ``merge`` or ``quantized``; None without a base.
        metrics: Of training and judging; numbers are shown.
        lineage: What it was made from; ``base`` and ``data`` among it.
        recipe: How it was made.
    """
    base = lineage.get("base")
    header: dict[str, Any] = {"license": licence_of(base, registry) if base else None}
    header["base_model"], header["base_model_relation"] = base, relation if base else None
    header["library_name"] = "peft" if relation == "adapter" else "transformers"
    header["pipeline_tag"] = "text-generation"
    header["tags"] = ["sunloom"]
    stated = {key: value for key, value in header.items() if value is not None}
    licence = stated.get("license")
    parts = [
        f"# {name}",
        _describe(name, relation, lineage),
        f"Licence: {licence}, as its base's." if licence else "Licence: none is stated.",
        "## Metrics\n\n" + _table(_numbers(metrics)),
        "## Lineage\n\n" + _table({key: value for key, value in lineage.items() if value}),
    ]
    if recipe is not None:
        dumped = recipe.model_dump(mode="json", include=set(_RECIPE), exclude_defaults=True)
        parts.append(f"## Recipe\n\n```yaml\n{yaml.safe_dump(dumped, sort_keys=False)}```")
    text = "\n\n".join(part for part in parts if part)
    (folder / CARD).write_text(f"{_RULE}{yaml.safe_dump(stated, sort_keys=False)}{_RULE}\n{text}\n")


def licence_of(ref: str, registry: ModelRegistry) -> str | None:
    """The licence in the card of a base, a folder or a registered model; None without one."""
    folder = Path(ref)
    if not folder.is_dir():
        try:
            folder = registry.path(registry.get(ref))
        except NotFoundError:
            return None  # a hub id, whose card stays there
    path = folder / CARD
    lines = path.read_text() if path.is_file() else ""
    if not lines.startswith(_RULE):
        return None
    header = yaml.safe_load(lines.split(_RULE, 2)[1])
    licence = header.get("license") if isinstance(header, dict) else None
    return str(licence) if licence else None


def _describe(name: str, relation: str | None, lineage: Mapping[str, Any]) -> str:
    base = lineage.get("base")
    sentences = {
        "adapter": f"A LoRA adapter on `{base}`.",
        "finetune": f"`{base}`, every parameter of which was trained on.",
        "merge": f"The adapter `{lineage.get('adapter')}` merged into its base `{base}` by "
        "`sunloom llm merge`, in float32.",
        "quantized": f"`{base}` in {lineage.get('to')}, written in the format compressed-tensors "
        "by `sunloom llm quantize`; in the metrics, `base` is the original.",
    }
    return sentences.get(relation or "", f"{name}, trained from random weights.")


def _numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else "None."
