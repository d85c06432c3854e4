"""Adapters merged into their base: a model of its own, which needs no adapter at serving."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sunloom.config import Settings
from sunloom.core.artifacts import fingerprint
from sunloom.core.model_registry import ModelVersion, open_registry
from sunloom.errors import UsageError
from sunloom.llm.model_cards import write_card
from sunloom.llm.models import (
    ADAPTER_KIND,
    BASE_KIND,
    allow_untied_weights,
    load_adapter,
    load_model,
    load_tokenizer,
    stored_parameter_count,
)


def merge_adapter(settings: Settings, ref: str, name: str | None = None) -> ModelVersion:
    """Merge a registered adapter into the base that it was trained on, and register the result.

    Args:
        settings: Names the registry.
        ref: The adapter's ``name``, ``name@3`` or ``name@alias``.
        name: Of the merged model; the adapter's with ``-merged`` by default.

    Returns:
        The version, without an alias: the one that the same adapter made before, if there is one.

    Raises:
        NotFoundError: The registry has no such adapter.
        UsageError: It is no adapter, or the name is another kind of model's.
    """
    registry = open_registry(settings)
    adapter = registry.get(ref)
    if adapter.kind != ADAPTER_KIND:
        raise UsageError(
            f"{adapter.ref} is of the kind {adapter.kind}, and an adapter is merged.",
            "sunloom models list --kind adapter shows those.",
        )
    merged = name or f"{adapter.name}-merged"
    registry.check_name(merged, BASE_KIND, adapter.tenant)
    identity = fingerprint("merged", adapter.ref)
    if (known := registry.find(merged, identity)) is not None:
        return known
    base = str(adapter.lineage["base"])
    location = str(registry.path(registry.get(base)))
    with allow_untied_weights():
        model = load_adapter(load_model(location), registry.path(adapter)).merge_and_unload()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model.save_pretrained(folder)
        load_tokenizer(location).save_pretrained(folder)
        scores = {
            key: value
            for key, value in adapter.metrics.items()
            if key.startswith("adapter_") and value is not None
        }
        metrics = {"parameters": stored_parameter_count(path), **scores}
        lineage = {"fingerprint": identity, "adapter": adapter.ref, "base": base}
        if "data" in adapter.lineage:
            lineage["data"] = adapter.lineage["data"]
        write_card(
            path, merged, registry=registry, relation="merge", metrics=metrics, lineage=lineage
        )
        return registry.register(merged, BASE_KIND, path, metrics, lineage, tenant=adapter.tenant)
