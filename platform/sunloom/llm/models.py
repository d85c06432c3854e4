"""Build, load and export causal language models."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sunloom.config.llm import Architecture, LoraSettings, ModelConfig
from sunloom.errors import UsageError

BASE_KIND, ADAPTER_KIND, REWARD_KIND = "llm", "adapter", "reward"
"""Kinds of registered models; a reward model is a whole model or an adapter with a head."""


def build_llama(architecture: Architecture, tokenizer: Any, seed: int) -> Any:
    """A small ``LlamaForCausalLM`` with starting weights.

    Args:
        architecture: Its sizes.
        tokenizer: Sets the vocabulary and the end and padding tokens.
        seed: Seed of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sunloom.llm.initialization import lay_copying_circuit

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        max_position_embeddings=architecture.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        # The copying circuit writes a token's embedding, which only a tied head reads as that
        # token.
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # Llama's default is id 1, which is the end mark in our vocabulary.
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    if architecture.copying_circuit:
        lay_copying_circuit(model, tokenizer, seed)
    return model


def load_model(
    location: str,
    config: ModelConfig | None = None,
    *,
    compute_dtype_4bit: str | None = None,
    head_seed: int | None = None,
) -> Any:
    """A causal language model in float32, from safetensors only; in bfloat16 if it has 4 bits.

    Args:
        location: Folder or hub id.
        config: Revision, and whether code that comes with the model may run.
        compute_dtype_4bit: Holds the layers in 4 bits (NF4 with quantised scales, by bitsandbytes),
            and computes in this number format.
        head_seed: Makes it a reward model, with a score of a text in place of the next token; seed
            of that head's weights where the folder has none.

    Raises:
        UsageError: Nothing can be loaded from there.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        BitsAndBytesConfig,
    )

    options = config or ModelConfig()
    more: dict[str, Any] = {}
    kind: Any = AutoModelForCausalLM
    if head_seed is not None:
        torch.manual_seed(head_seed)
        kind, more = AutoModelForSequenceClassification, {"num_labels": 1}
    if compute_dtype_4bit is not None:
        # Not even None otherwise: it would hide that the folder's weights are quantised.
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, compute_dtype_4bit),
        )
    try:
        return kind.from_pretrained(
            location,
            **more,
            # The optimizer needs float32 weights; autocast lowers only the products' precision.
            dtype=torch.bfloat16 if computed_in_bfloat16(location) else torch.float32,
            revision=options.revision or "main",
            trust_remote_code=options.trust_remote_code,
            # Pickled weights can run code when they are loaded.
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise _not_loadable("model", location, error) from error


def build_without_weights(location: str, config: ModelConfig | None = None) -> Any:
    """A causal language model of shapes alone, from its configuration: no weights are read.

    Raises:
        UsageError: No configuration can be loaded from there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options = config or ModelConfig()
    trusted = options.trust_remote_code
    try:
        shape = AutoConfig.from_pretrained(
            location, revision=options.revision or "main", trust_remote_code=trusted
        )
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(shape, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise _not_loadable("model", location, error) from error


def load_tokenizer(location: str, config: ModelConfig | None = None) -> Any:
    """The model's tokenizer, which must bring a chat template.

    Raises:
        UsageError: There is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    options = config or ModelConfig()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location,
            revision=options.revision or "main",
            trust_remote_code=options.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise _not_loadable("tokenizer", location, error) from error
    if not tokenizer.chat_template:
        raise UsageError(
            f"The tokenizer of {location!r} has no chat template.", "Choose a chat model."
        )
    if tokenizer.pad_token_id is None:
        # Padding carries no loss and is never attended to, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _not_loadable(what: str, location: str, error: Exception) -> UsageError:
    # The libraries' messages go on over many lines, with advice for other programs.
    reason = str(error).strip().partition("\n")[0]
    return UsageError(
        f"No {what} can be loaded from {location!r}: {reason}",
        "model.base_model takes a folder with safetensors, a model of the registry (sunloom models "
        "list --kind llm), or a hub id, which needs the hub or a cache that has it (HF_HOME, "
        "HF_HUB_OFFLINE=1).",
        "model.base_model",
    )


def save_in_bfloat16(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder of half the size.

    Args:
        model: A causal language model; its weights are rounded in place.
        tokenizer: Its tokenizer.
        folder: Where the files go.
    """
    import torch

    model.to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def add_lora(model: Any, lora: LoraSettings, seed: int, base: str = "") -> Any:
    """Wrap a model with a fresh adapter; only the adapter is trained.

    Args:
        model: The base.
        lora: Rank, scale and layers, and what is trained whole beside these.
        seed: Every worker must begin with the same adapter.
        base: What the exported adapter names as its base.

    Raises:
        UsageError: A module of ``lora.modules_to_save`` is not the model's.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    require_modules(model, lora)
    modules = lora.target_modules
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=list(lora.modules_to_save) or None,
        target_modules=modules if isinstance(modules, str) else list(modules),
        # A reward model's head is trained as it is, and stored beside the adapter.
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
    )
    with allow_untied_weights():
        wrapped = get_peft_model(model, config)
    # PEFT would record the path that the base was loaded from, which other machines may lack.
    wrapped.peft_config["default"].base_model_name_or_path = base
    return wrapped


def continue_lora(model: Any, folder: Path, lora: LoraSettings, base: str = "") -> Any:
    """Wrap a model with an adapter that exists; only the adapter is trained.

    Args:
        model: The base that the adapter was trained on.
        folder: The adapter's; its rank, scale and layers are kept.
        lora: Its dropout.
        base: What the exported adapter names as its base.
    """
    from peft import LoraConfig, PeftModel

    require_safetensors(folder)
    config = LoraConfig.from_pretrained(str(folder))
    config.lora_dropout = lora.dropout
    with allow_untied_weights():
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=config)
    wrapped.peft_config["default"].base_model_name_or_path = base
    return wrapped


def load_adapter(model: Any, folder: Path) -> Any:
    """The base with a trained adapter on it."""
    from peft import PeftModel

    require_safetensors(folder)

    with allow_untied_weights():
        return PeftModel.from_pretrained(model, str(folder))


@contextmanager
def allow_untied_weights() -> Iterator[None]:
    """Embeddings and head of a tied base may be trained apart: the copy is the adapter's alone.

    Merging stores both and unties them in the configuration, so PEFT's warnings say nothing new.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
        yield


def require_modules(model: Any, lora: LoraSettings, *, is_quantised: bool = False) -> None:
    """Refuse modules to save that the model has not, or holds in 4 bits.

    Args:
        model: With or without weights.
        lora: ``modules_to_save`` are ends of their names, as in PEFT, which skips unknown ones.
        is_quantised: Whether training will hold the linear layers in 4 bits, all but the head.

    Raises:
        UsageError: One is not there, or would be in 4 bits.
    """
    from torch import nn

    key, head = "lora.modules_to_save", model.get_output_embeddings()
    for name in lora.modules_to_save:
        found = [module for path, module in model.named_modules() if path.endswith(name)]
        if not found:
            ends = sorted({path.rpartition(".")[2] for path, _ in model.named_modules()})
            raise UsageError(
                f"The model has no module {name!r}.",
                f"Its modules: {', '.join(end for end in ends if end and not end.isdigit())}.",
                key,
            )
        if is_quantised and any(isinstance(m, nn.Linear) and m is not head for m in found):
            raise UsageError(
                f"{name!r} would be held in 4 bits, in which nothing is trained whole.",
                f"Use training.method=lora, or leave it out of {key}.",
                key,
            )


def served_by_merging(folder: Path) -> str | None:
    """What keeps vLLM from adding an adapter to its base, in words; None where it adds it.

    Args:
        folder: The adapter's.
    """
    path = folder / "adapter_config.json"
    # A folder without is refused by vLLM, which says what it lacks.
    config = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("use_dora"):
        return "DoRA (lora.use_dora)"
    saved = config.get("modules_to_save")
    return f"modules of its own ({', '.join(saved)})" if saved else None


def require_safetensors(folder: Path) -> None:
    """Refuse a model's folder whose weights are pickled: to load them can run code.

    Raises:
        UsageError: The folder has no safetensors.
    """
    if not any(folder.glob("*.safetensors")):
        pickled = [path.name for kind in ("bin", "pt", "pth") for path in folder.glob(f"*.{kind}")]
        raise UsageError(
            f"{folder} has no safetensors"
            + (f", only {', '.join(sorted(pickled))}, which can run code." if pickled else "."),
            "Save the model with safe_serialization=True where it was made.",
        )


def computed_in_bfloat16(location: str) -> bool:
    """Whether a model's weights are held in 4 bits, which vLLM computes in 16.

    Args:
        location: Folder or hub id of the model.
    """
    path = Path(location) / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    groups = (config.get("quantization_config") or {}).get("config_groups") or {}
    return any((group.get("weights") or {}).get("num_bits") == 4 for group in groups.values())


def stored_parameter_count(folder: Path) -> int:
    """Parameters in the safetensors of a folder, read from their headers."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total
