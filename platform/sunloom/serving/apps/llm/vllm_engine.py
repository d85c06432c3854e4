"""The vLLM engine of the language app: its arguments, environment, resources and start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunloom.config.serving import LlmServing
from sunloom.serving.apps.llm.model_resolver import BaseLanguageModel

_STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}


async def start_server(config: LlmServing, base: BaseLanguageModel) -> Any:
    """Start the engine in this process; Serve's ``LLMServer`` around it."""
    from ray.serve.llm import LLMServer

    llm_config = build_llm_config(config, base)
    server = LLMServer.sync_init(llm_config)
    if config.accelerator is None and Path(base.source).is_dir():
        # Nothing to download: saves a task that imports torch only to find the folder.
        llm_config.get_or_create_callback().ctx.run_init_node = False
    if config.accelerator is None:
        server._engine_cls = _in_process_engine()
    # Its own start() would also start an actor for usage statistics.
    server.engine = server._engine_cls(llm_config)
    await server.engine.start()
    return server


def _in_process_engine() -> Any:
    """An engine with its worker inside the engine core, one process less on CPU."""
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class InProcessEngine(VLLMEngine):
        def _start_async_llm_engine(
            self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
        ) -> Any:
            vllm_engine_config.parallel_config.distributed_executor_backend = "uni"
            return super()._start_async_llm_engine(
                vllm_engine_args, vllm_engine_config, placement_group
            )

    return InProcessEngine


def build_llm_config(config: LlmServing, base: BaseLanguageModel) -> Any:
    """The configuration for ``ray.serve.llm``."""
    from ray.serve.llm import LLMConfig

    hardware: dict[str, Any] = {"accelerator_config": {"kind": "cpu"}}
    if config.accelerator:
        hardware = {"accelerator_type": config.accelerator}
    return LLMConfig(
        # The name that the engine answers to; adapters are loaded beside it on request.
        model_loading_config={"model_id": base.name, "model_source": base.source},
        engine_kwargs=engine_arguments(config),
        log_engine_metrics=False,
        **hardware,
    )


def engine_arguments(config: LlmServing) -> dict[str, Any]:
    """Arguments of vLLM's engine and front end."""
    return {
        "dtype": choose_dtype(config),
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        # CUDA graphs exist on GPU only.
        "enforce_eager": config.accelerator is None,
        "enable_lora": True,
        "max_lora_rank": config.max_lora_rank,
        "max_loras": config.max_loras,
        # Without a parser tool calls would stay text, and agents would see none.
        "enable_auto_tool_choice": True,
        "tool_call_parser": config.tool_parser,
        # With whitespace allowed, a small model fills its tokens with blanks.
        "structured_outputs_config": _STRUCTURED,
        # A model's folder must not run code of its own.
        "trust_remote_code": False,
        **config.engine,
    }


def choose_dtype(config: LlmServing) -> str:
    """The configured dtype, or the one that the probe of this machine chooses."""
    if config.dtype != "auto":
        return config.dtype
    if config.accelerator:
        return "bfloat16"
    from sunloom.llm.probe import probe_dtype

    return probe_dtype().dtype


def engine_environment(config: LlmServing) -> dict[str, str]:
    """Environment variables that vLLM reads when it is imported."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
    if config.accelerator is None:
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
            # Bound threads would share their cores with whatever else runs there.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.threads),
        }
    return variables


def placement_bundle(config: LlmServing) -> dict[str, float]:
    """Resources of the replica's placement group; the engine needs some, however little."""
    if config.accelerator is None:
        # As for the other apps, requests must not queue behind training.
        return {"CPU": 0.001}
    return {"GPU": 1, f"accelerator_type:{config.accelerator}": 0.001}
