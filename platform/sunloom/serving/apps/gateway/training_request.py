"""What a request for a training may set: leaves of the recipe, each with its bounds.

A recipe decides which code, which files and how much of the machine a training uses. So everything
that this list does not name is the operator's: other models, paths, gates, trackers, the cluster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.config.names import LONGEST_ALIAS, LONGEST_NAME, check_alias, check_name
from sunloom.config.request_limits import TrainingBounds
from sunloom.core.cluster import source_root
from sunloom.core.model_registry import open_registry
from sunloom.core.plugins import plugin_names
from sunloom.errors import ConfigError, NotFoundError, RequestError, nearest
from sunloom.llm.base_models import GROUP, require_base
from sunloom.llm.models import ADAPTER_KIND, BASE_KIND

_SHOWN = 60


@dataclass(frozen=True)
class Leaf:
    """A key of the recipe that a request may set.

    Attributes:
        allowed: Its values, in words.
        accepts: Whether a JSON value is one of them.
    """

    allowed: str
    accepts: Callable[[Any], bool]


_BOOLEAN = Leaf("true or false", lambda value: isinstance(value, bool))


def leaves(bounds: TrainingBounds) -> Mapping[str, Leaf]:
    """Every key that a request may set, dotted, within a tenant's bounds."""
    return {
        "seed": _whole(0, 2**32 - 1),
        # Looked up in the registry: see `_check_model`.
        "model.base_model": Leaf("a base model's name, name@version or name@alias", _is_text),
        "data.conversations": Leaf("a plugin's name", _is_text),
        "data.max_length": _whole(16, bounds.max_length),
        "training.max_steps": _whole(1, bounds.max_steps),
        "training.batch_size": _whole(1, bounds.max_batch_size),
        "training.learning_rate": _real(0, 1, is_open=True),
        "training.gradient_accumulation_steps": _whole(1, bounds.max_batch_size),
        "training.warmup_ratio": _real(0, 0.9),
        "training.weight_decay": _real(0, 1),
        "training.max_grad_norm": _real(0, 1000, is_open=True),
        "model.torch_dtype": _choice("auto", "float32", "bfloat16"),
        "training.method": _choice("lora", "qlora"),
        "training.label_smoothing": _real(0, 0.9),
        "training.neftune_alpha": _real(0, 100, is_open=True),
        "training.packing": _BOOLEAN,
        "training.workers": _whole(1, bounds.max_workers),
        "lora.r": _whole(1, bounds.max_lora_rank),
        "lora.alpha": _whole(1, 4 * bounds.max_lora_rank),
        "lora.dropout": _real(0, 0.9),
        "lora.use_rslora": _BOOLEAN,
        "lora.loraplus_ratio": _real(0, 100, is_open=True),
        # Each one judges a sample: not after every step.
        "evaluation.eval_steps": _whole(10, bounds.max_steps),
        "output.name": Leaf(f"a name of up to {LONGEST_NAME} characters", _passes(check_name)),
        "output.alias": Leaf(f"a word of up to {LONGEST_ALIAS} characters", _passes(check_alias)),
        "output.reuse": _BOOLEAN,
    }


def _whole(least: int, most: int) -> Leaf:
    # In JSON true is no number; in Python it is.
    return Leaf(f"{least} to {most}", lambda v: type(v) is int and least <= v <= most)


def _real(least: float, most: float, *, is_open: bool = False) -> Leaf:
    def accepts(value: Any) -> bool:
        # Not float(value): an integer of 400 digits has none.
        is_number = type(value) is int or (type(value) is float and math.isfinite(value))
        return is_number and least <= value <= most and not (is_open and value == least)

    return Leaf(f"{'above ' if is_open else ''}{least:g} to {most:g}", accepts)


def _choice(*words: str) -> Leaf:
    return Leaf(" or ".join(words), lambda value: isinstance(value, str) and value in words)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 2 * LONGEST_NAME and value.isprintable()


def _passes(check: Callable[[str], str]) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(check(value))
        except ValueError:
            return False

    return accepts


@dataclass(frozen=True, kw_only=True)
class RequestedTraining:
    """A training that may run.

    Attributes:
        recipe: Recipe file, relative to the project's root.
        sets: ``a.b=c`` for each key, with the tenant that owns the result.
    """

    recipe: str
    sets: tuple[str, ...]


