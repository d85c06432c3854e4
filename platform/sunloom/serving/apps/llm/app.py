"""The language app: vLLM's own HTTP app inside the model's replica, behind our guard.

``ray.serve.llm`` starts the engine and builds vLLM's app; HAProxy reaches the replica directly, so
a token stream passes through no second Python process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.config.serving import LlmServing
from sunloom.core.telemetry import get_logger
from sunloom.errors import ArtifactError, ServingError
from sunloom.serving.apps.llm.completions import MODELS, ROUTES, Completions
from sunloom.serving.apps.llm.models import BaseModel, Target, build_directory, required_names
from sunloom.serving.auth.middleware import App, GatewayMiddleware, Scope, caller
from sunloom.serving.deploy.replica import deployment_options, portable

_logger = get_logger("serving.llm")
_STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}


class LlmReplica:
    """One engine and its HTTP app.

    Args:
        settings: The settings as plain data.
        base: Name, source and reference of the base model.
    """

    # Serve awaits it: the replica counts as started when the engine runs.
    async def __init__(  # type: ignore[misc]
        self, settings: Mapping[str, Any], base: Mapping[str, str]
    ) -> None:
        self._settings = Settings.model_validate(settings)
        self._base = BaseModel(**base)
        self._loading = asyncio.Lock()
        self._server = await _start_server(self._settings.serving.llm, self._base)

    async def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once the engine runs."""
        from sunloom.core.telemetry import configure_logging
        from sunloom.serving.auth.admission import KeyAdmission

        configure_logging(self._settings)
        self._app = await self._server.engine.build_asgi_app()
        gate = KeyAdmission(self._settings, "llm")
        directory = build_directory(self._settings, self._base)

        def spend(scope: Scope, tokens: int) -> None:
            if (key := caller(scope).key) is not None:
                gate.spend(key, tokens)

        for name in required_names(self._settings, directory):
            await self._warm(await directory.resolve(name))
        offered = [path for path in ROUTES if path in self._document()["paths"]]
        layer = Completions(self._app, directory, self._load, spend, self._describe, offered)
        return GatewayMiddleware(layer, gate, "llm", server_sets_request_id=True)

    async def check_health(self) -> None:
        """Called by Serve: a dead engine gets a new replica."""
        await self._server.check_health()

    def _describe(self) -> dict[str, Any]:
        """What vLLM's OpenAPI document says of the routes that are open here."""
        document = self._document()
        offered = (MODELS, *ROUTES)
        paths = {path: document["paths"][path] for path in offered if path in document["paths"]}
        return document | {"paths": paths}

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = self._app.openapi()
        return document

    async def _load(self, target: Target) -> None:
        """Put an adapter into the running engine; some milliseconds the first time."""
        models = self._app.state.openai_serving_models
        if target.folder is None or target.served in models.lora_requests:
            return
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        async with self._loading:
            if target.served in models.lora_requests:
                return
            answer = await models.load_lora_adapter(
                LoadLoRAAdapterRequest(lora_name=target.served, lora_path=str(target.folder))
            )
        if not isinstance(answer, str):
            raise ArtifactError(
                f"The adapter {target.served} cannot be loaded: {answer.error.message}",
                "Its rank may not exceed serving.llm.max_lora_rank.",
            )
        _logger.info("loaded %s", target.served)

    async def _warm(self, target: Target) -> None:
        """Let a model answer once: the first answer of an adapter takes seconds."""
        import httpx

        await self._load(target)
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            answer = await client.post(
                "/v1/completions",
                json={"model": target.served, "prompt": "a", "max_tokens": 1},
                timeout=120,
            )
        if answer.status_code != 200:
            raise ServingError(f"{target.served} does not answer: {answer.text[:300]}")


async def _start_server(config: LlmServing, base: BaseModel) -> Any:
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


def build_llm_config(config: LlmServing, base: BaseModel) -> Any:
    """The configuration for ``ray.serve.llm``."""
    from ray.serve.llm import LLMConfig

    hardware: dict[str, Any] = {"accelerator_config": {"kind": "cpu"}}
    if config.accelerator:
        hardware = {"accelerator_type": config.accelerator}
    return LLMConfig(
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
        "enforce_eager": config.accelerator is None,
        "enable_lora": True,
        "max_lora_rank": config.max_lora_rank,
        "max_loras": config.max_loras,
        "enable_auto_tool_choice": True,
        "tool_call_parser": config.tool_parser,
        # Without the switch a small model fills its tokens with blanks.
        "structured_outputs_config": _STRUCTURED,
        "trust_remote_code": False,
        **config.engine,
    }


def choose_dtype(config: LlmServing) -> str:
    """The configured number format, or what the probe of this machine says."""
    if config.dtype != "auto":
        return config.dtype
    if config.accelerator:
        return "bfloat16"
    from sunloom.llm.probe import probe_dtype

    return str(probe_dtype())


def engine_environment(config: LlmServing) -> dict[str, str]:
    """Variables that vLLM reads when it is imported."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
    if config.accelerator is None:
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.threads),
        }
    return variables


def build_llm_application(settings: Settings, base: BaseModel) -> Any:
    """The Serve application of one base model and its adapters."""
    from ray import serve

    config = settings.serving.llm
    options = deployment_options(settings)
    options["ray_actor_options"]["runtime_env"]["env_vars"] |= engine_environment(config)
    # ray.serve.llm starts the engine inside the replica's placement group.
    options["placement_group_bundles"] = [_bundle(config)]
    options["placement_group_strategy"] = "PACK"
    deployment = serve.deployment(serve.ingress()(LlmReplica), **options)
    return deployment.options(name="llm", num_replicas=config.replicas).bind(
        settings=portable(settings), base=vars(base)
    )


def _bundle(config: LlmServing) -> dict[str, float]:
    if config.accelerator is None:
        return {"CPU": 0.001}
    return {"GPU": 1, f"accelerator_type:{config.accelerator}": 0.001}
