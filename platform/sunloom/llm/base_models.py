"""Base models by name: folders, versions of the registry, models inside packages, hub ids.

A package offers a model by an entry point of ``sunloom.llm.base_models``, a function that returns a
``PackagedModel``. Such a model is registered the first time that it is needed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sunloom.config.llm import LlmRecipe, ModelConfig
from sunloom.core.artifacts import fingerprint
from sunloom.core.model_registry import ModelRegistry, ModelVersion, TrainingResult
from sunloom.core.plugins import load_plugin, plugin_names
from sunloom.errors import ArtifactError, NotFoundError, UsageError
from sunloom.llm.models import ADAPTER_KIND, BASE_KIND, stored_parameter_count

GROUP = "sunloom.llm.base_models"


@dataclass(frozen=True)
class PackagedModel:
    """A base model inside an installed package.

    Attributes:
        name: Name in the registry.
        package: The distribution that brings it, with its version.
        folder: Where its files are installed.
        sha256: Of each file that the model is made from.
        write: Makes a Hugging Face folder (safetensors, tokenizer with a chat template, model
            card) at its second argument from the files at its first.
        revision: Counts changes of what ``write`` makes from the same files.
        metrics: Of the training that made it, for the registry.
    """

    name: str
    package: str
    folder: Path
    sha256: Mapping[str, str]
    write: Callable[[Path, Path], None]
    revision: int = 1
    metrics: Mapping[str, Any] = field(default_factory=dict)


def register_packaged(name: str, registry: ModelRegistry) -> TrainingResult:
    """Register a packaged model, once, as the production version of its name.

    Args:
        name: An entry point of ``sunloom.llm.base_models``.
        registry: Where it is registered.

    Raises:
        NotFoundError: No package offers such a model; the known ones are listed.
        DependencyError: The package that brings the files is not installed.
        ArtifactError: A file is missing or is not what the package's author wrote.
    """
    model: PackagedModel = load_plugin(GROUP, name)()
    files = dict(model.sha256)
    identity = fingerprint(GROUP, model.name, files, model.revision)
    version = registry.find(model.name, identity)
    is_known = version is not None
    if version is None:
        for file, sha256 in files.items():
            _check_file(model, file, sha256)
        with tempfile.TemporaryDirectory() as folder:
            model.write(model.folder, Path(folder))
            metrics = {"parameters": stored_parameter_count(Path(folder)), **model.metrics}
            lineage = {"fingerprint": identity, "package": model.package, "sha256": files}
            version = registry.register(model.name, BASE_KIND, Path(folder), metrics, lineage)
    registry.promote(version.name, version.version)
    return TrainingResult(version=version, promoted=True, reused=is_known)


def _check_file(model: PackagedModel, file: str, sha256: str) -> None:
    path = model.folder / file
    if not path.is_file():
        raise ArtifactError(f"{model.package} has no {path}.", "Install the package again.")
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != sha256:
        raise ArtifactError(
            f"{path} of {model.package} has the SHA-256 {digest}, not {sha256}.",
            "Install the package again.",
        )


def resolve_model(config: ModelConfig, registry: ModelRegistry) -> tuple[str, str]:
    """Where a named model lies, and what lineage calls it.

    Args:
        config: ``base_model`` is a folder, a registry reference, a packaged model or a hub id,
            tried in this order.
        registry: Knows the references; a packaged model is registered there.

    Returns:
        A folder or hub id for transformers, and ``name@version`` or the same id.

    Raises:
        NotFoundError: The registry has no such model, and no package brings one.
        UsageError: The model is no base, such as an adapter.
    """
    name = config.base_model or ""
    if Path(name).is_dir():
        return name, name
    try:
        version = registry.get(name)
    except NotFoundError:
        if name in plugin_names(GROUP):
            version = register_packaged(name, registry).version
        # Hub ids have an owner; a bare word was meant for the registry.
        elif "/" in name:
            return name, name
        else:
            raise
    require_base(version)
    return str(registry.path(version)), version.ref


def resolve_adapter(
    recipe: LlmRecipe, registry: ModelRegistry, base: str
) -> tuple[LlmRecipe, Path | None]:
    """The recipe with the version of the adapter that it trains on, and that version's folder.

    Args:
        recipe: ``model.adapter`` names it; without one the recipe is as it was.
        registry: Knows it.
        base: What ``model.base_model`` is, as lineage calls it.

    Raises:
        NotFoundError: The registry has no such adapter.
        UsageError: It is no adapter, is on another base, or has another shape than the recipe says.
    """
    if recipe.model.adapter is None:
        return recipe, None
    key, version = "model.adapter", registry.get(recipe.model.adapter)
    if version.kind != ADAPTER_KIND:
        raise UsageError(
            f"{version.ref} is of the kind {version.kind}, and {key} takes an adapter.",
            "sunloom models list --kind adapter shows those.",
            key,
        )
    if (own := str(version.lineage["base"])) != base:
        raise UsageError(
            f"{version.ref} is an adapter on {own}, and model.base_model is {base}.",
            f"Set model.base_model={own}.",
            key,
        )
    folder = registry.path(version)
    stored = json.loads((folder / "adapter_config.json").read_text())
    shape = {
        "r": stored["r"],
        "alpha": stored["lora_alpha"],
        "use_rslora": stored["use_rslora"],
        "use_dora": stored.get("use_dora", False),
        "modules_to_save": tuple(sorted(stored.get("modules_to_save") or ())),
    }
    for name, value in shape.items():
        # A default says nothing of what was wanted.
        if name in recipe.lora.model_fields_set and getattr(recipe.lora, name) != value:
            raise UsageError(
                f"{version.ref} has lora.{name} {value}, which training on does not change.",
                f"Leave out lora.{name}, or model.adapter.",
                f"lora.{name}",
            )
    model = recipe.model.model_copy(update={"adapter": version.ref})
    lora = recipe.lora.model_copy(update=shape)
    return recipe.model_copy(update={"model": model, "lora": lora}), folder


def require_base(version: ModelVersion) -> None:
    """Refuse a version that is no base model.

    Raises:
        UsageError: It is of another kind.
    """
    if version.kind != BASE_KIND:
        raise UsageError(
            f"{version.ref} is of the kind {version.kind}, and training starts from a base model.",
            "sunloom models list --kind llm shows those.",
            "model.base_model",
        )


def require_start(recipe: LlmRecipe) -> None:
    """Refuse an adapter without a base.

    Raises:
        UsageError: ``model.base_model`` is empty, and ``training.method`` is not ``full``.
    """
    if recipe.is_adapter and recipe.model.base_model is None:
        raise UsageError(
            "An adapter needs model.base_model.",
            "Name a base, or train every parameter of a new model: training.method=full.",
            "model.base_model",
        )
