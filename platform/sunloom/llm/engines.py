"""What vLLM's engines need, served or in batch: number format, environment, arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sunloom.config.serving import LlmServing
from sunloom.errors import UsageError
from sunloom.llm.models import computed_in_bfloat16


def choose_dtype(config: LlmServing, source: str) -> str:
    """The configured dtype, or what the model's form or the probe of this machine asks for.

    Args:
        config: The app's.
        source: Folder or hub id of the model.

    Raises:
        UsageError: A model with weights of 4 bits is to be computed in float32.
    """
    if computed_in_bfloat16(source):
        if config.dtype == "float32":
            raise UsageError(
                f"The weights in {source} have 4 bits, which vLLM computes in 16 bits.",
                "Set serving.llm.dtype=auto, or serve an int8 form.",
                "serving.llm.dtype",
            )
        return "bfloat16" if config.dtype == "auto" else config.dtype
    if config.dtype != "auto":
        return config.dtype
    if config.accelerator:
        return "bfloat16"
    from sunloom.llm.probe import probe_dtype

    return probe_dtype().dtype


def engine_environment(config: LlmServing) -> dict[str, str]:
    """Environment variables that vLLM reads when it is imported."""
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        # Compiled grammars, of which the largest that are allowed take a megabyte, and as much
        # again to make: half a gigabyte by default, which requests with ever new ones fill.
        "VLLM_XGRAMMAR_CACHE_MB": "16",
    }
    if config.accelerator is None:
        variables |= cpu_environment(config.threads, config.kv_cache_gib)
    return variables


def cpu_environment(threads: int, kv_cache_gib: int) -> dict[str, str]:
    """What of it an engine on CPU needs.

    Args:
        threads: That compute.
        kv_cache_gib: Memory of keys and values.
    """
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        # Bound threads would share their cores with whatever else runs there.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }


def engine_arguments(config: LlmServing, source: str, *, has_adapters: bool) -> Mapping[str, Any]:
    """Arguments of an engine that generates, ``config.engine`` left out.

    Args:
        config: The app's.
        source: Folder or hub id of the model.
        has_adapters: Whether adapters are added to it.
    """
    adapters = {"max_lora_rank": config.max_lora_rank, "max_loras": config.max_loras}
    return {
        "dtype": choose_dtype(config, source),
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        # CUDA graphs exist on GPU only.
        "enforce_eager": config.accelerator is None,
        "enable_lora": has_adapters,
        **(adapters if has_adapters else {}),
        # With whitespace allowed, a small model fills its tokens with blanks.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        # A model's folder must not run code of its own, and pickled weights are code.
        "trust_remote_code": False,
        "load_format": "safetensors",
    }