def plan_training(
    settings: Settings,
    recipe: str,
    overrides: Mapping[str, Any],
    *,
    owner: str | None,
    reader: str | None,
) -> RequestedTraining:
    """Check a request for a training against everything that is known before the training.

    Args:
        settings: Bounds, and where the registry is.
        recipe: A recipe of ``conf/llm``, without its ending.
        overrides: Keys of the recipe, nested or dotted.
        owner: The caller's tenant; None is the operator.
        reader: The tenant whose models the caller sees; None sees every tenant's, and trains a
            further version of whosoever's name it gives.

    Raises:
        NotFoundError: No such recipe, model or conversations; the known ones are listed.
        RequestError: A key may not be set over HTTP, or its value is out of its bounds.
        UsageError: The output's name is another model's, or the model is no base model.
    """
    root = source_root()
    folder = root / "conf" / "llm"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    # Compared with the list instead of joined to a path: a name must not lead out of the folder.
    if recipe not in known:
        raise NotFoundError(
            f"There is no recipe {recipe[:_SHOWN]!r}.", known=known, name=recipe, param="recipe"
        )
    flat = check_overrides(overrides, settings.serving.training.bounds_of(owner))
    path = Path("conf", "llm", f"{recipe}.yaml")
    config = _resolve(settings, root, path, assignments(flat))
    if not config.is_adapter or config.model.base_model is None:
        raise RequestError(
            f"The recipe {recipe!r} trains a base model, which is the operator's to do.",
            "What can be trained over HTTP is an adapter: a recipe with model.base_model and "
            "training.method lora or qlora.",
            "recipe",
        )
    # Each of its factors may be in its bounds, and their product not.
    most = settings.serving.training.bounds_of(owner).max_batch_size
    if (rows := config.training.conversations_a_step) > most:
        raise RequestError(
            f"A step would learn from {rows} conversations; at most {most} are allowed.",
            "It is training.batch_size times gradient_accumulation_steps times workers.",
            "training.batch_size",
        )
    registry = open_registry(settings)
    if "model.base_model" in flat:
        _check_model(settings, config.model.base_model, reader)
    if "data.conversations" in flat:
        sources, name = plugin_names("sunloom.conversations"), config.data.conversations
        if name not in sources:
            raise NotFoundError(
                f"There are no conversations {name[:_SHOWN]!r}.",
                known=sources,
                name=name,
                param="data.conversations",
            )
    output = config.output.name
    if output in plugin_names(GROUP):
        raise RequestError(
            f"{output!r} is the name of a packaged base model.",
            "Choose another output.name.",
            "output.name",
        )
    if reader is None and (versions := registry.list(name=output)):
        owner = versions[0].tenant
    registry.check_name(output, ADAPTER_KIND, owner)
    flat["output.tenant"] = owner
    return RequestedTraining(recipe=str(path), sets=tuple(assignments(flat)))


def check_overrides(overrides: Mapping[str, Any], bounds: TrainingBounds) -> dict[str, Any]:
    """The overrides with dotted keys.

    Raises:
        RequestError: A key may not be set over HTTP, or its value is out of its bounds; names the
            key, its bounds and what can be set.
    """
    allowed = leaves(bounds)
    can_be_set = ", ".join(f"{key} ({leaf.allowed})" for key, leaf in allowed.items())
    flat: dict[str, Any] = {}
    for key, value in _flatten(overrides, allowed):
        if key not in allowed:
            close = nearest(key[:_SHOWN], allowed)
            raise RequestError(
                f"{key[:_SHOWN]!r} cannot be set over HTTP.",
                f"{f'Did you mean {close!r}? ' if close else ''}What can: {can_be_set}",
                key[:_SHOWN],
            )
        if not allowed[key].accepts(value):
            raise RequestError(
                f"{key} must be {allowed[key].allowed}, not {_shorten(value)}.",
                f"What can be set: {can_be_set}",
                key,
            )
        flat[key] = value
    return flat


def _flatten(tree: Mapping[str, Any], leaves: Iterable[str]) -> list[tuple[str, Any]]:
    """Pairs of dotted key and value; only sections that hold leaves are entered."""
    sections = {key.partition(".")[0] for key in leaves if "." in key}
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if key in sections and isinstance(value, dict):
            pairs += [(f"{key}.{name}", item) for name, item in value.items()]
        else:
            pairs.append((key, value))
    return pairs


def _shorten(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    return json.dumps(value)


def assignments(flat: Mapping[str, Any]) -> list[str]:
    """``a.b=c`` for each key."""
    # Assignments are parsed as YAML, of which JSON is a part: every value keeps its type.
    return [f"{key}={json.dumps(value)}" for key, value in flat.items()]


def _resolve(settings: Settings, root: Path, recipe: Path, sets: list[str]) -> LlmRecipe:
    """The recipe as the job will load it."""
    try:
        return load_config(
            LlmRecipe,
            recipe=root / recipe,
            env=settings.environment,
            sets=sets,
            conf_dir=root / "conf",
        ).config
    except ConfigError as error:
        message = error.message.replace(f"{root}/", "")
        raise RequestError(message, "Send other overrides.", "overrides") from error


def _check_model(settings: Settings, name: str, reader: str | None) -> None:
    """Refuse a model that is neither a registered base nor on the operator's list.

    Never a folder or a hub id beyond the list: what lies there may bring code.
    """
    listed = settings.serving.training.models
    if name in listed:
        return
    registry, packaged = open_registry(settings), plugin_names(GROUP)
    try:
        check_name(name.partition("@")[0])
        version = registry.get(name, reader)
    except (ValueError, NotFoundError):
        if name in packaged:
            return
        bases = {version.name for version in registry.list(BASE_KIND, reader=reader)}
        raise NotFoundError(
            f"There is no base model {name[:_SHOWN]!r} that a request may name.",
            known={*bases, *packaged, *listed},
            name=name,
            param="model.base_model",
        ) from None
    require_base(version)
